"""The paper's runs as amounts of work: operations and bytes, counted from the recipes without running any network."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from ..core.datasets import Batch, DataSpec
from ..core.objectives import FlowMatching
from ..core.recipes import Recipe
from ..measures.memory import planned_bytes
from ..planning import Estimate, estimate, network_name, recipes_in

# bytes for each parameter in float32
WEIGHT, GRADIENT, MOMENTS, AVERAGE = 4, 4, 8, 4
BUCKET = 4  # of several processes: DistributedDataParallel's copy of the gradients, which it exchanges
CHECKPOINT = 2  # float16, the average alone

IMAGES = {"cifar10": 50_000, "celeba64": 162_770, "imagenet256-latents": 1_281_167, "imagenet512-latents": 1_281_167}
COUNTED = 2  # images; what is kept is linear in them


@dataclass(frozen=True)
class Run:
    """One training, or several that take the same work; recipes: by their file, "tab1/cifar10-sit", ...

    cost: operations, counted; kept_per_image: bytes that autograd keeps of one image for the backward pass.
    """

    recipes: dict[str, Recipe]
    cost: Estimate
    kept_per_image: float

    @property
    def recipe(self) -> Recipe:
        """The first, whose costs are those of all."""
        return next(iter(self.recipes.values()))

    @property
    def name(self) -> str:
        """All its recipes, a table's name only before the first of its own."""
        said, table = [], None
        for file in self.recipes:
            folder, row = file.split("/")
            said.append(row if folder == table else file)
            table = folder
        return ", ".join(said)

    @property
    def network(self) -> str:
        """The network and its data: "B/4, cifar10"."""
        return f"{network_name(self.recipe)}, {self.recipe.data.name}"

    @property
    def flops_per_image(self) -> float:
        return self.cost.flops / (self.recipe.steps * self.recipe.global_batch)

    @property
    def training_bytes(self) -> int:
        """Weights, gradients, Adam's two moments and the average, in each process."""
        return self.cost.parameters * (WEIGHT + GRADIENT + MOMENTS + AVERAGE)

    @property
    def state_bytes(self) -> int:
        """One saved state: weights, moments and average. `keep_states` of them lie on the disk."""
        return self.cost.parameters * (WEIGHT + MOMENTS + AVERAGE)

    @property
    def checkpoint_bytes(self) -> int:
        return self.cost.parameters * CHECKPOINT

    @property
    def data_bytes(self) -> int:
        """The data set as training reads it: uint8 images, or float16 means and deviations of latents, mirrored too."""
        spec, name = self.recipe.data_spec(), self.recipe.data.name
        each = 2 * 2 * 2 if name.endswith("-latents") else 1
        return IMAGES[name] * spec.channels * spec.size**2 * each

    def exchanged_bytes(self, processes: int) -> float:
        """What one process sends, and receives, in a step's ring all-reduce of the gradients: 2 (N-1)/N of them."""
        return 2 * (processes - 1) / processes * self.cost.parameters * GRADIENT


def runs_in(folder: Path) -> list[Run]:
    """All recipes below `folder`, in order; those that take the same work are one run."""
    found: dict[tuple, Run] = {}
    for file, recipe in recipes_in(folder).items():
        name = file.relative_to(folder).with_suffix("").as_posix()
        data, cost = recipe.data_spec(), estimate(recipe)
        key = (repr(recipe.network), repr(recipe.data), recipe.alignment is None, recipe.coupling, recipe.steps,
               recipe.global_batch, cost)  # fmt: skip
        if key in found:
            found[key].recipes[name] = recipe
            continue
        network = (repr(recipe.network), data.channels, data.size)
        if network not in _known:
            _known[network] = kept_by_a_forward(recipe, data)
        # each forward with autograd keeps the same (a test compares with the objectives themselves)
        found[key] = Run({name: recipe}, cost, cost.grad_forwards * _known[network])
    return list(found.values())


_known: dict[tuple, float] = {}  # recipes share their networks, so each is counted once


def kept_by_a_forward(recipe: Recipe, data: DataSpec) -> float:
    """Bytes that a flow-matching step of the recipe's network keeps for its backward pass, for each image."""
    images = torch.zeros(COUNTED, data.channels, data.size, data.size)
    draw = FlowMatching().draw(Batch(images), torch.Generator().manual_seed(0))
    return planned_bytes(FlowMatching(), lambda: recipe.build_network(data), draw) / COUNTED
