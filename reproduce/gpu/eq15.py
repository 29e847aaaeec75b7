"""Which reading of Eq. 15 carries the paper's claim? FC alone in every reading, with three seeds, beside SiT's.

python reproduce/gpu/eq15.py [GROUP ...] --minutes 9     groups: inside (default), outside, max; goes on when called
python reproduce/gpu/eq15.py --report differences.csv    what tables.py brought back, beside what the paper claims
python reproduce/gpu/eq15.py --start CHECKPOINT --steps 300 --batch 64 --precision float32 --eager --device cpu
        --at-once 2 --minutes 90                         post-trained, at a size for a CPU
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from itertools import product
from pathlib import Path

import jobs
import pandas as pd
from trainings import OBJECTIVES, Run, Setting, post_training, recipe
from zoo import queue_options, run_queue, setting_of

from defar_analysis.errors import DefarError
from defar_analysis.studies.readings import by_reading, claimed, means

SEEDS = (1, 2, 3)
GRADIENTS = {"detached": "none", "gradient": "both"}  # through both forwards of the bias, or none
GROUPS = {  # norms, and whether the weight stands inside the square
    "inside": (("l2", "l1", "mean"), True),
    "outside": (("l2", "l1", "mean"), False),
    "max": (("max",), True),
}
SETTING = replace(Setting(), steps=5_000, save_every=1000)


def runs(setting: Setting, start: Path | None = None) -> dict[str, list[Run]]:
    """Equal steps everywhere, from nothing or from a checkpoint; each is compared with the SiT of its own seed, from
    which it differs in the loss alone: the images, noise and times of a step follow from the seed."""
    groups = {}
    for group, (norms, inside) in GROUPS.items():
        found = [made(f"sit-s{seed}", setting, seed, OBJECTIVES["sit"], start) for seed in SEEDS]
        # "gradient" first: it takes almost twice as long
        for (word, grad), norm, seed in product(reversed(GRADIENTS.items()), norms, SEEDS):
            table = OBJECTIVES["fc"] | {"bias_norm": norm, "weight_grad": grad, "inside_square": inside}
            found.append(made(f"{group}-{norm}-{word}-s{seed}", setting, seed, table, start))
        groups[group] = found
    return groups


def made(name: str, setting: Setting, seed: int, objective: dict, start: Path | None) -> Run:
    changes = post_training(setting, start) if start else {}
    return Run(name, recipe(f"eq15-{name}", setting, objective, seed=seed, **changes), against=f"sit-s{seed}")


def all_runs(setting: Setting, names: list[str] | None = None, start: Path | None = None) -> list[Run]:
    """Those of the groups, each once: the SiTs belong to all."""
    groups = runs(setting, start)
    unknown = [name for name in names or () if name not in groups]
    if unknown:
        raise DefarError(f"no group {unknown[0]!r}; choose from {', '.join(groups)}")
    return list({run.name: run for name in names or ("inside",) for run in groups[name]}.values())


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("groups", nargs="*", help=f"of {', '.join(GROUPS)}")
    parser.add_argument(
        "--start", type=Path, metavar="CHECKPOINT", help="post-train this one; without it, from nothing"
    )
    parser.add_argument(
        "--report", type=Path, metavar="FILE", help="print what a differences.csv says, and train nothing"
    )
    queue_options(parser, at_once=14)
    options = parser.parse_args(arguments)
    if options.report:
        claim = claimed(jobs.ROOT)
        found = means(by_reading(pd.read_csv(options.report)), claim)
        print(found.sort_values(["metric", "percent"]).to_string(index=False, float_format="%.2f"))
        print(f"the paper claims {claim:+.1f} % for FC alone (Tab. 1, CIFAR-10, no cfg)")
        return 0
    work: Path = jobs.WORK / "eq15"
    # the networks need not come back: tables.py measures them there
    return run_queue(
        all_runs(setting_of(options, SETTING), options.groups, options.start), work, options, weights=False
    )


if __name__ == "__main__":
    jobs.run_script(main)
