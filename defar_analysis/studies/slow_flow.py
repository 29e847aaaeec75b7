"""The catalog's entry on MixFlow's Slow Flow: all shipped checkpoints and an exact field, kept in results/."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch

from ..catalog import Artefact, figures_folder
from ..core.samplers import Euler, Heun
from ..core.seeding import image_noise
from ..exact_fields import EXACT, GAUSSIAN
from ..experiment import CLASSES, SEED, SHIPPED
from ..measures.base import Arrays
from ..measures.slow_flow import PAIRINGS, VERSION, bands, both_pairings, changes
from ..paper import paper_values, selected

if TYPE_CHECKING:
    from ..core.datasets import Batch
    from ..experiment import Experiment

ID, BASELINE = "slowflow", "SiT"
NFES, STD = ("nfe", "inversion_nfe"), "inverted_noise_std"


@dataclass(frozen=True)
class Study:
    """steps: of Euler, the paper's 50, and of Heun on the way back to noise."""

    steps: int = 50
    images: int = 128
    chunk: int = 64


STUDIES = {"tiny": Study(steps=3, images=8, chunk=8), "quick": Study(), "full": Study(images=512)}


def build(experiment: Experiment) -> Artefact:
    """Slowed times of every model in both pairings, with the same test images, labels and noise."""
    study = STUDIES[experiment.profile]
    names = (*SHIPPED, *EXACT)
    identities = {name: experiment._identity(name) for name in names}
    batch = experiment.test_images.batch(range(study.images), device=experiment.device)
    measured = {}
    for name in names:
        key = {
            "version": VERSION, "study": asdict(study), "seed": SEED,
            "test_data_sha256": experiment.test_images.hash, "device": experiment.device.type, **identities[name],
        }  # fmt: skip
        measured[name], new = experiment.store.keep("slow_flow", key, partial(_measure, experiment, name, study, batch))
        experiment.measured += [f"slowed times of {name}"] if new else []

    times = Euler(study.steps).times(experiment.checkpoint(BASELINE).interpolant).numpy().round(6)
    slowed = {(name, p): table.attrs["arrays"][p] for p in PAIRINGS for name, table in measured.items()
              if p in table.attrs["arrays"]}  # fmt: skip
    paper = selected(paper_values(experiment.root, "mixflow"), panel="fig1").rename(columns={"x": "t"})
    tables = {
        "changes": changes(slowed, times, BASELINE),
        "paper": paper[["row", "column", "t", "value", "source"]],
    }
    costs = {name: table.iloc[0].to_dict() for name, table in measured.items()}
    provenance: dict[str, Any] = {
        "profile": experiment.profile,
        "note": f"Euler, {study.steps} steps, {study.images} test images of CIFAR-10 with their labels, seed {SEED}; "
        f"MixFlow: 420 steps more than SiT; profile {experiment.profile}",
        "models": identities,
        "exact": [GAUSSIAN, [name for name in EXACT if name != GAUSSIAN]],
        "pairings": {
            "class": "noise with a test image of the class that it is sampled with",
            "inversion": f"a test image with the noise that Heun, {study.steps} steps back, makes of it; not clipped",
        },
        "nfe": {name: {key: int(cost[key]) for key in NFES if key in cost} for name, cost in costs.items()},
        "inverted_noise_std": {name: round(cost[STD], 6) for name, cost in costs.items() if STD in cost},
        "test_data_sha256": experiment.test_images.hash,
        "classes": CLASSES,
        "seed": SEED,
        "torch": torch.__version__,
        "device": experiment.device.type,
    }
    folder = figures_folder(experiment.root, ID, experiment.profile)
    return Artefact(ID, bands(slowed, times), tables, {}, provenance, folder)


def _measure(experiment: Experiment, name: str, study: Study, batch: Batch) -> pd.DataFrame:
    """One row with the cost for each image; in attrs, slowed times (S, N) by pairing.

    Not the inversion of the empirical fields: at t = 1 they have no velocity off their own images.
    """
    checkpoint = experiment.checkpoint(BASELINE if name in EXACT else name)
    model, path = experiment.field(name), checkpoint.interpolant
    given: dict[str, Any] = {"interpolant": path, "labels": batch.labels, "chunk": study.chunk}
    noise = image_noise(SEED, range(study.images), checkpoint.shape).to(experiment.device)
    back = Heun(study.steps) if name not in EXACT or name == GAUSSIAN else None
    found, drawn, inverted = both_pairings(model, noise, batch.data, Euler(study.steps), back, **given)
    cost = {} if inverted is None else {"inversion_nfe": inverted.nfe, STD: float(inverted.x.double().std())}
    table = pd.DataFrame([{**cost, "nfe": drawn.nfe}])
    table.attrs["arrays"] = Arrays(found)
    return table
