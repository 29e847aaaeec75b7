"""Trains every backbone small on CIFAR-10: flow matching, then from its checkpoint DEFAR, and beside it flow matching
continued for as many steps; then measures both (table.py). Stopped or killed, call it again.

python reproduce/records/2026-11-21-backbones/run.py [BACKBONE ...]     from the project's root; about a minute a
backbone on one free CPU core. Runs lie in runs/backbones/.
"""

import sys
from pathlib import Path

import torch

from defar_analysis.core.recipes import Data, Network, Optimizer, Recipe
from defar_analysis.core.training import train
from defar_analysis.errors import DefarError, Interrupted
from defar_analysis.measures.encoders import open_encoder

RUNS = Path("runs/backbones")
START, POST, BATCH = 200, 100, 16  # steps, and images in each
SMALL = {"patch_size": 4, "hidden_size": 64, "depth": 4, "num_heads": 4}  # 0.34M parameters
ENCODER = "effnet-lite0-64"
BACKBONES = {  # name: (family, options, what the objective gets besides)
    "ddt": ("ddt", {**SMALL, "encoder_depth": 3}, {}),
    "rae": (
        "rae",
        {**SMALL, "hidden_size": 48, "decoder_hidden_size": 80, "encoder_depth": 3, "decoder_num_heads": 4},
        {},
    ),
    "lightningdit": ("lightningdit", SMALL, {}),
    "repa": ("sit", SMALL, {"alignment": {"encoder": ENCODER, "depth": 2, "width": 128}}),
    # where it has 32 channels, each is a group of its own norm, which undoes what t adds: t enters where it has 64
    "unet": (
        "unet",
        {"width": 32, "multipliers": [1, 2, 2], "residual_blocks": 1, "attention_sizes": [], "head_width": 32},
        {},
    ),
    "unet-ot": (  # Tab. 2: without labels, noise and images paired by mini-batch OT
        "unet",
        {"width": 32, "multipliers": [1, 2, 2], "residual_blocks": 1, "attention_sizes": [], "head_width": 32},
        {},
    ),
}
OBJECTIVES = {
    "fm": {"name": "flow_matching"},
    # the reading of ADR that trains at this size: records/2026-11-21-adr-gradient
    "defar": {"name": "defar", "detach_step": True},
}


def recipe(backbone: str, stage: str) -> Recipe:
    """stage: "start", "fm" or "defar"; the last two begin with the first one's checkpoint and see the same images."""
    family, options, besides = BACKBONES[backbone]
    first, paired = stage == "start", backbone.endswith("-ot")
    labels = {} if paired else {"label_dropout": 0.1}
    return Recipe(
        name=f"{backbone}-{stage}",
        steps=START if first else POST,
        global_batch=BATCH,
        seed=1 if first else 2,
        init_from=None if first else str(RUNS / f"{backbone}-start" / "checkpoint"),
        network=Network(family, "", options),
        coupling="ot" if paired else "independent",
        data=Data(class_conditional=not paired),
        objective={**OBJECTIVES.get(stage, OBJECTIVES["fm"]), **labels, **besides},
        optimizer=Optimizer(lr=2e-3, warmup=50) if first else Optimizer(lr=5e-4, warmup=10),
        log_every=10,
        save_every=50,
    )


def main(names: list[str]) -> None:
    torch.set_num_threads(1)
    unknown = [name for name in names if name not in BACKBONES]
    if unknown:
        sys.exit(f"no backbone {unknown[0]!r}; choose from {', '.join(BACKBONES)}")
    for backbone in names or BACKBONES:
        encoder = open_encoder(ENCODER) if "alignment" in BACKBONES[backbone][2] else None
        for stage in ("start", "fm", "defar"):
            try:
                print(train(recipe(backbone, stage), RUNS / f"{backbone}-{stage}", encoder=encoder), flush=True)
            except (DefarError, Interrupted) as error:
                sys.exit(f"{backbone}, {stage}: {error}")
    if not names:
        from table import write

        write()


if __name__ == "__main__":
    main(sys.argv[1:])
