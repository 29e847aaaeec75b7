"""Bootstrap intervals over samples. Samples are images with their noise: rows of every array here."""

from __future__ import annotations

import numpy as np

from ..errors import DefarError

REPLICATES = 1000
LEVEL = 0.95


def resampling_weights(count: int, replicates: int = REPLICATES, seed: int = 0) -> np.ndarray:
    """Bootstrap weights (replicates, count): how often each sample is drawn, over count. Rows sum to 1."""
    if count < 2:
        raise DefarError(f"a bootstrap interval needs at least two samples; got {count}")
    draws = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=replicates)
    return draws / count


def mean_interval(values: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean over the first axis and the ends of its 95 % percentile interval; values (N, ...)."""
    return np.mean(values, axis=0), *_ends(weights_mean(weights, values))


def ratio_interval(
    numerator: np.ndarray, denominator: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ratio of sums over the first axis and its 95 % interval; both (N, ...). NaN where both sums are 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = weights_mean(weights, numerator) / weights_mean(weights, denominator)
        return numerator.sum(axis=0) / denominator.sum(axis=0), *_ends(ratios)


def weights_mean(weights: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The mean of each bootstrap replicate, (R, ...) for values (N, ...)."""
    return np.tensordot(weights, values, axes=1)


def _ends(replicates: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    tail = 100 * (1 - LEVEL) / 2
    low, high = np.percentile(replicates, [tail, 100 - tail], axis=0)
    return low, high


def first_crossing(t: np.ndarray, curve: np.ndarray, level: np.ndarray) -> np.ndarray:
    """Where each positive curve first passes its level, by linear interpolation of log(curve / level); NaN if never.

    t (T,); curve and level (..., T). Returns (...,).
    """
    gap = np.log(curve) - np.log(level)
    turns = np.sign(gap[..., 1:]) != np.sign(gap[..., :1])
    at = np.argmax(turns, axis=-1)
    left = np.take_along_axis(gap, at[..., None], -1)[..., 0]
    right = np.take_along_axis(gap, at[..., None] + 1, -1)[..., 0]
    crossing = t[at] + (t[at + 1] - t[at]) * left / (left - right)
    return np.where(turns.any(axis=-1), crossing, np.nan)
