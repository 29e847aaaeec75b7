"""The papers' tables, each with its value, ours and the difference beside each other, and what would run the rest."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from .artefacts import Artefact, figures_folder
from .our_rows import (
    CHANGES,
    CIFAR10,
    GUIDED,
    NO_LABELS,
    NO_OURS,
    PATHS,
    STEPS,
    UNLABELLED,
    Ours,
    configurations,
    from_methods,
    our_changes,
    row_name,
    rows_of,
    turned,
)
from .paper import paper_values
from .tables import comparison, save

if TYPE_CHECKING:
    from .experiment import Experiment

# The measure that rows are compared by; lower is better for all.
HEADLINE = ("FID", "Avg. FID", "FID, first")

# (row, setting) of the paper's tables: our method in figures/data/methods.csv.
TAB1 = {("SiT", ""): "SiT", ("IP", ""): "IP", ("SDSS", ""): "SDSS", ("MDSS", ""): "MDSS", ("DEFAR w/o FC", ""): "ADR",
        ("DEFAR w/o ADR", ""): "FC", ("DEFAR", ""): "DEFAR"}  # fmt: skip
TAB4 = {(method, ""): method for method in ("SiT", "IP", "SDSS", "MDSS", "DEFAR")}
TAB2_OT = {("OT-FM", ""): "SiT", ("OT-FM + DEFAR", ""): "DEFAR", ("OT-CFM", ""): "OT",
           ("OT-CFM + DEFAR", ""): "OT + DEFAR"}  # fmt: skip
TAB5_PATHS = {"linear": "Linear", "gvp": "GVP", "vp": "SBDM-VP"}
TAB5_SOLVERS = {"euler": "ODE", "em": "SDE"}
TAB6 = {
    ("SiT", ""): "SiT",
    ("DEFAR", "normalization=none; direction=Anti-Drift"): "target: raw",
    ("DEFAR", "normalization=Rescale; direction=Anti-Drift"): "target: rescaled",
    ("DEFAR", "normalization=Unit Length; direction=Anti-Drift"): "DEFAR",
    ("DEFAR", "normalization=Unit Length; direction=Directly Straight"): "target: straight",
}
TAB7 = {("DEFAR", "weight=Low Pass"): "weight: low pass", ("DEFAR", "weight=High Pass"): "weight: high pass",
        ("DEFAR", "weight=Original Image"): "weight: image", ("DEFAR", "weight=Original Noise"): "weight: noise",
        ("DEFAR", "weight=Exposure Bias"): "DEFAR"}  # fmt: skip
TAB8 = {
    ("SiT", ""): "SiT",
    ("DEFAR", "coefficients=1/1.0/1.0"): "beta1 = 1", ("DEFAR", "coefficients=50/1.0/1.0"): "beta1 = 50",
    ("DEFAR", "coefficients=10/0.5/1.0"): "alpha = 0.5", ("DEFAR", "coefficients=10/5.0/1.0"): "alpha = 5",
    ("DEFAR", "coefficients=10/1.0/0.5"): "beta2 = 0.5", ("DEFAR", "coefficients=10/1.0/5.0"): "beta2 = 5",
    ("DEFAR", "coefficients=10/1.0/1.0"): "DEFAR",
}  # fmt: skip
TAB9 = {
    ("DEFAR w/o FC", "steps=1; spacing=Random"): "ADR",
    ("DEFAR w/o FC", "steps=2; spacing=Random"): "ADR, 2 random",
    ("DEFAR w/o FC", "steps=2; spacing=Equal"): "ADR, 2 equal",
    ("DEFAR w/o FC", "steps=3; spacing=Random"): "ADR, 3 random",
    ("DEFAR w/o FC", "steps=3; spacing=Equal"): "ADR, 3 equal",
}


def _note(start: str = "the shipped SiT", seeds: str = "the mean over its training seeds", more: str = "") -> str:
    """What our rows of a table are."""
    return (
        f"Ours: every row post-trained from {start} with 1,260 network passes of 64 images (equal compute, not equal "
        f"iterations), {seeds}; 50 evaluations unless another number is given; ADR stops the gradient at x_hat. The "
        f"brackets are those of the images{', averaged over seeds' * ('mean' in seeds)}. {more}"
    ).strip()


IMAGENET = (
    "ImageNet needs the data and a GPU: defar train reproduce/experiments/{}, then defar evaluate RUN/checkpoint "
)


@dataclass(frozen=True)
class PaperTable:
    """One table. on: the columns that name a cell.

    ours: rows of ours with the columns `on` and those of tables.comparison, from the project's folder. runs: the
    command of everything that was not run. within: where the paper's row `baseline` (row, setting; None: that group's
    first) stands for a group. rows: ours, from the methods study, each compared with its method `against`.
    """

    id: str
    paper: str
    title: str
    on: tuple[str, ...]
    runs: str
    within: tuple[str, ...] = ("panel", "dataset", "backbone", "x", "condition")
    baseline: tuple[str, str] | None = None
    rows: tuple[Ours, ...] = ()
    against: str = "SiT"
    ours: Callable[[PaperTable, Path], pd.DataFrame] = from_methods
    turned: bool = False  # the paper's columns are our rows
    note: str = ""

    @property
    def caption(self) -> str:
        return " ".join(filter(None, (f"{self.title}.", self.note, f"What was not run: {self.runs}.")))


def build(id: str, experiment: Experiment) -> Artefact:
    """The comparison of one table, from the papers' values and from our committed measurements."""
    table = TABLES[id]
    values = paper_values(experiment.root, id)
    none = pd.DataFrame(columns=[*table.on, *NO_OURS])
    ours = table.ours(table, experiment.root) if table.rows or table.ours is not from_methods else none
    beside = comparison(ours, turned(values) if table.turned else values, list(table.on))
    printed = beside["paper"].notna()
    run = beside["ours"].notna() & printed
    provenance = {
        "profile": experiment.profile,
        "note": f"{run.sum()} of the table's {printed.sum()} numbers have one of ours beside them",
        "models": {},
        "paper": table.paper,
        "not_run": table.runs,
        "device": "cpu",
        "command": f"defar table {id}",
    }
    changes = {"changes": pd.concat([paper_changes(table, values), our_changes(table, experiment.root)])}
    folder = figures_folder(experiment.root, id, experiment.profile)
    return Artefact(id, beside, changes, {}, provenance, folder)


def paper_changes(table: PaperTable, values: pd.DataFrame) -> pd.DataFrame:
    """By how many percent each row's headline metric differs from its group's baseline, as the paper prints them.

    Columns CHANGES; where names the group (data set, backbone, steps, guidance), who is "paper"."""
    values = values[(values["kind"] == "value") & values["column"].isin(HEADLINE)]
    telling = [name for name in table.within if name == "dataset" or values[name].nunique() > 1]
    rows = []
    for _, group in values.groupby(list(table.within), sort=False, dropna=False):
        group = group[group["column"] == next(c for c in HEADLINE if c in set(group["column"]))]
        first = group.iloc[0]
        if table.baseline is not None:
            named = group[(group["row"] == table.baseline[0]) & (group["setting"] == table.baseline[1])]
            first = named.iloc[0] if len(named) else first
        for index, row in group.iterrows():
            if index != first.name:
                percent = 100 * (row["value"] / first["value"] - 1)
                where = _where(row, telling)
                rows.append((where, row_name(row), "paper", 0, row["column"], percent, float("nan"), float("nan")))
    return pd.DataFrame(rows, columns=CHANGES)


def _where(row: pd.Series, within: list[str]) -> str:
    words = [row[name] for name in within if name in ("dataset", "backbone", "condition") and row[name]]
    if "x" in within and pd.notna(row["x"]):
        words.append(f"{row['x']:g} {row['x_name']}")
    return ", ".join(map(str, words))


_SIT = ("SiT", "")
_ENTRIES = (
    PaperTable("tab1", "Tab. 1", "Main results, class-conditional", ("dataset", "row", "iters", "condition"),
               IMAGENET.format("tab1/imagenet256-*.toml") + "--protocol adm-imagenet256, and both data sets with "
               "--guidance 1.5",
               baseline=_SIT,
               rows=rows_of(TAB1, CIFAR10) + rows_of(TAB1, {**CIFAR10, "condition": "cfg"}, group=GUIDED),
               note=_note(more="With guidance: scale 1.5, one training seed. At equal steps instead: group "
                          "\"equal steps\" of methods_differences.csv.")),
    PaperTable("tab2", "Tab. 2", "Unconditional results, discriminator guidance, mini-batch OT",
               ("panel", "dataset", "row", "iters", "setting", "condition"),
               "defar train reproduce/experiments/tab2/ROW.toml, then defar evaluate; CelebA-64 needs its images, the "
               "rows with a discriminator ImageNet",
               baseline=_SIT,
               rows=rows_of(TAB1, {**UNLABELLED, "panel": "left"}, group=NO_LABELS)
               + rows_of(TAB2_OT, {**UNLABELLED, "panel": "right-ot"}, {"FD-": "FID, first"}, group=NO_LABELS),
               note=_note("the shipped SiT's null label", "one training seed", "OT rows: this network and 50 Euler "
                          "steps, not the paper's U-Net; OT-FM is SiT. Guidance by a discriminator was run on "
                          "CIFAR-10, where the paper has no row: group \"discriminator\" of methods_pairs.csv.")),
    PaperTable("tab3", "Tab. 3", "Sizes of the network", ("backbone", "row", "iters", "condition"),
               IMAGENET.format("tab3/*.toml") + "--protocol adm-imagenet256"),
    PaperTable("tab4", "Tab. 4", "Other architectures; quality over the number of steps",
               ("panel", "row", "backbone", "iters", "x"),
               "REPA and DDT take ImageNet-512 and a GPU: defar train reproduce/experiments/tab4/ROW.toml, then defar "
               "evaluate; defar robustness CHECKPOINT... for more methods and steps",
               rows=tuple(row for nfe in (30, 50, 100, 250, 500) for row in rows_of(
                   TAB4, {**CIFAR10, "panel": "right", "x": nfe}, group=STEPS, nfe=nfe)),
               note=_note(seeds="one training seed")),
    PaperTable("tab5", "Tab. 5", "Interpolants and samplers", ("row", "setting"),
               "defar train reproduce/experiments/tab5/*.toml at the paper's size",
               within=("panel", "dataset", "backbone", "setting"),
               rows=tuple(Ours({**UNLABELLED, "row": method, "setting": f"interpolant={path}; solver={solver}"},
                               {"group": PATHS, "method": method, "interpolant": our_path, "solver": our_solver})
                          for our_path, path in TAB5_PATHS.items() for method in ("SiT", "DEFAR")
                          for our_solver, solver in TAB5_SOLVERS.items()),
               note=_note("a flow matching of its path (GVP, VP: 800 steps; linear: the shipped SiT's null label)",
                          "one training seed", "Compare methods, not paths. ODE is Euler, SDE Euler-Maruyama with "
                          "D = sigma.")),
    PaperTable("tab6", "Tab. 6", "ADR's target: normalisation and direction", ("row", "setting", "iters"),
               "defar train reproduce/experiments/tab6/*.toml at the paper's size",
               baseline=_SIT, rows=rows_of(TAB6, CIFAR10), note=_note()),
    PaperTable("tab7", "Tab. 7", "What the FC weight is made of", ("row", "setting"),
               "defar train reproduce/experiments/tab7/*.toml at the paper's size",
               baseline=("DEFAR", "weight=Exposure Bias"), rows=rows_of(TAB7, CIFAR10), against="DEFAR",
               note=_note()),
    PaperTable("tab8", "Tab. 8", "Coefficients", ("dataset", "backbone", "row", "setting"),
               "defar train reproduce/experiments/tab8/*.toml; ImageNet needs the data and a GPU",
               baseline=_SIT, rows=rows_of(TAB8, CIFAR10),
               note=_note(more="The paper's first coefficient is beta1; our text lost the names of the other two. That "
                          "they are alpha, then beta2, is a guess: the other order swaps our four rows there.")),
    PaperTable("tab9", "Tab. 9", "More simulated steps in ADR", ("row", "setting"),
               "defar train reproduce/experiments/tab9/*.toml at the paper's size",
               rows=rows_of(TAB9, UNLABELLED, group=NO_LABELS), against="ADR",
               note=_note("the shipped SiT's null label", "one training seed")),
    PaperTable("tab10", "Tab. 10", "Quality over the number of steps, with guidance", ("row", "iters", "x"),
               "defar robustness CHECKPOINT... --guidance 1.5 --nfe 30 50 100 250 500",
               rows=rows_of(TAB4, {**CIFAR10, "condition": "cfg", "x": 50}, group=GUIDED),
               note=_note(seeds="one training seed")),
    PaperTable("tab11", "Tab. 11", "Configurations", ("parameter",), "dropout and the number of devices are "
               "no part of a recipe", ours=configurations, turned=True,
               note="Ours: what the recipes in reproduce/experiments/tab11 build and train with."),
    PaperTable("mixflow", "MixFlow", "MixFlow's tables and the bands of its figure 1",
               ("panel", "dataset", "row", "backbone", "setting", "x", "condition"),
               "defar train reproduce/cifar10_mixflow.toml; its ImageNet checkpoints need the data and a GPU",
               within=("panel", "dataset", "backbone", "x", "condition")),
)  # fmt: skip
TABLES = {table.id: table for table in _ENTRIES}


def written(artefact: Artefact) -> tuple[Path, ...]:
    """Write the comparison as markdown and LaTeX beside its CSV."""
    return save(whole(artefact), artefact.folder / "data" / artefact.id, TABLES[artefact.id].caption)


def whole(artefact: Artefact) -> pd.DataFrame:
    """The comparison as it was before it went through a CSV, which keeps no empty words."""
    table = artefact.table
    words = [name for name in (*TABLES[artefact.id].on, "unit", "remark") if name not in ("iters", "x")]
    return table.astype(dict.fromkeys(words, object)).fillna(dict.fromkeys(words, ""))
