"""Measure what docs/scale.md takes from this machine: throughput.csv (training steps), memory.csv (the most that they
hold) and bounds.csv (everything else).

    OMP_NUM_THREADS=1 .venv/bin/python reproduce/records/2026-11-22-scale/measure.py throughput   # or: memory, bounds

One thread, and processor time instead of the clock on the wall: other jobs ran on both cores meanwhile. They still cost
something (caches, memory), so a quiet machine is somewhat faster.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from defar_analysis import Batch, Defar, cifar10
from defar_analysis.core.couplings import optimal_order
from defar_analysis.core.devices import hardware, keep_heap
from defar_analysis.core.objectives import Objective
from defar_analysis.core.recipes import Network, Recipe, load_recipe
from defar_analysis.core.samplers import Euler, sample
from defar_analysis.core.states import save_state
from defar_analysis.core.step_draws import StepDraws
from defar_analysis.core.training import TrainingRun
from defar_analysis.measures.cost import Stepper, _peak_bytes
from defar_analysis.measures.extractors import efficientnet_lite, extracted
from defar_analysis.measures.frechet import FrechetReference
from defar_analysis.measures.frechet_spread import frechet_jackknife
from defar_analysis.measures.memory import kept_bytes
from defar_analysis.measures.neighbours import coverage
from defar_analysis.measures.quality import Moments
from defar_analysis.planning import estimate

HERE = Path(__file__).parent
EXPERIMENTS = HERE.parents[1] / "experiments"
STEPS = {  # recipe: images in a step. Small batches: a step of 256 would take minutes
    "../cifar10_sit": 64,
    "../cifar10_defar": 64,
    "tab1/cifar10-sit": 8,
    "tab1/cifar10-defar-120k": 8,
    "tab2/celeba64-sit": 2,
    "tab2/unet-ot-fm": 8,
    "tab3/m2-sit": 1,
}


HELD = {
    "../cifar10_sit": 64,
    "../cifar10_defar": 64,
    "tab1/cifar10-sit": 8,
    "tab1/cifar10-defar-120k": 8,
    "tab2/unet-ot-fm": 4,
}


def spread(call: Callable[[], object], repeats: int) -> dict[str, float]:
    """Median, least and most processor time of `repeats` calls; of several, after one that warms up."""
    if repeats > 1:
        call()
    seconds = []
    for _ in range(repeats):
        started = time.process_time()
        call()
        seconds.append(time.process_time() - started)
    return {
        "seconds": statistics.median(seconds),
        "seconds_low": min(seconds),
        "seconds_high": max(seconds),
        "repeats": repeats,
    }


def throughput(repeats: int) -> Iterator[dict]:
    """A training step of each recipe: draw, loss, backward, clipping, Adam and average."""
    for name, count in STEPS.items():
        recipe = load_recipe(EXPERIMENTS / f"{name}.toml")
        data = recipe.data_spec()
        torch.manual_seed(0)
        stepper = Stepper(recipe.build_network(data), torch.device("cpu"))
        labels = torch.arange(count) % data.classes if recipe.data.class_conditional else None
        batch = Batch(torch.rand(count, data.channels, data.size, data.size) * 2 - 1, labels)
        objective: Objective = recipe.build_objective(data, recipe.steps)
        cost, flops = estimate(recipe), estimate(replace(recipe, global_batch=count)).flops / recipe.steps
        generator = torch.Generator().manual_seed(0)
        taken = spread(lambda s=stepper, o=objective, b=batch, g=generator: s.step(o, b, g), repeats)
        yield {
            "recipe": name.removeprefix("../"),
            "network": f"{recipe.network.family} {recipe.network.size}",
            "parameters": sum(p.numel() for p in stepper.model.parameters()),
            "channels": data.channels,
            "side": data.size,
            "objective": recipe.objective["name"],
            "batch": count,
            "passes": cost.passes,
            "gflop_per_step": flops / 1e9,
            **taken,
            "gflop_per_second": flops / 1e9 / taken["seconds"],
            "hardware": hardware(torch.device("cpu")),
            "threads": torch.get_num_threads(),
            "clock": "processor time",
            "torch": torch.__version__,
        }


def memory(repeats: int) -> Iterator[dict]:
    """What a step keeps for its backward pass beside the most that its tensors hold at once: nothing to repeat."""
    for name, count in HELD.items():
        recipe = load_recipe(EXPERIMENTS / f"{name}.toml")
        data = recipe.data_spec()
        objective: Objective = recipe.build_objective(data, recipe.steps)
        labels = torch.arange(count) % data.classes if recipe.data.class_conditional else None
        batch = Batch(torch.randn(count, data.channels, data.size, data.size), labels)
        generator, stepper = torch.Generator().manual_seed(0), Stepper(recipe.build_network(data), torch.device("cpu"))
        kept = kept_bytes(objective, stepper.model, objective.draw(batch, generator))
        stepper.step(objective, batch, generator)
        step = partial(stepper.step, objective, batch, generator)
        yield {
            "recipe": name.removeprefix("../"),
            "network": f"{recipe.network.family} {recipe.network.size}",
            "objective": recipe.objective["name"],
            "batch": count,
            "kept_bytes": kept,
            "gradient_bytes": sum(p.nbytes for p in stepper.parameters),
            "peak_bytes": _peak_bytes(step, stepper.optimizer, torch.device("cpu")),
        }


def bounds(repeats: int) -> Iterator[dict]:
    """What does not shrink when processes are added, at several sizes n."""
    rng = np.random.default_rng(0)

    def row(what: str, n: int, call: Callable[[], object], bytes_held: float = 0, times: int = repeats) -> dict:
        return {"what": what, "n": n, "bytes": int(bytes_held), **spread(call, times)}

    dataset = cifar10("train")
    tiny = Network(size="", options={"patch_size": 8, "hidden_size": 16, "depth": 1, "num_heads": 2})
    for n in (256, 1024, 4096, 16384):
        run = TrainingRun(Recipe("draw", steps=1, global_batch=n, network=tiny), dataset)
        objective = Defar(label_dropout=0.1, null_label=10)
        draws = StepDraws(run.recipe, dataset, lambda step, o=objective: o)
        draws(0)  # the epoch's order is drawn once an epoch
        held = n * 3 * 32 * 32 * (1 + 4 + 4)  # bytes, images, noise
        yield row("draw of a step", n, lambda d=draws: d(0), held)
    for d in (1280, 2048):
        real, own = (rng.standard_normal((10_000, d)) * np.arange(1, d + 1) ** -0.5 for _ in range(2))
        reference, moments = FrechetReference.of(real), Moments.of(own)
        yield row("Fréchet distance of d features", d, lambda r=reference, m=moments: r.distance_to(m), 8 * d * d)
        if d == 2048:
            held = 8 * own.size
            yield row("its interval, n x 2,048", len(own), lambda o=own, r=reference: frechet_jackknife(o, r), held, 1)
    for n in (2_000, 4_000, 8_000):
        real, own = (rng.standard_normal((n, 1280)).astype(np.float32) for _ in range(2))
        yield row("precision and recall of n x 1,280", n, lambda a=real, b=own: coverage(a, b), 0, 1)
    network = load_recipe(EXPERIMENTS.parent / "cifar10_sit.toml").build_network(dataset.spec).eval()
    noise, labels = torch.randn(64, 3, 32, 32), torch.arange(64) % 10
    yield row("chunk of n images, Ti/4, 50 steps", 64, lambda: sample(network, noise, Euler(50), labels=labels))
    extractor = efficientnet_lite(0, 128, device="cpu")
    yield row(
        "features of n images, EfficientNet-Lite0", 64, lambda: extracted(extractor, dataset.images[:64], batch=64)
    )
    with tempfile.TemporaryDirectory(dir=HERE) as folder:
        state = {"step": 0, "model": torch.zeros(2**26)}  # 256 MiB
        yield row("state of n bytes saved", 2**28, lambda: save_state(Path(folder), state), 2**28)
    for n in (256, 512, 1024, 2048, 4096):
        data = dataset.batch(range(n)).data
        noise = torch.randn(data.shape, generator=torch.Generator().manual_seed(1))
        # in float64: both sides, what they are centred on, their distances and the plan
        held = 8 * (4 * data.numel() + 2 * n * n)
        yield row("optimal transport of n pairs", n, lambda a=noise, b=data: optimal_order(a, b), held, 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("throughput", "memory", "bounds"))
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_heap()
    rows = []
    for row in {"throughput": throughput, "memory": memory, "bounds": bounds}[options.what](options.repeats):
        rows.append(row)
        print(row, flush=True)
        pd.DataFrame(rows).to_csv(HERE / f"{options.what}.csv", index=False, float_format="%.5g")


if __name__ == "__main__":
    main()
