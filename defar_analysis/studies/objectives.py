"""What every objective does to loss, exposure bias, low frequencies and FEL, each training seed by itself.

The runs are those of reproduce/records/2026-11-21-objectives at equal steps, which are too many to be shipped: only the
profile "full" measures them, from runs/objectives; "quick" draws what is committed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from ..artefacts import Artefact, committed, figures_folder
from ..claim_rules import HIGH_NOISE
from ..core.checkpoints import Card, load_checkpoint
from ..experiment import SCALES, SEED
from ..measures.base import Context, TimeGrid
from ..measures.emphasis import FEL
from ..measures.evaluation import BETTER, UNDECIDED, WORSE
from ..measures.frequency import PFR
from ..measures.statistics import ratio_interval, resampling_weights
from ..measures.velocity_error import VelocityError
from ..our_rows import EQUAL_STEPS, RUN
from . import methods

if TYPE_CHECKING:
    from ..experiment import Experiment

ID, BASELINE = "objectives", "SiT"
TABLES = ("means",)
TAKES = "about half an hour on 2 cores once the runs are there; it can be stopped and resumed"
COLUMNS = ["method", "seed", "quantity", "t", "percent", "low", "high", "n"]
MEANS = ["method", "seed", "quantity", "percent", "low", "high", "verdict", "n"]
# What is compared, whether less of it is better, and below which t its mean is taken. The prediction's PFR lies below
# the target's at high noise, so that more is nearer; of FEL the loss's own emphasis is meant, before any reweighting.
QUANTITIES = {
    "loss": (True, 1.0), "step": (True, 1.0), "bias": (True, 1.0), "PFR": (False, HIGH_NOISE), "FEL": (None, 1.0),
}  # fmt: skip
SHORT = TimeGrid("short", tuple(k / 10 for k in range(9)), tuple(((k + 1) / 10,) for k in range(9)))

PerImage = Mapping[str, tuple[np.ndarray, np.ndarray]]  # of each of QUANTITIES, times (T,) and values (N, T)


@dataclass(frozen=True)
class Study:
    """runs: checkpoint folders under the project, by training seed and method; images: how many test images."""

    runs: Mapping[int, Mapping[str, str]]
    images: int


STUDIES = {
    "tiny": Study({part.seed: part.runs for part in methods.STUDIES["tiny"].parts}, 8),
    "full": Study({part.seed: part.runs for part in methods.STUDIES["full"].parts if part.group == EQUAL_STEPS}, 128),
}


def build(experiment: Experiment) -> Artefact:
    """Each method's change against the SiT of its own training seed, on the same images with the same noise and times.

    Raises DefarError where a run is missing, or in the profile "quick" what is committed.
    """
    if experiment.profile not in STUDIES:
        return committed(ID, TABLES, experiment.root, TAKES)
    study, parts, models = STUDIES[experiment.profile], [], {}
    for seed, runs in study.runs.items():
        found = {}
        for method, folder in runs.items():
            found[method], card = _measured(experiment, methods.checked(experiment.root / folder), study.images)
            trained = {key: card.training.get(key) for key in ("steps", "hardware")}
            models[f"{method}, {card.name}"] = {"checkpoint": card.name, "sha256": card.sha256, **trained}
        parts.append((seed, found))
    table = pd.concat([changes(found, seed) for seed, found in parts], ignore_index=True)
    averaged = pd.concat([means(found, seed) for seed, found in parts], ignore_index=True)
    provenance: dict[str, Any] = {
        "profile": experiment.profile,
        "note": f"post-trained for equal steps; {study.images} test images of CIFAR-10, seed {SEED}; profile "
        f"{experiment.profile}",
        "models": models,
        "test_data_sha256": experiment.test_images.hash,
        "seed": SEED,
        "torch": torch.__version__,
        "device": experiment.device.type,
        "command": f"{RUN}; defar reproduce --profile {experiment.profile} --only {ID}",
    }
    folder = figures_folder(experiment.root, ID, experiment.profile)
    return Artefact(ID, table, {"means": averaged}, {}, provenance, folder)


def _measured(experiment: Experiment, folder: Path, images: int) -> tuple[PerImage, Card]:
    """The quantities of a run on the first test images, measured or from the store."""
    checkpoint = load_checkpoint(folder, device=experiment.device)
    scale = SCALES["tiny" if experiment.profile == "tiny" else "quick"]
    context = Context(
        checkpoint.model, experiment.test_images.batch(range(images), device=experiment.device), scale.grid,
        checkpoint.card.name, checkpoint.interpolant, seed=SEED, chunk=scale.chunk, device=str(experiment.device),
        identity={"sha256": checkpoint.card.sha256},
    )  # fmt: skip
    tables, new = experiment.store.measure((PFR(), FEL(), VelocityError()), context)
    short, also = experiment.store.measure((PFR(),), replace(context, grid=SHORT))
    experiment.measured += [f"{name} of {folder.parent.name}" for name in (*new, *also)]
    arrays = {name: table.attrs["arrays"] for name, table in (*tables.items(), ("short", short["pfr"]))}
    return per_image(arrays), checkpoint.card


def per_image(arrays: Mapping[str, Mapping[str, np.ndarray]]) -> PerImage:
    """QUANTITIES of each image at the grids' starts, from what PFR, FEL and VelocityError collected, and PFR on SHORT.

    step: energy of delta (Eq. 7) after a step of 0.1, over all frequencies; bias: the same summed over all t1 of the
    grid, most of which lies at t1 = 1; PFR: of the prediction, without the zero frequency (Eq. 12); FEL: of the loss
    itself (Eq. 14).
    """
    starts = arrays["pfr"]["bias"].shape[1]
    t, short = arrays["pfr"]["t"][:starts], arrays["short"]
    _, low, high = np.moveaxis(arrays["pfr"]["prediction"][:, :starts], -1, 0)
    return {
        "loss": (t, arrays["velocity_error"]["loss"][:, :starts]),
        "step": (short["t"][:-1], short["bias"].sum(axis=-1)),
        "bias": (t, arrays["pfr"]["bias"].sum(axis=-1)),
        "PFR": (t, low / high),
        "FEL": (t, arrays["fel"]["fel"][..., 0]),
    }


def changes(found: Mapping[str, PerImage], seed: int) -> pd.DataFrame:
    """COLUMNS: by how many percent a method's mean over images differs from BASELINE's at each t; 95 % bootstrap over
    images, paired."""
    rows = []
    for method, quantity, t, own, base, weights in _pairs(found):
        percents = (100 * (part - 1) for part in ratio_interval(own, base, weights))
        rows += [(method, seed, quantity, *values, len(own)) for values in zip(t, *percents, strict=True)]
    return pd.DataFrame(rows, columns=COLUMNS)


def means(found: Mapping[str, PerImage], seed: int) -> pd.DataFrame:
    """MEANS: the same of the mean over the times that QUANTITIES names, with a verdict where one side is better."""
    rows = []
    for method, quantity, t, own, base, weights in _pairs(found):
        less, until = QUANTITIES[quantity]
        sums = (part[:, t < until].mean(axis=1) for part in (own, base))
        percent, low, high = (100 * (part - 1) for part in ratio_interval(*sums, weights))
        verdict = UNDECIDED if low <= 0 <= high else "" if less is None else BETTER if (percent < 0) == less else WORSE
        rows.append((method, seed, quantity, percent, low, high, verdict, len(own)))
    return pd.DataFrame(rows, columns=MEANS)


def _pairs(found: Mapping[str, PerImage]):
    """(method, quantity, times, its values, the baseline's, bootstrap weights) of all but the baseline."""
    for method, own in found.items():
        for quantity in QUANTITIES if method != BASELINE else ():
            base = found[BASELINE][quantity][1]
            yield method, quantity, *own[quantity], base, resampling_weights(len(base))
