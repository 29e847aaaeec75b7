"""The catalog's entry on drift along real sampling, for the shipped checkpoints and exact fields; kept in results/."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch

from .artefacts import Artefact, figures_folder
from .core.seeding import image_noise
from .exact_fields import EMPIRICAL, EXACT, GAUSSIAN
from .experiment import CLASSES, SEED, SHIPPED
from .measures.base import Arrays
from .measures.drift_maps import VERSION, Trajectory, fine_states, tables, trajectory

if TYPE_CHECKING:
    from .core.datasets import Batch
    from .experiment import Experiment

ID, BASELINE = "drift", "SiT"
MODELS = (*SHIPPED, GAUSSIAN, EMPIRICAL)


@dataclass(frozen=True)
class Study:
    """nfes: numbers of Euler's steps; fine: of Heun's, for the solution that they are held against."""

    nfes: tuple[int, ...] = (10, 50)
    fine: int = 100
    images: int = 32
    chunk: int = 32


STUDIES = {
    "tiny": Study(nfes=(2, 4), fine=4, images=4, chunk=4),
    "quick": Study(),
    "full": Study(nfes=(10, 20, 50, 100), fine=200, images=256, chunk=64),
}


def build(experiment: Experiment) -> Artefact:
    """Every model's drift by every number of steps, with the same test images, labels and noise."""
    study = STUDIES[experiment.profile]
    identities = {name: experiment._identity(name) for name in MODELS}
    batch = experiment.test_images.batch(range(study.images), device=experiment.device)
    found = {}
    for name in MODELS:
        key = {
            "version": VERSION, "study": asdict(study), "seed": SEED,
            "test_data_sha256": experiment.test_images.hash, "device": experiment.device.type, **identities[name],
        }  # fmt: skip
        table, new = experiment.store.keep("drift", key, partial(_measure, experiment, name, study, batch))
        experiment.measured += [f"drift of {name}"] if new else []
        for nfe in study.nfes:
            arrays = {k.partition("/")[2]: v for k, v in table.attrs["arrays"].items() if k.startswith(f"{nfe}/")}
            found[name, nfe] = Trajectory.of(arrays)
    maps, curves = tables(found, batch.data.shape[-2:])
    provenance: dict[str, Any] = {
        "profile": experiment.profile,
        "note": f"Euler by {', '.join(map(str, study.nfes))} steps beside Heun by {study.fine}, {study.images} test "
        f"images of CIFAR-10 with their labels, seed {SEED}; profile {experiment.profile}",
        "models": identities,
        "test_data_sha256": experiment.test_images.hash,
        "classes": CLASSES,
        "seed": SEED,
        "torch": torch.__version__,
        "device": experiment.device.type,
    }
    folder = figures_folder(experiment.root, ID, experiment.profile)
    return Artefact(ID, maps, {"curves": curves}, {}, provenance, folder)


def _measure(experiment: Experiment, name: str, study: Study, batch: Batch) -> pd.DataFrame:
    """One row with the model's name; in attrs, the arrays of each number of steps, named "nfe/..."."""
    path = experiment.checkpoint(BASELINE if name in EXACT else name).interpolant
    noise = image_noise(SEED, range(study.images), batch.data.shape[1:]).to(experiment.device)
    given: dict[str, Any] = {"interpolant": path, "labels": batch.labels, "chunk": study.chunk}
    model = experiment.field(name)
    fine = fine_states(model, noise, study.fine, **given)
    arrays = {}
    for nfe in study.nfes:
        walked = trajectory(model, noise, batch.data, nfe, fine, mean=experiment.reference.mean, **given)
        arrays |= {f"{nfe}/{key}": value for key, value in walked.arrays.items()}
    table = pd.DataFrame({"model": [name]})
    table.attrs["arrays"] = Arrays(arrays)
    return table
