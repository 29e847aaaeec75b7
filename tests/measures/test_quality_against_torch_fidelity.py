"""Ours beside torch-fidelity 0.4, on features. Its input1 is the generated set, input2 the real one."""

import importlib.util

import numpy as np
import pytest
import torch

from defar_analysis._compat import import_torch_fidelity
from defar_analysis.measures.quality import (
    FrechetReference,
    Moments,
    inception_score,
    inception_score_parts,
    kernel_distance_parts,
    precision_recall,
)

pytestmark = [
    pytest.mark.skipif(
        importlib.util.find_spec("torch_fidelity") is None,
        reason="pip install --no-deps torch-fidelity==0.4.0 to compare with it",
    ),
    pytest.mark.filterwarnings("ignore::defar_analysis.measures.quality.QualityWarning"),
]


@pytest.fixture(scope="module")
def fidelity():
    import_torch_fidelity()
    from torch_fidelity import metric_fid, metric_isc, metric_kid, metric_prc

    return {"fid": metric_fid, "isc": metric_isc, "kid": metric_kid, "prc": metric_prc}


def features(count, dimension, seed, shift=0.0):
    rng = np.random.default_rng(seed)
    mixing = np.random.default_rng(99).standard_normal((dimension, dimension)) / np.sqrt(dimension)
    return torch.from_numpy(
        np.maximum(rng.standard_normal((count, dimension)) @ mixing + 0.2 + shift, 0)
    )  # as a pool's


@pytest.mark.parametrize("counts", [(400, 300), (40, 300), (300, 40), (40, 50)])
def test_frechet_distance(counts, fidelity):
    real, generated = features(counts[0], 96, 0), features(counts[1], 96, 1, shift=0.1)
    theirs = fidelity["fid"]
    expected = theirs.fid_statistics_to_metric(
        theirs.fid_features_to_statistics(generated), theirs.fid_features_to_statistics(real), verbose=False
    )["frechet_inception_distance"]
    tolerance = 1e-6 if min(counts) > 96 else 1e-4
    ours = FrechetReference.of(real).distance_to(Moments.of(generated))
    assert ours == pytest.approx(expected, rel=tolerance)


@pytest.mark.parametrize("splits", [1, 5])
def test_inception_score(splits, fidelity):
    logits = features(200, 12, 2) * 4
    expected = fidelity["isc"].isc_features_to_metric(logits, splits=splits, shuffle=False)
    parts = inception_score_parts(logits, 200 // splits)
    assert parts.mean() == pytest.approx(expected["inception_score_mean"], rel=1e-6)
    assert parts.std() == pytest.approx(expected["inception_score_std"], rel=1e-6, abs=1e-12)


def test_inception_score_is_not_shuffled_as_theirs_is_by_default(fidelity):
    logits = features(200, 12, 2) * 4
    ordered = logits[logits.argmax(dim=1).argsort()]
    expected = fidelity["isc"].isc_features_to_metric(ordered, splits=5, shuffle=False)["inception_score_mean"]
    shuffled = fidelity["isc"].isc_features_to_metric(ordered, splits=5)["inception_score_mean"]
    assert inception_score(ordered, 40) == pytest.approx(expected, rel=1e-6)
    assert inception_score(ordered, 40) < 0.8 * shuffled


def test_kernel_distance(fidelity):
    real, generated = features(150, 24, 3), features(150, 24, 4, shift=0.2)
    expected = fidelity["kid"].kid_features_to_metric(
        generated, real, kid_subsets=2, kid_subset_size=150, verbose=False
    )["kernel_inception_distance_mean"]
    np.testing.assert_allclose(kernel_distance_parts(real, generated, 150, 2), expected, rtol=1e-6)  # permutations


@pytest.mark.parametrize("k", [3, 5])
def test_precision_and_recall(k, fidelity):
    real, generated = features(250, 10, 5), features(200, 10, 6, shift=0.3)
    expected = fidelity["prc"].prc_features_to_metric(generated, real, prc_neighborhood=k, verbose=False)
    precision, recall = precision_recall(real, generated, k)
    assert precision == pytest.approx(expected["precision"], rel=1e-6)
    assert recall == pytest.approx(expected["recall"], rel=1e-6)
    assert abs(precision - recall) > 0.02  # so that swapped arguments would show
