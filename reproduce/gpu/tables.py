"""Sample quality of the zoo's runs where they were trained: 10,000 images a cell, sampled, evaluated and compared.

python reproduce/gpu/tables.py [NAME ...] --minutes 9     NAME of zoo, steps, extras, ablations, eq15; called again, it
goes on. Back come table.csv, differences.csv (each run against its baseline, image by image), and influences.npz.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import eq15
import jobs
import numpy as np
import pandas as pd
import torch
import trainings

from defar_analysis.config import read_toml
from defar_analysis.core.cards import CARD
from defar_analysis.core.checkpoints import load_checkpoint
from defar_analysis.core.devices import resolve_device
from defar_analysis.errors import DefarError
from defar_analysis.evaluating import extractor_for, quality_warnings
from defar_analysis.files import replaced
from defar_analysis.measures.evaluation import Evaluation, differences, evaluate
from defar_analysis.measures.extractors import extracted
from defar_analysis.measures.features import FeatureStore
from defar_analysis.measures.protocols import DEFAULT, Protocol, protocol
from defar_analysis.measures.references import Reference, open_reference
from defar_analysis.provenance import digest
from defar_analysis.sample_plans import Plan, solver_named
from defar_analysis.sample_source import ImageSource

TABLES = jobs.WORK / "tables"
SEED, CHUNK, SHOWN = 0, 1000, 20
EVALUATIONS = {"euler": 1, "em": 1, "heun": 2}  # of one step
AT_50 = ("euler-50",)
GUIDED = ("euler-50", "euler-50-cfg1.5")  # Tab. 1
STEPPED = tuple(f"euler-{nfe}" for nfe in (30, 50, 100, 250))  # Tab. 4, right


@dataclass(frozen=True)
class Samples:
    """A run's checkpoint, the cells that it is sampled in, and the run that it is compared with."""

    name: str
    checkpoint: Path
    cells: tuple[str, ...]
    against: str


def wanted(names: list[str]) -> list[Samples]:
    """What belongs to the named tables; raises DefarError for another name."""
    zoos, work = trainings.runs(trainings.Setting(), jobs.WORK / "zoo"), jobs.WORK / "zoo"

    def of(group: str, cells: tuple[str, ...], stepped: tuple[str, ...] = ()) -> list[Samples]:
        own = [run for run in zoos[group] if not run.name.endswith("-start")]
        return [
            Samples(run.name, work / run.name / "checkpoint",
                    (*dict.fromkeys((*cells, *(STEPPED if run.name in stepped else ()))),), run.against)
            for run in own
        ]  # fmt: skip

    readings = [run for group in eq15.GROUPS for run in eq15.all_runs(eq15.SETTING, [group])]
    folder = jobs.WORK / "eq15"
    known = {
        "zoo": of("compute", GUIDED, ("sit", "ip", "sdss", "mdss", "defar")),
        "steps": of("steps", AT_50),
        "extras": [*of("uncond", AT_50), *of("ot", AT_50), *of("paths", ("euler-50", "em-50"))],
        "ablations": of("ablations", AT_50),
        "eq15": [
            Samples(run.name, folder / run.name / "checkpoint", AT_50, run.against)
            for run in {run.name: run for run in readings}.values()
        ],
    }
    unknown = [name for name in names if name not in known]
    if unknown:
        raise DefarError(f"no table {unknown[0]!r}; choose from {', '.join(known)}")
    return [samples for name in names or ("zoo",) for samples in known[name]]


def in_cells(chosen: list[Samples], cells: list[str]) -> list[Samples]:
    """Those of `chosen` that are sampled in some of the cells, in these alone; raises DefarError for an unknown one."""
    known = {cell for samples in chosen for cell in samples.cells}
    if unknown := [cell for cell in cells if cell not in known]:
        raise DefarError(f"no cell {unknown[0]!r}; choose from {', '.join(sorted(known))}")
    kept = [replace(samples, cells=tuple(c for c in samples.cells if c in cells)) for samples in chosen]
    return [samples for samples in kept if samples.cells]


def plan_of(cell: str, count: int, chunk: int, precision: str = "float32") -> Plan:
    """euler-50, em-50, heun-50-cfg1.5: solver, evaluations of the velocity for an image, and perhaps guidance."""
    solver, nfe, *rest = cell.split("-")
    guidance = float(rest[0].removeprefix("cfg")) if rest else None
    steps = int(nfe) // EVALUATIONS[solver]
    return Plan(solver_named(solver, steps), count, SEED, "balanced", guidance, chunk=chunk, precision=precision)


def drawn(checkpoint: Path, cell: str, count: int, device: torch.device, bf16: bool) -> tuple[np.ndarray, int]:
    """Images (N, 3, H, W) uint8 of a checkpoint and the evaluations that each took."""
    plan = plan_of(cell, count, min(CHUNK, count), "bf16" if bf16 else "float32")
    source = ImageSource(load_checkpoint(checkpoint, device=device), plan, device)
    parts = [source.chunk(start) for start in source.starts]
    return np.concatenate([part[0] for part in parts]).transpose(0, 3, 1, 2), max(part[1] for part in parts)


def reference_of(used: Protocol, extractor, every_metric: bool) -> Reference:
    """The protocol's reference; without its images' features what takes N^2 (recall, kernel distance) is left out."""
    found = open_reference(used, extractor, FeatureStore(TABLES / "features"))
    return found if every_metric else Reference(found.name, found.sha256, found.count, found.pool, found.spatial, None)


def home(samples: Samples, options: argparse.Namespace) -> Path:
    """Where a run's cells lie: another checkpoint or manner of measuring has another place."""
    card = samples.checkpoint / CARD
    sha256 = read_toml(card)["sha256"] if card.exists() else None
    return TABLES / f"{samples.name}-{digest([sha256, options.n, options.bf16, options.every_metric])}"


def measure_run(samples: Samples, used: Protocol, device: torch.device, options: argparse.Namespace) -> None:
    """Every cell of a run that is not there yet, in its home: <cell>.npz and, last, <cell>.csv."""
    extractor, place_of_all = extractor_for(used, device), home(samples, options)
    for cell in samples.cells:
        place = place_of_all / f"{cell}.csv"
        if place.exists():
            continue
        images, nfe = drawn(samples.checkpoint, cell, used.count, device, options.bf16)
        features = extracted(extractor, np.ascontiguousarray(images), min(250, used.count))
        with quality_warnings():
            found = evaluate(samples.name, features, reference_of(used, extractor, options.every_metric), used)
        settings = {"cell": cell, "nfe": nfe, "precision": "bf16" if options.bf16 else "float32"}
        with replaced(place.with_suffix(".npz")) as beside, open(beside, "wb") as file:
            np.savez(file, shown=images[:SHOWN], **{n: h.astype(np.float32) for n, h in found.influences.items()})
        with replaced(place) as beside:
            found.table.assign(**settings).to_csv(beside, index=False)
        print(f"{samples.name} {cell}: {found.table['metric'].iloc[0]} {found.table['value'].iloc[0]:.2f}", flush=True)


def collect(
    chosen: list[Samples], used: Protocol, options: argparse.Namespace
) -> tuple[pd.DataFrame, pd.DataFrame, dict[str, np.ndarray]]:
    """The table, the differences to each run's baseline in the same cell, and the influences on the distance."""
    tables, compared, influences, found = [], [], {}, {}
    for samples in chosen:
        for cell in samples.cells:
            place = home(samples, options) / f"{cell}.csv"
            if place.exists():
                table = pd.read_csv(place)
                with np.load(place.with_suffix(".npz")) as arrays:
                    own = {name: arrays[name].astype(np.float64) for name in arrays if name != "shown"}
                pairing = {"seed": SEED, "labels": "balanced"}
                found[samples.name, cell] = Evaluation(table, own, pairing)
                influences[f"{samples.name}/{cell}"] = own[used.metric_names["frechet"]].astype(np.float32)
                tables.append(table)
    for samples in chosen:
        for cell in samples.cells:
            pair = (samples.against, cell), (samples.name, cell)
            if samples.against != samples.name and all(key in found for key in pair):
                rows = differences([found[key] for key in pair], samples.against, used)
                compared.append(rows.assign(cell=cell))
    empty = pd.DataFrame()
    return (*(pd.concat(parts, ignore_index=True) if parts else empty for parts in (tables, compared)), influences)


def as_jobs(chosen: list[Samples], names: list[str], options: argparse.Namespace) -> list[jobs.Job]:
    """One for each run that is trained, after one that extracts the reference."""
    given = ["--device", options.device, "--n", str(options.n), *(["--bf16"] if options.bf16 else [])]
    given += ["--every-metric"] if options.every_metric else []
    given += ["--cells", *options.cells] if options.cells else []
    own = [sys.executable, str(Path(__file__)), *names, *given, "--only"]
    queue = [jobs.Job("reference", (*own, "reference"), TABLES / f"reference-{options.n}")]
    for samples in chosen:
        if samples.checkpoint.exists():
            last = home(samples, options) / f"{samples.cells[-1]}.csv"  # cells are measured in order
            queue.append(jobs.Job(f"samples-{samples.name}", (*own, samples.name), last, "reference"))
    return queue


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", default=["zoo"])
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--at-once", type=int, default=5)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--n", type=int, default=10_000, help="images a cell, of the reference too")
    parser.add_argument("--bf16", action="store_true", help="the network under autocast; the state stays float32")
    parser.add_argument("--every-metric", action="store_true", help="also precision, recall, kernel distance: a minute")
    parser.add_argument(
        "--cells", nargs="+", metavar="CELL", help="only these, as euler-50; default: all of the table's"
    )
    parser.add_argument("--only", help="do this run's work in this process")
    options = parser.parse_args(arguments)
    used, chosen = protocol(DEFAULT, options.n), wanted(options.names)
    chosen = in_cells(chosen, options.cells) if options.cells else chosen
    if options.only:
        device = resolve_device(options.device)
        TABLES.mkdir(parents=True, exist_ok=True)
        if options.only == "reference":
            with quality_warnings():
                reference_of(used, extractor_for(used, device), True)
            (TABLES / f"reference-{options.n}").touch()
        for samples in [samples for samples in chosen if samples.name == options.only]:
            measure_run(samples, used, device, options)
        return 0
    states = jobs.work(as_jobs(chosen, options.names, options), options.at_once, 60 * options.minutes)
    table, compared, influences = collect(chosen, used, options)
    jobs.OUT.mkdir(parents=True, exist_ok=True)
    table.to_csv(jobs.OUT / "table.csv", index=False)
    compared.to_csv(jobs.OUT / "differences.csv", index=False)
    np.savez_compressed(jobs.OUT / "influences.npz", **influences)
    return jobs.tell(states)


if __name__ == "__main__":
    jobs.run_script(main)
