"""What any velocity field owes, trained or not: numbers, the same ones twice, of each sample by itself."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from .findings import Finding, fails, passes, untold
from .misfit import Patient
from .plug import Plug, answers, asked, parameters_dtype

# float32 sums in another order differ by a few 1e-7 of the result; a normalization over the batch by 1e-1
ALONE = 1e-5
MIDDLE = 0.4  # not 0.5, where the field of data that look like noise is 0
DRAWS = 64  # rows that may lose their label: at the usual 10 % all keep it in both forwards once in 700,000 tries


def relative(a: Tensor, b: Tensor) -> float:
    """The largest difference in units of b's largest entry."""
    return float((a.float() - b.float()).abs().max() / b.float().abs().max().clamp(min=1e-30))


def finite(plug: Plug, patient: Patient) -> Finding:
    """The check "finite": at the ends of the path's interval and in the middle."""
    start, end = patient.interpolant.interval("ode")
    times, bad = (start, 0.5, end), []
    for t in times:
        x, at, _ = patient.point(t)
        answer, error = answers(plug, x, at, patient.labels)
        if answer is None:
            return fails("finite", f"t = {t:g}: {error}", "the network must answer at every time of its interval")
        if not bool(torch.isfinite(answer).all()):
            bad.append(f"{t:g}")
    if not bad:
        return passes("finite", f"at t = {', '.join(f'{t:g}' for t in times)}")
    mend = (
        "import the weights again in float32" if len(bad) == len(times)
        else "it divides by what vanishes at an end of the path: look at time_scale, and at the card's interpolant"
    )  # fmt: skip
    return fails("finite", f"nan or infinite at t = {', '.join(bad)}", mend)


def finite_amid(plug: Plug, patient: Patient) -> bool:
    """Whether there are numbers to examine in the middle of the path."""
    x, t, _ = patient.point(MIDDLE)
    answer, _ = answers(plug, x, t, patient.labels)
    return answer is not None and bool(torch.isfinite(answer).all())


def determinism(plug: Plug, patient: Patient) -> Finding:
    """The check "same twice"."""
    x, t, _ = patient.point(MIDDLE)
    first, second = (asked(plug.field, x, t, patient.labels)[0] for _ in range(2))
    if torch.equal(first, second):
        return passes("same twice", "bit for bit")
    difference = relative(second, first)
    if x.device.type != "cpu" and difference < ALONE:  # an accelerator may add in any order
        return passes("same twice", f"to {difference:.0e}")
    mend = "something is drawn in evaluation: call model.eval(), and set dropout and label dropout in the network to 0"
    return fails("same twice", f"two forwards differ by {difference:.1e}", mend)


def independence(plug: Plug, patient: Patient) -> Finding:
    """The check "one by one": a sample alone equals the same one in a batch."""
    x, t, _ = patient.point(MIDDLE)
    labels = patient.labels
    whole, _ = asked(plug.field, x, t, labels)
    alone, error = asked(plug.field, x[:1], t[:1], None if labels is None else labels[:1])
    if alone is None:
        return fails("one by one", f"refuses a single sample: {error}", "the network must take a batch of one")
    difference = relative(alone, whole[:1])
    if difference <= ALONE:
        return passes("one by one", f"alone and in a batch to {difference:.0e}")
    mend = "it looks across the batch: call model.eval(), and give BatchNorm track_running_stats=True"
    return fails("one by one", f"alone and in a batch differ by {difference:.1e}", mend)


def dtype(plug: Plug, patient: Patient) -> Finding:
    """The check "dtype": float32 in, float32 out; what float64 and bfloat16 do is told beside it."""
    x, t, _ = patient.point(MIDDLE)
    answer, _ = asked(plug.field, x, t, patient.labels)
    double, _ = asked(plug.field, x.double(), t.double(), patient.labels)
    with torch.autocast(x.device.type, torch.bfloat16):
        half, _ = asked(plug.field, x, t, patient.labels)
    wide = "refused" if double is None else f"gives {_short(double.dtype)}"
    low = "refused" if half is None else f"differs by {relative(half, answer):.0e}"
    own, seen = parameters_dtype(plug.network), f"float64 {wide}, bfloat16 autocast {low}"
    if answer.dtype == torch.float32:
        return passes("dtype", f"float32 in and out; {seen}")
    mend = "cast what the network returns: velocity.to(x.dtype)"
    if own not in (None, torch.float32):
        mend = f"its weights are {_short(own)}: import them in float32, or call model.float()"
    return fails("dtype", f"float32 in, {_short(answer.dtype)} out", mend)


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def dependence(plug: Plug, patient: Patient) -> Finding:
    """The check "x and t": the field answers to both."""
    x, t, _ = patient.point(MIDDLE)
    answer, _ = asked(plug.field, x, t, patient.labels)
    later, _ = asked(plug.field, x, t + 0.25, patient.labels)
    elsewhere, _ = asked(plug.field, -x, t, patient.labels)
    of_t, of_x = (0.0 if other is None else relative(other, answer) for other in (later, elsewhere))
    deaf = [name for name, change in (("x", of_x), ("t", of_t)) if change == 0]
    seen = f"another x changes {of_x:.0%}, another t {of_t:.0%}"
    if not deaf:
        return passes("x and t", seen)
    mend = f"{' and '.join(deaf)} must reach it: look at arguments = {plug.conventions.arguments} and time_scale"
    return fails("x and t", f"the field does not depend on {' and '.join(deaf)}", mend.replace("'", '"'))


def label_dropout(plug: Plug, patient: Patient, null: int | None) -> Finding:
    """The check "train mode": two forwards of one training step must see the same labels.

    Dropout proper is no fault: objectives seed it, and it acts without labels too. What acts on labels alone is label
    dropout, drawn anew in every forward.
    """
    name = "train mode"
    if not isinstance(plug.network, nn.Module):
        return passes(name, "a function; nothing is drawn inside")
    x, t, _ = patient.point(MIDDLE)
    rounds = -(-DRAWS // len(x))
    with mode(plug.network, training=True):
        labelled = _changes(plug, x, t, patient.labels, rounds)
        if labelled == 0:
            return passes(name, "two forwards agree bit for bit")
        nothing = torch.full((len(x),), null if null is not None else plug.config["num_classes"], device=x.device)
        free = _changes(plug, x, t, nothing, rounds)
    if free > 0 or patient.labels is None:
        return passes(name, f"dropout ({labelled:.0%} of the rows); objectives seed it (Draw.seed)")
    seen = f"{labelled:.0%} of the labelled rows change from one forward to the next, none without a label"
    mend = (
        "build the network with label dropout 0 (class_dropout_prob = 0); the objective's label_dropout draws it once"
    )
    return fails(name, seen, mend)


def _changes(plug: Plug, x: Tensor, t: Tensor, labels: Tensor | None, rounds: int) -> float:
    """Share of rows that differ between two forwards."""
    changed = []
    for _ in range(rounds):
        first, second = (asked(plug.field, x, t, labels)[0] for _ in range(2))
        if first is None or second is None:
            return 0.0
        changed.append((first != second).flatten(1).any(dim=1).float().mean())
    return float(torch.stack(changed).mean())


@contextlib.contextmanager
def mode(network: Any, training: bool) -> Iterator[None]:
    """Train or eval mode with fixed random numbers; modes, buffers (BatchNorm's averages), generators are put back."""
    root = network if isinstance(network, nn.Module) else nn.Module()
    modes = [(module, module.training) for module in root.modules()]
    buffers = [(buffer, buffer.clone()) for buffer in root.buffers()]
    try:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            root.train(training)
            yield
    finally:
        for module, before in modes:
            module.training = before
        for buffer, before in buffers:
            buffer.copy_(before)


def predicts_nothing(plug: Plug, patient: Patient) -> Finding | None:
    """A finding where the answer is 0 everywhere, as of a network that nobody has trained yet."""
    x, t, _ = patient.point(MIDDLE)
    answer, _ = asked(plug.field, x, t, patient.labels)
    if answer is None or float(answer.abs().max()) > 0:
        return None
    mend = "an untrained network, or the output layer's weights are missing: look at the weights and their keys"
    return fails("fit", "predicts nothing: the answer is 0 everywhere", mend)


def skipped(names: tuple[str, ...], why: str) -> list[Finding]:
    return [untold(name, why) for name in names]
