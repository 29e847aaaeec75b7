"""Before anything is trained: what each recipe would cost, and whether one step of it runs."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from .core.datasets import Batch, DataSpec, ImageDataset
from .core.objectives import FlowMatching, Objective
from .core.objectives.alignment import stand_in
from .core.recipes import Recipe, load_recipe
from .core.training import TrainingRun
from .errors import DefarError
from .measures.cost import count_step

EXPERIMENTS = Path("reproduce/experiments")
META_ABOVE = 50_000_000  # parameters; a larger network is only checked for its shapes
COUNTED_BATCH = 16  # cost is linear in the batch
TRIED_BATCH = 8


def recipes_in(folder: Path, scale: str = "paper") -> dict[Path, Recipe]:
    """Every recipe below `folder`, by file, in order; what lies in a folder called base is there to be extended."""
    if not folder.is_dir():
        raise DefarError(f"{folder}: no such folder of recipes; run in a clone of the project or name another")
    files = sorted((file for file in folder.rglob("*.toml") if file.parent.name != "base"), key=_natural)
    if not files:
        raise DefarError(f"{folder}: holds no recipes (*.toml)")
    return {file: load_recipe(file, scale=scale) for file in files}


def survey(folder: Path, scale: str = "paper") -> str:
    """One line for each recipe: network, parameters, data, steps, batch, forwards and PFLOP of the whole training."""
    header = ("recipe", "objective", "network", "params M", "data", "steps", "batch", "forwards", "passes", "PFLOP")
    rows = [header]
    for file, recipe in recipes_in(folder, scale).items():
        cost = estimate(recipe)
        rows.append(
            (
                os.path.relpath(file, folder),
                describe(recipe),
                network_name(recipe),
                f"{cost.parameters / 1e6:.1f}",
                recipe.data.name + ("" if recipe.data.class_conditional else ", no labels"),
                f"{recipe.steps:,}",
                str(recipe.global_batch),
                str(cost.forwards),
                f"{cost.passes:g}",
                _rounded(cost.flops / 1e15),
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    left = {"recipe", "objective", "network", "data"}
    sides = [str.ljust if name in left else str.rjust for name in header]
    lines = [
        "  ".join(side(cell, w) for side, cell, w in zip(sides, row, widths, strict=True)).rstrip() for row in rows
    ]
    notes = "forwards: network calls a step. passes: forwards + 2 x backwards. PFLOP: 1e15 operations in all steps."
    return "\n".join([*lines, notes])


def _natural(file: Path) -> list:
    """tab2 before tab11."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", file.as_posix())]


def _rounded(value: float) -> str:
    """Three significant digits, without an exponent."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def describe(recipe: Recipe) -> str:
    """The objective and its options on one line, with the path and coupling where they are not the default."""
    options = {k: v for k, v in recipe.objective.items() if k not in ("name", "label_dropout", "alignment")}
    parts = [f"{key}={str(value).lower() if isinstance(value, bool) else value}" for key, value in options.items()]
    extra = [x for x, default in ((recipe.interpolant, "linear"), (recipe.coupling, "independent")) if x != default]
    aligned = [] if recipe.alignment is None else [f"aligned={recipe.alignment.encoder}"]
    return " ".join([recipe.objective.get("name", "flow_matching"), *parts, *aligned, *extra])


def network_name(recipe: Recipe) -> str:
    """The size, with the family where it is not a SiT: "B/4", "ddt XL/2"."""
    family, size = recipe.network.family, recipe.network.size
    return size if family == "sit" else " ".join(filter(None, (family, size)))


@dataclass(frozen=True)
class Estimate:
    """parameters of the network; forwards (network calls), grad_forwards (those of them that autograd records, in whole
    batches) and passes (forwards + 2 x backwards) a step; flops, all of the training's, as passes times the operations
    of one forward."""

    parameters: int
    forwards: int
    grad_forwards: float
    passes: float
    flops: float


def estimate(recipe: Recipe) -> Estimate:
    """What the recipe would cost, without running its network: one forward is counted on the meta device, and how
    many there are in a step on a network of one weight. An alignment's encoder and projectors are left out."""
    data = recipe.data_spec()
    parameters, flops = _network_cost(repr(recipe.network), recipe.classes(data), data, recipe.build_network)
    step = count_step(_objective(recipe, data), _OneWeight(), _batch(recipe, data, "cpu"))
    total = step.passes * flops * recipe.global_batch * recipe.steps
    return Estimate(parameters, step.forwards, step.grad_forward_passes, step.passes, total)


def dry_run(recipe: Recipe) -> str:
    """Run one step of the recipe; returns what was checked. Needs no data: random images of the data's shape.

    Above META_ABOVE parameters the step runs on the meta device, which checks shapes and needs no memory; below, it is
    a real float32 one on the CPU, through the training loop, and its loss must be finite. Neither opens a checkpoint
    to start from (nor an alignment's encoder: constant features stand in). Raises DefarError where it fails.
    """
    data = recipe.data_spec()
    with torch.device("meta"):
        network, objective = recipe.build_network(data), _objective(recipe, data)
        parameters, aligning, encoder = _parameters(network), recipe.alignment, None
        if aligning is not None:
            encoder = stand_in(aligning.widths)
            network, objective = aligning.network(network), aligning.objective(objective, encoder)
    if parameters > META_ABOVE:
        step = count_step(objective, network, _batch(recipe, data, "meta"))
        return f"{recipe.name}: shapes fit ({parameters / 1e6:.0f}M parameters, {step.forwards} forwards, meta device)"
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (2 * TRIED_BATCH, data.channels, data.size, data.size), dtype=np.uint8)
    labels = None if data.classes is None else np.arange(2 * TRIED_BATCH) % data.classes
    random_images = ImageDataset(images, labels, "random images", data.classes)
    short = dataclasses.replace(recipe, global_batch=TRIED_BATCH, compile=False, precision="float32", init_from=None)
    run = TrainingRun(short, random_images, encoder=encoder)
    run.step = recipe.flow_matching_steps if recipe.flow_matching_steps < recipe.steps else 0
    loss = run.advance()["loss"]
    return (
        f"{recipe.name}: one step runs ({parameters / 1e6:.1f}M parameters, {run.forwards_per_step} forwards, "
        f"loss {loss:.4g} on {TRIED_BATCH} random images)"
    )


def dry_runs(recipes: Iterable[Recipe]) -> Iterator[str]:
    """:func:`dry_run` of each; recipes that differ only in budget share one step, which is run once."""
    first: dict[str, str] = {}
    for recipe in recipes:
        budget = {"steps": 1, "flow_matching_steps": 0, "log_every": 1, "save_every": 1, "global_batch": TRIED_BATCH}
        step = repr(dataclasses.replace(recipe, name="any", **budget))
        yield f"{recipe.name}: the same step as {first[step]}" if step in first else dry_run(recipe)
        first.setdefault(step, recipe.name)


class _OneWeight(nn.Module):
    """v = w x: the cheapest network whose forwards and backwards can be counted."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.5))

    def forward(self, x, t, labels=None):
        return self.weight * x


def _objective(recipe: Recipe, data: DataSpec) -> Objective:
    return recipe.build_objective(data, step=recipe.steps)


def _batch(recipe: Recipe, data: DataSpec, device: str) -> Batch:
    labelled = recipe.data.class_conditional and data.classes is not None
    labels = torch.zeros(COUNTED_BATCH, dtype=torch.long, device=device) if labelled else None
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(COUNTED_BATCH, data.channels, data.size, data.size, generator=generator)
    return Batch(images.to(device), labels)


_known_networks: dict[tuple, tuple[int, float]] = {}


def _network_cost(name: str, classes: int, data: DataSpec, build) -> tuple[int, float]:
    """Parameters and FLOPs of one forward of one image; rows share their networks, so each is counted once."""
    key = (name, classes, data.channels, data.size)
    if key not in _known_networks:
        with torch.device("meta"):
            network = build(data)
        images = torch.zeros(COUNTED_BATCH, data.channels, data.size, data.size, device="meta")
        flops = count_step(FlowMatching(), network, Batch(images)).forward_flops / COUNTED_BATCH
        _known_networks[key] = _parameters(network), flops
    return _known_networks[key]


def _parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())
