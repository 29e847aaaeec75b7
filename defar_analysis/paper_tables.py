"""The papers' tables, each with its value, ours and the difference beside each other, and what would run the rest."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from .artefacts import Artefact, committed, figures_folder, read
from .paper import paper_values
from .tables import comparison, save

if TYPE_CHECKING:
    from .experiment import Experiment

NO_OURS = ["metric", "value", "low", "high", "n", "protocol"]
CHANGES = ["where", "row", "who", "seed", "metric", "percent", "low", "high"]
METHODS_TABLES = ("differences", "pairs", "seeds")
METHODS_TAKE = "about an hour on 2 cores once the runs are there; it can be stopped and resumed"
# The measure that rows are compared by; lower is better for all.
HEADLINE = ("FID", "Avg. FID", "FID, first")

# A row of ours in the paper's tables: (row, setting) there, by our method in figures/data/methods.csv.
TAB1 = {("SiT", ""): "SiT", ("IP", ""): "IP", ("SDSS", ""): "SDSS", ("MDSS", ""): "MDSS", ("DEFAR w/o FC", ""): "ADR",
        ("DEFAR w/o ADR", ""): "FC", ("DEFAR", ""): "DEFAR"}  # fmt: skip
TAB6 = {
    ("SiT", ""): "SiT",
    ("DEFAR", "normalization=none; direction=Anti-Drift"): "target: raw",
    ("DEFAR", "normalization=Rescale; direction=Anti-Drift"): "target: rescaled",
    ("DEFAR", "normalization=Unit Length; direction=Anti-Drift"): "DEFAR",
}
TAB7 = {("DEFAR", "weight=Low Pass"): "weight: low pass", ("DEFAR", "weight=High Pass"): "weight: high pass",
        ("DEFAR", "weight=Original Image"): "weight: image", ("DEFAR", "weight=Original Noise"): "weight: noise",
        ("DEFAR", "weight=Exposure Bias"): "DEFAR"}  # fmt: skip
TAB8 = {("SiT", ""): "SiT", ("DEFAR", "coefficients=10/1.0/1.0"): "DEFAR"}

RUN = "python reproduce/records/2026-11-21-objectives/run.py"
EQUAL_COMPUTE = (
    "Ours: every row post-trained from the shipped SiT with 1,260 network passes of 64 images (equal compute, not "
    "equal iterations), the mean over its training seeds; ADR stops the gradient at x_hat. The brackets are those of "
    "the images, averaged over seeds."
)
IMAGENET = (
    "ImageNet needs the data and a GPU: defar train reproduce/experiments/{}, then defar evaluate RUN/checkpoint "
)


@dataclass(frozen=True)
class PaperTable:
    """One table. on: the columns that name a cell.

    ours: rows of ours with the columns `on` and those of tables.comparison, from the project's folder. runs: the
    command of everything that was not run. within: where the paper's row `baseline` (row, setting; None: that group's
    first) stands for a group; methods: see TAB1.
    """

    id: str
    paper: str
    title: str
    on: tuple[str, ...]
    runs: str
    within: tuple[str, ...] = ("panel", "dataset", "backbone", "x", "condition")
    baseline: tuple[str, str] | None = None
    methods: tuple[tuple[tuple[str, str], str], ...] = ()
    ours: Callable[[PaperTable, Path], pd.DataFrame] | None = None
    turned: bool = False  # the paper's columns are our rows
    note: str = ""

    @property
    def caption(self) -> str:
        return " ".join(filter(None, (f"{self.title}.", self.note, f"What was not run: {self.runs}.")))


def build(id: str, experiment: Experiment) -> Artefact:
    """The comparison of one table, from the papers' values and from our committed measurements."""
    table = TABLES[id]
    values = paper_values(experiment.root, id)
    ours = table.ours(table, experiment.root) if table.ours else pd.DataFrame(columns=[*table.on, *NO_OURS])
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
    values = values[values["column"] == next((c for c in HEADLINE if c in set(values["column"])), "")]
    telling = [name for name in table.within if name == "dataset" or values[name].nunique() > 1]
    rows = []
    for _, group in values.groupby(list(table.within), sort=False, dropna=False):
        first = group.iloc[0]
        if table.baseline is not None:
            named = group[(group["row"] == table.baseline[0]) & (group["setting"] == table.baseline[1])]
            first = named.iloc[0] if len(named) else first
        for index, row in group.iterrows():
            if index != first.name:
                percent = 100 * (row["value"] / first["value"] - 1)
                where = _where(row, telling)
                rows.append((where, _row_name(row), "paper", 0, row["column"], percent, float("nan"), float("nan")))
    return pd.DataFrame(rows, columns=CHANGES)


def our_changes(table: PaperTable, root: Path) -> pd.DataFrame:
    """The same of ours, paired by image, for every training seed, with its 95 % interval; who is "ours"."""
    if table.ours is from_robustness:
        found = _first_protocol(read("robustness", root / "figures", ("differences",)).tables["differences"])
        found = found[found["metric"].str.startswith("FD-")]
        rows = [("cifar10", f"DEFAR 250k (cifar10, {one.nfe:g} NFE)", "ours", 0, one.metric, one.percent,
                 one.percent_low, one.percent_high) for one in found.itertuples()]  # fmt: skip
        return pd.DataFrame(rows, columns=CHANGES)
    if not table.methods:
        return pd.DataFrame(columns=CHANGES)
    study = _methods(root)
    baseline = dict(table.methods)[table.baseline or ("SiT", "")]
    found = pd.concat([study.tables["differences"], study.tables["pairs"]]).drop_duplicates(
        ["method", "baseline", "metric", "seed"]
    )
    found = found[found["metric"].str.startswith("FD-") & (found["baseline"] == baseline)]
    rows = []
    for (row, setting), method in table.methods:
        for one in found[found["method"] == method].itertuples():
            beside = {"row": row, "setting": setting, "iters": _iterations(table, row, setting, root)}
            name = _row_name(pd.Series(beside))
            rows.append(("cifar10, post-trained", name, "ours", one.seed, one.metric, one.percent, one.percent_low,
                         one.percent_high))  # fmt: skip
    return pd.DataFrame(rows, columns=CHANGES)


def from_methods(table: PaperTable, root: Path) -> pd.DataFrame:
    """Our rows of a table on conditional CIFAR-10 without guidance, means over the training seeds."""
    measured = _methods(root).table
    numbers = {"value": "mean", "low": "mean", "high": "mean"}
    means = measured.groupby(["method", "metric", "n", "protocol"], sort=False).agg(numbers).reset_index()
    parts = []
    for (row, setting), method in table.methods:
        own = means[means["method"] == method]
        fixed = {"row": row, "setting": setting, "dataset": "cifar10", "condition": "no cfg", "backbone": "SiT-B/4",
                 "iters": _iterations(table, row, setting, root)}  # fmt: skip
        parts.append(own.assign(**fixed))
    ours = pd.concat(parts, ignore_index=True)
    kept = ours["metric"].str.match("FD-|sFD-|IS-|precision$|recall$")
    return ours.loc[kept, [*table.on, *NO_OURS]]


def from_robustness(table: PaperTable, root: Path) -> pd.DataFrame:
    """Tab. 4 (right): the two shipped checkpoints over the numbers of steps, by the first of the study's evaluators."""
    found = _first_protocol(read("robustness", root / "figures").table)
    found = found[found["model"].isin(["SiT", "DEFAR"])]
    found = found[found["metric"].str.match("FD-|IS-")].rename(columns={"model": "row", "nfe": "x"})
    iters = found["row"].map({"DEFAR": 250_000.0})  # at equal compute, as the paper's shorter run
    fixed = {"panel": "right", "iters": iters, "condition": "no cfg", "setting": "",
             "backbone": "SiT-B/4"}  # fmt: skip
    return found.assign(**fixed)[[*table.on, *NO_OURS]].assign(dataset="cifar10")


def configurations(table: PaperTable, root: Path) -> pd.DataFrame:
    """Tab. 11 from our recipes: what each of them really builds and trains with."""
    import torch  # nothing else of the tables needs it

    from .core.recipes import load_recipe

    rows = []
    for (dataset, backbone), file in TAB11.items():
        recipe = load_recipe(root / "reproduce" / "experiments" / "tab11" / file)
        with torch.device("meta"):
            network = recipe.build_network(recipe.data_spec())
        objective = recipe.build_objective(recipe.data_spec(), recipe.steps)
        config, optimizer = network.config, recipe.optimizer
        millions = sum(p.numel() for p in network.parameters() if p.requires_grad) / 1e6
        held = {
            "Params": millions, "Depth": config["depth"], "Hidden dim": config["hidden_size"],
            "Heads": config["num_heads"], "Training iterations": recipe.steps,
            "Global batch size": recipe.global_batch, "Learning rate": optimizer.lr, "Adam beta1": optimizer.betas[0],
            "Adam beta2": optimizer.betas[1], "Weight decay": optimizer.weight_decay, "Gradient clip": optimizer.clip,
            "alpha": objective.alpha, "beta1": objective.beta1, "beta2": objective.beta2,
        }  # fmt: skip
        rows += [(dataset, backbone, name, value) for name, value in held.items()]
    ours = pd.DataFrame(rows, columns=["dataset", "backbone", "column", "value"])
    units = paper_values(root, "tab11").drop_duplicates("column").set_index("column")["unit"]
    ours = turned(ours.assign(unit=ours["column"].map(units)))
    nothing = dict.fromkeys(("low", "high", "n"), float("nan"))
    return ours.assign(metric=ours["column"], protocol="our recipe", **nothing)


def turned(values: pd.DataFrame) -> pd.DataFrame:
    """The same with a row for each parameter and a column for each configuration."""
    unit = values["unit"].map(lambda u: f" ({u})" if u else "")
    configuration = values["backbone"] + ", " + values["dataset"]
    return values.assign(parameter=values["column"] + unit, column=configuration, unit="")


def _first_protocol(table: pd.DataFrame) -> pd.DataFrame:
    return table[table["protocol"] == table["protocol"].iloc[0]]


def _methods(root: Path) -> Artefact:
    return committed("methods", METHODS_TABLES, root, METHODS_TAKE)


def _iterations(table: PaperTable, row: str, setting: str, root: Path) -> float:
    """The paper's row that ours stands beside has this many iterations: of several, the fewest, which cost as much as
    SiT's."""
    values = paper_values(root, table.id)
    own = values[(values["row"] == row) & (values["setting"] == setting) & (values["dataset"] == "cifar10")]
    return own["iters"].min()


def _row_name(row: pd.Series) -> str:
    iterations = f" {row['iters'] / 1000:.0f}k" if row["row"] == "DEFAR" and pd.notna(row["iters"]) else ""
    return _joined(row["row"], row["setting"]) + iterations


def _joined(row: str, setting: str) -> str:
    values = "; ".join(part.partition("=")[2] or part for part in setting.split("; "))
    return f"{row}, {values}" if setting else row


def _where(row: pd.Series, within: list[str]) -> str:
    words = [row[name] for name in within if name in ("dataset", "backbone", "condition") and row[name]]
    if "x" in within and pd.notna(row["x"]):
        words.append(f"{row['x']:g} {row['x_name']}")
    return ", ".join(map(str, words))


TAB11 = {
    ("imagenet256", "SiT-B/4"): "b4-imagenet256.toml", ("imagenet256", "SiT-M/2"): "m2-imagenet256.toml",
    ("imagenet256", "SiT-XL/2"): "xl2-imagenet256.toml", ("imagenet256", "SiT-XL/2+"): "xl2-plus-imagenet256.toml",
    ("celeba64", "SiT-B/4"): "b4-celeba64.toml", ("cifar10", "SiT-B/4"): "b4-cifar10.toml",
}  # fmt: skip
_SIT = ("SiT", "")
_ENTRIES = (
    PaperTable("tab1", "Tab. 1", "Main results, class-conditional", ("dataset", "row", "iters", "condition"),
               IMAGENET.format("tab1/imagenet256-*.toml") + "--protocol adm-imagenet256, and both data sets with "
               "--guidance 1.5",
               baseline=_SIT, methods=tuple(TAB1.items()), ours=from_methods, note=EQUAL_COMPUTE),
    PaperTable("tab2", "Tab. 2", "Unconditional results, discriminator guidance, mini-batch OT",
               ("panel", "dataset", "row", "iters", "setting", "condition"),
               "defar train reproduce/experiments/tab2/ROW.toml (--scale cpu for a small one), then defar evaluate; "
               "CelebA-64 needs its images; the U-Net rows need a network that is not here yet"),
    PaperTable("tab3", "Tab. 3", "Sizes of the network", ("backbone", "row", "iters", "condition"),
               IMAGENET.format("tab3/*.toml") + "--protocol adm-imagenet256"),
    PaperTable("tab4", "Tab. 4", "Other architectures; quality over the number of steps",
               ("panel", "row", "backbone", "iters", "x"),
               "REPA and DDT are not here yet; defar robustness CHECKPOINT... for more methods and steps",
               ours=from_robustness, note="Ours: CIFAR-10, the two shipped checkpoints, n = 2,000."),
    PaperTable("tab5", "Tab. 5", "Interpolants and samplers", ("row", "setting"),
               "defar train reproduce/experiments/tab5/*.toml (--scale cpu), then defar robustness "
               "NAME=LINEAR,VP,GVP --solver euler em --nfe 50",
               within=("panel", "dataset", "backbone", "setting")),
    PaperTable("tab6", "Tab. 6", "ADR's target: normalisation and direction", ("row", "setting", "iters"),
               "defar train reproduce/experiments/tab6/*.toml (post-trained: " + RUN + " straight)",
               baseline=_SIT, methods=tuple(TAB6.items()), ours=from_methods, note=EQUAL_COMPUTE),
    PaperTable("tab7", "Tab. 7", "What the FC weight is made of", ("row", "setting"),
               "defar train reproduce/experiments/tab7/*.toml at the paper's size",
               baseline=("DEFAR", "weight=Exposure Bias"), methods=tuple(TAB7.items()), ours=from_methods,
               note=EQUAL_COMPUTE),
    PaperTable("tab8", "Tab. 8", "Coefficients", ("dataset", "backbone", "row", "setting"),
               "defar train reproduce/experiments/tab8/*.toml (post-trained: " + RUN + " beta1-one beta1-fifty "
               "alpha-half alpha-five beta2-half beta2-five); ImageNet needs the data and a GPU",
               baseline=_SIT, methods=tuple(TAB8.items()), ours=from_methods,
               note=EQUAL_COMPUTE + " The paper's first coefficient is beta1; our text lost the "
               "names of the other two, alpha and beta2."),
    PaperTable("tab9", "Tab. 9", "More simulated steps in ADR", ("row", "setting"),
               "defar train reproduce/experiments/tab9/*.toml (--scale cpu for a small one), then defar evaluate"),
    PaperTable("tab10", "Tab. 10", "Quality over the number of steps, with guidance", ("row", "iters", "x"),
               "defar robustness CHECKPOINT... --guidance 1.5 --nfe 30 50 100 250 500"),
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
