"""How much each image moves a metric: what intervals and paired differences of sample quality are made of.

A metric of n images is a function M(w) of their weights w_i = 1/n. Its influences are h_i = n (dM/dw_i), centred, so a
bootstrap over images costs one matrix product, to first order,

    M(w) = M + sum_i (w_i - 1/n) h_i,        sd(M) = sd(h) / sqrt(n),

and the difference of two methods that share noise image by image has h_i^A - h_i^B: what images differ in cancels.

Resampling and computing anew would be wrong for most of them: a resample has only 63 % distinct images, and what looks
at neighbours, pairs or a covariance in many dimensions takes that for another distribution. The Fréchet distance has
an exact jackknife of the same form instead of a derivative (`frechet_spread.frechet_jackknife`, with the numbers).
Influences look at the samples alone: the reference is held fixed.
"""

from __future__ import annotations

import numpy as np
import torch

from ..errors import DefarError

BLOCK = 2048  # rows of a kernel or distance matrix in memory at once


def inception_score_influence(logits: np.ndarray, split_size: int = 5000) -> np.ndarray:
    """(N,) influences on the Inception Score: exp(mean KL) has h_i = IS (KL(p_i || p) - mean KL) within its split."""
    logits = np.asarray(logits, dtype=np.float64)
    parts = []
    splits = range(0, len(logits), split_size)
    for start in splits:
        own = logits[start : start + split_size]
        log_p = own - np.logaddexp.reduce(own, axis=1, keepdims=True)
        p = np.exp(log_p)
        # a class that no image has any probability of adds nothing: 0 log 0
        log_mean = np.log(np.maximum(p.mean(axis=0), np.finfo(float).tiny))
        divergence = (p * (log_p - log_mean)).sum(axis=1)
        score = np.exp(divergence.mean())
        # the mean over splits gives each split, whatever its size, the same weight
        parts.append(score * (divergence - divergence.mean()) * len(logits) / (len(splits) * len(own)))
    return np.concatenate(parts)


def kernel_distance_influence(real: np.ndarray, generated: np.ndarray) -> tuple[float, np.ndarray]:
    """The kernel distance of all images and the (N,) influences on it: twice the witness function at each image.

    Unbiased MMD^2 with k(x, y) = (x.y/D + 1)^3, of which KID's mean over random subsets is an estimate with their
    noise; h_i = 2 (mean_j k(x_i, x_j) - mean_m k(x_i, y_m)), j != i, centred. Memory grows with N, not N^2.
    """
    y, x = (torch.from_numpy(np.asarray(side, dtype=np.float64)) for side in (real, generated))
    among, across = _mean_kernels(x, x, True), _mean_kernels(x, y, False)
    value = float(among.mean() + _mean_kernels(y, y, True).mean() - 2 * across.mean())
    return value, _centred(2 * (among - across).numpy())


def _mean_kernels(own: torch.Tensor, others: torch.Tensor, same: bool) -> torch.Tensor:
    """Mean of k(x, .) over the others for each row x; over the others but itself where they are the same."""
    sums = torch.empty(len(own), dtype=torch.float64)
    for start in range(0, len(own), BLOCK):
        rows = own[start : start + BLOCK]
        sums[start : start + BLOCK] = ((rows @ others.T / own.shape[1] + 1) ** 3).sum(dim=1)
    if not same:
        return sums / len(others)
    return (sums - (own.square().sum(dim=1) / own.shape[1] + 1) ** 3) / (len(others) - 1)


def recall_influence(lost: np.ndarray, real_count: int) -> np.ndarray:
    """(N,) influences on recall, no smooth function of weights, by the jackknife: n times the loss without each image.

    lost (N,): how many fewer of the real images are covered then (`neighbours.coverage`).
    """
    return _centred((len(lost) - 1) * np.asarray(lost, float) / real_count)


def bootstrap_interval(value: float, influences: np.ndarray, weights: np.ndarray) -> tuple[float, float]:
    """95 % interval by bootstrap over images; weights (R, N) of :func:`statistics.resampling_weights`."""
    if weights.shape[1] != len(influences):
        raise DefarError(f"{len(influences)} influences, but weights of {weights.shape[1]} images")
    low, high = np.percentile(weights @ influences - influences.mean(), [2.5, 97.5])
    return float(value + low), float(value + high)


def _centred(values: np.ndarray) -> np.ndarray:
    return values - values.mean()
