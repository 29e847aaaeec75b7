"""What a check says, and when a difference between two fields is more than an accident of these images."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

Verdict = Literal["passes", "fails", "cannot be told"]

# In standard errors, paired over images. A mend is only named for what happens by chance once in some thousand checks,
# even with the heavy tails of 16 images; to pass, a check needs no more than the usual two.
SURE, LIKELY = 4.0, 2.0


@dataclass(frozen=True)
class Finding:
    """One check: its name, its verdict, what was measured in a few words, and what to change; "" where nothing is."""

    name: str
    verdict: Verdict
    measured: str
    mend: str = ""

    def __str__(self) -> str:
        return f"{self.verdict:<14}  {self.name:<13}  {self.measured}{': ' if self.mend else ''}{self.mend}"


def passes(name: str, measured: str) -> Finding:
    return Finding(name, "passes", measured)


def fails(name: str, measured: str, mend: str) -> Finding:
    return Finding(name, "fails", measured, mend)


def untold(name: str, measured: str, mend: str = "") -> Finding:
    return Finding(name, "cannot be told", measured, mend)


def standard_errors(values: Tensor) -> float:
    """How many standard errors the mean of `values` (B,) is above 0; values that all agree are infinitely many."""
    mean, error = float(values.mean()), float(values.std()) / math.sqrt(len(values))
    if not math.isfinite(mean) or error == 0:
        return math.copysign(math.inf, mean) if mean and not math.isnan(mean) else 0.0
    return mean / error


def in_one_line(error: Exception) -> str:
    """An exception of somebody's network in at most 120 characters."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:120]
