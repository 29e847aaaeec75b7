"""Post-trains flow matchings, mostly the shipped SiT, with every objective at equal compute, and some at equal steps;
the first twelve and those with two seeds. Stopped or killed, call it again.

python reproduce/records/2026-11-21-objectives/run.py [VARIANT ...]     from the project's root; 3 to 12 minutes a run
on one CPU thread. Runs lie in runs/objectives/.
"""

import itertools
import sys
from pathlib import Path

import torch

from defar_analysis.core.recipes import Data, Network, Optimizer, Recipe
from defar_analysis.core.training import train
from defar_analysis.errors import DefarError, Interrupted

PASSES = 1260  # network passes of 64 images in each run: a forward counts 1, its backward 2
SEEDS = (1, 2)
PATHS = ("vp", "gvp")  # besides the linear one
STEPS_TOO = "-steps"  # ends the names of runs at equal steps instead
START_STEPS = 800  # of flow matching, from nothing, before a path's post-trainings
VARIANTS = {  # name: (objective, passes a step)
    "fm": ({"name": "flow_matching"}, 3),
    "ip": ({"name": "input_perturbation"}, 3),
    "mixflow": ({"name": "mixflow"}, 3),
    "sdss": ({"name": "sdss"}, 6),
    "mdss": ({"name": "mdss"}, 6),
    "mdss-exact": ({"name": "mdss", "form": "exact"}, 7),
    "adr": ({"name": "defar", "fc": False}, 6),
    "adr-detached": ({"name": "defar", "fc": False, "detach_step": True}, 6),
    "fc": ({"name": "defar", "adr": False}, 5),
    "fc-strong": ({"name": "strong", "adr": False}, 5),
    "defar": ({"name": "defar"}, 7),
    "defar-detached": ({"name": "defar", "detach_step": True}, 7),
    # The rows of Tabs. 6-8, by the reading of ADR that trains: one seed, for the tables of the paper.
    "low-pass": ({"name": "defar", "detach_step": True, "weight_source": "low_pass"}, 6),
    "high-pass": ({"name": "defar", "detach_step": True, "weight_source": "high_pass"}, 6),
    "image": ({"name": "defar", "detach_step": True, "weight_source": "image"}, 6),
    "noise": ({"name": "defar", "detach_step": True, "weight_source": "noise"}, 6),
    "none": ({"name": "defar", "detach_step": True, "normalize": "none"}, 4),
    "rescale": ({"name": "defar", "detach_step": True, "normalize": "rescale"}, 4),
    "straight": ({"name": "defar", "detach_step": True, "direction": "straight"}, 7),
    "beta1-one": ({"name": "defar", "detach_step": True, "beta1": 1.0}, 7),
    "beta1-fifty": ({"name": "defar", "detach_step": True, "beta1": 50.0}, 7),
    "alpha-half": ({"name": "defar", "detach_step": True, "alpha": 0.5}, 7),
    "alpha-five": ({"name": "defar", "detach_step": True, "alpha": 5.0}, 7),
    "beta2-half": ({"name": "defar", "detach_step": True, "beta2": 0.5}, 7),
    "beta2-five": ({"name": "defar", "detach_step": True, "beta2": 5.0}, 7),
}
# The same without labels: Tab. 2, its coupled rows, and Tab. 9's ADR of more steps (each a forward without gradient).
VARIANTS |= {f"uncond-{name}": VARIANTS[name] for name in ("fm", "ip", "sdss", "mdss", "fc")}
VARIANTS |= {f"uncond-{name}": VARIANTS[name] for name in ("adr-detached", "defar-detached")}
VARIANTS |= {"uncond-ot": VARIANTS["fm"], "uncond-ot-defar": VARIANTS["defar-detached"]}
for steps, spacing in itertools.product((2, 3), ("random", "equal")):
    longer = {**VARIANTS["adr-detached"][0], "steps": steps, "spacing": spacing}
    VARIANTS[f"uncond-adr-{steps}-{spacing}"] = (longer, 5 + steps)
# Tab. 5: other paths, without labels, each from a flow matching of its own.
for path in PATHS:
    VARIANTS |= {f"{path}-start": VARIANTS["fm"], f"{path}-fm": VARIANTS["fm"]}
    VARIANTS[f"{path}-defar-detached"] = VARIANTS["defar-detached"]
ONE_SEED = tuple(VARIANTS)[list(VARIANTS).index("low-pass") :]
# As many steps as flow matching, whatever they cost; IP and MixFlow take no more anyway.
EQUAL_STEPS = ("sdss", "mdss", "adr-detached", "fc", "defar-detached")
VARIANTS |= {f"{name}{STEPS_TOO}": VARIANTS[name] for name in EQUAL_STEPS}


def recipe(variant: str, seed: int) -> Recipe:
    objective, passes = VARIANTS[variant]
    if variant.endswith(STEPS_TOO):
        passes = VARIANTS["fm"][1]
    group, _, rest = variant.partition("-")
    changes = {"data": Data(class_conditional=False)} if group in ("uncond", *PATHS) else {}
    if rest.startswith("ot"):
        changes["coupling"] = "ot"
    if group in PATHS:
        changes |= {"interpolant": group, "init_from": f"runs/objectives/{group}-start-1/checkpoint"}
    if rest == "start":
        changes |= {"init_from": None, "steps": START_STEPS, "optimizer": Optimizer(lr=1e-3, warmup=200)}
    given = {
        "name": f"{variant}-{seed}", "steps": PASSES // passes, "global_batch": 64, "seed": seed,
        "init_from": "reproduce/checkpoints/cifar10-sit", "objective": {**objective, "label_dropout": 0.1},
        "data": Data(), "network": Network(), "optimizer": Optimizer(lr=3e-4, warmup=20),
        "log_every": 10, "save_every": 60,
    }  # fmt: skip
    return Recipe(**{**given, **changes})


if __name__ == "__main__":
    torch.set_num_threads(1)
    for seed in SEEDS:
        for variant in sys.argv[1:] or VARIANTS:
            if variant not in VARIANTS:
                sys.exit(f"no variant {variant!r}; choose from {', '.join(VARIANTS)}")
            if variant in ONE_SEED and seed != SEEDS[0]:
                continue
            try:
                print(train(recipe(variant, seed), Path("runs/objectives") / f"{variant}-{seed}"), flush=True)
            except (DefarError, Interrupted) as error:
                sys.exit(f"{variant}: {error}")
