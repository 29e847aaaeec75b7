"""Mean and covariance of features, from arrays, streams and several processes; and what counts as features."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ..errors import DefarError

BLOCK = 8192  # rows that are float64 at a time: 128 MiB at 2048 features


class QualityWarning(UserWarning):
    """A number that is computed as asked, but that its conditions make doubtful."""


def to_numpy(array) -> np.ndarray:
    """NumPy array of anything array-like; of torch tensors too, on any device, bfloat16 as float32."""
    if isinstance(array, torch.Tensor):
        array = array.detach().cpu()
        return (array.float() if array.dtype == torch.bfloat16 else array).numpy()
    return np.asarray(array)


def matrix(features, name: str = "features", rows: int = 2) -> np.ndarray:
    """Features as a NumPy array (N, D) of their own dtype; raises where they are no such matrix, NaN, inf, too few."""
    array = to_numpy(features)
    if array.ndim != 2 or array.dtype.kind not in "biuf":
        raise DefarError(f"{name} must be real numbers (images, features); got {array.dtype} of shape {array.shape}")
    if len(array) < rows or array.shape[1] < 1:
        raise DefarError(f"{name} {array.shape} are too few; give at least {rows} images with one feature or more")
    bad = ~np.isfinite(array).all(axis=1)
    if bad.any():
        raise DefarError(
            f"{name}: image {int(bad.argmax())} is the first of {int(bad.sum())} with NaN or inf; drop them"
        )
    return array


def same_width(real, generated) -> None:
    """Raises where two sets of features (N, D) differ in D."""
    if real.shape[1] != generated.shape[1]:
        raise DefarError(f"real has {real.shape[1]} features, generated {generated.shape[1]}; use one extractor")


@dataclass(frozen=True, eq=False)
class Moments:
    """Number, mean (D,) and covariance (D, D; divided by count - 1) of features, float64."""

    count: int
    mean: np.ndarray
    covariance: np.ndarray

    @classmethod
    def of(cls, features) -> Moments:
        """Of features (N, D), NumPy or torch, any real dtype. Raises for NaN, inf or fewer than two rows."""
        return cls._from_sums(*_sums(matrix(features)))

    @classmethod
    def of_blocks(cls, blocks: Iterable) -> Moments:
        """Of a stream of features (n_i, D), a block may hold one row; equal to `of` on all rows to rounding."""
        total = None
        for block in blocks:
            part = _sums(matrix(block, rows=1))
            total = part if total is None else _combined([total, part])
        if total is None or total[0] < 2:
            raise DefarError(f"moments need at least two images; the stream had {total[0] if total else 0}")
        return cls._from_sums(*total)

    @classmethod
    def merged(cls, parts: Sequence[Moments]) -> Moments:
        """Of the union of disjoint parts, as several processes leave them (Chan et al. 1979)."""
        if not parts:
            raise DefarError("there is nothing to merge; give at least one part")
        return cls._from_sums(*_combined([(p.count, p.mean, p.covariance * (p.count - 1)) for p in parts]))

    @classmethod
    def _from_sums(cls, count: int, mean: np.ndarray, scatter: np.ndarray) -> Moments:
        return cls(count, mean, scatter / (count - 1))


def _sums(rows: np.ndarray) -> tuple[int, np.ndarray, np.ndarray]:
    """Count, mean, and sum of squared deviations, in two passes: E[x^2] - m^2 would cancel."""
    mean = rows.mean(axis=0, dtype=np.float64)
    scatter = np.zeros((len(mean), len(mean)))
    for start in range(0, len(rows), BLOCK):
        deviations = rows[start : start + BLOCK] - mean
        scatter += deviations.T @ deviations
    return len(rows), mean, scatter


def _combined(parts: list[tuple[int, np.ndarray, np.ndarray]]) -> tuple[int, np.ndarray, np.ndarray]:
    if len({len(mean) for _, mean, _ in parts}) > 1:
        raise DefarError(
            f"parts have {sorted({len(mean) for _, mean, _ in parts})} features; use one extractor for all"
        )
    counts = np.array([count for count, _, _ in parts])
    means = np.stack([mean for _, mean, _ in parts])
    mean = counts @ means / counts.sum()
    between = np.sqrt(counts)[:, None] * (means - mean)
    return int(counts.sum()), mean, sum(scatter for _, _, scatter in parts) + between.T @ between
