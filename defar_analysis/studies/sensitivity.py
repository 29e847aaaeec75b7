"""The catalog's entry on robust statements: one sweep of each field, kept in results/, and every reading of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from ..catalog import Artefact, figures_folder
from ..exact_fields import EXACT, MEMORIES
from ..experiment import SEED, SHIPPED
from ..measures.base import TimeGrid
from ..measures.sensitivity import EARLY, HALF, NEAR, evaluate, verdicts
from ..measures.sensitivity_sweep import SENSITIVITY

if TYPE_CHECKING:
    from ..experiment import Experiment

ID, BASELINE, METHOD = "sensitivity", "SiT", "DEFAR"


@dataclass(frozen=True)
class Study:
    """Every t0 of the grid has as many t1. quick: the grid and the images of Fig. 3."""

    grid: TimeGrid
    images: int = 64
    chunk: int = 64


STUDIES = {
    "tiny": Study(TimeGrid.spaced("tiny", 4, 2), images=8, chunk=8),
    "quick": Study(TimeGrid.spaced("quick", 10, 6)),
    "full": Study(TimeGrid.spaced("full", 20, 8), images=256),
}


def build(experiment: Experiment) -> Artefact:
    """Verdicts on every statement for every network and the exact fields, on the same images and noise."""
    study = STUDIES[experiment.profile]
    names = (*SHIPPED, *EXACT)
    batch = experiment.test_images.batch(range(study.images), device=experiment.device)
    spectra, emphases = {}, {}
    for name in names:
        context = experiment._context(name)
        if name not in MEMORIES or experiment.profile != "full":  # whose grid is the quick one then
            context = replace(context, grid=study.grid, batch=batch, chunk=study.chunk)
        tables, missing = experiment.store.measure(SENSITIVITY, context)
        experiment.measured += [f"{m} of {name}" for m in missing]
        spectra[name], emphases[name] = (dict(tables[m.name].attrs["arrays"]) for m in SENSITIVITY)

    table = evaluate(spectra, emphases, BASELINE, METHOD)
    tables = {"verdicts": verdicts(table)}
    provenance: dict[str, Any] = {
        "profile": experiment.profile,
        "note": f"{study.images} test images of CIFAR-10, {len(study.grid.t0)} t0 and {study.grid.pairs} pairs "
        f"(t0, t1); MixFlow: 420 steps more than SiT; profile {experiment.profile}",
        "models": {name: experiment._identity(name) for name in names},
        "references": list(EXACT),
        "early": EARLY,
        "half": HALF,
        "near": NEAR,
        "test_data_sha256": experiment.test_images.hash,
        "seed": SEED,
        "torch": torch.__version__,
        "device": experiment.device.type,
    }
    return Artefact(ID, table, tables, {}, provenance, figures_folder(experiment.root, ID, experiment.profile))
