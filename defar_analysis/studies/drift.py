"""The catalog's entry on drift along real sampling, for the shipped checkpoints and exact fields; kept in results/."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch

from ..artefacts import Artefact, figures_folder
from ..core.seeding import image_noise
from ..exact_fields import EMPIRICAL, EXACT, GAUSSIAN
from ..experiment import CLASSES, SEED, SHIPPED
from ..measures.base import Arrays
from ..measures.drift_maps import VERSION, Trajectory, fine_states, tables, trajectory

if TYPE_CHECKING:
    from ..core.datasets import Batch
    from ..core.interpolants import Interpolant
    from ..core.rollout import VelocityModel
    from ..experiment import Experiment

ID, BASELINE = "drift", "SiT"
MODELS = (*SHIPPED, GAUSSIAN, EMPIRICAL)
Field = Callable[[], "tuple[VelocityModel, Interpolant]"]  # loads it where it is needed


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
    found = drifts(experiment, study, {name: partial(field, experiment, name) for name in MODELS}, identities, batch)
    maps, curves = tables(found, batch.data.shape[-2:])
    provenance: dict[str, Any] = {
        "profile": experiment.profile,
        "note": f"{told(study)}; profile {experiment.profile}",
        "models": identities,
        "test_data_sha256": experiment.test_images.hash,
        "classes": CLASSES,
        "seed": SEED,
        "torch": torch.__version__,
        "device": experiment.device.type,
    }
    folder = figures_folder(experiment.root, ID, experiment.profile)
    return Artefact(ID, maps, {"curves": curves}, {}, provenance, folder)


def told(study: Study) -> str:
    """What was measured on what, for a figure's note."""
    return (
        f"Euler by {', '.join(map(str, study.nfes))} steps beside Heun by {study.fine}, {study.images} test "
        f"images of CIFAR-10 with their labels, seed {SEED}"
    )


def field(experiment: Experiment, name: str) -> tuple[VelocityModel, Interpolant]:
    """A shipped network or an exact field, and the path that it is sampled on."""
    return experiment.field(name), experiment.checkpoint(BASELINE if name in EXACT else name).interpolant


def drifts(
    experiment: Experiment, study: Study, fields: Mapping[str, Field], identities: Mapping[str, Any], batch: Batch
) -> dict[tuple[str, int], Trajectory]:
    """(model, steps) -> its drift, with the same images, labels and noise for all; kept in results/."""
    found = {}
    for name, load in fields.items():
        key = {
            "version": VERSION, "study": asdict(study), "seed": SEED,
            "test_data_sha256": experiment.test_images.hash, "device": experiment.device.type, **identities[name],
        }  # fmt: skip
        table, new = experiment.store.keep("drift", key, partial(_measure, experiment, name, load, study, batch))
        experiment.measured += [f"drift of {name}"] if new else []
        for nfe in study.nfes:
            arrays = {k.partition("/")[2]: v for k, v in table.attrs["arrays"].items() if k.startswith(f"{nfe}/")}
            found[name, nfe] = Trajectory.of(arrays)
    return found


def _measure(experiment: Experiment, name: str, load: Field, study: Study, batch: Batch) -> pd.DataFrame:
    """One row with the model's name; in attrs, the arrays of each number of steps, named "nfe/..."."""
    model, path = load()
    noise = image_noise(SEED, range(study.images), batch.data.shape[1:]).to(experiment.device)
    given: dict[str, Any] = {"interpolant": path, "labels": batch.labels, "chunk": study.chunk}
    fine = fine_states(model, noise, study.fine, **given)
    arrays = {}
    for nfe in study.nfes:
        walked = trajectory(model, noise, batch.data, nfe, fine, mean=experiment.reference.mean, **given)
        arrays |= {f"{nfe}/{key}": value for key, value in walked.arrays.items()}
    table = pd.DataFrame({"model": [name]})
    table.attrs["arrays"] = Arrays(arrays)
    return table
