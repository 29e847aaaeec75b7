"""Does any reading of Eq. 15 drift less, or restore low frequencies? Each run against its seed's SiT, image by image.

python reproduce/gpu/eq15_drift.py      where eq15.py left its runs; called again, it measures all anew

Into $OUT go runs.csv, what each run is, and drift.csv: a run's change of three means over the same images with the same
noise, in percent of its SiT's, with a 95 % bootstrap interval over images. Lower is better for the first two.

* loss: mean squared velocity error at true states, mean over t = .1 .3 .5 .7 .9.
* bias: mean square of delta (Eq. 7), mean over the pairs (.1,.3) (.3,.5) (.5,.7) (.7,.9) (.1,.9).
* PFR: of the prediction at t = 0.2, without the DC bin (Eq. 12); the target's is higher, so higher is nearer.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import jobs
import numpy as np
import pandas as pd
import torch

from defar_analysis.core.checkpoints import load_checkpoint
from defar_analysis.core.datasets import Batch, ImageDataset, cifar10
from defar_analysis.core.devices import resolve_device
from defar_analysis.core.rollout import exposure_bias
from defar_analysis.core.seeding import image_noise
from defar_analysis.errors import DefarError
from defar_analysis.files import replaced
from defar_analysis.measures.evaluation import BETTER, UNDECIDED, WORSE
from defar_analysis.measures.spectral import predicted_frequency_ratio
from defar_analysis.measures.statistics import resampling_weights
from defar_analysis.studies.readings import COLUMNS

CHUNK, NOISE_SEED = 64, 123
TIMES, PAIRS = (0.1, 0.3, 0.5, 0.7, 0.9), ((0.1, 0.3), (0.3, 0.5), (0.5, 0.7), (0.7, 0.9), (0.1, 0.9))
PFR_TIME = 0.2
LOWER_IS_BETTER = {"loss": True, "bias": True, "PFR": False}
OPTIONS = ("bias_norm", "weight_grad", "inside_square")  # of core.objectives.Defar


@torch.no_grad()
def of_images(model, batch: Batch, noise: torch.Tensor) -> dict[str, np.ndarray]:
    """The three quantities of each image on the linear path; batch and noise (N, C, H, W), each quantity (N,)."""
    ones, target = torch.ones(len(noise), device=noise.device), batch.data - noise

    def velocity(t: float) -> torch.Tensor:
        return model(t * batch.data + (1 - t) * noise, t * ones, batch.labels)

    def mean_square(x: torch.Tensor) -> torch.Tensor:
        return x.square().flatten(1).mean(1)

    losses = [mean_square(velocity(t) - target) for t in TIMES]
    biases = [
        mean_square(exposure_bias(model, noise, batch.data, t0 * ones, t1 * ones, labels=batch.labels))
        for t0, t1 in PAIRS
    ]
    ratio = predicted_frequency_ratio(velocity(PFR_TIME), drop_dc=True)
    found = {"loss": torch.stack(losses).mean(0), "bias": torch.stack(biases).mean(0), "PFR": ratio}
    return {name: values.double().cpu().numpy() for name, values in found.items()}


def of_run(folder: Path, images: ImageDataset, count: int, device: torch.device) -> dict[str, np.ndarray]:
    """The three quantities of a run's averaged weights on the first `count` images."""
    model, parts = load_checkpoint(folder / "checkpoint", device=device).model, []
    for start in range(0, count, CHUNK):
        places = range(start, min(count, start + CHUNK))
        batch = images.batch(places, device=device)
        noise = image_noise(NOISE_SEED, places, batch.data.shape[1:]).to(device)
        parts.append(of_images(model, batch, noise))
    return {name: np.concatenate([part[name] for part in parts]) for name in LOWER_IS_BETTER}


def described(folder: Path) -> dict:
    """What the run is, by its card and log; last_*: means over the last five lines of the log."""
    card = load_checkpoint(folder / "checkpoint").card
    lines = (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()
    last = pd.DataFrame([json.loads(line) for line in lines[-5:]])
    own = {
        name: card.training[name]
        for name in ("steps", "seconds", "threads", "torch", "hardware")
        if name in card.training
    }
    reading = {key: card.training["recipe"]["objective"].get(key) for key in OPTIONS}
    start = card.training.get("started_from", {}).get("sha256")
    ends = {f"last_{name}": last[name].mean() if name in last else np.nan for name in ("fm", "fc", "gradient_norm")}
    return {"name": folder.name, "sha256": card.sha256, **own, **reading, "started_from": start, **ends}


def changes(found: dict[str, dict[str, np.ndarray]]) -> pd.DataFrame:
    """COLUMNS, and the SiT's own mean, of every run whose seed's SiT is there; found: quantities (N,) by run."""
    rows = []
    for name, own in found.items():
        baseline = f"sit-{name.rpartition('-')[2]}"
        if name == baseline or baseline not in found:
            continue
        for metric, lower in LOWER_IS_BETTER.items():
            base = found[baseline][metric]
            weights = resampling_weights(len(base))
            low, high = np.percentile(100 * (weights @ own[metric] / (weights @ base) - 1), [2.5, 97.5])
            percent = 100 * (own[metric].mean() / base.mean() - 1)
            verdict = UNDECIDED if low <= 0 <= high else BETTER if (percent < 0) == lower else WORSE
            rows.append((name, metric, percent, low, high, verdict, baseline, base.mean()))
    return pd.DataFrame(rows, columns=[*COLUMNS, "baseline", "value_of_baseline"])


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--n", type=int, default=512, help="images")
    parser.add_argument("--split", choices=("train", "test"), default="test", help="pack.py brings train, unless told")
    options = parser.parse_args(arguments)
    folders = sorted(path.parent for path in (jobs.WORK / "eq15").glob("*/checkpoint"))
    if not folders:
        raise DefarError(f"{jobs.WORK / 'eq15'}: no run has ended; train them first: python reproduce/gpu/eq15.py")
    device, images, found = resolve_device(options.device), cifar10(options.split), {}
    for folder in folders:
        found[folder.name] = of_run(folder, images, options.n, device)
        print(folder.name, *(f"{name} {values.mean():.5g}" for name, values in found[folder.name].items()), flush=True)
    jobs.OUT.mkdir(parents=True, exist_ok=True)
    for name, table in {"runs": pd.DataFrame(map(described, folders)), "drift": changes(found)}.items():
        with replaced(jobs.OUT / f"{name}.csv") as beside:
            table.to_csv(beside, index=False, float_format="%.6g")
    return 0


if __name__ == "__main__":
    jobs.run_script(main)
