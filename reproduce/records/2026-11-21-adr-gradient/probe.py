"""Continue a trained flow-matching run with DEFAR for a few steps and watch the velocity's length.

    python probe.py STATE STEPS [KEY=VALUE ...]     # STATE: a state.pt of cifar10_sit.toml; keys change the recipe

Prints loss terms every fourth step. `fm` is the plain flow-matching loss at t0; about 0.2 for the trained network, and
1.25 for a velocity of 0.
"""

import sys
from pathlib import Path

import torch

from defar_analysis.core.recipes import load_recipe
from defar_analysis.core.training import TrainingRun

RECIPE = Path(__file__).parents[2] / "cifar10_defar.toml"

state_file, steps, *assignments = sys.argv[1:]
recipe = load_recipe(RECIPE, ["optimizer.warmup=0", "flow_matching_steps=0", *assignments])
run = TrainingRun(recipe, recipe.open_data())
state = torch.load(state_file, weights_only=True)
run.model.load_state_dict(state["model"])
run.optimizer.load_state_dict(state["optimizer"])
run.step = state["step"]
for i in range(int(steps)):
    values = run.advance()
    if i % 4 == 0:
        print(i, {name: round(value, 4) for name, value in values.items()}, flush=True)
