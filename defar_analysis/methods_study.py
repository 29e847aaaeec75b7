"""The samples of every objective, post-trained at equal compute: behind Tabs. 1 and 6-8, the claims, Figs. 4, 6 and 8.

The runs are those of reproduce/records/2026-11-21-objectives, whose checkpoints are too many to be shipped: only the
profile "full" measures them, from runs/objectives; "quick" draws what is committed.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from .artefacts import Artefact, committed, figures_folder
from .core.datasets import npz_dataset
from .errors import DefarError
from .evaluating import quality_warnings
from .experiment import CLASSES, SEED
from .measures.evaluation import Evaluation, differences
from .measures.protocols import DEFAULT, Protocol, protocol
from .measures.robustness import quality_table
from .paper_tables import METHODS_TABLES, METHODS_TAKE, RUN
from .robustness_sweep import Grid, Sweep

if TYPE_CHECKING:
    from .experiment import Experiment

ID, BASELINE, METHOD = "methods", "SiT", "DEFAR"
SHOWN = 20  # images of each method for the sample figures

# Method: its run in the record. DEFAR and its parts stop the gradient at x_hat; the literal reading shortens the
# velocity to a third (record 2026-11-21-adr-gradient) and stands beside them as "literal".
BOTH_SEEDS = {
    "SiT": "fm", "IP": "ip", "SDSS": "sdss", "MDSS": "mdss", "ADR": "adr-detached", "FC": "fc",
    "DEFAR": "defar-detached",
}  # fmt: skip
ONE_SEED = {
    "ADR literal": "adr", "DEFAR literal": "defar",
    "weight: low pass": "low-pass", "weight: high pass": "high-pass", "weight: image": "image",
    "weight: noise": "noise",
    "target: raw": "none", "target: rescaled": "rescale",
}  # fmt: skip
# What the paper compares with something else than SiT.
PAIRS = {
    "ADR": ("SDSS", "MDSS"),
    "DEFAR": ("ADR", "FC", "IP", "SDSS", "MDSS"),
    **{name: (METHOD,) for name in ONE_SEED if name.startswith("weight: ")},
}


@dataclass(frozen=True)
class Study:
    """runs: for each seed the checkpoints' folders under the project, by method."""

    runs: Mapping[int, Mapping[str, str]]
    count: int
    nfe: int


def _full() -> Study:
    one, other = ({m: f"runs/objectives/{run}-{seed}/checkpoint" for m, run in BOTH_SEEDS.items()} for seed in (1, 2))
    alone = {method: f"runs/objectives/{run}-1/checkpoint" for method, run in ONE_SEED.items()}
    return Study({1: one | alone, 2: other}, 1000, 50)


_SHIPPED = {"SiT": "reproduce/checkpoints/cifar10-sit", "DEFAR": "reproduce/checkpoints/cifar10-defar"}
STUDIES = {"tiny": Study({1: _SHIPPED}, 64, 2), "full": _full()}


def build(experiment: Experiment) -> Artefact:
    """Every method and seed under one protocol, from one noise; what lies in results/ is not made again."""
    if experiment.profile not in STUDIES:
        return committed(ID, METHODS_TABLES, experiment.root, METHODS_TAKE)
    study = STUDIES[experiment.profile]
    used = protocol(DEFAULT, study.count)
    parts: dict[str, list[pd.DataFrame]] = {"table": [], "differences": [], "pairs": []}
    models = {}
    for seed in study.runs:
        sweep = sweep_of(experiment, study, seed)
        with quality_warnings():
            found = sweep.evaluations()
        parts["table"].append(by_method(quality_table(found), seed))
        evaluations = {cell.model: evaluation for cell, evaluation in found.items()}
        for name, wanted in (("differences", dict.fromkeys(evaluations, (BASELINE,))), ("pairs", PAIRS)):
            parts[name].append(compared(evaluations, wanted, used).assign(seed=seed, nfe=study.nfe))
        for cell in sweep.cells:
            card = sweep.network(cell).card
            models[f"{cell.model}, seed {seed}"] = {"checkpoint": card.name, "sha256": card.sha256}
        experiment.measured += sweep.measured
    tables = {name: pd.concat(frames, ignore_index=True) for name, frames in parts.items()}
    table = tables.pop("table")
    provenance: dict[str, Any] = {
        "profile": experiment.profile,
        "note": f"post-trained from one SiT at equal compute; n = {study.count}, Euler, {study.nfe} evaluations, "
        f"CIFAR-10 with labels, noise seed {SEED}; profile {experiment.profile}",
        "models": models,
        "classes": CLASSES,
        "protocols": {
            DEFAULT: {
                "images": sweep.reference.name,
                "sha256": sweep.reference.sha256,
                "count": sweep.reference.count,
                **sweep.extractor.identity,
            }
        },
        "seed": SEED,
        "torch": torch.__version__,
        "device": experiment.device.type,
        "command": f"{RUN}; defar reproduce --profile {experiment.profile} --only {ID}",
    }
    folder = figures_folder(experiment.root, ID, experiment.profile)
    return Artefact(ID, table, {**tables, "seeds": over_seeds(table)}, {}, provenance, folder)


def samples(experiment: Experiment, methods: Sequence[str] = tuple(BOTH_SEEDS)) -> dict[str, np.ndarray]:
    """The first images of each method's first seed, (SHOWN, H, W, 3) uint8; image i from noise i, class i mod 10.

    In the profile "tiny" only those methods that it has. Raises DefarError where a run is missing.
    """
    study = STUDIES[experiment.profile]
    seed = min(study.runs)
    sweep = sweep_of(experiment, study, seed)
    with quality_warnings():
        sweep.evaluations()  # from results/, unless something is missing there
    images = {cell.model: npz_dataset(sweep.samples(cell)).images for cell in sweep.cells if cell.model in methods}
    return {m: np.asarray(images[m][:SHOWN]).transpose(0, 2, 3, 1) for m in methods if m in images}


def sweep_of(experiment: Experiment, study: Study, seed: int) -> Sweep:
    """The sweep over one training seed's runs."""
    folders = {method: checked(experiment.root / folder) for method, folder in study.runs[seed].items()}
    grid = Grid(folders, (study.nfe,), seed=SEED)
    return Sweep(grid, protocol(DEFAULT, study.count), experiment.root / "results", str(experiment.device), say=_say)


def checked(folder: Path) -> Path:
    """The folder, if it holds a checkpoint. Raises DefarError with the command that would train it."""
    if not folder.is_dir():
        variant = folder.parent.name.rpartition("-")[0]
        raise DefarError(f"{folder}: not trained here; run: {RUN} {variant}")
    return folder


def by_method(table: pd.DataFrame, seed: int) -> pd.DataFrame:
    """A sweep's table with the training's seed; method is the name that the paper's tables are joined by."""
    return table.assign(method=table["model"], seed=seed)


def compared(
    evaluations: Mapping[str, Evaluation], wanted: Mapping[str, Sequence[str]], used: Protocol
) -> pd.DataFrame:
    """Paired differences of each method to each of its baselines, by image; those that are not there are left out."""
    parts = []
    for method, baselines in wanted.items():
        for baseline in baselines:
            if method != baseline and method in evaluations and baseline in evaluations:
                pair = [evaluations[baseline], evaluations[method]]
                parts.append(differences(pair, baseline, used).assign(method=method, protocol=used.name))
    if not parts:  # a study too small for any of them
        return pd.DataFrame(
            columns=["method", "baseline", "metric", "percent", "percent_low", "percent_high", "verdict"]
        )
    return pd.concat(parts, ignore_index=True)


def over_seeds(table: pd.DataFrame) -> pd.DataFrame:
    """Mean and standard deviation of every metric over a method's training seeds; NaN for one seed."""
    groups = table.groupby(["method", "metric", "n", "protocol", "nfe"], sort=False)
    return groups["value"].agg(mean="mean", std="std", seeds="count").reset_index()


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
