"""Writes losses.csv, what the runs of run.py logged, and measured.csv: DEFAR beside flow matching, after as many steps.

python reproduce/records/2026-11-21-backbones/table.py     from the project's root, after run.py, which calls it
"""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from run import BACKBONES, RUNS

from defar_analysis.core.checkpoints import load_checkpoint
from defar_analysis.core.datasets import cifar10
from defar_analysis.core.interpolants import Linear
from defar_analysis.core.rollout import Draw, rollout
from defar_analysis.core.seeding import image_noise
from defar_analysis.measures.spectral import predicted_frequency_ratio
from defar_analysis.measures.statistics import ratio_interval, resampling_weights

HERE = Path(__file__).parent
IMAGES, CHUNK = 128, 64  # the first of the test set, with their labels
STARTS, STEP = (0.0, 0.25, 0.5, 0.75), 0.2  # of simulated steps from t0 to t0 + STEP
METRICS = ("loss", "bias_energy", "pfr", "velocity_energy")
STAGES = ("start", "fm", "defar")


def trained() -> list[str]:
    """The backbones whose three runs are there."""
    return [name for name in BACKBONES if all((RUNS / f"{name}-{stage}" / "checkpoint").is_dir() for stage in STAGES)]


def losses() -> pd.DataFrame:
    rows = []
    for backbone in trained():
        for stage in STAGES:
            for line in (RUNS / f"{backbone}-{stage}" / "log.jsonl").read_text().splitlines():
                rows.append({"backbone": backbone, "stage": stage, **json.loads(line)})
    return pd.DataFrame(rows).drop(columns="seconds").round(6)


@torch.no_grad()
def measured(backbone: str, stage: str, batch) -> np.ndarray:
    """(images, STARTS, METRICS): the loss at t0, the exposure bias's mean square, PFR of the velocity at t0 without DC,
    and the velocity's mean square there, which tells a shorter velocity from a better one."""
    checkpoint = load_checkpoint(RUNS / f"{backbone}-{stage}" / "checkpoint")
    model, labels = checkpoint.model, None if checkpoint.classes is None else batch.labels
    noise = image_noise(0, range(IMAGES), batch.data.shape[1:])
    parts = []
    for at in range(0, IMAGES, CHUNK):
        now = slice(at, at + CHUNK)
        columns = []
        for start in STARTS:
            times = torch.tensor([[start], [start + STEP]]).expand(2, CHUNK)
            given = None if labels is None else labels[now]
            r = rollout(model, Linear(), Draw(batch.data[now], noise[now], given, times))
            squares = [z.square().flatten(1).mean(dim=1) for z in (r.v0 - r.target0, r.bias, r.v0)]
            columns.append(
                torch.stack([*squares[:2], predicted_frequency_ratio(r.v0, drop_dc=True), squares[2]], dim=1)
            )
        parts.append(torch.stack(columns, dim=1))
    return torch.cat(parts).double().numpy()


def table() -> pd.DataFrame:
    """By how many percent DEFAR's mean over images differs from flow matching's; a paired bootstrap over images."""
    batch, weights, rows = cifar10("test").batch(torch.arange(IMAGES)), resampling_weights(IMAGES), []
    for backbone in trained():
        start, fm, defar = (measured(backbone, stage, batch) for stage in STAGES)
        ratio, low, high = ratio_interval(defar, fm, weights)
        for i, t0 in enumerate(STARTS):
            for k, metric in enumerate(METRICS):
                means = [round(float(values[:, i, k].mean()), 6) for values in (start, fm, defar)]
                percents = [round(100 * (float(value[i, k]) - 1), 3) for value in (ratio, low, high)]
                rows.append((backbone, metric, t0, t0 + STEP, *means, *percents, IMAGES))
    names = ["backbone", "metric", "t0", "t1", *STAGES, "percent", "percent_low", "percent_high", "n"]
    return pd.DataFrame(rows, columns=names)


def write() -> None:
    torch.set_num_threads(1)
    losses().to_csv(HERE / "losses.csv", index=False)
    table().to_csv(HERE / "measured.csv", index=False)


if __name__ == "__main__":
    write()
