"""The catalog's entry on training-free corrections: sampled by each, measured by drift, kept in results/."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from ..catalog import Artefact, figures_folder
from ..core.cards import CARD
from ..core.corrections import DCW, DCWHaar, EpsilonScaling, LabelShift, TargetShift
from ..core.guidance import CFG, DiscriminatorGuidance
from ..core.samplers import Correction, Euler, sample
from ..core.seeding import image_noise
from ..exact_fields import EXACT
from ..experiment import CLASSES, SEED
from ..measures.base import Arrays
from ..measures.drift import VERSION, changes, drift, state_energies, true_energies

if TYPE_CHECKING:
    from ..core.datasets import Batch
    from ..core.discriminators import LoadedDiscriminator
    from ..experiment import Experiment

BASELINE = "SiT"
PICTURES = 32  # in all: what a figure's data may hold


@dataclass(frozen=True)
class Method:
    """Whose network, and what wraps its field or follows its steps; with neither, plain sampling.

    judge: the discriminator that `wrap` guides by, if it does.
    """

    checkpoint: str = BASELINE
    wrap: partial | None = None
    correction: Correction | None = None
    judge: LoadedDiscriminator | None = None

    def __str__(self) -> str:
        """Everything the samples depend on beside checkpoint, noise and solver."""
        if self.judge is not None:
            return f"DiscriminatorGuidance(weight={self.wrap.keywords['weight']}), {self.judge.card.sha256}"
        if self.wrap is None:
            return "none" if self.correction is None else repr(self.correction)
        settings = ", ".join(f"{key}={value!r}" for key, value in self.wrap.keywords.items())
        return f"{self.wrap.func.__name__}({settings})"


# Small settings, not tuned by any quality: ES and DCW of the size that the authors use on small images; the target
# shift's window must be small beside a step of 0.04, which it shortens (0.02 would halve it).
METHODS = {
    BASELINE: Method(),
    "DEFAR": Method("DEFAR"),
    "CFG 1.5": Method(wrap=partial(CFG, scale=1.5, null_label=len(CLASSES))),
    "ES 1.005": Method(wrap=partial(EpsilonScaling, scale=1.005)),
    "TS label 0.02": Method(wrap=partial(LabelShift, window=0.02)),
    "TS target 0.005": Method(correction=TargetShift(window=0.005)),
    "DCW 0.005": Method(correction=DCW(0.005)),
    "DCW Haar 0.01": Method(correction=DCWHaar(low=0.01, high=0.01)),
    **{name: Method(name) for name in EXACT},  # without defect: what remains is steps and chance; no pictures of them
}
# The same on the other shipped checkpoint.
ON_DEFAR = {"DEFAR": METHODS["DEFAR"]} | {
    f"{name} on DEFAR": replace(method, checkpoint="DEFAR")
    for name, method in METHODS.items()
    if method.wrap is not None or method.correction is not None
}
# Each guides its checkpoint in one more method where the project has it.
DISCRIMINATORS = {BASELINE: "reproduce/discriminators/cifar10-sit", "DEFAR": "reproduce/discriminators/cifar10-defar"}
GUIDED = {BASELINE: "DG 1", "DEFAR": "DG 1 on DEFAR"}


@dataclass(frozen=True)
class Study:
    steps: int = 25
    images: int = 64
    chunk: int = 64


STUDIES = {"tiny": Study(steps=3, images=8, chunk=8), "quick": Study(), "full": Study(images=512)}


def build(experiment: Experiment) -> Artefact:
    """Every method's samples from one noise, labelled as the test images that they are measured against."""
    study = STUDIES[experiment.profile]
    exact = {name: METHODS[name] for name in EXACT}
    plain = {name: method for name, method in METHODS.items() if name not in EXACT}
    methods = plain | discriminator_guidance(experiment, BASELINE) | exact
    on_defar = ON_DEFAR | discriminator_guidance(experiment, "DEFAR")
    every_method = methods | on_defar
    identities = {name: experiment._identity(name) for name in dict.fromkeys(m.checkpoint for m in methods.values())}
    batch = experiment.test_images.batch(range(study.images), device=experiment.device)
    pictured = [name for name in every_method if name not in EXACT]
    shown = first_of_each_class(batch.labels.tolist(), PICTURES // len(pictured))
    measured = {}
    for name, method in every_method.items():
        key = {
            "version": VERSION, "study": asdict(study), "method": str(method), "seed": SEED, "shown": shown,
            "test_data_sha256": experiment.test_images.hash, "device": experiment.device.type,
            **identities[method.checkpoint],
        }  # fmt: skip
        compute = partial(_measure, experiment, method, study, batch, shown)
        measured[name], new = experiment.store.keep("corrections", key, compute)
        experiment.measured += [f"samples of {name}"] if new else []

    checkpoint = experiment.checkpoint(BASELINE)
    noise, times = _noise(experiment, study), Euler(study.steps).times(checkpoint.interpolant)
    true = true_energies(noise, batch.data, times, interpolant=checkpoint.interpolant)
    grid = times.double().numpy().round(6)
    costs = pd.concat([table.assign(model=name) for name, table in measured.items()], ignore_index=True)
    energies = {name: table.attrs["arrays"]["energies"] for name, table in measured.items()}

    def against(baseline: str, names: dict[str, Method]) -> pd.DataFrame:
        found = changes({name: energies[name] for name in names}, true, grid, baseline)
        return found.merge(costs[["model", "nfe", "forwards"]], on="model")

    tables = {"changes": against(BASELINE, methods), "changes_defar": against("DEFAR", on_defar)}
    arrays = {
        "samples": np.stack([measured[name].attrs["arrays"]["samples"] for name in pictured]),
        "labels": batch.labels[shown].cpu().numpy(),
    }
    provenance: dict[str, Any] = {
        "profile": experiment.profile,
        "note": f"{study.images} images by Euler with {study.steps} steps, seed {SEED}, against as many test images of "
        f"CIFAR-10 with the same noise and labels; profile {experiment.profile}",
        "models": identities,
        "methods": {name: {"checkpoint": m.checkpoint, "correction": str(m)} for name, m in every_method.items()},
        "test_data_sha256": experiment.test_images.hash,
        "classes": CLASSES,
        "shown": shown,
        "seed": SEED,
        "torch": torch.__version__,
        "device": experiment.device.type,
    }
    folder = figures_folder(experiment.root, "corrections", experiment.profile)
    return Artefact("corrections", drift(energies, true, grid), tables, arrays, provenance, folder)


def discriminator_guidance(experiment: Experiment, name: str) -> dict[str, Method]:
    """One more method on the checkpoint `name`, or none where the project has no discriminator of it."""
    folder = experiment.root / DISCRIMINATORS[name]
    if not (folder / CARD).is_file():
        return {}
    from ..core.discriminators import load_discriminator

    checkpoint = experiment.checkpoint(name)
    judge = load_discriminator(folder, checkpoint, experiment.device)
    wrap = partial(DiscriminatorGuidance, discriminator=judge.model, weight=1.0, interpolant=checkpoint.interpolant)
    return {GUIDED[name]: Method(name, wrap, judge=judge)}


def first_of_each_class(labels: list[int], count: int) -> list[int]:
    """The places of the first `count` labels that were not there before, in order; fewer if there are fewer."""
    return sorted(labels.index(label) for label in dict.fromkeys(labels))[:count]


def _measure(experiment: Experiment, method: Method, study: Study, batch: Batch, shown: list[int]) -> pd.DataFrame:
    """One row with the cost for each image; in attrs, energies (S, N, 3) of all states and the pictures of `shown`."""
    exact = method.checkpoint in EXACT
    checkpoint = experiment.checkpoint(BASELINE if exact else method.checkpoint)
    model = experiment.field(method.checkpoint)
    field = model if method.wrap is None else method.wrap(model)
    rows = 0

    def count(_, given: tuple) -> None:
        nonlocal rows
        rows += len(given[0])

    called = [checkpoint.model] + ([] if method.judge is None else [method.judge.model])
    hooks = [network.register_forward_pre_hook(count) for network in called]
    try:
        drawn = sample(
            field, _noise(experiment, study), Euler(study.steps), interpolant=checkpoint.interpolant,
            labels=batch.labels, chunk=study.chunk, save="all", correction=method.correction,
        )  # fmt: skip
    finally:
        for hook in hooks:
            hook.remove()
    padded = -(-study.images // study.chunk) * study.chunk
    table = pd.DataFrame({"nfe": [drawn.nfe], "forwards": [rows / padded]})  # CFG's one call has twice the images
    pictures = checkpoint.codec.decode(drawn.x[shown]).permute(0, 2, 3, 1).cpu().numpy()
    table.attrs["arrays"] = Arrays(energies=state_energies(drawn.states), samples=pictures)
    return table


def _noise(experiment: Experiment, study: Study) -> torch.Tensor:
    shape = experiment.checkpoint(BASELINE).shape
    return image_noise(SEED, range(study.images), shape).to(experiment.device)
