"""The samples of every objective, post-trained at equal compute and the main ones at equal steps: behind Tabs. 1, 2 and
4-9, the claims, Figs. 4, 6, 8.

The runs are those of reproduce/records/2026-11-21-objectives, whose checkpoints are too many to be shipped: only the
profile "full" measures them, from runs/objectives; "quick" draws what is committed.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from ..artefacts import Artefact, committed, figures_folder
from ..core.datasets import npz_dataset
from ..errors import DefarError
from ..evaluating import quality_warnings
from ..experiment import CLASSES, SEED
from ..measures.evaluation import DIFFERENCES, Evaluation, differences
from ..measures.protocols import DEFAULT, Protocol, protocol
from ..measures.robustness import quality_table
from ..our_rows import (
    EQUAL_STEPS,
    GUIDED,
    JUDGED,
    LABELS,
    METHODS_TABLES,
    METHODS_TAKE,
    NO_LABELS,
    PATHS,
    RUN,
    STEPS,
)
from ..robustness_sweep import Grid, Sweep

if TYPE_CHECKING:
    from ..experiment import Experiment

ID, BASELINE, METHOD = "methods", "SiT", "DEFAR"
SHOWN = 20  # images of each method for the sample figures
IN_PART = ["group", "seed", "solver", "interpolant", "nfe"]  # methods are compared where these are the same

# Method: its run in the record. DEFAR and its parts stop the gradient at x_hat; the literal reading shortens the
# velocity to a third (record 2026-11-21-adr-gradient) and stands beside them as "literal".
BOTH_SEEDS = {
    "SiT": "fm", "IP": "ip", "SDSS": "sdss", "MDSS": "mdss", "ADR": "adr-detached", "FC": "fc",
    "DEFAR": "defar-detached",
}  # fmt: skip
ONE_SEED = {
    "ADR literal": "adr", "DEFAR literal": "defar",
    "weight: low pass": "low-pass", "weight: high pass": "high-pass", "weight: image": "image",
    "weight: noise": "noise",
    "target: raw": "none", "target: rescaled": "rescale", "target: straight": "straight",
    "beta1 = 1": "beta1-one", "beta1 = 50": "beta1-fifty", "alpha = 0.5": "alpha-half", "alpha = 5": "alpha-five",
    "beta2 = 0.5": "beta2-half", "beta2 = 5": "beta2-five",
}  # fmt: skip
UNLABELLED = {
    **{method: f"uncond-{run}" for method, run in BOTH_SEEDS.items()},
    **{f"ADR, {n} {spacing}": f"uncond-adr-{n}-{spacing}" for n in (2, 3) for spacing in ("random", "equal")},
    "OT": "uncond-ot", "OT + DEFAR": "uncond-ot-defar",
}  # fmt: skip
# By "equal steps": SiT's, IP's and MixFlow's steps cost alike, so that these runs are at equal compute, too.
AS_MANY_STEPS = {
    "SiT": "fm", "IP": "ip", "SDSS": "sdss-steps", "MDSS": "mdss-steps", "ADR": "adr-detached-steps", "FC": "fc-steps",
    "DEFAR": "defar-detached-steps", "MixFlow": "mixflow",
}  # fmt: skip
STEPPED, NFES = ("SiT", "IP", "SDSS", "MDSS", "DEFAR"), (30, 50, 100, 250, 500)  # Tab. 4, right
SCALE = 1.5  # of the paper's classifier-free guidance
# What the paper compares with something else than SiT.
PAIRS = {
    "ADR": ("SDSS", "MDSS"),
    "DEFAR": ("ADR", "FC", "IP", "SDSS", "MDSS"),
    **{name: (METHOD,) for name in ONE_SEED if name.startswith("weight: ")},
    **{name: ("ADR",) for name in UNLABELLED if name.startswith("ADR, ")},
    "OT + DEFAR": ("OT", METHOD),
    "DEFAR-G++": (METHOD, "SiT-G++"),
}


@dataclass(frozen=True)
class Part:
    """Methods that are compared with one another: checkpoint folders under the project by method, sampled alike but for
    the methods that have a discriminator, its folder by method. guidance: classifier-free, its scale."""

    group: str
    runs: Mapping[str, str]
    seed: int = 1
    nfe: int = 50
    solver: str = "euler"
    guidance: float | None = None
    discriminators: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Study:
    """count: samples of each method in each part."""

    parts: tuple[Part, ...]
    count: int


_SHIPPED = {"SiT": "reproduce/checkpoints/cifar10-sit", "DEFAR": "reproduce/checkpoints/cifar10-defar"}
_JUDGES = {"SiT-G++": "reproduce/discriminators/cifar10-sit", "DEFAR-G++": "reproduce/discriminators/cifar10-defar"}


def _full() -> Study:
    def runs(given: Mapping[str, str], seed: int = 1) -> dict[str, str]:
        return {method: f"runs/objectives/{run}-{seed}/checkpoint" for method, run in given.items()}

    two = (METHOD, BASELINE)
    linear = {name: run for name, run in UNLABELLED.items() if name in two}
    others = ({BASELINE: f"{path}-fm", METHOD: f"{path}-defar-detached"} for path in ("gvp", "vp"))
    on_paths = [runs(linear), *map(runs, others)]
    stepped = runs({name: run for name, run in BOTH_SEEDS.items() if name in STEPPED})
    return Study(
        (
            Part(LABELS, runs(BOTH_SEEDS | ONE_SEED)),
            Part(LABELS, runs(BOTH_SEEDS, 2), seed=2),
            *(Part(EQUAL_STEPS, runs(AS_MANY_STEPS, seed), seed=seed) for seed in (1, 2)),
            Part(NO_LABELS, runs(UNLABELLED)),
            *(Part(PATHS, of_path, solver=solver) for of_path in on_paths for solver in ("euler", "em")),
            *(Part(STEPS, stepped, nfe=nfe) for nfe in NFES),
            Part(GUIDED, runs(BOTH_SEEDS), guidance=SCALE),
            Part(
                JUDGED,
                _SHIPPED | {f"{name}-G++": folder for name, folder in _SHIPPED.items()},
                seed=0,
                discriminators=_JUDGES,
            ),
        ),
        1000,
    )


STUDIES = {"tiny": Study((Part(LABELS, _SHIPPED, seed=0, nfe=2),), 64), "full": _full()}


def build(experiment: Experiment) -> Artefact:
    """Every part under one protocol, from one noise; what lies in results/ is not made again."""
    if experiment.profile not in STUDIES:
        return committed(ID, METHODS_TABLES, experiment.root, METHODS_TAKE)
    return _measured(experiment, STUDIES[experiment.profile])


def remeasured(experiment: Experiment, groups: Sequence[str]) -> Artefact:
    """What is committed, with the rows of some groups measured anew: their runs alone must be there.

    Raises DefarError for a group that the study does not have, and where what is committed has another protocol.
    """
    study, kept = STUDIES["full"], committed(ID, METHODS_TABLES, experiment.root, METHODS_TAKE)
    order = list(dict.fromkeys(part.group for part in study.parts))
    for group in groups:
        if group not in order:
            raise DefarError(f"no group {group!r}; choose from {', '.join(order)}")
    new = _measured(experiment, replace(study, parts=tuple(part for part in study.parts if part.group in groups)))
    for name in ("protocols", "seed"):
        if kept.provenance[name] != new.provenance[name]:
            raise DefarError(f"what is committed was measured with another {name}; measure all: --profile full")

    def merged(old: pd.DataFrame, own: pd.DataFrame) -> pd.DataFrame:
        parts = [own if group in groups else old for group in order]
        chosen = [part[part["group"] == group] for group, part in zip(order, parts, strict=True)]
        return pd.concat(chosen, ignore_index=True)

    tables = {name: merged(kept.tables[name], table) for name, table in new.tables.items()}
    models = kept.provenance["models"] | new.provenance["models"]
    provenance = {**kept.provenance, "models": models, "note": _note(study, experiment.profile)}
    return replace(new, table=merged(kept.table, new.table), tables=tables, provenance=provenance)


def sampled(experiment: Experiment, methods: Sequence[str] = tuple(BOTH_SEEDS)) -> Artefact:
    """The study's first part with its first images: `samples` (M, SHOWN, H, W, 3) uint8, from the same noise for every
    method, image i of class i mod 10; the methods' names stand in the provenance under "sampled".

    In the profile "tiny" only those methods that it has. Raises DefarError where a run is missing.
    """
    study = replace(STUDIES[experiment.profile], parts=STUDIES[experiment.profile].parts[:1])
    found, sweep = _measured(experiment, study), sweep_of(experiment, study, study.parts[0])
    images = {cell.model: npz_dataset(sweep.samples(cell)).images for cell in sweep.cells if cell.model in methods}
    names = [name for name in methods if name in images]
    shown = np.stack([np.asarray(images[name][:SHOWN]).transpose(0, 2, 3, 1) for name in names])
    return replace(found, arrays={"samples": shown}, provenance={**found.provenance, "sampled": names})


def _note(study: Study, profile: str) -> str:
    more = ", some at equal steps" * any(part.group == EQUAL_STEPS for part in study.parts)
    return f"post-trained at equal compute{more}; CIFAR-10, n = {study.count}, noise seed {SEED}; profile {profile}"


def _measured(experiment: Experiment, study: Study) -> Artefact:
    used = protocol(DEFAULT, study.count)
    found: dict[str, list[pd.DataFrame]] = {"table": [], "differences": [], "pairs": []}
    models = {}
    for part in study.parts:
        sweep = sweep_of(experiment, study, part)
        with quality_warnings():
            measured = sweep.evaluations()
        table = quality_table(measured).rename(columns={"model": "method"}).assign(group=part.group, seed=part.seed)
        found["table"].append(table)
        evaluations = {cell.model: evaluation for cell, evaluation in measured.items()}
        for name, wanted in (("differences", dict.fromkeys(evaluations, (BASELINE,))), ("pairs", PAIRS)):
            rows = compared(evaluations, wanted, used)
            found[name].append(rows.assign(protocol=used.name, **{key: table[key].iloc[0] for key in IN_PART}))
        for cell in sweep.cells:
            card = sweep.network(cell).card
            models[f"{cell.model}, {card.name}"] = {"checkpoint": card.name, "sha256": card.sha256}
        experiment.measured += sweep.measured
    tables = {name: pd.concat(parts, ignore_index=True) for name, parts in found.items()}
    table = tables.pop("table")
    provenance: dict[str, Any] = {
        "profile": experiment.profile,
        "note": _note(study, experiment.profile),
        "models": models,
        "classes": CLASSES,
        "protocols": {
            DEFAULT: {
                "images": sweep.reference.name,
                "sha256": sweep.reference.sha256,
                "count": sweep.reference.count,
                **sweep.extractor.identity,
            }
        },
        "seed": SEED,
        "torch": torch.__version__,
        "device": experiment.device.type,
        "command": f"{RUN}; defar reproduce --profile {experiment.profile} --only {ID}",
    }
    folder = figures_folder(experiment.root, ID, experiment.profile)
    return Artefact(ID, table, {**tables, "seeds": over_seeds(table)}, {}, provenance, folder)


def sweep_of(experiment: Experiment, study: Study, part: Part) -> Sweep:
    """The sweep over one part's runs."""
    folders = {method: checked(experiment.root / folder) for method, folder in part.runs.items()}
    judges = {method: checked(experiment.root / folder) for method, folder in part.discriminators.items()}
    grid = Grid(folders, (part.nfe,), (part.solver,), (part.guidance,), SEED, judges)
    return Sweep(grid, protocol(DEFAULT, study.count), experiment.root / "results", str(experiment.device), say=_say)


def checked(folder: Path) -> Path:
    """The folder, if it is there. Raises DefarError with the command that would train it, or where to take it from."""
    if folder.is_dir():
        return folder
    if folder.name != "checkpoint":
        raise DefarError(f"{folder}: not there; it comes with a clone of the project")
    variant = folder.parent.name.rpartition("-")[0]
    path = variant.partition("-")[0]
    start = f"{path}-start " if path in ("vp", "gvp") else ""
    raise DefarError(f"{folder}: not trained here; run: {RUN} {start}{variant}")


def compared(
    evaluations: Mapping[str, Evaluation], wanted: Mapping[str, Sequence[str]], used: Protocol
) -> pd.DataFrame:
    """DIFFERENCES of each method to each of its baselines, paired by image; those that are not there are left out."""
    parts = []
    for method, baselines in wanted.items():
        for baseline in baselines:
            if method != baseline and method in evaluations and baseline in evaluations:
                parts.append(differences([evaluations[baseline], evaluations[method]], baseline, used))
    found = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=DIFFERENCES)  # a tiny study
    return found.rename(columns={"model": "method"})


def over_seeds(table: pd.DataFrame) -> pd.DataFrame:
    """Mean and standard deviation of every metric over a method's training seeds; NaN for one seed."""
    like = [name for name in IN_PART if name != "seed"]
    groups = table.groupby([*like, "method", "metric", "n", "protocol"], sort=False)
    return groups["value"].agg(mean="mean", std="std", seeds="count").reset_index()


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
