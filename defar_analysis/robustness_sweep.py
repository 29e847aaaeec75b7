"""`defar robustness`: sample every cell of a step-robustness table, keep its images, evaluate them.

results/samples/<cell>.npz     images, uint8: a second protocol or a better extractor samples nothing again
results/features/              what the extractor made of them
results/robustness/            each cell's metrics with the influences behind its intervals
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property, partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from .core.checkpoints import Checkpoint, load_checkpoint
from .core.datasets import ImageDataset, npz_dataset
from .core.devices import keep_heap, resolve_device
from .core.parallel import ALONE, Processes
from .errors import DefarError
from .evaluating import extractor_for, quality_warnings
from .measures.base import Arrays
from .measures.evaluation import VERSION, Evaluation, evaluate
from .measures.extractors import Extractor, extracted
from .measures.features import FeatureStore, Share, StoredImages
from .measures.protocols import Protocol, balanced_indices
from .measures.references import Reference, open_reference
from .measures.robustness import (
    NFES,
    Cell,
    against_baseline,
    over_steps,
    quality_table,
)
from .measures.store import Store
from .provenance import digest
from .robustness_report import Robustness
from .sample_files import npz_record
from .sample_plans import Plan, solver_named
from .sample_source import ImageSource
from .sampling import finished, sample_to_file, settled

EVALUATIONS = {"euler": 1, "em": 1, "heun": 2}  # of one step
SEED = 0


@dataclass(frozen=True)
class Grid:
    """The cells of a table: every checkpoint by every solver, NFE and guidance scale (None: no guidance).

    checkpoints: a model's folder by its name; or several, one for each interpolant that it was trained on (Tab. 5).
    discriminators: the folder of the one that guides a model, by the model's name, for those that have one (Tab. 2).
    """

    checkpoints: Mapping[str, Path | Sequence[Path]]
    nfes: tuple[int, ...] = NFES
    solvers: tuple[str, ...] = ("euler",)
    guidances: tuple[float | None, ...] = (None,)
    seed: int = SEED
    discriminators: Mapping[str, Path] = field(default_factory=dict)
    chunk: int = 64
    precision: str = "float32"

    def __post_init__(self) -> None:
        for model in self.discriminators.keys() - self.checkpoints.keys():
            raise DefarError(f"discriminator of {model!r}: no such model among {', '.join(self.checkpoints)}")
        if not self.checkpoints or not self.nfes or not self.solvers:
            raise DefarError("a robustness table needs a checkpoint, an NFE and a solver at least")
        for solver in self.solvers:
            if solver not in EVALUATIONS:
                raise DefarError(f"solver {solver!r} has no given number of evaluations; choose from euler, heun, em")
            odd = [nfe for nfe in self.nfes if nfe < 1 or nfe % EVALUATIONS[solver]]
            if odd:
                raise DefarError(f"NFE {odd[0]} is no multiple of {solver}'s {EVALUATIONS[solver]} evaluations a step")

    @property
    def folders(self) -> list[tuple[str, Path]]:
        """(model, folder) of every checkpoint."""
        alone = {
            model: [given] if isinstance(given, str | Path) else given for model, given in self.checkpoints.items()
        }
        return [(model, Path(folder)) for model, folders in alone.items() for folder in folders]


class Sweep:
    """A grid under one protocol on one device. Everything it makes is kept under `results` and taken from there.

    `say` is told, line by line, what goes on. processes: those that share the sampling and the extraction by `share`;
    evaluations are then the first one's.
    """

    def __init__(
        self,
        grid: Grid,
        protocol: Protocol,
        results: Path,
        device: str = "auto",
        reference: str | None = None,
        inception_weights: Path | None = None,
        say: Callable[[str], None] = lambda line: None,
        processes: Processes = ALONE,
    ) -> None:
        if (size := Processes.from_environment().size) != processes.size:
            raise DefarError(f"WORLD_SIZE={size}: this sweep runs in one process; start it without torchrun")
        self.processes = processes
        self.grid, self.protocol, self.results, self.say = grid, protocol, Path(results), say
        self.device = resolve_device(device)
        if self.device.type == "cpu":
            keep_heap()  # else page faults slow guided chunks and the extractor
        self.extractor: Extractor = extractor_for(protocol, self.device, inception_weights)
        self.features = FeatureStore(self.results / "features")
        self.store = Store(self.results)
        self._reference_name = reference
        self.measured: list[str] = []  # what was not in the store

    @cached_property
    def reference(self) -> Reference:
        return open_reference(self.protocol, self.extractor, self.features, self._reference_name)

    @cached_property
    def checkpoints(self) -> dict[tuple[str, str], tuple[Path, Checkpoint]]:
        """Folder and network by model and interpolant. Raises DefarError where a model has two of one interpolant."""
        found: dict[tuple[str, str], tuple[Path, Checkpoint]] = {}
        for model, folder in self.grid.folders:
            loaded = load_checkpoint(folder, device=self.device)
            key = model, loaded.card.interpolant
            if key in found:
                raise DefarError(f"{model}: {found[key][0]} and {folder} both have {key[1]!r}; name one, or two models")
            found[key] = folder, loaded
        return found

    @cached_property
    def cells(self) -> list[Cell]:
        """By NFE first, so that a table cut short is whole up to there."""
        grid = self.grid
        return [
            Cell(model, loaded.card.name, solver, interpolant, scale, nfe)
            for nfe, solver, scale in product(sorted(grid.nfes), grid.solvers, grid.guidances)
            for (model, interpolant), (_, loaded) in self.checkpoints.items()
        ]

    def folder(self, cell: Cell) -> Path:
        return self.checkpoints[cell.model, cell.interpolant][0]

    def network(self, cell: Cell) -> Checkpoint:
        return self.checkpoints[cell.model, cell.interpolant][1]

    def source(self, cell: Cell) -> ImageSource:
        solver = solver_named(cell.solver, cell.nfe // EVALUATIONS[cell.solver])
        judge = self.grid.discriminators.get(cell.model)
        plan = Plan(
            solver, self.protocol.count, self.grid.seed, self.protocol.labels, cell.guidance,
            chunk=self.grid.chunk, discriminator=judge, precision=self.grid.precision,
        )  # fmt: skip
        return ImageSource(self.network(cell), plan, self.device)

    def samples(self, cell: Cell) -> Path:
        """Where the cell's images are kept; named by everything that they depend on."""
        name = f"{cell.checkpoint}-{cell.solver}{cell.nfe}"
        return self.results / "samples" / f"{name}-{digest(self.source(cell).command)}.npz"

    def share(self) -> None:
        """Sample and extract all that is missing, together with the other processes: each calls this."""
        for cell in self.cells:
            self._sample(cell)
            self.processes.wait()  # until the first one has written the file
            mine = Share(self.processes.rank, self.processes.size)
            self.features.features(self._sampled(cell), self.extractor, mine)

    def evaluations(self) -> dict[Cell, Evaluation]:
        """Every cell, sampling and extracting what is not there yet. Raises Interrupted with all finished work kept."""
        _ = self.reference  # one that does not fit is refused before anything is sampled
        self._say_what_is_left()
        return {cell: self._evaluated(cell) for cell in self.cells}

    def of_dataset(self, name: str, dataset: ImageDataset) -> Evaluation:
        """Real images beside the samples: what the protocol reads where nothing is wrong. Not part of the reference."""
        if dataset.hash == self.reference.sha256:
            raise DefarError(f"{name}: is the reference itself; its distance says nothing")
        indices = balanced_indices(dataset.labels, len(dataset), self.protocol.count)
        return self._stored(name, StoredImages(name, dataset.images, dataset.hash, indices), None)

    def _is_sampled(self, cell: Cell) -> bool:
        return finished(self.samples(cell), self.source(cell).command)

    def _evaluated(self, cell: Cell) -> Evaluation:
        file = self.samples(cell)
        if not settled(file, self.source(cell).command):
            self._sample(cell)
        counted = npz_record(file)["nfe"]
        if counted != cell.nfe:
            raise DefarError(f"{file}: sampled with {counted} evaluations an image, its cell has {cell.nfe}; remove it")
        stream = self._sampled(cell)
        self.reference.check_size(stream)
        return self._stored(cell.model, stream, {"seed": self.grid.seed, "labels": self.source(cell).command["labels"]})

    def _sample(self, cell: Cell) -> None:
        file = self.samples(cell)
        file.parent.mkdir(parents=True, exist_ok=True)
        if said := sample_to_file(self.folder(cell), file, self.source(cell).plan, str(self.device)):
            self.say(said)
            self.measured.append(str(cell))

    def _sampled(self, cell: Cell) -> StoredImages:
        dataset = npz_dataset(self.samples(cell))
        return StoredImages(str(cell), dataset.images, dataset.hash, np.arange(len(dataset)))

    def _stored(self, model: str, stream: StoredImages, pairing: dict[str, Any] | None) -> Evaluation:
        key = {
            "version": VERSION, "model": model, "images": stream.identity, "protocol": asdict(self.protocol),
            "extractor": self.extractor.identity, "reference_sha256": self.reference.sha256,
        }  # fmt: skip
        table, new = self.store.keep("robustness", key, partial(self._compute, model, stream))
        if new:
            self.say(f"{stream.name}: evaluated by {self.protocol.name}")
        names = [name for name in table["metric"] if name in table.attrs["arrays"]]
        return Evaluation(table, {name: table.attrs["arrays"][name] for name in names}, pairing)

    def _compute(self, model: str, stream: StoredImages) -> pd.DataFrame:
        features = self.features.features(stream, self.extractor)
        found = evaluate(model, features, self.reference, self.protocol)
        found.table.attrs["arrays"] = Arrays(found.influences)
        return found.table

    def _say_what_is_left(self) -> None:
        """How much is missing and about how long it takes, measured on the spot: one evaluation of a chunk by each
        network, one extraction. Nothing, where nothing is missing."""
        cells = [cell for cell in self.cells if not self._is_sampled(cell)]
        done = [self._sampled(cell) for cell in self.cells if cell not in cells]
        chunks = sum(len(self.features.missing(stream, self.extractor)) for stream in done)
        extractions = len(cells) * self.protocol.count + 64 * chunks
        if not extractions:
            return
        first = {(cell.model, cell.interpolant): cell for cell in reversed(cells)}
        each = {network: self._seconds_an_evaluation(cell) for network, cell in first.items()}
        blank = np.zeros((64, *self.network(self.cells[0]).shape), np.uint8)
        total = extractions / 64 * _seconds(lambda: extracted(self.extractor, blank))
        for cell in cells:
            passes = cell.nfe if cell.guidance is None else 2 * cell.nfe
            total += self.protocol.count * passes * each[cell.model, cell.interpolant]
        amount = f"{total / 60:.0f} minutes" if total > 90 else f"{total:.0f} s"
        what = f"{len(cells)} of {len(self.cells)} cells to sample, features of {extractions} images to extract"
        self.say(f"{what}: about {amount} on {self.device.type}")

    def _seconds_an_evaluation(self, cell: Cell) -> float:
        checkpoint, chunk = self.network(cell), 64
        x = torch.zeros(chunk, *checkpoint.shape, device=self.device)
        t = torch.full((chunk,), 0.5, device=self.device)
        labels = None if checkpoint.classes is None else torch.zeros(chunk, dtype=torch.long, device=self.device)
        with torch.no_grad():
            return _seconds(lambda: float(checkpoint.model(x, t, labels).sum())) / chunk


def run(sweep: Sweep, baseline: str) -> Robustness:
    """All cells of a sweep and what they say against `baseline`, a checkpoint's name in the grid."""
    if baseline not in sweep.grid.checkpoints:
        raise DefarError(f"baseline {baseline!r} is none of {', '.join(sweep.grid.checkpoints)}")
    with quality_warnings() as doubts:
        found = sweep.evaluations()
    for doubt in doubts:  # once, not for every cell
        sweep.say(f"warning: {doubt}")
    protocol = sweep.protocol
    return Robustness(quality_table(found), against_baseline(found, baseline, protocol), over_steps(found, protocol))


def _seconds(run: Callable[[], Any]) -> float:
    run()  # the first one warms up
    started = time.perf_counter()
    run()
    return time.perf_counter() - started
