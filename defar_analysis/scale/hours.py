"""Hours of a run: as the paper prints them, from measured throughput, and estimated for accelerators we never had."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from ..core.recipes import Recipe
from ..errors import DefarError
from ..planning import describe
from .runs import Run

CORES = 2  # of the machine that throughput.csv was measured on, by one thread


@dataclass(frozen=True)
class Accelerator:
    """peak: dense bfloat16 operations a second, as the vendor prints them."""

    name: str
    peak: float

    def hours(self, flops: float, utilisation: float) -> float:
        """An estimate: `flops` at that share of the peak."""
        return flops / (utilisation * self.peak) / 3600


H200, A100 = Accelerator("H200", 989e12), Accelerator("A100", 312e12)
UTILISATION = (0.3, 0.5)  # assumed, not measured: what well-fed transformers of this size reach


def cpu_hours(run: Run, throughput: pd.DataFrame, flops: float | None = None) -> float:
    """Hours on all cores of the measured machine, if `CORES` threads do as many times the work of one.

    flops: of something else than the training, by the same network.
    """
    flops = run.cost.flops if flops is None else flops
    return flops / (CORES * 1e9 * measured_rate(run, throughput)) / 3600


def measured_rate(run: Run, throughput: pd.DataFrame) -> float:
    """GFLOP/s of one thread: of the same network on as many pixels, else of the largest network that was measured.
    Raises DefarError for an empty table."""
    if throughput.empty:
        raise DefarError("throughput.csv holds no rows: measure some, with measure.py beside it")
    network, side = run.recipe.network, run.recipe.data_spec().size
    same = (throughput["network"] == f"{network.family} {network.size}") & (throughput["side"] == side)
    rows = throughput[same] if same.any() else throughput.nlargest(1, "parameters")
    return float(rows["gflop_per_second"].median())


def paper_hours(run: Run, values: pd.DataFrame) -> list[float]:
    """What the paper prints for these recipes, each number once; empty where it prints none, or no iterations."""
    found = []
    for file, recipe in run.recipes.items():
        rows = values[values["column"] == "Hour"]
        for column, wanted in paper_row(file, recipe).items():
            rows = rows[rows[column] == wanted]
        found += rows["value"].tolist()
    return list(dict.fromkeys(found))


def paper_row(file: str, recipe: Recipe) -> dict[str, str | float]:
    """Where the paper prints this recipe's hours: table, data set, method, backbone and iterations."""
    objective = describe(recipe).split()[0]
    method = {"flow_matching": "SiT", "input_perturbation": "IP"}.get(objective, objective.upper())
    for part, label in (("adr", "w/o ADR"), ("fc", "w/o FC")):
        method += f" {label}" if recipe.objective.get(part) is False else ""
    family, backbone = recipe.network.family, f"SiT-{recipe.network.size}"
    other = {"unet": "OT-CFM" if recipe.coupling == "ot" else "OT-FM", "ddt": "DDT"}.get(family)
    other = "REPA" if recipe.alignment is not None else other
    if other is not None:
        method = other if objective == "flow_matching" else f"{other} + DEFAR"
        backbone = "U-Net" if family == "unet" else f"{other}-{recipe.network.size}"
    dataset = recipe.data.name.removesuffix("-latents")
    if dataset == "cifar10" and not recipe.data.class_conditional:
        dataset = "cifar10-uncond"
    table = file.split("/")[0]
    return {"id": table, "dataset": dataset, "row": method, "backbone": backbone, "iters": float(recipe.steps)}
