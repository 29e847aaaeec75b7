"""Sample quality: our Fréchet distance beside torch-fidelity's, and an evaluation beside the forwards that it needs.

1. The Fréchet distance from the same moments at 2048 dimensions, at least 5 times as fast to a reference that is
   factored: torch-fidelity takes the eigenvalues of the product of the covariances, which is not symmetric; ours are
   those of a symmetric matrix.
2. `defar evaluate` of a shipped checkpoint, files, intervals and all, in at most 1.10 times the time of its sampling
   and its extractor's forwards alone; and nothing is computed twice. The reference's features are there before the
   clock starts, as they are for every evaluation but the first. What the metrics cost does not grow with the steps, so
   the ratio falls with them: the output says how many it was taken at; tables are made of 30 and more.

The sides take turns within each repeat, so a machine that slows down slows all; ratios are medians over the repeats.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import torch

from defar_analysis import evaluating
from defar_analysis._compat import import_torch_fidelity
from defar_analysis.core.checkpoints import load_checkpoint
from defar_analysis.core.devices import keep_heap, resolve_device
from defar_analysis.core.samplers import Euler
from defar_analysis.evaluating import GeneratedImages, evaluate_sources, extractor_for
from defar_analysis.measures.extractors import extracted
from defar_analysis.measures.features import FeatureStore
from defar_analysis.measures.protocols import DEFAULT, protocol
from defar_analysis.measures.quality import FrechetReference, Moments, QualityWarning, frechet_distance
from defar_analysis.measures.references import open_reference
from defar_analysis.sample_plans import Plan
from defar_analysis.sample_source import ImageSource

LIMIT = 5.0
ACCURACY = 1e-6  # relative
EVALUATION_LIMIT = 1.10
CHECKPOINT = Path(__file__).parents[1] / "reproduce" / "checkpoints" / "cifar10-sit"


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
    expected = values["torch-fidelity"]
    for name in list(ways)[1:]:
        gap = abs(values[name] - expected) / expected
        assert gap < ACCURACY, f"{name}: {values[name]} beside {expected}"
        ratios = [theirs / ours for theirs, ours in zip(times["torch-fidelity"], times[name], strict=True)]
        median = statistics.median(ratios)
        mine, other = statistics.median(times[name]), statistics.median(times["torch-fidelity"])
        print(
            f"Fréchet distance, {dimension} dimensions, {name}: {mine:.2f} s, torch-fidelity {other:.2f} s; "
            f"{median:.1f} times as fast (lowest {min(ratios):.1f}, highest {max(ratios):.1f}), "
            f"they differ by {gap:.1e}"
        )
    # the limit is that of every distance but the first to a reference
    return [] if median >= LIMIT else [f"{name} at {median:.1f} is below {LIMIT}"]


class Counting:
    """An extractor, and how many images it was given, padding included."""

    def __init__(self, extractor) -> None:
        self.extractor, self.images = extractor, 0

    def __getattr__(self, name):
        return getattr(self.extractor, name)

    def __call__(self, images):
        self.images += len(images)
        return self.extractor(images)


def evaluation_ratio(n: int, steps: int, repeats: int, device: str, reference: str | None, clock: str) -> list[str]:
    """Prints the ratio; returns it if it is above the limit. Asserts that each image goes through the extractor once
    and that a second evaluation makes no features."""
    now = {"wall": time.perf_counter, "cpu": time.process_time}[clock]
    where, chosen = resolve_device(device), protocol(DEFAULT, n)
    if where.type == "cpu":
        keep_heap()
    plan = Plan(Euler(steps), n, labels=chosen.labels)
    extractor = extractor_for(chosen, where)
    stream = GeneratedImages(ImageSource(load_checkpoint(CHECKPOINT, device=where), plan, where))
    chunks = range(0, n, plan.chunk)

    def bare() -> float:
        started = now()
        for start in chunks:
            extracted(extractor, stream.images(start), batch=plan.chunk)
        return now() - started

    def ours(results: Path) -> float:
        started = now()
        evaluate_sources([CHECKPOINT], chosen, plan, results=results, reference=reference, device=device)
        return now() - started

    loaded, times = evaluating.extractor_for, {"forwards": [], "evaluation": []}
    with tempfile.TemporaryDirectory() as folder:
        prepared = Path(folder) / "prepared"
        with warnings.catch_warnings():  # below 1,280 images it is said that there are few; here only time counts
            warnings.simplefilter("ignore", QualityWarning)
            open_reference(chosen, extractor, FeatureStore(prepared / "features"), reference)
        stream.images(0)  # warms up
        for repeat in range(repeats):
            results = Path(folder) / str(repeat)
            shutil.copytree(prepared, results)
            counting = []

            def counted(*given, counting=counting):  # loaded within the clock, as a user's is
                counting.append(Counting(loaded(*given)))
                return counting[-1]

            evaluating.extractor_for = counted
            for side in ("forwards", "evaluation") if repeat % 2 else ("evaluation", "forwards"):
                times[side].append(bare() if side == "forwards" else ours(results))
            expected = len(chunks) * plan.chunk
            assert counting[0].images == expected, f"{counting[0].images} images extracted, {expected} needed"
        before = {file: file.stat().st_mtime_ns for file in results.rglob("*.npz")}
        again = ours(results)
        assert counting[1].images == 0, f"a second evaluation extracted {counting[1].images} images"
        assert before == {file: file.stat().st_mtime_ns for file in results.rglob("*.npz")}, "features written again"
        evaluating.extractor_for = loaded
    ratios = [ours / bare for ours, bare in zip(times["evaluation"], times["forwards"], strict=True)]
    median = statistics.median(ratios)
    seconds = {side: statistics.median(found) for side, found in times.items()}
    print(
        f"evaluation of {n} images, Euler({steps}), {where.type}, {clock} clock: {seconds['evaluation']:.1f} s, their "
        f"sampling and extraction alone {seconds['forwards']:.1f} s; {median:.3f} times (lowest {min(ratios):.3f}, "
        f"highest {max(ratios):.3f}), limit {EVALUATION_LIMIT}; again {again:.1f} s, nothing sampled or extracted"
    )
    return [f"evaluation at {median:.3f} is above {EVALUATION_LIMIT}"] if median > EVALUATION_LIMIT else []


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", choices=["frechet", "evaluation", "both"], default="both")
    parser.add_argument("--repeats", type=int, help="default: 5 of the distance, 3 of the evaluation")
    parser.add_argument("--dimension", type=int, default=2048, help="of the Fréchet distance")
    parser.add_argument("--n", type=int, default=512, help="images of the evaluation; its reference has as many")
    parser.add_argument("--steps", type=int, default=10, help="Euler steps of the evaluation's sampling")
    parser.add_argument("--reference", help="of the evaluation (default: the protocol's, CIFAR-10)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--clock", choices=["wall", "cpu"], default="wall", help="of the evaluation; cpu: busy machines"
    )
    parser.add_argument("--threads", type=int, help="CPU threads of torch (default: its choice)")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    print(f"{torch.get_num_threads()} thread(s)")
    missed = []
    if options.part != "evaluation":
        missed += frechet_ratios(options.dimension, options.repeats or 5)
    if options.part != "frechet":
        repeats = options.repeats or 3
        missed += evaluation_ratio(options.n, options.steps, repeats, options.device, options.reference, options.clock)
    print("\n".join(missed) or "all limits are kept")
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main())
