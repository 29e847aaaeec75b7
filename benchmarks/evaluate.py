"""Our Fréchet distance beside torch-fidelity's, from the same moments at 2048 dimensions. At least 5 times as fast.

torch-fidelity takes the eigenvalues of the product of the covariances, which is not symmetric; ours are those of a
symmetric matrix. The sides take turns within each repeat, so a machine that slows down slows all; ratios are medians
over the repeats.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time

import numpy as np
import torch

from defar_analysis._compat import import_torch_fidelity
from defar_analysis.measures.quality import FrechetReference, Moments, frechet_distance

LIMIT = 5.0
ACCURACY = 1e-6  # relative


def correlated(count: int, dimension: int, seed: int) -> Moments:
    """Of full rank, with eigenvalues that fall as those of a network's features do."""
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((count, dimension)) * np.arange(1, dimension + 1) ** -0.5
    return Moments.of(rows @ np.linalg.qr(rng.standard_normal((dimension, dimension)))[0] + 0.01 * seed)


def frechet_ratios(dimension: int, repeats: int) -> list[str]:
    """Prints a line for each of our two ways; returns those below the limit."""
    import_torch_fidelity()
    from torch_fidelity.metric_fid import fid_statistics_to_metric

    real, generated = (correlated(2 * dimension, dimension, seed) for seed in (0, 1))
    reference = FrechetReference.of(real)
    reference.distance_to(generated)  # factors the reference: once, before the clock
    theirs_of = [{"mu": side.mean, "sigma": side.covariance} for side in (generated, real)]
    ways = {
        "torch-fidelity": lambda: fid_statistics_to_metric(*theirs_of, verbose=False)["frechet_inception_distance"],
        "ours": lambda: frechet_distance(real.mean, real.covariance, generated.mean, generated.covariance),
        "ours, reference factored": lambda: reference.distance_to(generated),
    }
    times, values = {name: [] for name in ways}, {}
    for repeat in range(repeats):
        names = list(ways) if repeat % 2 else list(ways)[::-1]  # none always goes first
        for name in names:
            started = time.perf_counter()
            values[name] = ways[name]()
            times[name].append(time.perf_counter() - started)
    below, expected = [], values["torch-fidelity"]
    for name in list(ways)[1:]:
        gap = abs(values[name] - expected) / expected
        assert gap < ACCURACY, f"{name}: {values[name]} beside {expected}"
        ratios = [theirs / ours for theirs, ours in zip(times["torch-fidelity"], times[name], strict=True)]
        median = statistics.median(ratios)
        mine, other = statistics.median(times[name]), statistics.median(times["torch-fidelity"])
        print(
            f"Fréchet distance, {dimension} dimensions, {name}: {mine:.2f} s, torch-fidelity {other:.2f} s; "
            f"{median:.1f} times as fast (lowest {min(ratios):.1f}, highest {max(ratios):.1f}), limit {LIMIT}; "
            f"they differ by {gap:.1e}"
        )
        below += [f"{name} at {median:.1f} is below {LIMIT}"] if median < LIMIT else []
    return below


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--dimension", type=int, default=2048)
    parser.add_argument("--threads", type=int, help="CPU threads of torch (default: its choice)")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    print(f"{torch.get_num_threads()} thread(s)")
    missed = frechet_ratios(options.dimension, options.repeats)
    print("\n".join(missed) or "all limits are kept")
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main())
