"""What training in several processes costs: shares of a step, and two processes beside one with two threads.

1. shares: of a step of the shipped network (SiT-Ti/4, batch 64, one thread), what DistributedDataParallel adds in a
   single process, where there is nothing to exchange, and what the moving average, the log and the saved states take,
   the last two spread over the steps between them as the recipe has it.
2. processes: images a second of two processes with one thread each over those of one process with two threads, in
   training and in sampling; and what the exchange of gradients adds to a step of each of the two processes.

The sides take turns within each repeat; ratios are medians over the repeats, with the lowest and highest. --clock cpu
counts processor time where the machine is not quiet: it shows work, not waiting, so two processes then compare by the
processor seconds of an image.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from defar_analysis.core.datasets import ImageDataset
from defar_analysis.core.devices import keep_heap
from defar_analysis.core.parallel import ALONE, Processes, joined
from defar_analysis.core.recipes import load_recipe
from defar_analysis.core.runs import LOG, append_log
from defar_analysis.core.samplers import Euler, sample
from defar_analysis.core.training import TrainingRun

RECIPE = Path(__file__).parents[1] / "reproduce" / "cifar10_sit.toml"
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
LIMITS = {"DDP, one process": 0.10, "moving average": 0.02, "log": 0.002, "saved states": 0.02}
SPEED_LIMIT = {"training": 0.95, "sampling": 0.95}  # two processes over two threads
ROUNDS, STEPS, EVALUATIONS = 4, 2, 5  # of a worker: its sides take turns


def training(processes: Processes = ALONE) -> TrainingRun:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (4096, 3, 32, 32), dtype=np.uint8)
    data = ImageDataset(images, np.arange(len(images)) % 10, "random images", 10)
    return TrainingRun(load_recipe(RECIPE), data, processes=processes)


def without_exchange(run: TrainingRun) -> TrainingRun:
    """Its twin without DistributedDataParallel: the same weights, memory of its own for nothing but gradients."""
    twin = training(run.processes)
    twin.shared = twin.forward = twin.model
    return twin


def median_and_ends(values: list[float]) -> tuple[float, float, float]:
    return statistics.median(values), min(values), max(values)


def shares(repeats: int, now: Callable[[], float]) -> dict[str, list[float]]:
    """Each overhead as a share of the bare step of its repeat."""
    torch.set_num_threads(1)
    run, wrapped = training(), training()
    found: dict[str, list[float]] = {name: [] for name in LIMITS}

    def taken(call: Callable[[], object]) -> float:
        started = now()
        call()
        return now() - started

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=0, world_size=1)
        wrapped.shared = wrapped.forward = nn.parallel.DistributedDataParallel(wrapped.model, broadcast_buffers=False)
        for i in range(repeats + 2):  # two to warm up
            first, second = (run, wrapped) if i % 2 else (wrapped, run)
            seconds = {id(side): taken(side.advance) for side in (first, second)}
            step = seconds[id(run)]
            record = {"step": run.step, **dict.fromkeys(("fm", "loss", "gradient_norm", "seconds"), 0.123456789)}
            row = {
                "DDP, one process": seconds[id(wrapped)] / step - 1,
                "moving average": taken(lambda: run.ema.update(run.model, run.step)) / step,
                "log": taken(lambda r=record: append_log(folder / LOG, r)) / run.recipe.log_every / step,
                "saved states": taken(lambda: run.save(folder)) / run.recipe.save_every / step,
            }
            for name, share in row.items() if i > 1 else ():
                found[name].append(share)
        dist.destroy_process_group()
    return found


def worker(threads: int) -> None:
    """One of the processes of a launch: the first prints images a second and processor seconds of an image of all."""
    torch.set_num_threads(threads)
    keep_heap()
    with joined("cpu") as (processes, _):
        run = training(processes)
        bare = without_exchange(run)
        noise, labels = torch.randn(64, 3, 32, 32), torch.arange(64) % 10
        chunks = 2 // processes.size

        def sampled() -> None:
            for _ in range(chunks):
                sample(run.model, noise, Euler(EVALUATIONS), labels=labels)

        def steps(run: TrainingRun) -> None:
            for _ in range(STEPS):
                run.advance()

        batch = STEPS * run.recipe.global_batch
        images = {"training": batch, "without exchange": batch, "sampling": 128}
        sides = {"training": lambda: steps(run), "without exchange": lambda: steps(bare), "sampling": sampled}
        wall, own = (dict.fromkeys(sides, 0.0) for _ in range(2))
        for i in range(ROUNDS + 1):  # the first warms up
            for name, call in sides.items():
                processes.wait()
                started = time.perf_counter(), time.process_time()
                call()
                processes.wait()
                if i:
                    wall[name] += time.perf_counter() - started[0]
                    own[name] += time.process_time() - started[1]
        found = {}
        for name, count in images.items():
            spent = processes.mean(torch.tensor(own[name], dtype=torch.float64)).item() * processes.size
            found[name] = {"wall": ROUNDS * count / wall[name], "cpu": ROUNDS * count / spent}
        if processes.first:
            print(json.dumps(found))


def launched(processes: int, threads: int, clock: str) -> dict[str, dict[str, float]]:
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    if clock == "cpu":
        environment["OMP_WAIT_POLICY"] = "passive"  # threads that wait for each other sleep, which is not work
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    done = subprocess.run([*run, __file__, "--worker", str(threads)], env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def speeds(repeats: int, clock: str) -> dict[str, list[float]]:
    """Two processes over one with two threads, by repeat; and what exchange adds to a step of two processes."""
    found: dict[str, list[float]] = {"training": [], "sampling": [], "exchange": []}
    for _ in range(repeats):
        two, one = launched(2, 1, clock), launched(1, 2, clock)
        for name in ("training", "sampling"):
            found[name].append(two[name][clock] / one[name][clock])
        found["exchange"].append(two["without exchange"][clock] / two["training"][clock] - 1)
        print(f"  images a second ({clock}): " + "; ".join(
            f"{name} {two[name][clock]:.1f} by two processes, {one[name][clock]:.1f} by two threads"
            for name in ("training", "sampling")), flush=True)  # fmt: skip
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", choices=("shares", "processes"), help="only this one")
    parser.add_argument("--repeats", type=int, default=15, help="of the shares; a third as many pairs of launches")
    parser.add_argument("--clock", choices=tuple(CLOCKS), default="wall")
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        worker(options.worker)
        return 0
    keep_heap()
    said = []
    if options.part != "processes":
        print(f"shares of a step ({options.clock} time, {options.repeats} repeats)")
        for name, values in shares(options.repeats, CLOCKS[options.clock]).items():
            middle, low, high = median_and_ends(values)
            print(f"  {name:<18}{middle:>9.3%}  [{low:.3%}, {high:.3%}], limit {LIMITS[name]:.1%}")
            said += [f"{name}: {middle:.3%} of a step is above {LIMITS[name]:.1%}"] if middle > LIMITS[name] else []
    if options.part != "shares":
        repeats = max(1, options.repeats // 3)
        print(f"two processes over one with two threads ({options.clock} time, {repeats} repeats)")
        for name, values in speeds(repeats, options.clock).items():
            middle, low, high = median_and_ends(values)
            limit = SPEED_LIMIT.get(name)
            print(f"  {name:<18}{middle:>9.3f}  [{low:.3f}, {high:.3f}]" + (f", at least {limit}" if limit else ""))
            said += [f"{name}: {middle:.3f} is below {limit}"] if limit and middle < limit else []
    print("\n".join(said) or "all limits are kept")
    return int(bool(said))


if __name__ == "__main__":
    sys.exit(main())
