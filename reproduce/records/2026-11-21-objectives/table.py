"""The record's table: loss, one-step bias, sample variance and cost of the runs of run.py, on the same test images.

python reproduce/records/2026-11-21-objectives/table.py [VARIANT ...]     from the project's root, after run.py
The rows of runs that are not here, or not named, stay as they are.
"""

import json
import sys
from pathlib import Path

import pandas as pd
import torch
from run import SEEDS, VARIANTS, recipe

from defar_analysis import Euler, cifar10, exposure_bias, load_checkpoint, sample
from defar_analysis.core.seeding import balanced_labels, image_noise
from defar_analysis.files import replaced
from defar_analysis.measures.cost import count_step

START = "start (SiT)"
IMAGES, SAMPLES, STEPS = 512, 128, 50
TIMES, PAIRS = (0.1, 0.3, 0.5, 0.7, 0.9), ((0.1, 0.3), (0.3, 0.5), (0.5, 0.7), (0.7, 0.9), (0.1, 0.9))
RUNS, HERE = Path("runs/objectives"), Path(__file__).parent


@torch.no_grad()
def measured(model, batch, noise, sampling_noise) -> dict[str, float]:
    """fm_loss: mean over TIMES; bias_rms: root of the mean square over PAIRS, images and entries; length: |v| over
    |v_gt| at t = 0.5; sample_variance: variance of Euler-50 samples over that of the test images (1 is right)."""
    target, ones = batch.data - noise, torch.ones(len(noise))
    losses, length = [], 0.0
    for t in TIMES:
        velocity = model(t * batch.data + (1 - t) * noise, t * ones, batch.labels)
        losses.append(float((velocity - target).square().mean()))
        if t == 0.5:
            length = float(velocity.square().mean().sqrt() / target.square().mean().sqrt())
    biases = [
        exposure_bias(model, noise, batch.data, t0 * ones, t1 * ones, labels=batch.labels).square().mean()
        for t0, t1 in PAIRS
    ]
    labels = balanced_labels(range(SAMPLES), 10)
    drawn = sample(model, sampling_noise, Euler(STEPS), labels=labels).x
    return {
        "fm_loss": sum(losses) / len(losses),
        "bias_rms": float(torch.stack(biases).mean().sqrt()),
        "length": length,
        "sample_variance": float(drawn.var() / batch.data.var()),
    }


def main(wanted: list[str]) -> None:
    test = cifar10("test")
    batch = test.batch(range(IMAGES))
    noise = image_noise(123, range(IMAGES), batch.data.shape[1:])
    sampling_noise = image_noise(124, range(SAMPLES), batch.data.shape[1:])
    start = load_checkpoint("reproduce/checkpoints/cifar10-sit").model
    keep({"method": START, "seed": None, "steps": 0, **measured(start, batch, noise, sampling_noise)})
    for variant in wanted or VARIANTS:
        for seed in SEEDS:
            folder = RUNS / f"{variant}-{seed}"
            if not (folder / "checkpoint").is_dir():
                print(f"{folder}: not there yet, left out")
                continue
            checkpoint, made = load_checkpoint(folder / "checkpoint"), recipe(variant, seed)
            objective = made.build_objective(test.spec, made.steps)
            cost = count_step(objective, made.build_network(test.spec), test.batch(range(8)))
            log = [json.loads(line)["loss"] for line in (folder / "log.jsonl").read_text().splitlines()]
            keep({
                "method": variant, "seed": seed, "steps": made.steps, "passes": cost.passes * made.steps,
                "forwards": cost.forwards, "train_loss": sum(log[-5:]) / len(log[-5:]),
                **measured(checkpoint.model, batch, noise, sampling_noise),
            })  # fmt: skip
    print(pd.read_csv(HERE / "table.csv").round(4).to_string(index=False))


def keep(row: dict) -> None:
    """Put a row into table.csv: what is measured outlives a stop."""
    print(row, flush=True)
    with replaced(HERE / "table.csv") as beside:
        table = merged(pd.read_csv(HERE / "table.csv"), pd.DataFrame([row]))
        table.to_csv(beside, index=False, float_format="%.5g")


def merged(old: pd.DataFrame, new: pd.DataFrame) -> pd.DataFrame:
    """Every row once, the new ones in the place of the old, in the order of VARIANTS."""
    both = pd.concat([old, new])
    both["seed"] = pd.to_numeric(both["seed"]).astype("Int64")  # the start has none
    both = both.drop_duplicates(["method", "seed"], keep="last")
    return both.sort_values("method", key=lambda names: names.map([START, *VARIANTS].index), kind="stable")


if __name__ == "__main__":
    main(sys.argv[1:])
