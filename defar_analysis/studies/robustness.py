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

from ..artefacts import Artefact, committed, figures_folder
from ..evaluating import quality_warnings
from ..experiment import METHODS, SEED
from ..measures.evaluation import BETTER, WORSE
from ..measures.protocols import DEFAULT, Protocol, protocol
from ..measures.robustness import FAILS, HOLDS, NFES, UNDECIDED, lowest_everywhere, steps_sentence
from ..paper import paper_values, selected
from ..robustness_report import Robustness
from ..robustness_sweep import Grid, Sweep, run

if TYPE_CHECKING:
    from ..experiment import Experiment

ID, BASELINE, METHOD, FLOOR = "robustness", "SiT", "DEFAR", "test images"
MARGIN = 1.0  # percent of the distance that "stable" allows
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
        with quality_warnings():  # said for the cells already
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
    """Sec. 6's sentences on steps, each with its verdict here and the numbers behind it: claim, metric, n, protocol,
    verdict, evidence."""
    metric = used.metric_names["frechet"]
    steps = found.steps[found.steps["metric"] == metric]
    moved = {model: steps_sentence(steps, metric, model) for model in (METHOD, BASELINE)}
    said = {
        f"{METHOD} is lowest at every NFE": lowest_everywhere(found.differences, METHOD, metric),
        f"{METHOD} stays stable as steps increase": (stable(steps, METHOD), moved[METHOD]),
        f"more steps amplify the bias of {BASELINE}": (worsens(steps, BASELINE), moved[BASELINE]),
    }
    rows = [(claim, metric, used.count, used.name, *judged) for claim, judged in said.items()]
    return pd.DataFrame(rows, columns=["claim", "metric", "n", "protocol", "verdict", "evidence"])


def stable(steps: pd.DataFrame, model: str) -> str:
    """Whether the model is at no NFE worse than at its fewest steps by more than MARGIN; steps: rows of one metric.

    "holds" where every interval ends below the margin, "does not hold" where the one at the most steps begins above.
    """
    own = steps[steps["model"] == model]
    if (own["percent_high"] < MARGIN).all():
        return HOLDS
    return FAILS if own.loc[own["nfe"].idxmax(), "percent_low"] > MARGIN else UNDECIDED


def worsens(steps: pd.DataFrame, model: str) -> str:
    """Whether the model is worse, beyond doubt, at the most steps than at the fewest; steps: rows of one metric."""
    own = steps[steps["model"] == model]
    last = own.loc[own["nfe"].idxmax(), "verdict"]
    return {WORSE: HOLDS, BETTER: FAILS}.get(last, UNDECIDED)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
