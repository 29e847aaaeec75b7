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
from scipy import stats
from trainings import OBJECTIVES, Run, Setting, post_training, recipe
from zoo import queue_options, run_queue, setting_of

from defar_analysis.errors import DefarError
from defar_analysis.paper import paper_values

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


def report(differences: pd.DataFrame, metric: str = "FD-", claim: float | None = None) -> pd.DataFrame:
    """By how many percent each reading's metric differs from SiT's of the same seed: the mean over the seeds with its
    95 % t interval, how many seeds improve and worsen beyond doubt over images, and the share of `claim` percent."""
    chosen = differences[differences["metric"].str.startswith(metric) & ~differences["model"].str.startswith("sit-")]
    rows = []
    for reading, own in chosen.groupby(chosen["model"].str.replace(r"-s\d+$", "", regex=True), sort=False):
        mean, count = own["percent"].mean(), len(own)
        spread = stats.t.ppf(0.975, count - 1) * own["percent"].std() / count**0.5 if count > 1 else float("nan")
        verdicts = [(own["verdict"] == word).sum() for word in ("better", "worse")]
        rows.append((reading, mean, mean - spread, mean + spread, count, *verdicts))
    found = pd.DataFrame(rows, columns=["reading", "percent", "low", "high", "seeds", "better", "worse"])
    found = found.sort_values("percent", ignore_index=True)
    return found if claim is None else found.assign(share_of_claim=found["percent"] / claim)


def claimed() -> float:
    """Percent by which the paper's FID of FC alone ("DEFAR w/o ADR") differs from SiT's, Tab. 1, CIFAR-10, no cfg."""
    tab1 = paper_values(jobs.ROOT, "tab1")
    chosen = {"dataset": "cifar10", "column": "FID", "condition": "no cfg", "kind": "value"}
    own = tab1[(tab1[list(chosen)] == pd.Series(chosen)).all(axis=1)].drop_duplicates("row").set_index("row")["value"]
    return 100 * (own["DEFAR w/o ADR"] / own["SiT"] - 1)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("groups", nargs="*", help=f"of {', '.join(GROUPS)}")
    parser.add_argument(
        "--start", type=Path, metavar="CHECKPOINT", help="post-train this one; without it, from nothing"
    )
    parser.add_argument("--batch", type=int, default=SETTING.batch, help="images a step")
    parser.add_argument("--precision", choices=("float32", "bf16"), default=SETTING.precision)
    parser.add_argument(
        "--report", type=Path, metavar="FILE", help="print what a differences.csv says, and train nothing"
    )
    queue_options(parser, at_once=14)
    options = parser.parse_args(arguments)
    if options.report:
        found = report(pd.read_csv(options.report), claim=claimed())
        print(found.to_string(index=False, float_format="%.2f"))
        print(f"the paper claims {claimed():+.1f} % for FC alone (Tab. 1, CIFAR-10, no cfg)")
        return 0
    work: Path = jobs.WORK / "eq15"
    # the networks need not come back: tables.py measures them there
    setting = setting_of(options, replace(SETTING, batch=options.batch, precision=options.precision))
    often = {name: min(getattr(setting, name), max(1, setting.steps // 20)) for name in ("log_every", "save_every")}
    setting = replace(setting, **often)  # of a short run, too, a curve is kept
    return run_queue(all_runs(setting, options.groups, options.start), work, options, weights=False)


if __name__ == "__main__":
    jobs.run_script(main)
