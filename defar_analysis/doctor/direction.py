"""Clock, sign, unit of time and scale of the data: the set of conventions under which a field fits real data."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .findings import SURE, Finding, fails, passes, standard_errors, untold
from .misfit import TIMES, Patient, errors, misfit
from .plug import Plug, asked

# A wrong clock, sign or unit multiplies the misfit: a few images at three times show it. At 0.5 alone a field at 1 - t
# and its negative could be told by nothing else than its sign, at the ends by nothing else than its clock.
FEW, THREE = 16, (0.2, 0.5, 0.8)
SCAN = 8  # to find the best scale among a dozen; whether it is a mistake is asked of all images
UNITS = (1.0, 1000.0, 1e-3)
OCTAVES = tuple((2.0**k, 0.0) for k in (-3, -2, -1, 0, 1, 2, 3))  # 1/0.18215 is 2.5 octaves
PIXELS = {(2.0, -1.0): "[0, 1] instead of [-1, 1]", (0.5, 0.5): "[-1, 1] instead of [0, 1]"}
KNOWN = {0.18215: "SD-VAE's scale is missing", 1 / 0.18215: "SD-VAE's scale 0.18215 is in it twice"}
# Shipped networks, of an hour's training, fit data 1.25 times as large best, by 3 % of their misfit: no mistake.
TOLERATED, WORSE = 1.5, 1.1


@dataclass(frozen=True)
class Hypothesis:
    """Another way to call the network: other clock, other sign, another unit of time, on data of another scale."""

    flipped: bool
    negated: bool
    unit: float
    affine: tuple[float, float]
    scores: Tensor  # (B,) misfits

    def value(self, name: str) -> bool | float:
        return getattr(self, {"clock": "flipped", "sign": "negated", "time scale": "unit"}[name])

    @property
    def mean(self) -> float:
        return float(self.scores.mean())


def direction(plug: Plug, patient: Patient) -> tuple[list[Finding], Plug]:
    """The checks "clock", "sign" and "time scale", and the plug with all three mended.

    Four readings (as is, at 1 - t, negated, both) in three units of time; where none fits, on rescaled data too, as
    data of a wrong scale can hide a right direction.
    """
    few = patient.first(FEW)
    found = _hypotheses(plug, few, [(1.0, 0.0)])
    best = min(found, key=lambda h: h.mean)
    if best.mean >= 1:  # worse than a straight line: perhaps the data are of another scale
        found += _hypotheses(plug, few, [o for o in OCTAVES if o[0] != 1] + list(PIXELS))
        best = min(found, key=lambda h: h.mean)
    if best.mean >= 1 or not math.isfinite(best.mean):
        # what fits like a straight line may still be a field of data that nothing fits better
        easiest = f"none of the readings beats a straight line (best misfit {best.mean:.3g})"
        if standard_errors(best.scores - 1) > SURE:
            return [untold(name, easiest) for name in ("clock", "sign", "time scale")], plug
    rivals = [h for h in found if h.affine == best.affine]
    if best.unit != 1 and _stands_still(plug, few, best):
        # whatever is wrong, it is not the unit: at one and the same time throughout it fits as well
        rivals = [h for h in rivals if h.unit == 1]
        best = min(rivals, key=lambda h: h.mean)
    asis = next(h for h in rivals if not h.flipped and not h.negated and h.unit == 1)
    mended = _read(plug, best.flipped, best.negated, best.unit)
    if best is not asis and standard_errors(asis.scores - best.scores) < SURE:
        best, mended = asis, plug  # two readings that cannot be told apart: nothing to change
    names = {"clock": "noise_at", "sign": "velocity", "time scale": "time_scale"}
    return [_one(name, key, best, rivals, asis, mended) for name, key in names.items()], mended


def _hypotheses(plug: Plug, patient: Patient, affines: list[tuple[float, float]]) -> list[Hypothesis]:
    found = []
    for affine, flipped, unit in itertools.product(affines, (False, True), UNITS):
        scaled = patient.scaled(*affine)
        easy = torch.tensor([scaled.trivial(t)[0] for t in THREE])[:, None]
        recalled = _Recalled(_read(plug, flipped, False, unit).field)  # the negated field costs no forwards of its own
        for negated in (False, True):
            scores = errors(recalled, scaled, THREE, patient.labels, -1 if negated else 1) / easy
            found.append(Hypothesis(flipped, negated, unit, affine, scores.mean(dim=0)))
    return found


def _read(plug: Plug, flipped: bool, negated: bool, unit: float) -> Plug:
    """The plug with another clock, another sign, another unit of time."""
    told = plug.conventions
    return plug.changed(
        noise_at=1 - told.noise_at if flipped else told.noise_at,
        velocity=_other(told.velocity) if negated else told.velocity,
        time_scale=told.time_scale * unit,
    )


def _stands_still(plug: Plug, patient: Patient, best: Hypothesis) -> bool:
    """Whether the best reading's time may as well be 0 throughout."""
    frozen = _read(plug, best.flipped, best.negated, best.unit * 1e-3).field
    scores = misfit(frozen, patient.scaled(*best.affine), THREE)
    return standard_errors(scores - best.scores) < SURE


class _Recalled:
    """A field that is asked the same question at most once."""

    def __init__(self, field) -> None:
        self.field, self.known = field, {}

    def __call__(self, x: Tensor, t: Tensor, labels: Tensor | None) -> Tensor:
        key = float(t[0])
        if key not in self.known:
            self.known[key] = self.field(x, t, labels)
        return self.known[key]


def _one(name: str, key: str, best: Hypothesis, rivals: list[Hypothesis], asis: Hypothesis, mended: Plug) -> Finding:
    """Whether the best reading differs from the given one in this convention, and whether any other one comes near."""
    other = min((h for h in rivals if h.value(name) != best.value(name)), key=lambda h: h.mean)
    seen = f"misfit {best.mean:.2f}"
    if best.value(name) != asis.value(name):
        return fails(name, f"misfit {asis.mean:.2f} as it is, {best.mean:.2f} the other way", mended.mend(key))
    if standard_errors(other.scores - best.scores) < SURE:
        return untold(name, f"{seen}, and {other.mean:.2f} the other way: these data fit both")
    return passes(name, f"{seen}; {_shown(other.mean)} the other way")


def _shown(value: float) -> str:
    return f"{value:.2f}" if value < 1000 else "far more"


def _other(velocity: str) -> str:
    return "noise-data" if velocity == "data-noise" else "data-noise"


def scale(plug: Plug, patient: Patient) -> tuple[Finding, Patient]:
    """The check "data scale", and the patient with the data on the scale that fits."""
    few = patient.first(SCAN)

    def score(affine: tuple[float, float]) -> float:
        return float(misfit(plug.field, few.scaled(*affine), THREE).mean())

    tried = {affine: score(affine) for affine in OCTAVES}
    best = min(tried, key=tried.get)
    for half in (2**-0.5, 2**0.5):
        tried[best[0] * half, 0.0] = score((best[0] * half, 0.0))
    best = _vertex(tried)
    tried[best] = score(best)
    tried |= {affine: score(affine) for affine in PIXELS}
    best = min(tried, key=tried.get)
    if not math.isfinite(tried[best]):
        return untold("data scale", "no scale gives finite losses"), patient
    ratio, spread = tried[1.0, 0.0] / tried[best], float(patient.data.std())
    if ratio > WORSE and (best in PIXELS or not 1 / TOLERATED <= best[0] <= TOLERATED):
        now, then = (misfit(plug.field, p, THREE) for p in (patient, patient.scaled(*best)))
        if standard_errors(now - then) > SURE:
            return _mistake(best, spread, ratio), patient.scaled(*best)
        better = f"{best[0]:.3g} * data + {best[1]:g} may fit better"
        return untold("data scale", f"spread {spread:.3g}; {better}", "take more images with --images"), patient
    seen = f"spread {spread:.3g}; misfit {ratio:.2f} times that on data of the best scale, {best[0]:.2f} times as large"
    return passes("data scale", seen), patient


def _mistake(best: tuple[float, float], spread: float, ratio: float) -> Finding:
    if best in PIXELS:
        a, b = best
        seen = f"data in {PIXELS[best]}, misfit {ratio:.2f} times the best"
        mend = (
            f'{a:g} * data {"+" if b > 0 else "-"} {abs(b):g} is what it was trained on; codec = "pixel" gives [-1, 1]'
        )
        return fails("data scale", seen, mend)
    near = next((words for factor, words in KNOWN.items() if abs(math.log(best[0] / factor)) < math.log(1.3)), "")
    seen = f"spread {spread:.3g}, misfit {ratio:.2f} times the best"
    why = f" ({near})" if near else ""
    return fails("data scale", seen, f"multiply the data by {best[0]:.3g}{why}: scale under [codec] in card.toml")


def _vertex(tried: dict[tuple[float, float], float]) -> tuple[float, float]:
    """The lowest point of the parabola in the logarithm of the factor through the best one and its neighbours."""
    points = sorted((math.log2(a), value) for (a, _), value in tried.items())
    at = min(range(len(points)), key=lambda i: points[i][1])
    if at in (0, len(points) - 1):
        return 2.0 ** points[at][0], 0.0
    (x0, y0), (x1, y1), (x2, y2) = points[at - 1 : at + 2]
    left, right = (x1 - x0) * (y1 - y2), (x1 - x2) * (y1 - y0)
    if left == right:
        return 2.0**x1, 0.0
    return 2.0 ** (x1 - 0.5 * ((x1 - x0) * left - (x1 - x2) * right) / (left - right)), 0.0


def fit(plug: Plug, patient: Patient) -> Finding:
    """The check "fit": whether the field says more of these data than a straight line and than a linear filter.

    Its slope E<target, v> / E<v, v> is 1 for every conditional mean; below 1 the velocity is too long.
    """
    line, filtered, above, below = 0.0, 0.0, 0.0, 0.0
    for t in TIMES:
        x, at, target = patient.point(t)
        velocity, error = asked(plug.field, x, at, patient.labels)
        if error:
            return fails("fit", f"t = {t:g}: {error}", "the network must take every label of the data")
        velocity = velocity.float()
        loss = (velocity - target).flatten(1).square().mean(dim=1).cpu()
        easy, filter_ = patient.trivial(t)
        line, filtered = line + loss / easy / len(TIMES), filtered + loss / filter_ / len(TIMES)
        above, below = above + float((target * velocity).sum()), below + float(velocity.square().sum())
    slope = above / below if below else math.nan
    seen = f"loss {float(line.mean()):.2f} of a straight line's, {float(filtered.mean()):.2f} of a linear filter's"
    seen += f"; slope {slope:.2f}"
    if standard_errors(line - 1) > SURE:
        mend = 'does not fit these data: look at weights = "ema", the network\'s options, the data it was trained on'
        return fails("fit", seen, mend)
    if standard_errors(filtered - 1) > SURE:
        hint = "a short training, or weights that sit in the wrong places: look at the network's options"
        return untold("fit", seen, hint)
    return passes("fit", seen)
