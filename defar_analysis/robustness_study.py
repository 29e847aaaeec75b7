"""The catalog's entry on step robustness: SiT and DEFAR over the paper's NFEs, by two evaluators, and the verdicts.

Sampling all cells takes hours on a CPU, so only the profile "full" does it; "quick" draws what is committed.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd
import torch

from .artefacts import Artefact, committed, figures_folder
from .experiment import METHODS, SEED
from .measures.protocols import DEFAULT, Protocol, protocol
from .measures.robustness import NFES, lowest_everywhere, steps_sentence
from .paper import paper_values, selected
from .robustness_sweep import Grid, Robustness, Sweep, run

if TYPE_CHECKING:
    from .experiment import Experiment

ID, BASELINE, METHOD, FLOOR = "robustness", "SiT", "DEFAR", "test images"
SECOND = "offline-effnet-lite2-224"  # another network, other pixels: does the verdict depend on the evaluator?
TABLES = ("differences", "steps", "verdicts", "paper")
TAKES = "about an hour and a half on 2 cores; it can be stopped and resumed"


@dataclass(frozen=True)
class Study:
    count: int
    nfes: tuple[int, ...]
    protocols: tuple[str, ...]


STUDIES = {"tiny": Study(64, (2, 4), (DEFAULT,)), "full": Study(2000, NFES, (DEFAULT, SECOND))}


def build(experiment: Experiment) -> Artefact:
    """Every cell under every protocol, from one noise; sampled once, whatever looks at it."""
    if experiment.profile not in STUDIES:
        return committed(ID, TABLES, experiment.root, TAKES)
    study = STUDIES[experiment.profile]
    paths = {name: experiment.root / "reproduce" / "checkpoints" / folder for name, folder in METHODS.items()}
    parts: dict[str, list[pd.DataFrame]] = {"table": [], "differences": [], "steps": [], "verdicts": []}
    identities = {name: experiment._identity(name) for name in METHODS}
    references = {}
    for name in study.protocols:
        used = protocol(name, study.count)
        sweep = Sweep(
            Grid(paths, study.nfes, seed=SEED), used, experiment.root / "results", str(experiment.device), say=_say
        )
        found = run(sweep, BASELINE)
        floor = sweep.of_dataset(FLOOR, experiment.test_images).table
        floor = floor.assign(checkpoint="", solver="", interpolant="", guidance=math.nan, nfe=math.nan)
        parts["table"] += [found.table, floor[found.table.columns]]
        parts["differences"].append(found.differences.assign(protocol=name))
        parts["steps"].append(found.steps.assign(protocol=name))
        parts["verdicts"].append(verdicts(found, used))
        references[name] = {"images": sweep.reference.name, "sha256": sweep.reference.sha256,
                            "count": sweep.reference.count, **sweep.extractor.identity}  # fmt: skip
        experiment.measured += sweep.measured
    tables = {name: pd.concat(frames, ignore_index=True) for name, frames in parts.items()}
    table = tables.pop("table")
    tables["paper"] = selected(paper_values(experiment.root, "tab4"), panel="right", column="FID", kind="value")
    provenance = {
        "profile": experiment.profile,
        "note": f"n = {study.count} of each, Euler, CIFAR-10 with labels in equal shares, seed {SEED}; "
        f"profile {experiment.profile}",
        "models": identities,
        "protocols": references,
        "test_data_sha256": experiment.test_images.hash,
        "seed": SEED,
        "torch": torch.__version__,
        "device": experiment.device.type,
        "command": f"defar reproduce --profile {experiment.profile} --only {ID}",
    }
    return Artefact(ID, table, tables, {}, provenance, figures_folder(experiment.root, ID, experiment.profile))


def verdicts(found: Robustness, used: Protocol) -> pd.DataFrame:
    """The paper's sentences on steps, each with its verdict here and the numbers behind it: claim, metric, n, protocol,
    verdict, evidence."""
    metric = used.metric_names["frechet"]
    verdict, evidence = lowest_everywhere(found.differences, METHOD, metric)
    rows = [(f"{METHOD} is lowest at every NFE (Sec. 6)", metric, used.count, used.name, verdict, evidence)]
    rows.append(
        ("more steps do not worsen it (Tab. 4 right)", metric, used.count, used.name,
         *more_steps(found.steps, metric))
    )  # fmt: skip
    return pd.DataFrame(rows, columns=["claim", "metric", "n", "protocol", "verdict", "evidence"])


def more_steps(steps: pd.DataFrame, metric: str) -> tuple[str, str]:
    """Whether any model at any NFE is worse than at its fewest steps, and by how much each moves."""
    rows = steps[steps["metric"] == metric]
    worse = (rows["verdict"] == "worse").any()
    return "does not hold" if worse else "holds", steps_sentence(steps, metric)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
