"""Our rows of the papers' tables: from the study of the objectives, and from what our recipes build."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from .artefacts import Artefact, committed
from .errors import DefarError
from .paper import paper_values
from .tables import BESIDE

if TYPE_CHECKING:
    from .paper_tables import PaperTable

NO_OURS = ["metric", "value", "low", "high", "n", "protocol"]
CHANGES = ["where", "row", "who", "seed", "metric", "percent", "low", "high"]
METHODS_TABLES = ("differences", "pairs", "seeds")
METHODS_TAKE = "about three hours on 2 cores once the runs are there; it can be stopped and resumed"
RUN = "python reproduce/records/2026-11-21-objectives/run.py"
LABELS, NO_LABELS, PATHS, STEPS = "labels", "no labels", "paths", "steps"  # the study's groups
EQUAL_STEPS = "equal steps"  # with labels; all others are at equal compute
FROM_NOTHING = "from nothing"  # the zoo's at equal steps, with labels; all others are post-trained
GUIDED, JUDGED = "guided", "discriminator"  # classifier-free, and by a discriminator
CIFAR10 = {"dataset": "cifar10", "condition": "no cfg", "backbone": "SiT-B/4", "setting": ""}
UNLABELLED = {"dataset": "cifar10-uncond", "condition": "", "setting": ""}
_STUDY = ("group", "method", "solver", "interpolant", "nfe")


@dataclass(frozen=True)
class Ours:
    """A row of ours. paper: the columns of the paper's row that it stands beside; study: its own in methods.csv;
    beside: the paper's metric by the start of ours."""

    paper: Mapping[str, str | float]
    study: Mapping[str, str | float]
    beside: Mapping[str, str] = field(default_factory=lambda: BESIDE)

    def of(self, table: pd.DataFrame) -> pd.DataFrame:
        """The rows of a table of the study that are this row's."""
        wanted = {"group": LABELS, "solver": "euler", "interpolant": "linear", "nfe": 50, **self.study}
        return table[(table[list(_STUDY)] == pd.Series(wanted)[list(_STUDY)]).all(axis=1)]

    def column(self, metric: str) -> str:
        """The paper's metric that one of ours stands beside; "" for none."""
        return next((theirs for start, theirs in self.beside.items() if metric.startswith(start)), "")


def rows_of(
    names: Mapping[tuple[str, str], str],
    paper: Mapping[str, str | float],
    beside: Mapping[str, str] = BESIDE,
    **study: str | float,
) -> tuple[Ours, ...]:
    """Rows by the paper's (row, setting): our method; the other columns of both are common to them."""
    return tuple(Ours({**paper, "row": row, "setting": setting}, {"method": method, **study}, beside)
                 for (row, setting), method in names.items())  # fmt: skip


def from_methods(table: PaperTable, root: Path) -> pd.DataFrame:
    """Our rows of a table, means over the training seeds, in the metrics that the paper prints in that row."""
    measured = _methods(root).table
    numbers = {"value": "mean", "low": "mean", "high": "mean"}
    parts = []
    for ours in table.rows:
        own = ours.of(measured).groupby(["metric", "n", "protocol"], sort=False).agg(numbers).reset_index()
        columns = own["metric"].map(ours.column)
        printed, iterations = _like(table, ours, root)
        fixed = {**ours.paper, "iters": iterations, "column": columns}
        parts.append(own.assign(**fixed)[columns.isin(printed)])
    ours = pd.concat(parts, ignore_index=True)
    return ours[list(dict.fromkeys([*table.on, *NO_OURS, "column", "dataset"]))]


def our_changes(table: PaperTable, root: Path) -> pd.DataFrame:
    """By how many percent our rows' Fréchet distances differ from table.against, paired by image, for every training
    seed, with 95 % intervals. Columns CHANGES; who is "ours"."""
    if not table.rows:
        return pd.DataFrame(columns=CHANGES)
    study = _methods(root)
    found = pd.concat([study.tables["differences"], study.tables["pairs"]])
    found = found.drop_duplicates([*_STUDY, "baseline", "metric", "seed"])
    found = found[found["metric"].str.startswith("FD-") & (found["baseline"] == table.against)]
    rows = []
    for ours in table.rows:
        where = [str(ours.paper["dataset"]), *(["cfg"] if ours.paper.get("condition") == "cfg" else [])]
        where += [f"{ours.paper['x']:g} NFE"] if "x" in ours.paper else []
        name = row_name({"setting": "", **ours.paper, "iters": _like(table, ours, root)[1]})
        for one in ours.of(found).itertuples():
            rows.append((", ".join(where), name, "ours", one.seed, one.metric, one.percent, one.percent_low,
                         one.percent_high))  # fmt: skip
    return pd.DataFrame(rows, columns=CHANGES)


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


def row_name(row: Mapping) -> str:
    """A row of a table in words: its name, the values of its setting, and DEFAR's number of iterations."""
    iterations = f" {row['iters'] / 1000:.0f}k" if row["row"] == "DEFAR" and pd.notna(row["iters"]) else ""
    values = "; ".join(_values(row["setting"]))
    return (f"{row['row']}, {values}" if values else row["row"]) + iterations


def _values(setting: str) -> Iterable[str]:
    return (part.partition("=")[2] or part for part in setting.split("; ")) if setting else ()


def _methods(root: Path) -> Artefact:
    return committed("methods", METHODS_TABLES, root, METHODS_TAKE)


def _like(table: PaperTable, ours: Ours, root: Path) -> tuple[set[str], float]:
    """The metrics of the paper's row that ours stands beside, and its iterations: of several trainings, the shortest,
    which costs as much as SiT's. Raises DefarError where the paper has no such row."""
    values = paper_values(root, table.id)
    keys = [key for key in ours.paper if key in values and (key != "dataset" or key in table.on)]
    own = values[(values[keys] == pd.Series(ours.paper)[keys]).all(axis=1)]
    if own.empty:
        named = ", ".join(f"{key} = {ours.paper[key]}" for key in keys)
        raise DefarError(f"the paper's {table.id} has no row {named}; mend ours")
    return set(own["column"]), own["iters"].min()


TAB11 = {
    ("imagenet256", "SiT-B/4"): "b4-imagenet256.toml", ("imagenet256", "SiT-M/2"): "m2-imagenet256.toml",
    ("imagenet256", "SiT-XL/2"): "xl2-imagenet256.toml", ("imagenet256", "SiT-XL/2+"): "xl2-plus-imagenet256.toml",
    ("celeba64", "SiT-B/4"): "b4-celeba64.toml", ("cifar10", "SiT-B/4"): "b4-cifar10.toml",
}  # fmt: skip
