"""Flow matching in the plane, where the exact velocity is known: what bias, drift, ADR, FC and MixFlow do there.

Data is a ring of Gaussians, a network is a small MLP, and a point is an image of 1 x 2 pixels, so that every objective
of the package trains it as it is. Six methods get the same number of network passes (a forward is one, its backward two
more; counted, not declared) from the same start, and everything is measured beside the exact field: what that field
shows too is inherent in the data and no defect of a model.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor, nn

from ..core.datasets import Batch
from ..core.interpolants import Linear
from ..core.networks.toy import PlaneMLP
from ..core.objectives import Defar, FlowMatching, MixFlow, Objective, compensation_weight
from ..core.oracles import MixtureFlow
from ..core.rollout import Draw, VelocityModel, rollout
from ..core.samplers import Euler, sample
from ..core.seeding import derive_seed, generator_for
from ..errors import DefarError
from .base import Arrays, TimeGrid

METHODS: dict[str, Objective] = {
    "FM": FlowMatching(),
    "ADR": Defar(fc=False),
    "FC": Defar(adr=False),
    "DEFAR": Defar(),
    "DEFAR stopped": Defar(detach_step=True),
    "MixFlow": MixFlow(),
}
EXACT, FRESH = "exact field", "fresh data"
PATH = Linear()
GRID = TimeGrid.spaced("plane", 10, 4)
EVEN_PASSES = 210  # divisible by the passes of each method's step (3, 5, 6, 7), so that all can spend the same
DIRECTIONS = 16
Pairs = tuple[Tensor, Tensor]  # noise, data
VERSION = 1  # raise it when the numbers change: kept results are then measured again


@dataclass(frozen=True)
class PlaneStudy:
    """How much is trained and measured.

    passes: network passes of each method, of which the first `start` are plain flow matching, shared by all (from an
    untrained network, ADR would take nearly all of a clipped step: reproduce/records/2026-11-21-adr-gradient).
    points: pairs and samples in each measurement; walk: Euler steps behind drift and pictures; nfe: behind quality.
    """

    seeds: int = 5
    passes: int = 14 * EVEN_PASSES
    start: int = 3 * EVEN_PASSES
    batch: int = 256
    lr: float = 1e-2
    clip: float = 0.2
    points: int = 1500
    walk: int = 20
    nfe: tuple[int, ...] = (5, 10, 20, 50)

    def __post_init__(self) -> None:
        if self.seeds < 2 or not 0 <= self.start < self.passes or self.start % EVEN_PASSES or self.passes % EVEN_PASSES:
            raise DefarError(
                f"a study needs 2 seeds or more and start < passes, both multiples of {EVEN_PASSES}; "
                f"got {self.seeds}, {self.start} and {self.passes}"
            )


# ---- the data


def ring(components: int = 8, radius: float = 2.0, std: float = 0.2) -> MixtureFlow:
    """Equal Gaussians on a circle, as points (1, 1, 2): the data and, called as a model, its exact field."""
    angles = torch.arange(components) * (2 * math.pi / components)
    return MixtureFlow(radius * torch.stack([angles.cos(), angles.sin()], dim=1)[:, None, None], std)


# ---- training


class Counted:
    """A model that counts its passes: 1 for a forward, 2 more where its backward will follow."""

    def __init__(self, model: nn.Module, passes: int = 0) -> None:
        self.model, self.passes = model, passes

    def __call__(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        velocity = self.model(x, t, labels)
        self.passes += 3 if velocity.requires_grad else 1
        return velocity


def train(model: nn.Module, objective: Objective, law: MixtureFlow, study: PlaneStudy, seed: int, spent: int = 0,
          until: int | None = None) -> int:  # fmt: skip
    """Train in place from pass `spent` to pass `until` (default: all); returns the passes that were then spent.

    The learning rate falls along a cosine of the passes, so at equal compute every method is as far along it.
    """
    counted = Counted(model, spent)
    optimizer = torch.optim.Adam(model.parameters(), lr=study.lr, fused=True)
    generator = generator_for(seed, "train", spent)
    while counted.passes < (study.passes if until is None else until):
        optimizer.param_groups[0]["lr"] = study.lr * (1 + math.cos(math.pi * counted.passes / study.passes)) / 2
        batch = Batch(law.sample(study.batch, generator), None)
        loss = objective(counted, objective.draw(batch, generator))
        optimizer.zero_grad()
        loss.total.backward()
        nn.utils.clip_grad_norm_(model.parameters(), study.clip)
        optimizer.step()
    return counted.passes


def train_methods(study: PlaneStudy, seed: int, law: MixtureFlow) -> dict[str, nn.Module]:
    """One network for each method, from one start and at equal compute. Raises DefarError if it came out unequal."""
    with torch.random.fork_rng([]):
        torch.default_generator.manual_seed(derive_seed(seed, "weights"))
        start = PlaneMLP()
    train(start, FlowMatching(), law, study, seed, until=study.start)
    models = {name: copy.deepcopy(start) for name in METHODS}
    spent = {name: train(models[name], METHODS[name], law, study, seed, study.start) for name in METHODS}
    if set(spent.values()) != {study.passes}:
        raise DefarError(f"compute is not equal: {spent} passes instead of {study.passes}")
    return models


# ---- measurements


@torch.no_grad()
def measure_field(model: VelocityModel, law: MixtureFlow, pairs: Pairs) -> pd.DataFrame:
    """Columns quantity, t, value at the grid's times, on pairs (noise, data).

    excess_loss: mean (v - v_exact)^2, which is L_FM above its minimum; speed: mean |v|;
    bias_rms: sqrt(mean |delta_{t,t1}|^2) over pairs and the grid's t1 in (t, 1] (Eq. 7).
    """
    noise, data = pairs
    rows = []
    for t0, ends in zip(GRID.t0, GRID.t1, strict=True):
        t = torch.full((len(noise),), t0)
        x = PATH.at(noise, data, t).x
        ours, exact = model(x, t), law(x, t)
        steps = [Draw(data, noise, None, torch.stack([t, torch.full_like(t, t1)])) for t1 in ends]
        bias = torch.cat([rollout(model, PATH, step, v0=ours).bias for step in steps])
        rows += [
            ("excess_loss", t0, float((ours - exact).square().mean())),
            ("speed", t0, float(_lengths(ours).mean())),
            ("bias_rms", t0, float(_lengths(bias).square().mean().sqrt())),
        ]
    return pd.DataFrame(rows, columns=["quantity", "t", "value"])


def measure_samples(states: Tensor, ends: dict[int, Tensor], truth: Pairs) -> pd.DataFrame:
    """Columns quantity, t, nfe, value: how far sampling is from what is true, by true pairs that it never saw.

    drift: distance of the states (T+1, N, ...) at times 0, 1/T, ... from true x_t; quality: of the samples `ends` from
    data, by number of evaluations; both by :func:`sliced_wasserstein`. energy: :func:`energy_distance` at the most.
    """
    walk, most = len(states) - 1, max(ends)
    at = [torch.full((len(truth[0]),), k / walk) for k in range(walk + 1)]
    rows = [
        ("drift", k / walk, walk, sliced_wasserstein(state, PATH.at(*truth, at[k]).x)) for k, state in enumerate(states)
    ]
    rows += [("quality", 1.0, nfe, sliced_wasserstein(end, truth[1])) for nfe, end in ends.items()]
    rows += [("energy", 1.0, most, energy_distance(ends[most], truth[1]))]
    return pd.DataFrame(rows, columns=["quantity", "t", "nfe", "value"])


def sliced_wasserstein(a: Tensor, b: Tensor, directions: int = DIRECTIONS) -> float:
    """Wasserstein-2 distance of two equally large sets of points (N, ..., 2), root mean square over directions.

    On a line the best pairing is that of the sorted points. A length in the plane; two sets from one law do not read 0.
    """
    angles = torch.arange(directions) * (math.pi / directions)
    normals = torch.stack([angles.cos(), angles.sin()])
    gap = (a.flatten(1) @ normals).sort(dim=0).values - (b.flatten(1) @ normals).sort(dim=0).values
    return float(gap.square().mean().sqrt())


def energy_distance(a: Tensor, b: Tensor) -> float:
    """2 E|a - b| - E|a - a'| - E|b - b'|, unbiased (Szekely and Rizzo 2013): for equal laws around 0."""
    a, b = a.flatten(1), b.flatten(1)
    within = [float(torch.pdist(points).double().mean()) for points in (a, b)]
    return 2 * float(torch.cdist(a, b).double().mean()) - sum(within)


# ---- the study


def run(study: PlaneStudy) -> pd.DataFrame:
    """Train and measure everything: columns model, seed, quantity, t, nfe, value.

    Methods are rows beside the exact field and, where distances are concerned, beside one more set of true pairs, which
    shows the least that finite sets can read. What is random (weights, batches, the pairs measured on) depends on the
    seed and is the same for all methods of it. attrs["arrays"]: what the pictures show, from seed 0.
    """
    law, tables, arrays = ring(), [], {}
    with one_thread():
        for seed in range(study.seeds):
            models = {**train_methods(study, seed, law), EXACT: law}
            pairs, truth, fresh = (_pairs(study, law, seed, name) for name in ("pairs", "truth", "fresh"))
            measured = {}
            for name, model in models.items():
                ends = {nfe: sample(model, pairs[0], Euler(nfe), chunk=study.points).x for nfe in study.nfe}
                states = sample(model, pairs[0], Euler(study.walk), chunk=study.points, save="all").states
                parts = [measure_field(model, law, pairs), measure_samples(states, ends, truth)]
                measured[name] = pd.concat(parts, ignore_index=True)
                if seed == 0:
                    arrays[name] = states
            steps = torch.arange(study.walk + 1) / study.walk
            states = torch.stack([PATH.at(*fresh, t.expand(study.points)).x for t in steps])
            measured[FRESH] = measure_samples(states, dict.fromkeys(study.nfe, fresh[1]), truth)
            tables += [table.assign(model=name, seed=seed) for name, table in measured.items()]
            if seed == 0:
                pictures = _pictures(models["FM"], law, pairs, arrays)
    table = pd.concat(tables, ignore_index=True)[["model", "seed", "quantity", "t", "nfe", "value"]]
    table.attrs["arrays"] = pictures
    return table


def one_step(model: VelocityModel, law: MixtureFlow, pairs: Pairs, t0: float = 0.45, t1: float = 0.8,
             components: tuple[int, ...] = (1, 3, 5, 7)) -> dict[str, Tensor]:  # fmt: skip
    """What the mechanisms see in one simulated step of one pair for each of the components, as arrays (P, 2).

    Nothing is picked by eye: of the pairs that end nearest a component, the one of median drift |x_hat - x_t1|; and
    first the one whose simulated state is farthest off its path, where directions are easiest to tell apart.
    weight, (P, 2): FC's for each coordinate. slowed: MixFlow's state with the mean slowed time (1 - gamma / 2) t1.
    """
    noise, data = pairs
    times = torch.tensor([t0, t1])[:, None].expand(2, len(noise))
    with torch.no_grad():
        r = rollout(model, PATH, Draw(data, noise, None, times))
    drift = _lengths(r.x_hat - r.end.x)
    nearest = torch.cdist(data.flatten(1), law.means.flatten(1)).argmin(dim=1)
    chosen = []
    for component in components:
        own = (nearest == component).nonzero()[:, 0]
        chosen.append(own[drift[own].argsort()[len(own) // 2]])
    way = (data - noise).flatten(1)
    off = r.x_hat.flatten(1) - noise.flatten(1)
    aside = (off[:, 0] * way[:, 1] - off[:, 1] * way[:, 0]).abs() / _lengths(way)
    chosen.sort(key=lambda pair: -float(aside[pair]))
    slow = torch.full((len(noise),), (1 - METHODS["MixFlow"].gamma / 2) * t1)
    found = {
        "noise": noise, "data": data, "x0": PATH.at(noise, data, times[0]).x, "x1": r.end.x, "x_hat": r.x_hat,
        "v0": r.v0, "target": r.target0, "v_hat": r.v_hat, "v_ideal": r.v_ideal, "bias": r.bias,
        "weight": compensation_weight(r.bias), "slowed": PATH.at(noise, data, slow).x,
    }  # fmt: skip
    found = {name: values[torch.stack(chosen)].flatten(1) for name, values in found.items()}
    return {**found, "times": torch.tensor([t0, t1, float(slow[0])])}


def _pictures(model: VelocityModel, law: MixtureFlow, pairs: Pairs, states: dict[str, Tensor]) -> Arrays:
    """The pair's step, samples and a few whole walks of each model from the same noise, and the data's density."""
    side = torch.linspace(-3.2, 3.2, 81)
    points = torch.stack(torch.meshgrid(side, side, indexing="xy"), dim=-1).reshape(-1, 1, 1, 2)
    density = law.log_density(points, torch.ones(len(points))).exp().reshape(81, 81)
    arrays = {f"step_{name}": values.numpy() for name, values in one_step(model, law, pairs).items()}
    arrays["samples"] = torch.stack([walk[-1, :600].flatten(1) for walk in states.values()]).numpy().astype("float16")
    arrays["walks"] = torch.stack([walk[:, :40].flatten(2) for walk in states.values()]).numpy().astype("float16")
    return Arrays(**arrays, density=density.numpy().astype("float16"), side=side.numpy())


def _pairs(study: PlaneStudy, law: MixtureFlow, seed: int, name: str) -> Pairs:
    generator = generator_for(seed, name)
    data = law.sample(study.points, generator)
    return torch.randn(data.shape, generator=generator), data


def _lengths(vectors: Tensor) -> Tensor:
    return vectors.flatten(1).norm(dim=1)


@contextmanager
def one_thread() -> Iterator[None]:
    """Tensors this small make threads wait for each other, and with one, numbers do not depend on a machine's cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
