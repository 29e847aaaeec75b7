"""How wide the intervals of a Fréchet distance are, against the truth: the spread over sets of images.

    python reproduce/records/2026-11-21-intervals/spread.py > reproduce/records/2026-11-21-intervals/spread.txt

10,000 test images of CIFAR-10 by EfficientNet-Lite0 at 128 pixels (1,280 features) against 10,000 training images; the
same test images blurred (0.5 pixels) as a second "method" with paired images. The truth: distances of 60 random sets of
n = 2,000, divided by sqrt(1 - 2,000/10,000) because sets drawn without replacement vary less.
"""

from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter

from defar_analysis.core.datasets import cifar10
from defar_analysis.measures.extractors import efficientnet_lite
from defar_analysis.measures.features import FeatureStore, StoredImages
from defar_analysis.measures.quality import FrechetReference, Moments, frechet_jackknife
from defar_analysis.measures.statistics import resampling_weights

N, SETS, TRIED, REPLICATES, GROUPS = 2000, 60, 6, 30, 20


def pool_features(name: str, images: np.ndarray, sha256: str) -> np.ndarray:
    stream = StoredImages(name, images, sha256, np.arange(10_000))
    return FeatureStore(Path("results/features")).features(stream, efficientnet_lite(0, 128)).pool


def derivative(features: np.ndarray, reference: FrechetReference) -> np.ndarray:
    """n dFD/dw_i at the sample: d tr sqrt(S1 S2) = 1/2 tr(T dS2)."""
    deviations = features - features.mean(axis=0, dtype=np.float64)
    projected = deviations @ reference.factor
    values, vectors = np.linalg.eigh(projected.T @ projected / (len(features) - 1))
    kept = values > 1e-10 * values[-1]
    mapped = projected @ vectors[:, kept] * values[kept] ** -0.25
    moved = 2 * deviations @ (features.mean(axis=0, dtype=np.float64) - reference.mu)
    found = moved + np.square(deviations).sum(axis=1) - np.square(mapped).sum(axis=1)
    return found - found.mean()


def groups_left_out(features: np.ndarray, reference: FrechetReference) -> float:
    member = np.arange(len(features)) % GROUPS
    left = np.array([reference.distance_to(Moments.of(features[member != g])) for g in range(GROUPS)])
    return float(np.sqrt((GROUPS - 1) / GROUPS * np.square(left - left.mean()).sum()))


def main() -> None:
    train, test = cifar10("train"), cifar10("test")
    blurred = np.rint(gaussian_filter(np.asarray(test.images, np.float32), (0, 0, 0.5, 0.5))).astype(np.uint8)
    reference = FrechetReference.of(pool_features("train", train.images, train.hash))
    sharp = pool_features("test", test.images, test.hash)
    soft = pool_features("test, blurred by 0.5", blurred, f"{test.hash} blurred 0.5")

    rng = np.random.default_rng(0)
    sets = [rng.permutation(10_000)[:N] for _ in range(SETS)]
    values = np.array([[reference.distance_to(Moments.of(f[chosen])) for f in (sharp, soft)] for chosen in sets])
    finite = np.sqrt(1 - N / 10_000)
    true = values.std(axis=0, ddof=1) / finite
    true_difference = np.diff(values, axis=1).std(ddof=1) / finite
    error = 1 / np.sqrt(2 * (SETS - 1))
    print(f"FD of {N} test images {values[:, 0].mean():.1f}, blurred {values[:, 1].mean():.1f}")
    print(f"true sd {true[0]:.3f}, blurred {true[1]:.3f}, of the paired difference {true_difference:.3f}", end="")
    print(f" (each to {error:.0%})")

    found = {"delete-one jackknife": [], "derivative at the sample": [], "20 groups left out": [], "bootstrap": []}
    paired = {"delete-one jackknife": [], "delete-one jackknife, as if unpaired": []}
    for chosen in sets[:TRIED]:
        own, other = sharp[chosen], soft[chosen]
        h, g = frechet_jackknife(own, reference), frechet_jackknife(other, reference)
        found["delete-one jackknife"].append(h.std() / np.sqrt(N))
        found["derivative at the sample"].append(derivative(own, reference).std() / np.sqrt(N))
        found["20 groups left out"].append(groups_left_out(own, reference))
        paired["delete-one jackknife"].append((g - h).std() / np.sqrt(N))
        paired["delete-one jackknife, as if unpaired"].append(np.hypot(g.std(), h.std()) / np.sqrt(N))
    for chosen in sets[:2]:
        replicates = reference.replicates(sharp[chosen], resampling_weights(N, REPLICATES))
        found["bootstrap"].append(replicates.std(ddof=1))
        print(f"bootstrap: replicates centre on {replicates.mean():.1f}")
    for title, group, truth in (("the distance", found, true[0]), ("the difference", paired, true_difference)):
        print(f"\nstandard deviation of {title} over the true one, mean and range over sets:")
        for name, estimates in group.items():
            ratios = np.array(estimates) / truth
            print(f"  {name:<38} {ratios.mean():.2f}  [{ratios.min():.2f}, {ratios.max():.2f}]")


if __name__ == "__main__":
    main()
