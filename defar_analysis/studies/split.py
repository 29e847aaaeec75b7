"""The catalog's entry on what is inherent: networks trained on Gaussian images, beside the exact field of their law.

The runs are those of reproduce/records/2026-11-21-gaussian, which are not shipped: only the profile "full" measures
them, from runs/gaussian; "quick" draws what is committed. "tiny" splits the shipped networks on the same images.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from ..artefacts import Artefact, committed, figures_folder
from ..core.checkpoints import Checkpoint, load_checkpoint
from ..core.datasets import Batch
from ..core.gaussian_data import GaussianImages, gaussian_images
from ..core.samplers import Euler, Heun
from ..core.seeding import image_noise
from ..errors import DefarError
from ..exact_fields import GAUSSIAN, identity
from ..experiment import SCALES, SEED
from ..measures.base import Arrays, Context
from ..measures.emphasis import FEL
from ..measures.frequency import PFR
from ..measures.slow_flow import VERSION as SLOW_VERSION
from ..measures.slow_flow import both_pairings
from ..measures.slow_split import slow_split
from ..measures.split import Loss, Tables, split

if TYPE_CHECKING:
    from ..experiment import Experiment

ID, BASELINE, DATA = "split", "FM", "gaussian:cifar10"
RUN = "python reproduce/records/2026-11-21-gaussian/run.py"
SHIPPED = "reproduce/checkpoints/cifar10"
TAKES = "some minutes on 2 cores once the runs are there"
_RUNS = {"FM": "fm", "ADR": "adr", "FC": "fc", "DEFAR": "defar", "MixFlow": "mixflow"}


@dataclass(frozen=True)
class Study:
    """checkpoints: folders under the project by method; grid: the profile whose times are taken.

    steps: of Euler for Slow Flow, and of Heun on the way back to noise; walked: how many of the images go that way.
    """

    checkpoints: Mapping[str, str]
    images: int
    grid: str = "quick"
    steps: int = 50
    walked: int = 64

    @property
    def every(self) -> int:
        """Every how many of the steps slowed times are told: eleven are enough to see a curve."""
        return max(1, self.steps // 10)


STUDIES = {
    "tiny": Study(
        {"FM": "reproduce/checkpoints/cifar10-sit", "DEFAR": "reproduce/checkpoints/cifar10-defar"}, 8, "tiny", 3, 4
    ),
    "full": Study({name: f"runs/gaussian/{run}/checkpoint" for name, run in _RUNS.items()}, 256),
}


def build(experiment: Experiment) -> Artefact:
    """Every network and the exact field on the same Gaussian images, noise and times."""
    if experiment.profile not in STUDIES:
        return committed(ID, (), experiment.root, TAKES)
    study = STUDIES[experiment.profile]
    networks = {name: _network(experiment, folder) for name, folder in study.checkpoints.items()}
    images = gaussian_images(DATA)
    # numbers beyond those that trainings draw from: none of these images was seen
    batch = images.batch(range(len(images), len(images) + study.images), device=experiment.device)
    exact = _swept(experiment, study, GAUSSIAN, images, batch)
    found = {name: _swept(experiment, study, name, images, batch, network) for name, network in networks.items()}
    slowed = {name: _slowed(experiment, study, name, images, batch, network) for name, network in networks.items()}
    times = Euler(study.steps).times(images.flow.interpolant).numpy().round(6)[:: study.every]
    slow = slow_split(slowed, _slowed(experiment, study, GAUSSIAN, images, batch), times)
    grid = SCALES[study.grid].grid
    provenance: dict[str, Any] = {
        "profile": experiment.profile,
        "note": f"{study.images} draws of the Gaussian with CIFAR-10's mean and spectrum, {len(grid.t0)} t0 and "
        f"{grid.pairs} pairs (t0, t1); slowed times: {study.walked} of them, {study.steps} Euler steps; profile "
        f"{experiment.profile}",
        "models": {f"{name}, {network.card.name}": _identity(network) for name, network in networks.items()},
        "data": {"name": images.name, "law_sha256": images.hash},
        "seed": SEED,
        "torch": torch.__version__,
        "device": experiment.device.type,
        "command": f"{RUN}; defar reproduce --profile {experiment.profile} --only {ID}",
    }
    table = pd.concat([split(found, exact, grid, batch.data[0].numel()), slow], ignore_index=True)
    return Artefact(ID, table, {}, {}, provenance, figures_folder(experiment.root, ID, experiment.profile))


def _network(experiment: Experiment, folder: str) -> Checkpoint:
    """The checkpoint there. Raises DefarError with the command that would train it."""
    path = experiment.root / folder
    if not path.is_dir():
        raise DefarError(f"{path}: not trained here; run: {RUN}")
    return load_checkpoint(path, device=experiment.device)


def _swept(experiment: Experiment, study: Study, name: str, images: GaussianImages, batch: Batch,
           network: Checkpoint | None = None) -> Tables:  # fmt: skip
    """The measurements of one network, or of the exact field; kept in results/."""
    scale = SCALES[study.grid]
    model = images.flow if network is None else network.model
    context = Context(
        model, batch, scale.grid, name, seed=SEED, chunk=scale.chunk, device=str(experiment.device),
        identity=identity(GAUSSIAN, experiment.train_images) if network is None else _identity(network),
    )  # fmt: skip
    measurements = [PFR(), FEL(), *([] if network is None else [Loss(images.flow, images.hash)])]
    tables, new = experiment.store.measure(measurements, context)
    experiment.measured += [f"{measurement} of {name} on Gaussian images" for measurement in new]
    return tables


def _slowed(experiment: Experiment, study: Study, name: str, images: GaussianImages, batch: Batch,
            network: Checkpoint | None = None) -> dict[str, np.ndarray]:  # fmt: skip
    """Slowed times (S, N) by pairing of one network, or of the exact field; kept in results/."""
    key = {
        "version": SLOW_VERSION, "steps": study.steps, "images": study.walked, "law_sha256": images.hash,
        "first": len(images), "seed": SEED, "device": experiment.device.type,
        **(identity(GAUSSIAN, experiment.train_images) if network is None else _identity(network)),
    }  # fmt: skip

    def measured() -> pd.DataFrame:
        model, data = images.flow if network is None else network.model, batch.data[: study.walked]
        noise = image_noise(SEED, range(len(data)), data.shape[1:]).to(data)
        solvers, chunk = (Euler(study.steps), Heun(study.steps)), SCALES[study.grid].chunk
        table = pd.DataFrame([{"model": name, "images": len(data)}])
        table.attrs["arrays"] = Arrays(both_pairings(model, noise, data, *solvers, chunk=chunk)[0])
        return table

    table, new = experiment.store.keep("slow_flow", key, measured)
    experiment.measured += [f"slowed times of {name} on Gaussian images"] if new else []
    return {pairing: part[:: study.every] for pairing, part in table.attrs["arrays"].items()}


def _identity(network: Checkpoint) -> dict[str, Any]:
    card = network.card
    return {
        "checkpoint": card.name,
        "sha256": card.sha256,
        "weights": card.weights,
        "steps": card.training.get("steps"),
    }
