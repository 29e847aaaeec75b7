"""The paper's SiT-B/4 (131M parameters) on CIFAR-10 for as long as a GPU is there: loss, distance, speed and memory.

python reproduce/gpu/sit_b4.py METHOD --minutes 9     METHOD: sit, defar (at the compute of sit's --steps); goes on when
called. Back come curve.csv (the averaged weights' Fréchet distance over the steps), log.jsonl and the recipe.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path

import jobs
import pandas as pd
import tables
import torch
import trainings
import zoo

from defar_analysis.core.checkpoints import save_checkpoint
from defar_analysis.core.devices import resolve_device
from defar_analysis.core.runs import LOG, append_log, claim, cut_log, stop_requests
from defar_analysis.core.training import TrainingRun
from defar_analysis.evaluating import extractor_for, quality_warnings
from defar_analysis.files import replaced
from defar_analysis.measures.evaluation import evaluate
from defar_analysis.measures.extractors import extracted
from defar_analysis.measures.protocols import DEFAULT, Protocol, protocol

SETTING = replace(trainings.Setting(), steps=20_000, lr=2e-4, warmup=1000, size="B/4", save_every=10**9)
CURVE, CELL = "curve.csv", "euler-50"


def advance(run: TrainingRun, folder: Path, every: int, until: float, used: Protocol) -> bool:
    """Train to the last step or the deadline, a point of the curve every so many steps; whether it is the end."""
    steps, log_every, window, latest = run.recipe.steps, run.recipe.log_every, [], None
    with stop_requests() as stop:
        while run.step < steps and time.monotonic() < until and not stop.requested:
            before, latest = latest, run.launch()
            if before is not None:  # one step late, as TrainingRun.to_the_end
                window.append(run.read(before))
            ends = run.step == steps
            logs, measures = ends or run.step % log_every == 0, ends or run.step % every == 0
            if logs or measures:
                window.append(run.read(latest))
                latest = None
            if logs:
                last = window[-1].keys()  # no mean over two objectives
                same = [values for values in window if values.keys() == last]
                means = {key: sum(values[key] for values in same) / len(same) for key in last}
                append_log(folder / LOG, {"step": run.step, **means, "seconds": round(run.seconds, 3)})
                window = []
            if measures:
                add_point(run, folder, used)
    if latest is not None:
        run.read(latest)
    run.save(folder)
    return run.step == steps


def add_point(run: TrainingRun, folder: Path, used: Protocol) -> None:
    """One row of the curve: the distance of the averaged weights' samples, with its interval, and what it took."""
    checkpoint = save_checkpoint(folder / "checkpoint", run.ema.model, run.card())
    images, nfe = tables.drawn(checkpoint, CELL, used.count, run.device, bf16=True)
    extractor = extractor_for(used, run.device)
    with quality_warnings():
        features = extracted(extractor, images.copy(), min(250, used.count))
        found = evaluate(run.recipe.name, features, tables.reference_of(used, extractor, False), used).table
    row = found[found["metric"] == used.metric_names["frechet"]].iloc[0]
    memory = torch.cuda.max_memory_allocated(run.device) / 2**20 if run.device.type == "cuda" else None
    point = {
        "step": run.step, "training_seconds": run.seconds, "images": run.step * run.recipe.global_batch, "nfe": nfe,
        "metric": row["metric"], "value": row["value"], "low": row["low"], "high": row["high"], "n": used.count,
        "peak_memory_mib": memory,
    }  # fmt: skip
    known = pd.read_csv(folder / CURVE).to_dict("records") if (folder / CURVE).exists() else []
    with replaced(folder / CURVE) as beside:
        # what an interrupted call measured after its last saved state is measured anew
        pd.DataFrame([*(r for r in known if r["step"] < run.step), point]).to_csv(beside, index=False)
    print(f"{run.recipe.name} step {run.step}: {row['metric']} {row['value']:.1f}", flush=True)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("method", choices=("sit", "defar"))
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--steps", type=int, help="of flow matching; DEFAR gets as much compute")
    parser.add_argument("--every", type=int, default=1000, help="steps between two points of the curve")
    parser.add_argument("--n", type=int, default=5000, help="images behind a point")
    parser.add_argument("--eager", action="store_true", help="without the compiler, where that does not work")
    parser.add_argument("--tiny", action="store_true", help="a rehearsal: twenty steps of a tiny network")
    options = parser.parse_args(arguments)
    setting = zoo.setting_of(options, SETTING)
    made = trainings.of_compute(setting, f"cifar10-b4-{options.method}", trainings.OBJECTIVES[options.method])
    folder, until = jobs.WORK / "b4" / options.method, time.monotonic() + 60 * options.minutes
    run = TrainingRun(made, made.open_data(), resolve_device(options.device))
    claim(folder, made)
    run.resume(folder)
    cut_log(folder / LOG, run.step)
    ended = advance(run, folder, options.every, until, protocol(DEFAULT, options.n))
    jobs.bring_back([folder], "b4", weights=False, again=True)
    print(f"{made.name}: step {run.step} of {made.steps}, {run.seconds / max(1, run.step) * 1e3:.1f} ms a step")
    return 0 if ended else 3


if __name__ == "__main__":
    jobs.run_script(main)
