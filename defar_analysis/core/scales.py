"""The paper's experiments at sizes that one small GPU or a CPU can train: the same matrix, every entry made smaller."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import DefarError

if TYPE_CHECKING:
    from .recipes import Recipe


@dataclass(frozen=True)
class Scale:
    """How a recipe shrinks.

    sizes: the paper's networks and ours in their order. steps: share of the paper's steps, so that budgets keep their
    ratios. global_batch caps the paper's. data: what stands in for data that few have, on the same grid of pixels.
    others: by (family, size), the size and options of what stands in for networks that are no SiT. alignment: what
    changes in [objective.alignment].
    """

    sizes: dict[str, str]
    steps: float
    global_batch: int
    lr: float
    warmup: int
    data: dict[str, str]
    others: dict[tuple[str, str], tuple[str, dict[str, Any]]]
    alignment: dict[str, Any]


# 0.028 of 250,000 steps are the shipped checkpoints' 7,000. Latents and CIFAR-10 are both 32 x 32, so a stand-in keeps
# the number of tokens; what it says about ImageNet is nothing.
SCALES = {
    "gpu": Scale(
        {"B/4": "S/4", "M/2": "S/2", "XL/2": "B/2"}, 0.2, 256, 2e-4, 500, {},
        {("ddt", "XL/2"): ("B/2", {}), ("unet", "cifar10"): ("cifar10", {"width": 64})},
        {"depth": 4, "width": 1024},
    ),
    "cpu": Scale(
        {"B/4": "Ti/4", "M/2": "Ti/2", "XL/2": "S/4"}, 0.028, 64, 1e-3, 200,
        {"imagenet256-latents": "cifar10", "imagenet512-latents": "cifar10"},
        {
            ("ddt", "XL/2"): (
                "", {"patch_size": 4, "hidden_size": 384, "depth": 12, "encoder_depth": 9, "num_heads": 6},
            ),
            ("unet", "cifar10"): ("", {"width": 64, "multipliers": [1, 2], "residual_blocks": 1}),
        },
        {"encoder": "effnet-lite0-64", "dims": [], "depth": 4, "width": 256},  # DINOv2 is not to be had everywhere
    ),
}  # fmt: skip


def scaled(recipe: Recipe, name: str) -> Recipe:
    """The recipe at that scale, its name and so its run's folder marked. Raises DefarError for an unknown scale or a
    network that the scale has no smaller one for."""
    if name == "paper":
        return recipe
    if name not in SCALES:
        raise DefarError(f"scale = {name!r}; choose from paper, {', '.join(SCALES)}")
    scale = SCALES[name]
    family, given = recipe.network.family, recipe.network.size
    sizes = {**{("sit", large): (small, {}) for large, small in scale.sizes.items()}, **scale.others}
    if (family, given) not in sizes:
        known = [size if kind == "sit" else f"{kind} {size}" for kind, size in sizes]
        raise DefarError(
            f"{recipe.name}: scale {name!r} has no smaller network for {f'{family} ' * (family != 'sit')}{given}; "
            f"it knows {', '.join(known)}"
        )
    size, options = sizes[family, given]
    objective = recipe.objective
    if "alignment" in objective:
        objective = {**objective, "alignment": {**objective["alignment"], **scale.alignment}}
    steps = max(1, round(scale.steps * recipe.steps))
    return dataclasses.replace(
        recipe,
        name=f"{recipe.name}-{name}",
        steps=steps,
        global_batch=min(recipe.global_batch, scale.global_batch),
        flow_matching_steps=round(scale.steps * recipe.flow_matching_steps),
        data=dataclasses.replace(recipe.data, name=scale.data.get(recipe.data.name, recipe.data.name)),
        network=dataclasses.replace(recipe.network, size=size, options={**recipe.network.options, **options}),
        objective=objective,
        # a start that another recipe trains is that recipe's at this scale
        init_from=recipe.init_from
        and re.sub(r"^runs/([^/]+)/checkpoint$", rf"runs/\1-{name}/checkpoint", recipe.init_from),
        optimizer=dataclasses.replace(recipe.optimizer, lr=scale.lr, warmup=min(scale.warmup, steps)),
        log_every=min(recipe.log_every, 50),
        save_every=min(recipe.save_every, 500),
    )
