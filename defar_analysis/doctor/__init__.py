"""`defar doctor`: proves that a model is plugged in as its conventions say, by what it does on real noised data.

Checks run in turn, each on the field as mended by those before it: a network with a flipped clock is told so once, and
its labels and scale are judged in the right clock.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..core.checkpoints import Checkpoint, load_checkpoint
from ..core.datasets import open_dataset
from ..core.devices import resolve_device
from ..core.interpolants import Interpolant, Linear
from ..core.latents import check_shape, seen_batch
from ..core.rollout import VelocityModel
from ..core.seeding import image_noise
from ..errors import DefarError
from . import soundness
from .direction import direction, fit, scale
from .findings import Finding
from .fingerprint import Fingerprint, fingerprint
from .labels import labels_matter, null_label
from .misfit import Patient
from .plug import Plug, called, plug_of
from .weights import averaged

__all__ = ["Diagnosis", "Finding", "Fingerprint", "examine", "examine_checkpoint"]

SEED = 0
SOUND = ("same twice", "one by one", "dtype", "x and t", "train mode")
FITTED = ("clock", "sign", "time scale", "data scale", "fit", "labels", "null label")


@torch.no_grad()
def examine(
    model: VelocityModel,
    data: Tensor,
    labels: Tensor | None = None,
    *,
    interpolant: Interpolant | None = None,
    classes: int | None = None,
    null: int | None = None,
    label_dropout: float | None = None,
) -> list[Finding]:
    """All checks of a field v(x, t, labels) on real data (B, C, H, W) as the network sees them, B at least 2.

    classes: how many labels it was trained with, None for none. null: what it calls "no label", where that is not
    `classes`. label_dropout: of its training, where known. A module is examined in eval mode (and once in train mode)
    and left as it was.
    """
    if data.ndim != 4 or len(data) < 2 or not data.is_floating_point() or not bool(torch.isfinite(data).all()):
        raise DefarError(f"data are {data.dtype} {tuple(data.shape)}; give finite floats (B, C, H, W), B at least 2")
    noise = image_noise(SEED, range(len(data)), data.shape[1:]).to(data.device)
    labels = None if classes is None else labels
    patient = Patient(data.float(), noise, labels, interpolant or Linear())
    with soundness.mode(model, training=False), torch.backends.cudnn.flags(allow_tf32=False):
        return _examined(model, plug_of(model, classes, null), patient, classes, label_dropout)


def _examined(
    model: VelocityModel, plug: Plug, patient: Patient, classes: int | None, label_dropout: float | None
) -> list[Finding]:
    two = patient.first(2)
    x, t, _ = two.point(0.5)
    found, plug = called(model, plug, x, t, two.labels)
    if plug is None:
        return found + soundness.skipped(("finite", *SOUND, *FITTED), "the network cannot be called")
    few = patient.first(8)
    found.append(soundness.finite(plug, few))
    if found[-1].verdict == "fails" and not soundness.finite_amid(plug, few):
        return found + soundness.skipped((*SOUND, *FITTED), "the answer is not finite")
    found.append(soundness.determinism(plug, patient.first(32)))
    found += [soundness.independence(plug, few), soundness.dtype(plug, few)]
    nothing = soundness.predicts_nothing(plug, few)
    if nothing is not None:
        rest = ("x and t", "train mode", *(name for name in FITTED if name != "fit"))
        return [*found, nothing, *soundness.skipped(rest, "it predicts nothing")]
    found += [soundness.dependence(plug, few), soundness.label_dropout(plug, patient.first(16), classes)]
    directed, plug = direction(plug, patient)
    scaled, patient = scale(plug, patient)
    told, plug, costs = labels_matter(plug, patient, classes)
    fitted = fit(
        plug, patient.without_labels(plug.config["num_classes"]) if costs and told.verdict == "fails" else patient
    )
    return [*found, *directed, scaled, fitted, told, null_label(plug, patient, classes, label_dropout, costs)]


@dataclass(frozen=True)
class Diagnosis:
    """What was found, and the images' fingerprint; None where the network gives none."""

    findings: list[Finding]
    fingerprint: Fingerprint | None

    @property
    def healthy(self) -> bool:
        return all(finding.verdict != "fails" for finding in self.findings)

    def __str__(self) -> str:
        counts = Counter(finding.verdict for finding in self.findings)
        summary = ", ".join(f"{count} {verdict}" for verdict, count in counts.items())
        prints = self.fingerprint or "fingerprint: none, the network gives no images"
        return "\n".join([*map(str, self.findings), summary, str(prints)])

    def as_json(self) -> str:
        return json.dumps(asdict(self), indent=2)


def examine_checkpoint(
    path: Path,
    data: str = "cifar10",
    split: str = "test",
    images: int = 64,
    device: str = "auto",
    weights: str = "ema",
) -> Diagnosis:
    """All checks of a checkpoint on the first `images` of a data set, whether its weights are those that the card
    says, and the fingerprint. Raises DefarError for images that are not the checkpoint's."""
    if images < 2:
        raise DefarError(f"images = {images}: a spread takes at least 2, and verdicts are sure from 32 on")
    where = resolve_device(device)
    checkpoint, dataset = load_checkpoint(path, weights, where), open_dataset(data, split, latents=True)
    encoded, labels = _encoded(checkpoint, dataset, min(images, len(dataset)), where, path, data)
    recipe = checkpoint.card.training.get("recipe") or {}
    findings = examine(
        checkpoint.model, encoded, labels,
        interpolant=checkpoint.interpolant, classes=checkpoint.classes,
        label_dropout=recipe.get("objective", {}).get("label_dropout", 0.0 if recipe.get("objective") else None),
    )  # fmt: skip
    findings.append(averaged(Path(path), checkpoint))
    try:
        prints = fingerprint(
            checkpoint.model, checkpoint.shape, checkpoint.codec,
            interpolant=checkpoint.interpolant, classes=checkpoint.classes, device=where,
        )  # fmt: skip
    except (DefarError, RuntimeError, TypeError, IndexError, AttributeError):  # the findings have said why
        prints = None
    return Diagnosis(findings, prints)


def _encoded(
    checkpoint: Checkpoint, dataset: Any, count: int, device: torch.device, path: Path, data: str
) -> tuple[Tensor, Tensor | None]:
    """The first images in the network's own space, and their labels."""
    check_shape(str(path), checkpoint.codec, checkpoint.shape, dataset)
    batch, known = seen_batch(checkpoint.codec, dataset, range(count), device=device), checkpoint.classes
    if known is not None and batch.labels is not None and int(batch.labels.max()) >= known:
        raise DefarError(f"{data}: label {int(batch.labels.max())} is unknown to {path}, which has {known} classes")
    return batch.data, batch.labels
