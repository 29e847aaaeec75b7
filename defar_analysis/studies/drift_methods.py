"""The catalog's entry on the drift of every method: objectives post-trained at equal compute; kept in results/.

The runs are those of reproduce/records/2026-11-21-objectives, whose checkpoints are too many to be shipped: only the
profile "full" measures them, from runs/objectives; "quick" draws what is committed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from ..artefacts import Artefact, committed, figures_folder
from ..core.checkpoints import Checkpoint, load_checkpoint
from ..exact_fields import EMPIRICAL, GAUSSIAN
from ..experiment import CLASSES, SEED
from ..measures.drift_changes import changes
from ..measures.drift_maps import tables
from ..our_rows import RUN
from .drift import Study, drifts, field, told
from .methods import BOTH_SEEDS, checked

if TYPE_CHECKING:
    from ..experiment import Experiment

ID, BASELINE = "driftmethods", "SiT"
TABLES = ("curves", "paired")
TAKES = "about twenty minutes on 2 cores once the runs are there"
METHODS = BOTH_SEEDS | {"MixFlow": "mixflow"}
REFERENCES = (GAUSSIAN, EMPIRICAL)


@dataclass(frozen=True)
class Methods:
    """checkpoints: folders under the project by method, all post-trained from one network with as much compute."""

    checkpoints: Mapping[str, str]
    study: Study


STUDIES = {
    "tiny": Methods(
        {"SiT": "reproduce/checkpoints/cifar10-sit", "DEFAR": "reproduce/checkpoints/cifar10-defar"},
        Study(nfes=(2, 4), fine=4, images=4, chunk=4),
    ),
    "full": Methods(
        {method: f"runs/objectives/{run}-1/checkpoint" for method, run in METHODS.items()},
        Study(nfes=(10, 20, 50, 100)),
    ),
}


def build(experiment: Experiment) -> Artefact:
    """Every method's drift by every number of steps, with the same test images, labels and noise."""
    if experiment.profile not in STUDIES:
        return committed(ID, TABLES, experiment.root, TAKES)
    methods = STUDIES[experiment.profile]
    networks = {
        name: load_checkpoint(checked(experiment.root / folder), device=experiment.device)
        for name, folder in methods.checkpoints.items()
    }
    identities = {name: _identity(network) for name, network in networks.items()}
    identities |= {name: experiment._identity(name) for name in REFERENCES}
    fields = {name: partial(_field, network) for name, network in networks.items()}
    fields |= {name: partial(field, experiment, name) for name in REFERENCES}
    batch = experiment.test_images.batch(range(methods.study.images), device=experiment.device)
    found = drifts(experiment, methods.study, fields, identities, batch)
    maps, curves = tables(found, batch.data.shape[-2:])
    provenance: dict[str, Any] = {
        "profile": experiment.profile,
        "note": f"{told(methods.study)}; post-trained at equal compute, one training seed; profile "
        f"{experiment.profile}",
        "models": {
            f"{name}, {networks[name].card.name}" if name in networks else name: identity
            for name, identity in identities.items()
        },
        "test_data_sha256": experiment.test_images.hash,
        "classes": CLASSES,
        "seed": SEED,
        "torch": torch.__version__,
        "device": experiment.device.type,
        "command": f"{RUN}; defar reproduce --profile {experiment.profile} --only {ID}",
    }
    folder = figures_folder(experiment.root, ID, experiment.profile)
    return Artefact(ID, maps, {"curves": curves, "paired": changes(found, BASELINE)}, {}, provenance, folder)


def _field(network: Checkpoint):
    return network.model, network.interpolant


def _identity(network: Checkpoint) -> dict[str, Any]:
    card = network.card
    return {
        "checkpoint": card.name,
        "sha256": card.sha256,
        "weights": card.weights,
        "steps": card.training.get("steps"),
    }
