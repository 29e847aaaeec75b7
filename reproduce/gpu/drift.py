"""Does a run drift less, or restore low frequencies? Each against its SiT, image by image.

python reproduce/gpu/drift.py NAME ...      NAME of zoo, steps, eq15; called again, it measures anew

Of the runs that have ended, into $OUT go runs.csv, what each is, curves.csv, the flow-matching loss in its log over
steps and network passes, and drift.csv: its change of three means over the same images with the same noise, in percent
of its SiT's, with a 95 % bootstrap interval over images. Lower is better for the first two.

* loss: mean squared velocity error at true states, mean over t = .1 .3 .5 .7 .9.
* bias: mean square of delta (Eq. 7), mean over the pairs (.1,.3) (.3,.5) (.5,.7) (.7,.9) (.1,.9).
* PFR: of the prediction at t = 0.2, without the DC bin (Eq. 12); the target's is higher, so higher is nearer.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path

import jobs
import numpy as np
import pandas as pd
import tables
import torch
import trainings

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
from defar_analysis.studies.records import COLUMNS

CHUNK, NOISE_SEED = 64, 123
TIMES, PAIRS = (0.1, 0.3, 0.5, 0.7, 0.9), ((0.1, 0.3), (0.3, 0.5), (0.5, 0.7), (0.7, 0.9), (0.1, 0.9))
PFR_TIME = 0.2
LOWER_IS_BETTER = {"loss": True, "bias": True, "PFR": False}
OPTIONS = ("bias_norm", "weight_grad", "inside_square")  # of core.objectives.Defar
ON_THE_LINEAR_PATH = ("zoo", "steps", "eq15")  # groups of tables.py whose runs have it, and labels
CURVE = ["name", "step", "passes", "fm"]
AT_TRUE_STATES = ("flow_matching", "defar")  # objectives whose log has the flow-matching loss itself


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


def of_run(checkpoint: Path, images: ImageDataset, count: int, device: torch.device) -> dict[str, np.ndarray]:
    """The three quantities of a run's averaged weights on the first `count` images."""
    model, parts = load_checkpoint(checkpoint, device=device).model, []
    for start in range(0, count, CHUNK):
        places = range(start, min(count, start + CHUNK))
        batch = images.batch(places, device=device)
        noise = image_noise(NOISE_SEED, places, batch.data.shape[1:]).to(device)
        parts.append(of_images(model, batch, noise))
    return {name: np.concatenate([part[name] for part in parts]) for name in LOWER_IS_BETTER}


def log_of(checkpoint: Path) -> pd.DataFrame:
    lines = (checkpoint.parent / "log.jsonl").read_text(encoding="utf-8").splitlines()
    return pd.DataFrame([json.loads(line) for line in lines])


def described(name: str, checkpoint: Path) -> dict:
    """What the run is, by its card and log; last_*: means over the last five lines of the log."""
    card, last = load_checkpoint(checkpoint).card, log_of(checkpoint)[-5:]
    kept = ("steps", "seconds", "threads", "torch", "hardware")
    own = {key: card.training[key] for key in kept if key in card.training}
    recipe = card.training["recipe"]
    reading = {key: recipe["objective"].get(key) for key in OPTIONS}
    spent = trainings.spent_until(card.training["steps"], recipe["objective"], recipe.get("flow_matching_steps", 0))
    start = card.training.get("started_from", {}).get("sha256")
    ends = {f"last_{key}": last[key].mean() if key in last else np.nan for key in ("fm", "fc", "gradient_norm")}
    return {"name": name, "sha256": card.sha256, **own, "passes": spent, **reading, "started_from": start, **ends}


def curve(name: str, checkpoint: Path) -> pd.DataFrame:
    """The flow-matching loss in the run's log over steps and its network passes; no rows for an objective whose log has
    it at other states than the true ones."""
    recipe, log = load_checkpoint(checkpoint).card.training["recipe"], log_of(checkpoint)
    objective, first = recipe["objective"], recipe.get("flow_matching_steps", 0)
    if objective["name"] not in AT_TRUE_STATES:
        return pd.DataFrame(columns=CURVE)
    rows = [(name, step, trainings.spent_until(step, objective, first), fm)
            for step, fm in log[["step", "fm"]].itertuples(index=False)]  # fmt: skip
    return pd.DataFrame(rows, columns=CURVE)


def changes(found: Mapping[str, Mapping[str, np.ndarray]], against: Mapping[str, str]) -> pd.DataFrame:
    """COLUMNS, and the baseline's own mean, of every run whose baseline is there; found: quantities (N,) by run;
    against: a run's baseline."""
    rows = []
    for name, own in found.items():
        baseline = against[name]
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
    parser.add_argument("names", nargs="+", choices=ON_THE_LINEAR_PATH)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--n", type=int, default=512, help="images")
    parser.add_argument("--split", choices=("train", "test"), default="test", help="pack.py brings train, unless told")
    options = parser.parse_args(arguments)
    chosen = tables.wanted(options.names)
    ended = dict(sorted((samples.name, samples.checkpoint) for samples in chosen if samples.checkpoint.exists()))
    if not ended:
        raise DefarError(f"{jobs.WORK}: no run of {', '.join(options.names)} has ended; train them first")
    device, images, found = resolve_device(options.device), cifar10(options.split), {}
    for name, checkpoint in ended.items():
        found[name] = of_run(checkpoint, images, options.n, device)
        print(name, *(f"{metric} {values.mean():.5g}" for metric, values in found[name].items()), flush=True)
    measured = {
        "runs": pd.DataFrame([described(*run) for run in ended.items()]),
        "curves": pd.concat([curve(*run) for run in ended.items()]),
        "drift": changes(found, {samples.name: samples.against for samples in chosen}),
    }
    jobs.OUT.mkdir(parents=True, exist_ok=True)
    for name, table in measured.items():
        with replaced(jobs.OUT / f"{name}.csv") as beside:
            table.to_csv(beside, index=False, float_format="%.6g")
    return 0


if __name__ == "__main__":
    jobs.run_script(main)
