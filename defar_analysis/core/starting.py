"""Post-training: a training that begins with a checkpoint's weights."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from ..errors import DefarError
from .checkpoints import load_checkpoint
from .recipes import Recipe


def begin_with(model: nn.Module, recipe: Recipe, folder: Path) -> dict[str, str]:
    """Give `model` a checkpoint's averaged weights, of the same network on the same path; returns where they are from.

    A training without labels may begin with a conditional one: it goes on from what that does without a label. Raises
    DefarError for a checkpoint that cannot be read, of another network or path, or whose null label nobody trained.
    """
    try:
        start = load_checkpoint(folder)
    except DefarError as error:
        raise DefarError(f"init_from: {error}") from None
    ours, theirs = model.config, start.model.config
    family = start.card.network.get("family")
    if family != recipe.network.family:
        raise DefarError(
            f"init_from = {folder}: is another network: family {family} instead of {recipe.network.family}"
        )
    weights, unlabelled = start.model.state_dict(), {}
    if not recipe.data.class_conditional and theirs.get("num_classes") is None:  # no table of labels, as OT-CFM's
        weights, theirs = start.model.without_labels(ours["num_classes"])
    elif not recipe.data.class_conditional and start.classes is not None:
        trained = start.card.training.get("recipe")  # a card from elsewhere may have none
        if trained and not trained["objective"].get("label_dropout", 0):
            raise DefarError(
                f"init_from = {folder}: was trained with label_dropout = 0, its null label never; start a training "
                "without labels from one that was trained with some, such as 0.1"
            )
        weights, theirs = start.model.without_labels(ours["num_classes"])
        unlabelled = {"labels": "none: its null label for every image"}
    keys = {**ours, **({"conventions": None} if "conventions" in theirs else {})}  # a clock of its own is telling
    other = [f"{key} {theirs.get(key)} instead of {ours.get(key)}" for key in keys if ours.get(key) != theirs.get(key)]
    if start.card.interpolant != recipe.interpolant:
        other.append(f"interpolant {start.card.interpolant} instead of {recipe.interpolant}")
    if other:
        raise DefarError(f"init_from = {folder}: is another network: {', '.join(other)}")
    model.load_state_dict(weights)
    return {"checkpoint": start.card.name, "sha256": start.card.sha256, **unlabelled}
