"""Pure functions of features: Fréchet distance, inception score, precision and recall, kernel distance.

None of them knows which network made the features: FID is `frechet_distance` on Inception's pool features, sFID the
same on `spatial_features`. They follow ADM's evaluator (Dhariwal and Nichol 2021), whose numbers papers report, except
that they compute in float64. NumPy arrays and torch tensors alike; results are Python floats.
"""

from __future__ import annotations

import warnings

import numpy as np
import torch
from scipy.special import log_softmax
from torch import Tensor

from ..errors import DefarError
from .frechet import FrechetReference, frechet_distance
from .frechet_spread import Extrapolation, frechet_at_infinity, frechet_jackknife
from .moments import Moments, QualityWarning, matrix, same_width, to_numpy
from .neighbours import neighbour_radii, precision_recall

__all__ = [
    "Extrapolation", "FrechetReference", "Moments", "QualityWarning", "frechet_at_infinity", "frechet_distance",
    "frechet_jackknife", "inception_score", "inception_score_parts", "is_class_sorted",
    "kernel_distance", "kernel_distance_parts", "neighbour_radii", "precision_recall",
    "spatial_features",
]  # fmt: skip

SPATIAL_CHANNELS = 7
GRAM_LIMIT = 5000  # images of a side whose whole kernel matrix is held, 200 MB


def spatial_features(maps):
    """sFID's features: the first 7 channels of maps (N, C, H, W), channels last, flattened to (N, H*W*7).

    NumPy in, NumPy out; torch in, torch out, same dtype. Inception's 17 x 17 map gives 2023 numbers an image.
    Raises for fewer than 7 channels or maps that are clearly channels-last already. Source: ADM's evaluator.
    """
    shape = tuple(maps.shape)
    if len(shape) != 4 or shape[1] < SPATIAL_CHANNELS:
        raise DefarError(f"maps {shape} must be (N, C, H, W) with at least {SPATIAL_CHANNELS} channels")
    if shape[2] != shape[3] and shape[1] == shape[2]:
        raise DefarError(f"maps {shape} look channels-last; move the channels to the second axis")
    first = maps[:, :SPATIAL_CHANNELS]
    last = first.permute(0, 2, 3, 1) if isinstance(maps, Tensor) else np.moveaxis(first, 1, -1)
    return last.reshape(shape[0], -1)


def inception_score(logits, split_size: int = 5000, labels=None) -> float:
    """IS = mean over splits of exp(mean over images of KL(p(y|x) || p(y))), p the softmax of logits (N, classes).

    ADM's convention: splits of split_size in file order, **no shuffling**, the remainder is a split of the same weight.
    So files sorted by class score lower: where labels (N,) are given, sorted ones are warned of. ADM's logits leave
    the classifier's bias out. Raises for one image, NaN, or probabilities in place of logits.
    Source: Salimans et al. 2016; ADM's evaluator.
    """
    return float(inception_score_parts(logits, split_size, labels).mean())


def inception_score_parts(logits, split_size: int = 5000, labels=None) -> np.ndarray:
    """The score of each split, (ceil(N / split_size),); see `inception_score`."""
    rows = matrix(logits, "logits").astype(np.float64)
    count, classes = rows.shape
    if split_size < 2 or classes < 2:
        raise DefarError(f"want splits of two images or more and two classes or more; got {split_size} and {classes}")
    if rows.min() >= 0 and np.abs(rows.sum(axis=1) - 1).max() < 1e-3:
        raise DefarError("rows of logits sum to 1: these are probabilities; pass the logits, or log(probabilities)")
    if labels is not None and len(labels) != count:
        raise DefarError(f"{len(labels)} labels for {count} images; pass one for each")
    rest = count % split_size
    if count > split_size and labels is not None and is_class_sorted(labels):
        _doubtful("the images are sorted by class: splits in file order see few classes each and lower the score")
    if count > split_size and 0 < rest < split_size / 2:
        _doubtful(f"the last split has {rest:,} images but the weight of one of {split_size:,}: it lowers the score")
    log_p = log_softmax(rows, axis=1)
    splits = [log_p[start : start + split_size] for start in range(0, count, split_size)]
    return np.array([_split_score(split) for split in splits])


def _split_score(log_p: np.ndarray) -> float:
    p = np.exp(log_p)
    marginal = p.mean(axis=0)
    # A class whose every probability underflows adds 0, not 0 * inf.
    log_marginal = np.log(marginal, out=np.zeros_like(marginal), where=marginal > 0)
    return float(np.exp(np.mean(np.sum(p * (log_p - log_marginal), axis=1))))


def is_class_sorted(labels) -> bool:
    """Whether labels (N,) come in one run for each of two or more classes, in any order of the classes."""
    labels = to_numpy(labels)
    if labels.ndim != 1:
        raise DefarError(f"labels must be (N,); got {labels.shape}")
    classes = len(np.unique(labels))
    runs = 1 + int(np.count_nonzero(labels[1:] != labels[:-1]))
    return len(labels) > classes > 1 and runs == classes


def kernel_distance(real, generated, subset_size: int = 1000, subsets: int = 100, seed: int = 0) -> float:
    """KID: mean over random subsets of the unbiased MMD^2 with the kernel (x.y / D + 1)^3.

    Features (N_real, D), (N_generated, D). Unbiased, so right at any n and slightly negative where the two agree;
    symmetric in its arguments but for the subsets drawn. Raises for subsets larger than a set.
    Source: Binkowski et al. 2018.
    """
    return float(kernel_distance_parts(real, generated, subset_size, subsets, seed).mean())


def kernel_distance_parts(real, generated, subset_size: int = 1000, subsets: int = 100, seed: int = 0) -> np.ndarray:
    """The value of each random subset, (subsets,); drawn without replacement. See `kernel_distance`."""
    sides = [torch.from_numpy(side) for side in (matrix(real, "real"), matrix(generated, "generated"))]
    same_width(*sides)
    smallest = min(map(len, sides))
    if subsets < 1 or not 2 <= subset_size <= smallest:
        raise DefarError(f"{subsets} subsets of {subset_size} images: want 1 or more, of 2 up to the {smallest} images")
    generator = np.random.default_rng(seed)
    # x's and y's places take turns, subset by subset
    drawn = [[generator.permutation(len(side))[:subset_size] for side in sides] for _ in range(subsets)]
    chosen = [torch.from_numpy(np.stack(places)) for places in zip(*drawn, strict=True)]
    largest = max(map(len, sides))
    once = largest <= GRAM_LIMIT and largest**2 < subsets * subset_size**2
    xx, yy, xy = (_sums_over_all if once else _sums_by_subset)(sides, chosen)
    return (((xx + yy) / (subset_size - 1) - 2 * xy / subset_size) / subset_size).numpy()


def _sums_over_all(sides: list[Tensor], chosen: list[Tensor]) -> list[Tensor]:
    """As `_sums_by_subset`: each kernel matrix of all images once, and of it each subset's rows and columns."""
    x, y = (side.double() for side in sides)
    at_x, at_y = (
        torch.zeros(len(places), len(side), dtype=torch.float64).scatter_(1, places, 1.0)
        for side, places in zip(sides, chosen, strict=True)
    )
    within = [((at @ _kernel(z, z)) * at).sum(dim=1) - at @ _kernel_diagonal(z) for z, at in ((x, at_x), (y, at_y))]
    return [*within, ((at_x @ _kernel(x, y)) * at_y).sum(dim=1)]


def _sums_by_subset(sides: list[Tensor], chosen: list[Tensor]) -> list[Tensor]:
    """Sums over the kernel matrix of each subset, (subsets,): of x and of y with themselves, no diagonal; of both."""
    sums = []
    for places in zip(*chosen, strict=True):
        x, y = (side[place].double() for side, place in zip(sides, places, strict=True))
        sums.append([*(_kernel(z, z).sum() - _kernel_diagonal(z).sum() for z in (x, y)), _kernel(x, y).sum()])
    return list(torch.tensor(sums, dtype=torch.float64).T)


def _kernel(x: Tensor, y: Tensor) -> Tensor:
    return (x @ y.T / x.shape[1] + 1) ** 3


def _kernel_diagonal(x: Tensor) -> Tensor:
    return (x.square().sum(dim=1) / x.shape[1] + 1) ** 3


def _doubtful(message: str) -> None:
    warnings.warn(message, QualityWarning, stacklevel=3)
