"""Influences: exact derivatives of the metrics by the weights of images, and what their bootstrap says."""

import numpy as np
import pytest

from defar_analysis.measures.influence import (
    bootstrap_interval,
    inception_score_influence,
    kernel_distance_influence,
    recall_influence,
)
from defar_analysis.measures.neighbours import coverage
from defar_analysis.measures.quality import inception_score, kernel_distance, precision_recall
from defar_analysis.measures.statistics import resampling_weights

RNG = np.random.default_rng(0)
STEP = 1e-6


def derivatives(metric, n):
    """n dM/dw_i at equal weights, by central differences along the simplex: from uniform towards image i."""
    uniform = np.full(n, 1 / n)
    moved = (np.eye(n) - uniform) * STEP
    return np.array([(metric(uniform + d) - metric(uniform - d)) / (2 * STEP) for d in moved])


def test_inception_score_influence_is_the_derivative_of_the_score():
    logits = RNG.normal(size=(9, 4)) * 2

    def metric(weights):
        p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        return np.exp(weights @ (p * (np.log(p) - np.log(weights @ p))).sum(axis=1))

    assert metric(np.full(9, 1 / 9)) == pytest.approx(inception_score(logits, 9), rel=1e-12)
    assert inception_score_influence(logits, 9) == pytest.approx(derivatives(metric, 9), rel=1e-5, abs=1e-7)


def test_a_split_weighs_the_same_whatever_its_size():
    logits = RNG.normal(size=(10, 4))
    whole = inception_score_influence(logits, 6)
    first, second = inception_score_influence(logits[:6], 6), inception_score_influence(logits[6:], 6)
    assert whole == pytest.approx(np.concatenate([first * 10 / (2 * 6), second * 10 / (2 * 4)]))


def test_kernel_influence_is_the_derivative_of_the_unbiased_distance():
    real, own = RNG.normal(size=(7, 3)), RNG.normal(size=(6, 3)) + 0.5
    among, across = (own @ own.T / 3 + 1) ** 3, (own @ real.T / 3 + 1) ** 3
    off = among - np.diag(np.diag(among))

    def metric(weights):
        # pairs of different images, weighted; at equal weights the unbiased estimate
        pairs = 1 - np.square(weights).sum()
        return weights @ off @ weights / pairs - 2 * weights @ across.mean(axis=1)

    value, found = kernel_distance_influence(real, own)
    assert found == pytest.approx(derivatives(metric, 6), rel=1e-5, abs=1e-7)
    again = (real @ real.T / 3 + 1) ** 3
    assert value == pytest.approx(metric(np.full(6, 1 / 6)) + (again.sum() - np.trace(again)) / 42, rel=1e-12)
    assert kernel_distance_influence(real[:6], own)[0] == pytest.approx(kernel_distance(real[:6], own, 6, 1), rel=1e-12)


def test_recall_influence_is_the_jackknife():
    real, own = RNG.normal(size=(40, 2)), RNG.normal(size=(15, 2))
    without = np.array([precision_recall(real, np.delete(own, i, axis=0))[1] for i in range(15)])
    expected = 14 * (without.mean() - without)
    assert expected.any()
    assert recall_influence(coverage(real, own, 3).lost, 40) == pytest.approx(expected, abs=1e-12)


def test_the_interval_is_the_bootstrap_of_the_mean_where_the_metric_is_one():
    values = RNG.normal(size=50) + 3
    weights = resampling_weights(50)
    low, high = np.percentile(weights @ values, [2.5, 97.5])
    assert bootstrap_interval(values.mean(), values - values.mean(), weights) == pytest.approx((low, high))


def test_weights_of_another_number_of_images_are_refused(refuses):
    refuses(lambda: bootstrap_interval(1.0, np.zeros(5), resampling_weights(6)), "5 influences", "6 images")
