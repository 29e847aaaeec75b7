"""Labels: whether the right ones help, and whether "no label" is what it says."""

from __future__ import annotations

import torch
from torch import Tensor

from .findings import LIKELY, SURE, Finding, fails, passes, standard_errors, untold
from .misfit import Patient, misfit
from .plug import PLACE, Plug, answers
from .soundness import relative

EARLY = (0.05, 0.15)  # where x says least, a label says most
AT = 0.05  # p(class | x) is still close to equal, so the best field without a label is near the classes' mean
IMAGES, CLASSES = 4, 16  # for that mean; of many classes these stand for all
# In distances of a class from the classes' mean. Shipped networks: 0.1 to 0.2; a class's own row: about 1. A row that
# was never trained may lie anywhere, so that its misfit is asked for, too.
CENTRAL = 0.8

Misfits = tuple[Tensor, Tensor, Tensor]  # with right labels, with none and with wrong ones, (B,) each


def labels_matter(plug: Plug, patient: Patient, classes: int | None) -> tuple[Finding, Plug, Misfits | None]:
    """The check "labels": right labels fit better than others.

    Returns the plug with labels that reach the network as well, and what right labels, none and wrong ones cost
    where they matter.
    """
    name = "labels"
    if classes is None:
        return passes(name, "none: the network was trained without"), plug, None
    if patient.labels is None:
        return untold(name, "the data have no labels", "take data with the classes of the training"), plug, None
    if classes < 2:
        return untold(name, "one class only"), plug, None
    others = _others(patient.labels, classes)
    x, t, _ = patient.point(AT)
    right, wrong = (answers(plug, x, t, labels)[0] for labels in (patient.labels, others))
    if right is None or wrong is None or torch.equal(right, wrong):
        if "labels" not in plug.conventions.arguments:
            told = plug.changed(arguments=[*plug.conventions.arguments, "labels"])
            right, wrong = (answers(told, x, t, labels)[0] for labels in (patient.labels, others))
            if right is not None and wrong is not None and not torch.equal(right, wrong):
                return fails(name, "they do not reach the network", told.mend("arguments")), told, None
        hint = f"if it was trained with labels, arguments {PLACE} must name them, else class_conditional = false"
        return untold(name, "the answer is the same for every label", hint), plug, None
    none = torch.full_like(patient.labels, classes)
    right, without, wrong = costs = tuple(misfit(plug.field, patient, EARLY, y) for y in (patient.labels, none, others))
    gain, sure = float((wrong - right).mean()), standard_errors(wrong - right)
    seen = f"wrong ones raise the misfit by {gain:.4f}, {sure:.1f} standard errors"
    # a wrong label is worse than none; among the "wrong" ones some may be right where all are in another order
    if standard_errors(right - without) > SURE:
        harm = float((right - without).mean())
        mend = "the data's classes are in another order than the training's: renumber their labels"
        return fails(name, f"the given ones raise the misfit by {harm:.4f} over none", mend), plug, costs
    verdict = passes(name, seen) if sure > LIKELY else untold(name, seen, "take more images with --images")
    return verdict, plug, costs


def null_label(
    plug: Plug, patient: Patient, classes: int | None, label_dropout: float | None, costs: Misfits | None
) -> Finding:
    """The check "null label": it is no class, lies amid the classes where x says nothing, and fits less than the truth.

    label_dropout: of the training, where it is known: without any the null label's row was never trained.
    """
    name = "null label"
    if classes is None or patient.labels is None or classes < 2:
        return untold(name, "no labels to hold it against") if classes else passes(name, "no labels, so none is needed")
    few = patient.first(IMAGES)
    known = plug.conventions.null_label if plug.conventions.null_label is not None else classes
    wanted, error = _row(plug, few, classes)
    if wanted is None:
        other = _working_null(plug, few, classes)
        if other is None:
            return untold(name, f"{known} is refused ({error})", "guidance needs a network with one")
        return fails(name, f"{known} is refused ({error})", other.mend("null_label"))
    asked_for = torch.linspace(0, classes - 1, min(classes, CLASSES)).long().tolist()
    of_classes = [_row(plug, few, k)[0] for k in asked_for]
    if costs is None or any(answer is None for answer in of_classes):
        return untold(name, "nothing to hold it against: labels change nothing, or some are refused")
    rows = torch.stack(of_classes)
    mean = rows.mean(dim=0)
    spread = float((rows - mean).square().mean(dim=(1, 2, 3, 4)).mean().sqrt())
    if spread == 0:
        return untold(name, "the answer is the same for every label")
    place = float((wanted - mean).square().mean().sqrt()) / spread
    seen = f"{known} lies {place:.2f} of a class's distance from the classes' mean"
    twin = _twin(plug, few, classes, wanted) if place > CENTRAL / 2 else None
    if twin is not None:
        other = _working_null(plug, few, classes, wanted)
        mend = other.mend("null_label") if other else f"look for the label that means none: null_label {PLACE}"
        return fails(name, f"{known} is class {twin}: the same answer", mend)
    if label_dropout == 0:
        return untold(name, f"{seen}; trained with label_dropout = 0", "never trained: do not guide with it")
    _, without, wrong = costs
    of_right, of_none, of_wrong = (float(cost.mean()) for cost in costs)
    seen += f"; misfit {of_right:.3f} right, {of_none:.3f} none, {of_wrong:.3f} wrong"
    if standard_errors(without - wrong) > SURE:
        mend = "worse than a wrong label, so never trained or not the one: look at null_label, and at label_dropout"
        return fails(name, seen, f"{mend} in its training")
    if place < CENTRAL or standard_errors(wrong - without) > LIKELY:
        return passes(name, seen)
    return untold(name, seen, "as far out as a class: look at null_label, and at label_dropout in its training")


def _others(labels: Tensor, classes: int) -> Tensor:
    """For each image a label that is not its own, all other classes in turn."""
    steps = 1 + torch.arange(len(labels), device=labels.device) % (classes - 1)
    return (labels + steps) % classes


def _row(plug: Plug, patient: Patient, label: int) -> tuple[Tensor | None, str]:
    """The field at the patient's early states, all of one label."""
    x, t, _ = patient.point(AT)
    return answers(plug, x, t, torch.full((len(x),), label, device=x.device))


def _twin(plug: Plug, patient: Patient, classes: int, wanted: Tensor) -> int | None:
    """The class whose answer this is."""
    one, sought = patient.first(1), wanted[:1]
    for label in range(classes):
        answer = _row(plug, one, label)[0]
        if answer is not None and relative(answer, sought) < 1e-6:
            return label
    return None


def _working_null(plug: Plug, patient: Patient, classes: int, unlike: Tensor | None = None) -> Plug | None:
    """The plug with a null label that the network takes and that is no class: the usual candidates."""
    for label in (classes, 1000, -1):
        other = plug.changed(null_label=label)
        answer, _ = _row(other, patient, classes)
        if answer is None or (unlike is not None and relative(answer, unlike) < 1e-6):
            continue
        if bool(torch.isfinite(answer).all()) and _twin(plug, patient, classes, answer) is None:
            return other
    return None
