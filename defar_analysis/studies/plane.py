"""The catalog's 2-D entry: the study in the plane at a profile's size, kept in results/, with its verdicts."""

from __future__ import annotations

from dataclasses import MISSING, asdict, fields
from functools import partial
from typing import TYPE_CHECKING

import pandas as pd
import torch

from ..catalog import Artefact, figures_folder
from ..core.networks.toy import PlaneMLP
from ..core.objectives import Objective
from ..measures.plane import EVEN_PASSES, EXACT, FRESH, METHODS, VERSION, PlaneStudy, run
from ..measures.verdicts import paired_verdicts

if TYPE_CHECKING:
    from ..experiment import Experiment

BASELINE = "FM"
STUDIES = {  # every profile above tiny is the whole study: it takes half a minute
    "tiny": PlaneStudy(seeds=2, passes=2 * EVEN_PASSES, start=EVEN_PASSES, batch=64, points=300),
    "quick": PlaneStudy(),
    "full": PlaneStudy(),
}


def build(experiment: Experiment) -> Artefact:
    """The study of the experiment's profile, measured or from its store. Needs no data set and no checkpoint.

    It runs on the CPU whatever the device: networks this small are slower on an accelerator.
    """
    study = STUDIES[experiment.profile]
    settings = {"version": VERSION, "study": asdict(study), "methods": {name: repr(m) for name, m in METHODS.items()}}
    table, new = experiment.store.keep("plane", settings, partial(run, study))
    experiment.measured += ["the study in the plane"] if new else []
    provenance = {
        "profile": experiment.profile,
        "note": f"{study.seeds} seeds; {study.passes:,} network passes of {study.batch} points for each method, "
        f"the first {study.start:,} shared flow matching; measured on {study.points:,} points; "
        f"profile {experiment.profile}",
        "models": {name: {"objective": described(m)} for name, m in METHODS.items()}
        | {EXACT: {"reference": "exact velocity of the Gaussian mixture that is the data"}},
        "study": asdict(study),
        "network": PlaneMLP().config,
        "torch": torch.__version__,
        "device": "cpu",
    }
    folder = figures_folder(experiment.root, "plane", experiment.profile)
    return Artefact("plane", table, {"verdicts": verdicts(table)}, dict(table.attrs["arrays"]), provenance, folder)


def verdicts(table: pd.DataFrame) -> pd.DataFrame:
    """Each method and the exact field against FM, by seed: loss, drift (mean over t) and quality; lower is better.

    Bias and speed have no verdict: the exact field's own bias is larger than any network's here.
    """
    measured = table["quantity"].isin(["excess_loss", "drift", "quality", "energy"]) & (table["model"] != FRESH)
    keys = ["model", "seed", "quantity", "nfe"]
    means = table[measured].groupby(keys, sort=False, dropna=False, as_index=False)["value"].mean()
    found = paired_verdicts(means, BASELINE)
    found.loc[found["model"] == EXACT, "verdict"] = "reference"
    found.loc[found["quantity"] == "energy", "percent"] = float("nan")  # an unbiased distance may be 0: no percentage
    return found


def described(objective: Objective) -> str:
    """An objective by what differs from its defaults, such as Defar(fc=False)."""
    changed = [
        f"{f.name}={getattr(objective, f.name)!r}" for f in fields(objective)
        if f.default is not MISSING and getattr(objective, f.name) != f.default
    ]  # fmt: skip
    return f"{type(objective).__name__}({', '.join(changed)})"
