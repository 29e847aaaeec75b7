"""Trains the small network on Gaussian images with CIFAR-10's mean and spectrum, where the optimal velocity is known:
a flow matching from nothing, and from it every objective at equal compute. Stopped or killed, call it again.

python reproduce/records/2026-11-21-gaussian/run.py [VARIANT ...]     from the project's root; on one CPU thread about
15 minutes for "start", 4 for each other. Runs lie in runs/gaussian/.
"""

import sys
from pathlib import Path

import torch

from defar_analysis.core.recipes import Data, Network, Optimizer, Recipe
from defar_analysis.core.training import train
from defar_analysis.errors import DefarError, Interrupted

PASSES = 1260  # as in 2026-11-21-objectives: a forward of 64 images counts 1, its backward 2
START_STEPS = 3000
VARIANTS = {  # name: (objective, passes a step)
    "start": ({"name": "flow_matching"}, 3),
    "fm": ({"name": "flow_matching"}, 3),
    "adr": ({"name": "defar", "fc": False, "detach_step": True}, 6),
    "fc": ({"name": "defar", "adr": False}, 5),
    "defar": ({"name": "defar", "detach_step": True}, 7),
    "mixflow": ({"name": "mixflow"}, 3),
}


def recipe(variant: str) -> Recipe:
    objective, passes = VARIANTS[variant]
    given = {
        "name": f"gaussian-{variant}", "steps": PASSES // passes, "global_batch": 64, "seed": 1,
        "init_from": "runs/gaussian/start/checkpoint", "objective": objective,
        "data": Data("gaussian:cifar10", class_conditional=False, horizontal_flip=False), "network": Network(),
        "optimizer": Optimizer(lr=3e-4, warmup=20), "log_every": 10, "save_every": 60,
    }  # fmt: skip
    if variant == "start":
        given |= {"init_from": None, "steps": START_STEPS, "optimizer": Optimizer(lr=1e-3, warmup=200)}
    return Recipe(**given)


if __name__ == "__main__":
    torch.set_num_threads(1)
    for variant in sys.argv[1:] or VARIANTS:
        if variant not in VARIANTS:
            sys.exit(f"no variant {variant!r}; choose from {', '.join(VARIANTS)}")
        try:
            print(train(recipe(variant), Path("runs/gaussian") / variant), flush=True)
        except (DefarError, Interrupted) as error:
            sys.exit(f"{variant}: {error}")
