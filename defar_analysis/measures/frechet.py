"""The Fréchet distance between two sets of features.

Everything is float64 on the CPU. Names are public through `measures.quality`.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from scipy.linalg.lapack import dpstrf

from ..errors import DefarError
from .moments import Moments, QualityWarning, matrix, to_numpy

BLOCK = 256  # columns of a triangular product at a time


def _vector_and_matrix(mu, sigma, name: str) -> tuple[np.ndarray, np.ndarray]:
    mu, sigma = to_numpy(mu), to_numpy(sigma)
    if mu.ndim != 1 or not mu.size or sigma.shape != (mu.size, mu.size):
        raise DefarError(f"{name}: want a mean (D,) and a covariance (D, D); got {mu.shape} and {sigma.shape}")
    if mu.dtype.kind not in "biuf" or sigma.dtype.kind not in "biuf":
        raise DefarError(f"{name}: want real numbers; got {mu.dtype} and {sigma.dtype}")
    mu = mu.astype(np.float64)
    # torch: NumPy would take longer for these passes over the matrix than for its products
    matrix = torch.from_numpy(np.ascontiguousarray(sigma, dtype=np.float64))
    ends = torch.stack(torch.aminmax(matrix))  # NaN, where there is one
    if not (np.isfinite(mu).all() and bool(torch.isfinite(ends).all())):
        raise DefarError(f"{name}: the mean or the covariance holds NaN or inf; compute it again from finite features")
    largest, symmetric = float(ends.abs().max()), torch.equal(matrix, matrix.T)
    if not symmetric and float((matrix - matrix.T).abs().max()) > 1e-5 * largest:
        raise DefarError(f"{name}: the covariance is not symmetric; pass the matrix itself, not a factor or root of it")
    if largest > 1.0001 * float(matrix.diagonal().max()):
        raise DefarError(f"{name}: an entry off the diagonal exceeds all variances: this is no covariance matrix")
    return mu, (matrix if symmetric else (matrix + matrix.T) / 2).numpy()


def eigenvalues(symmetric: np.ndarray) -> np.ndarray:
    """Ascending, from the lower triangle. torch's LAPACK has the fastest driver without vectors on the CPU (MKL)."""
    return torch.linalg.eigvalsh(torch.from_numpy(np.ascontiguousarray(symmetric))).numpy()


def cholesky_factor(covariance: np.ndarray) -> np.ndarray | None:
    """Lower triangular L with covariance = L L^T; None where it is not clearly of full rank."""
    lower, failed = torch.linalg.cholesky_ex(torch.from_numpy(covariance))
    pivots = lower.diagonal()
    # below that, rounding would stand in for what is not there
    if bool(failed) or float(pivots.min()) < 1e-5 * float(pivots.max()):
        return None
    return lower.contiguous().numpy()


def pivoted_factor(covariance: np.ndarray) -> np.ndarray:
    """L (D, rank) with covariance = L L^T, by pivoted Cholesky: stops where nothing is left, so singular is fine.

    Raises where the matrix has a clearly negative direction: then L L^T is not the matrix.
    """
    lower, pivots, rank, _ = dpstrf(covariance, lower=1)
    kept = np.empty((len(covariance), rank))
    kept[pivots - 1] = np.tril(lower)[:, :rank]
    trace = np.trace(covariance)
    if np.diag(covariance).min() < 0 or abs(trace - np.square(kept).sum()) > 1e-4 * trace:
        raise DefarError("the covariance has a clearly negative eigenvalue: this is no covariance matrix")
    return kept


def _trace_root(product: np.ndarray) -> float:
    """tr of the root of L^T S L. Rounding makes zero eigenvalues slightly negative: those count as zero."""
    if not product.size:
        return 0.0
    values = eigenvalues(product)
    if values[0] < -1e-3 * values[-1]:
        raise DefarError("the second covariance has a clearly negative eigenvalue: this is no covariance matrix")
    return float(np.sqrt(values.clip(min=0)).sum())


def frechet_distance(mu1, sigma1, mu2, sigma2) -> float:
    """Fréchet distance of two Gaussians: |mu1 - mu2|^2 + tr S1 + tr S2 - 2 tr sqrt(S1 S2).

    Means (D,), covariances (D, D), unit: feature squared. With S1 = L L^T the eigenvalues of S1 S2 are those of the
    symmetric L^T S2 L, so no root of a matrix is needed and singular covariances cost nothing. No shrinkage; never
    below 0. Raises DefarError for shapes that do not fit, NaN, or a matrix that is no covariance. Who has the features
    should use `Moments` and `FrechetReference`, which know n and warn where it is small.
    Source: Dowson and Landau 1982; Heusel et al. 2017 (FID).
    """
    return FrechetReference(mu1, sigma1).distance(mu2, sigma2)


@dataclass(frozen=True, eq=False)
class FrechetReference:
    """The fixed side of many Fréchet distances: its covariance is factored once. mu (D,), sigma (D, D), count or None.

    Raises DefarError for shapes that do not fit, NaN, or a sigma that is no covariance.
    """

    mu: np.ndarray
    sigma: np.ndarray
    count: int | None = None

    def __post_init__(self):
        mu, sigma = _vector_and_matrix(self.mu, self.sigma, "reference")
        object.__setattr__(self, "mu", mu)
        object.__setattr__(self, "sigma", sigma)

    @classmethod
    def of(cls, reference) -> FrechetReference:
        """From `Moments` or features (N, D); warns where there are no more images than features."""
        moments = reference if isinstance(reference, Moments) else Moments.of(reference)
        _warn_if_few(moments.count, len(moments.mean), "reference")
        return cls(moments.mean, moments.covariance, moments.count)

    @cached_property
    def _triangle(self) -> np.ndarray | None:
        return cholesky_factor(self.sigma)

    @cached_property
    def factor(self) -> np.ndarray:
        """L (D, rank) with sigma = L L^T: Cholesky's at full rank, else pivoted (`pivoted_factor`)."""
        return pivoted_factor(self.sigma) if self._triangle is None else self._triangle

    def _between(self, sigma: np.ndarray) -> np.ndarray:
        """The lower triangle, at least, of L^T S L."""
        if self._triangle is None:
            return self.factor.T @ sigma @ self.factor
        # block by block, where L is not zero and the triangle is wanted: 40 % of the work of two whole products
        lower, matrix, size = torch.from_numpy(self._triangle), torch.from_numpy(sigma), len(sigma)
        right, between = torch.empty_like(matrix), torch.empty_like(matrix)
        for i in range(0, size, BLOCK):
            rows, own = slice(i, size), slice(i, i + BLOCK)
            torch.mm(matrix[:, rows], lower[rows, own], out=right[:, own])
        for i in range(0, size, BLOCK):
            rows, own, upto = slice(i, size), slice(i, i + BLOCK), slice(0, i + BLOCK)
            torch.mm(lower[rows, own].T, right[rows, upto], out=between[own, upto])
        return between.numpy()

    def distance(self, mu, sigma) -> float:
        """`frechet_distance` to a mean (D,) and a covariance (D, D)."""
        mu, sigma = _vector_and_matrix(mu, sigma, "second argument")
        self._same_dimension(len(mu))
        root = _trace_root(self._between(sigma))
        return self._assemble(mu - self.mu, np.trace(sigma), root)

    def distance_to(self, moments: Moments) -> float:
        """`frechet_distance` to features known by their moments; warns where n is no more than the dimension."""
        _warn_if_few(moments.count, len(moments.mean), "generated")
        return self.distance(moments.mean, moments.covariance)

    def replicates(self, features, weights: np.ndarray) -> np.ndarray:
        """Distances (R,) of weighted resamples of features (N, D).

        Each row of weights (R, N) holds bootstrap counts / N (or any shares that sum to 1): mean m = sum w x,
        covariance N/(N-1) sum w (x - m)(x - m)^T. The features are projected on the reference's factor once; a
        replicate then costs one product and the eigenvalues of a matrix as small as its distinct images allow.

        A bootstrap of this distance is biased upward: a resample has 63 % of the images, and the distance falls
        with more of them, the more so the higher the dimension. So the replicates tell no level, and their spread
        holds only where n is many times D: use `frechet_jackknife`, whose numbers are there.
        """
        rows = self.checked(features)
        weights = _weights(weights, len(rows))
        mean = rows.mean(axis=0)
        centred = rows - mean
        projected, squares = centred @ self.factor, np.square(centred).sum(axis=1)
        shifts = weights @ centred
        distances = np.empty(len(weights))
        correction = len(rows) / (len(rows) - 1)
        for r, (row, shift) in enumerate(zip(weights, shifts, strict=True)):
            drawn = row > 0
            scaled = np.sqrt(correction * row[drawn])[:, None] * (projected[drawn] - shift @ self.factor)
            # The same non-zero eigenvalues either way round; the smaller matrix is the cheaper one.
            product = scaled @ scaled.T if len(scaled) < scaled.shape[1] else scaled.T @ scaled
            trace = correction * (row @ squares - shift @ shift)
            distances[r] = self._assemble(mean + shift - self.mu, trace, _trace_root(product))
        return distances

    def checked(self, features) -> np.ndarray:
        """Generated features (N, D) in float64, found to fit this reference; warns where N is not above D."""
        rows = matrix(features).astype(np.float64)
        self._same_dimension(rows.shape[1])
        _warn_if_few(*rows.shape, "generated")
        return rows

    def _same_dimension(self, dimension: int) -> None:
        if dimension != len(self.mu):
            raise DefarError(
                f"the reference has {len(self.mu)} features, the other side {dimension}; use one extractor"
            )

    def _assemble(self, shift: np.ndarray, trace: float, root: float) -> float:
        # The exact value is never negative; rounding may leave -1e-14 of the trace where the two sides are equal.
        return max(0.0, float(shift @ shift + np.trace(self.sigma) + trace - 2 * root))


def _warn_if_few(count: int, dimension: int, name: str) -> None:
    if count <= dimension:
        warnings.warn(
            f"{name}: n = {count:,} is not above the {dimension:,} features: the covariance is singular and the "
            "Fréchet distance far too high; use more images, or kernel_distance",
            QualityWarning,
            stacklevel=4,
        )


def _weights(weights, count: int) -> np.ndarray:
    weights = np.asarray(weights, dtype=np.float64)
    if weights.ndim != 2 or weights.shape[1] != count:
        raise DefarError(f"weights {weights.shape} must be (replicates, images) for {count} images")
    if not (weights >= 0).all() or np.abs(weights.sum(axis=1) - 1).max(initial=0) > 1e-9:
        raise DefarError("every row of weights must be non-negative and sum to 1; divide bootstrap counts by N")
    return weights
