"""Draws of the times at which an objective looks at the path. All return (n, B): row i is the i-th time of each sample.

Every sample draws its own times, and each draw is rescaled into the interpolant's training interval.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import DefarError
from .interpolants import Interpolant


def uniform_times(batch: int, interpolant: Interpolant, generator: torch.Generator) -> Tensor:
    """t ~ U(0, 1), shape (1, B)."""
    return _rescale(_uniform(1, batch, generator), interpolant)


def increasing_times(
    batch: int, interpolant: Interpolant, generator: torch.Generator, steps: int = 1, spacing: str = "random"
) -> Tensor:
    """t0 < t1 < ... for `steps` simulated steps, shape (steps + 1, B) (Algorithm 1; App. 0.B.4).

    Neighbours may be equal where float32 cannot tell them apart: a step of length 0, which biases nothing.

    t0 ~ U(0, 1). spacing="random": t_{i+1} ~ U(t_i, 1), recursively. spacing="equal": [t0, 1] is split into `steps`
    equal parts and one time is drawn in each.
    """
    if steps < 1:
        raise DefarError(f"steps must be at least 1; got {steps}")
    u = _uniform(steps + 1, batch, generator)
    times = [u[0]]
    if spacing == "random":
        for draw in u[1:]:
            times.append(times[-1] + (1 - times[-1]) * draw)
    elif spacing == "equal":
        times.extend(u[0] + (1 - u[0]) * (i + draw) / steps for i, draw in enumerate(u[1:]))
    else:
        raise DefarError(f"spacing must be 'random' or 'equal'; got {spacing!r}")
    return _rescale(torch.stack(times), interpolant)


def slowed_times(
    batch: int,
    interpolant: Interpolant,
    generator: torch.Generator,
    gamma: float,
    nominal_law: str = "beta",
    slowed_law: str = "below",
) -> Tensor:
    """MixFlow's slowed time m and nominal time t, shape (2, B), m first.

    nominal_law: "beta", t ~ Beta(2, 1) = sqrt(U); "uniform". slowed_law: "below", m ~ U[(1 - gamma) t, t]; "anywhere",
    m ~ U[0, 1] whatever t and gamma. In our clock a slowed state is noisier than its label: m <= t.
    """
    u, w = _uniform(2, batch, generator)
    nominal = u.sqrt() if nominal_law == "beta" else u
    slowed = nominal * (1 - gamma * w) if slowed_law == "below" else w
    return _rescale(torch.stack([slowed, nominal]), interpolant)


def _uniform(rows: int, batch: int, generator: torch.Generator) -> Tensor:
    return torch.rand(rows, batch, generator=generator, device=generator.device)


def _rescale(unit: Tensor, interpolant: Interpolant) -> Tensor:
    start, end = interpolant.interval("train")
    return start + (end - start) * unit
