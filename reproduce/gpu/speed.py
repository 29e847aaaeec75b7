"""How fast one device trains, samples and measures: images/s, share of its peak, memory, and where the gap lies.

python reproduce/gpu/speed.py [PART ...] --minutes 4     PART of train, sample, evaluate, sweep; goes on when called
Needs no data set. Rows go to $OUT/speed-PART.csv as they are measured; what benchmarks/sweep.py prints, to sweep.txt.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path

import jobs
import numpy as np
import pandas as pd
import torch
from torch import nn
from trainings import OBJECTIVES, TINY, Setting, recipe

from defar_analysis.core.datasets import KNOWN_DATA, Batch, ImageDataset
from defar_analysis.core.devices import hardware, resolve_device
from defar_analysis.core.recipes import Recipe
from defar_analysis.core.samplers import Euler, EulerMaruyama, Heun, sample
from defar_analysis.core.seeding import image_noise, sde_generators
from defar_analysis.core.step_draws import StepDraws
from defar_analysis.core.training import TrainingRun
from defar_analysis.errors import DefarError
from defar_analysis.evaluating import extractor_for, quality_warnings
from defar_analysis.measures.cost import count_step
from defar_analysis.measures.evaluation import evaluate
from defar_analysis.measures.extractors import extracted
from defar_analysis.measures.features import FeatureStore
from defar_analysis.measures.protocols import DEFAULT, protocol
from defar_analysis.measures.references import of_images

PEAKS = {"bf16": 989e12, "float32": 67e12}  # FLOP/s of an H100 or H200, dense, by its data sheet; float32 without TF32
SPEC = KNOWN_DATA["cifar10"]


@dataclass(frozen=True)
class Case:
    """One way to train."""

    size: str
    batch: int
    objective: str
    precision: str = "bf16"
    compile: bool = True


# The most telling first: a deadline cuts the end off.
CASES = (
    Case("B/4", 256, "sit"), Case("B/4", 256, "defar"), Case("Ti/4", 256, "sit"), Case("Ti/4", 256, "defar"),
    Case("B/4", 256, "sit", compile=False), Case("B/4", 1024, "sit"), Case("Ti/4", 256, "sit", compile=False),
    Case("B/4", 256, "sit", "float32", False), Case("Ti/4", 256, "sit", "float32", False),
    Case("B/4", 256, "defar", compile=False), Case("B/4", 1024, "defar"),
    *(Case("Ti/4", 256, name) for name in ("ip", "mixflow", "sdss", "mdss", "adr", "fc")),
    Case("Ti/4", 256, "sit", "float32"), Case("B/4", 256, "sit", "float32"),
)  # fmt: skip
BLOCK = 5  # steps that are timed together
TINY_CASES = (Case("", 4, "sit", "float32", False), Case("", 4, "defar", "bf16", False))


def recipe_of(case: Case) -> Recipe:
    base = TINY if not case.size else replace(Setting(), size=case.size)
    setting = replace(base, batch=case.batch, precision=case.precision, compile=case.compile)
    return recipe("speed", setting, OBJECTIVES[case.objective])


def flops_of(made: Recipe) -> float:
    """Of a step, counted by measures.cost on a network without memory."""
    with torch.device("meta"):
        model = made.build_network(SPEC)
        batch = Batch(torch.empty(4, SPEC.channels, SPEC.size, SPEC.size), torch.zeros(4, dtype=torch.long))
    return count_step(made.build_objective(SPEC, made.steps), model, batch).flops * made.global_batch / 4


def images_like(count: int) -> ImageDataset:
    generator = np.random.default_rng(0)
    shape = (count, SPEC.channels, SPEC.size, SPEC.size)
    return ImageDataset(generator.integers(0, 256, shape, dtype=np.uint8), np.arange(count) % 10, "noise", 10)


def train_row(case: Case, device: torch.device, repeats: int) -> dict:
    """Steps of core.training, their images, draws and checks included, and what the draw of one takes the CPU, which
    hides it where it is shorter than the rest."""
    made = recipe_of(case)
    run = TrainingRun(made, images_like(4 * case.batch), device)
    began = time.perf_counter()
    run.advance()
    first = time.perf_counter() - began
    for _ in range(min(5, repeats)):
        run.advance()
    memory = torch.cuda if device.type == "cuda" else None
    if memory:
        memory.reset_peak_memory_stats(device)

    def block() -> None:
        """As to_the_end runs them: read one step late."""
        begun = [run.launch()]
        for _ in range(BLOCK - 1):
            begun.append(run.launch())
            run.read(begun[-2])
        run.read(begun[-1])

    steps = [timed(block, device) / BLOCK for _ in range(repeats)]
    draws = StepDraws(run.recipe, run.dataset, run.objective_of, pinned=device.type == "cuda")
    draws(0)

    seconds, flops = statistics.median(steps), flops_of(made)
    peak = PEAKS[case.precision] if "H100" in hardware(device) or "H200" in hardware(device) else float("nan")
    return {
        "milliseconds": 1e3 * seconds, "low": 1e3 * min(steps), "high": 1e3 * max(steps),
        "images_per_second": case.batch / seconds, "tflop_per_second": flops / seconds / 1e12,
        "share_of_peak": flops / seconds / peak, "draw_milliseconds": 1e3 * timed(lambda: draws(0), device),
        "first_step_seconds": first, "peak_memory_mib": memory.max_memory_allocated(device) / 2**20 if memory else None,
        "parameters": sum(p.numel() for p in run.parameters),
    }  # fmt: skip


def timed(run: Callable[[], object], device: torch.device) -> float:
    """Seconds of a call, the device's queue included."""
    wait = torch.accelerator.synchronize if device.type != "cpu" else lambda: None
    wait()
    began = time.perf_counter()
    run()
    wait()
    return time.perf_counter() - began


@torch.no_grad()
def sample_row(size: str, solver: str, chunk: int, precision: str, device: torch.device, repeats: int) -> dict:
    """Ten evaluations an image by a solver, beside as many bare forwards of the network."""
    model = recipe_of(Case(size, chunk, "sit")).build_network(SPEC).eval().to(device)
    nn.init.normal_(model.final_layer.linear.weight, std=0.02)
    noise = image_noise(0, range(chunk), (SPEC.channels, SPEC.size, SPEC.size)).to(device)
    labels, t = torch.arange(chunk, device=device) % 10, torch.full((chunk,), 0.5, device=device)
    steps = {"euler": Euler(10), "heun": Heun(5), "em": EulerMaruyama(10)}[solver]
    low = torch.bfloat16 if precision == "bf16" else None

    def whole() -> None:
        drawn = sde_generators(0, range(chunk)) if solver == "em" else None
        sample(model, noise, steps, labels=labels, generators=drawn, chunk=chunk, network_dtype=low)

    def bare() -> None:
        with torch.autocast(device.type, low) if low else nullcontext():
            for _ in range(10):
                model(noise, t, labels)

    pairs = [(timed(whole, device), timed(bare, device)) for _ in range(repeats + 1)][1:]
    seconds = statistics.median(pair[0] for pair in pairs)
    ratio = statistics.median(ours / theirs for ours, theirs in pairs)
    return {"evaluations_per_second": 10 * chunk / seconds, "beside_bare_forwards": ratio}


def evaluate_row(count: int, device: torch.device) -> dict:
    """Features of `count` images and their metrics, against as many others."""
    used, everything = protocol(DEFAULT, count), images_like(2 * count)
    extractor = extractor_for(used, device)
    images, others = everything.images[:count], ImageDataset(everything.images[count:], everything.labels[count:])
    extracted(extractor, images[:64])
    began = time.perf_counter()
    features = extracted(extractor, images, min(250, count))
    extraction = time.perf_counter() - began
    with quality_warnings():
        reference = of_images(others, used, extractor, FeatureStore(jobs.WORK / "speed-features"))
        began = time.perf_counter()
        evaluate("noise", features, reference, used)
    return {"images_per_second": count / extraction, "metrics_seconds": time.perf_counter() - began}


def rows(part: str, device: torch.device, tiny: bool, repeats: int) -> Iterator[tuple[dict, Callable[[], dict]]]:
    """What identifies a row, and how it is measured."""
    if part == "train":
        for case in TINY_CASES if tiny else CASES:
            yield asdict(case), partial(train_row, case, device, repeats)
    elif part == "sample":
        sizes, chunks = (("",), (4,)) if tiny else (("Ti/4", "B/4"), (64, 1024))
        for size, chunk, precision, solver in product(sizes, chunks, ("bf16", "float32"), ("euler", "heun", "em")):
            key = {"size": size, "solver": solver, "chunk": chunk, "precision": precision}
            yield key, partial(sample_row, size, solver, chunk, precision, device, min(repeats, 5))
    elif part == "evaluate":
        yield {"n": 32 if tiny else 10_000}, partial(evaluate_row, 32 if tiny else 10_000, device)


def measured(part: str, file: Path, device: torch.device, tiny: bool, repeats: int, until: float) -> None:
    """Append the rows that `file` does not hold yet, until the deadline; one that fails is said and left out."""
    kept = pd.read_csv(file, keep_default_na=False).to_dict("records") if file.exists() else []
    for key, measure in rows(part, device, tiny, repeats):
        if any(all(str(row[name]) == str(value) for name, value in key.items()) for row in kept):
            continue
        if time.monotonic() > until:
            print(f"{part}: the deadline came before {key}; call again")
            return
        gc.collect()
        torch._dynamo.reset()
        if device.type == "cuda":
            torch.cuda.empty_cache()
        try:
            found = measure()
        except (DefarError, RuntimeError) as error:  # out of memory, or a compiler that is not there
            print(f"{part} {key}: {' '.join(str(error).split())[:200]}")
            continue
        kept.append({**key, **found, "device": hardware(device), "torch": torch.__version__})
        pd.DataFrame(kept).to_csv(file, index=False)
        print(part, " ".join(f"{k}={v:.4g}" if isinstance(v, float) else f"{k}={v}" for k, v in kept[-1].items()))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", help="of train, sample, evaluate, sweep; default: all in this order")
    parser.add_argument("--minutes", type=float, default=4.0)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--tiny", action="store_true", help="a rehearsal")
    options = parser.parse_args(arguments)
    device, until = resolve_device(options.device), time.monotonic() + 60 * options.minutes
    jobs.OUT.mkdir(parents=True, exist_ok=True)
    for part in options.parts or ("train", "sample", "evaluate", "sweep"):
        if part != "sweep":
            # beside the work, since OUT is empty in every call
            file = jobs.WORK / f"speed-{part}.csv"
            file.parent.mkdir(parents=True, exist_ok=True)
            measured(part, file, device, options.tiny, options.repeats, until)
            if file.exists():
                (jobs.OUT / file.name).write_bytes(file.read_bytes())
        elif not options.tiny and (left := until - time.monotonic()) > 0:
            run = [sys.executable, str(jobs.ROOT / "benchmarks" / "sweep.py"), "--device", options.device]
            with open(jobs.OUT / "sweep.txt", "w", encoding="utf-8") as file:
                try:
                    subprocess.run(run, stdout=file, stderr=subprocess.STDOUT, timeout=left, env=jobs.surroundings(1))
                except subprocess.TimeoutExpired:
                    file.write("\nthe deadline came\n")
    return 0


if __name__ == "__main__":
    jobs.run_script(main)
