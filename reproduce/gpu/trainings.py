"""The trainings as recipes: every objective at equal compute or at equal steps, and what starts from what.

Equal is what measures.cost counts: a forward pass is 1, a backward pass 2.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import jobs  # noqa: F401  # first: it makes the package importable
import torch

from defar_analysis.core.datasets import KNOWN_DATA, Batch
from defar_analysis.core.recipes import Data, Network, Optimizer, Recipe
from defar_analysis.measures.cost import count_step

ADR = {"name": "defar", "detach_step": True}  # with gradients through x_hat it shortens the velocity to a third
OBJECTIVES: dict[str, dict[str, Any]] = {
    "sit": {"name": "flow_matching"}, "ip": {"name": "input_perturbation"}, "sdss": {"name": "sdss"},
    "mdss": {"name": "mdss"}, "adr": {**ADR, "fc": False}, "fc": {"name": "defar", "adr": False}, "defar": ADR,
    "mixflow": {"name": "mixflow"},
}  # fmt: skip
WARMED = 0.1  # share of the compute that recipes with ADR spend on flow matching first: it knows directions only
BEFORE = 0.75  # share of MixFlow's compute that is SiT's, before the post-training
SHARE = 0.125  # compute of an ablation, post-trained from the zoo's SiT, of a whole training's
ABLATIONS = {  # Tabs. 6-8; Tab. 9 is without labels
    "raw": {"normalize": "none"}, "rescaled": {"normalize": "rescale"}, "straight": {"direction": "straight"},
    "low-pass": {"weight_source": "low_pass"}, "high-pass": {"weight_source": "high_pass"},
    "image": {"weight_source": "image"}, "noise": {"weight_source": "noise"},
    "beta1-1": {"beta1": 1.0}, "beta1-50": {"beta1": 50.0}, "alpha-0.5": {"alpha": 0.5}, "alpha-5": {"alpha": 5.0},
    "beta2-0.5": {"beta2": 0.5}, "beta2-5": {"beta2": 5.0},
}  # fmt: skip


@dataclass(frozen=True)
class Setting:
    """What all runs share. steps: those of flow matching; every other objective gets as much compute, or as many."""

    steps: int = 16_000
    batch: int = 256
    lr: float = 1e-3
    warmup: int = 500
    precision: str = "bf16"
    compile: bool = True
    size: str = "Ti/4"
    network: tuple[tuple[str, Any], ...] = ()
    log_every: int = 100
    save_every: int = 1000


TINY = Setting(
    20, 8, 1e-3, 2, "bf16", False, "", (("patch_size", 8), ("hidden_size", 32), ("depth", 1), ("num_heads", 2)), 2, 4
)


@dataclass(frozen=True)
class Run:
    """A training; after: the run that it starts from; against: the one that its samples are compared with."""

    name: str
    recipe: Recipe
    after: str | None = None
    against: str = "sit"


def recipe(name: str, setting: Setting, objective: dict[str, Any], **changes: Any) -> Recipe:
    """A flow-matching recipe's length in `setting.steps`, whatever the objective, unless `changes` say otherwise."""
    s, dropout = setting, {"label_dropout": 0.1}
    given = dict(
        name=name, steps=s.steps, global_batch=s.batch, objective={**objective, **dropout}, data=Data(),
        network=Network(size=s.size, options=dict(s.network)), precision=s.precision, compile=s.compile,
        optimizer=Optimizer(lr=s.lr, warmup=s.warmup), log_every=s.log_every, save_every=s.save_every,
    )  # fmt: skip
    return Recipe(**{**given, **changes})


def post_training(setting: Setting, start: Path) -> dict[str, Any]:
    """What a recipe that goes on from a checkpoint changes."""
    return {"init_from": str(start), "optimizer": Optimizer(lr=setting.lr / 3, warmup=setting.warmup // 10)}


def passes(objective: dict[str, Any]) -> float:
    """Network passes of one step, a forward 1 and a backward 2, counted by measures.cost; the same for any network."""
    return _counted(json.dumps(objective | {"label_dropout": 0.1}, sort_keys=True))


@cache
def _counted(objective: str) -> float:
    small = Network(size=TINY.size, options=dict(TINY.network))
    counted, spec = Recipe("counted", 1, network=small, objective=json.loads(objective)), KNOWN_DATA["cifar10"]
    with torch.device("meta"):
        model = counted.build_network(spec)
        batch = Batch(torch.empty(4, spec.channels, spec.size, spec.size), torch.zeros(4, dtype=torch.long))
    return count_step(counted.build_objective(spec, 1), model, batch).passes


def of_compute(setting: Setting, name: str, objective: dict[str, Any], equal: str = "compute", **changes) -> Recipe:
    """A recipe that spends what flow matching's steps would cost ("compute"), or makes as many steps ("steps")."""
    total, each = changes.pop("share", 1.0) * setting.steps, passes(objective)
    first = round(WARMED * total) if objective.get("name") == "defar" and objective.get("adr", True) else 0
    if changes.get("init_from"):
        first = 0  # it has learnt its length already
    steps = round(total) if equal == "steps" else first + round((total - first) * 3 / each)
    return recipe(name, setting, objective, steps=max(1, steps), flow_matching_steps=first, **changes)


def spent(recipe: Recipe) -> float:
    """Network passes of a whole training."""
    return spent_until(recipe.steps, recipe.objective, recipe.flow_matching_steps)


def spent_until(step: int, objective: dict[str, Any], flow_matching_steps: int) -> float:
    """Network passes of a training's first steps."""
    first = min(step, flow_matching_steps)
    return 3 * first + passes(objective) * (step - first)


def runs(setting: Setting, work: Path) -> dict[str, list[Run]]:
    """All trainings by group, longest first inside each, so that none is left alone on the GPU in the end."""

    def made(name: str, objective: str | dict, after: str | None = None, against: str = "sit", **changes) -> Run:
        table = OBJECTIVES[objective] if isinstance(objective, str) else objective
        if after:
            changes |= post_training(setting, work / after / "checkpoint")
        return Run(name, of_compute(setting, f"cifar10-{name}", table, **changes), after, against)

    unlabelled = {"data": Data(class_conditional=False)}
    paths = [made(f"{p}-{o}", o, against=f"{p}-sit", interpolant=p) for p in ("gvp", "vp") for o in ("sit", "defar")]
    stepped = [(n, spacing) for n in (1, 2, 3) for spacing in (("random", "equal") if n > 1 else ("random",))]
    return {
        "compute": [
            made("mixflow-start", "sit", share=BEFORE),
            *(made(name, name) for name in OBJECTIVES if name != "mixflow"),
            made("mixflow", "mixflow", after="mixflow-start", share=1 - BEFORE),
        ],
        "steps": [made(f"{n}-steps", n, equal="steps") for n in ("defar", "sdss", "mdss", "adr", "fc")],
        "uncond": [made(f"uncond-{o}", o, against="uncond-sit", **unlabelled) for o in ("sit", "defar")],
        "paths": paths,
        "ot": [made(f"ot-{o}", o, against="ot-sit", coupling="ot", **unlabelled) for o in ("sit", "defar")],
        "ablations": [
            made("post-sit", "sit", "sit", share=SHARE),
            *(made(f"post-{o}", o, "sit", "post-sit", share=SHARE) for o in ("adr", "defar")),
            *(made(f"post-{n}", ADR | o, "sit", "post-defar", share=SHARE) for n, o in ABLATIONS.items()),
            *(
                made(f"post-uncond-adr-{n}-{spacing}", OBJECTIVES["adr"] | {"steps": n, "spacing": spacing}, "sit",
                     "post-uncond-adr-1-random", share=SHARE, **unlabelled)
                for n, spacing in stepped
            ),
        ],
    }  # fmt: skip
