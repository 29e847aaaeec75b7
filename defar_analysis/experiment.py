"""The paper's measurements, on this repository's checkpoints or on any: which images and grid each profile takes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from . import exact_fields
from .catalog import Artefact, figures_folder
from .core.checkpoints import Checkpoint, load_checkpoint
from .core.datasets import Batch, ImageDataset, cifar10, open_dataset
from .core.devices import resolve_device
from .core.latents import check_shape, seen_batch
from .core.oracles import GaussianFlow
from .core.parallel import Processes, joined
from .core.rollout import VelocityModel
from .core.samplers import Euler, sample
from .core.seeding import image_noise
from .errors import DefarError
from .exact_fields import EXACT, GAUSSIAN, MEMORIES
from .measures.base import Arrays, Context, TimeGrid
from .measures.emphasis import FEL
from .measures.frequency import PFR, crossings
from .measures.maps import BiasMaps
from .measures.sensitivity_sweep import SENSITIVITY
from .measures.store import Store
from .paper import figure_values

METHODS = {"SiT": "cifar10-sit", "DEFAR": "cifar10-defar"}  # of equal compute
SHIPPED = METHODS | {"MixFlow": "cifar10-mixflow"}  # post-trained from SiT
REFERENCE = GAUSSIAN
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
SEED = 0


@dataclass(frozen=True)
class Scale:
    """How much a profile measures."""

    grid: TimeGrid
    images: int
    sampling_steps: int
    chunk: int = 64
    memories: int | None = None  # how many training images the empirical fields keep; None: all


SCALES = {
    "tiny": Scale(TimeGrid.spaced("tiny", 3, 2), images=8, sampling_steps=2, chunk=8, memories=1000),
    "quick": Scale(TimeGrid.spaced("quick", 10, 6), images=64, sampling_steps=50),
    "full": Scale(TimeGrid.all_pairs("full", 50), images=512, sampling_steps=50),
}


class Experiment:
    """One profile on one project folder. Whatever it measures is kept in results/ and taken from there next time."""

    measurements = (PFR(), FEL(), BiasMaps())

    def __init__(self, root: Path, profile: str, device: str = "auto") -> None:
        self.root, self.profile, self.scale = Path(root).resolve(), profile, SCALES[profile]
        self.device = resolve_device(device)
        self.store = Store(self.root / "results")
        self.measured: list[str] = []  # what was not in the store, for the report at the end
        self._checkpoints: dict[str, Checkpoint] = {}
        self._sweeps: dict[str, dict[str, pd.DataFrame]] = {}
        self._exact: dict[str, VelocityModel] = {}

    def checkpoint(self, name: str) -> Checkpoint:
        if name not in self._checkpoints:
            self._checkpoints[name] = self._load(name)
        return self._checkpoints[name]

    def _load(self, name: str) -> Checkpoint:
        folder = self.root / "reproduce" / "checkpoints" / SHIPPED[name]
        if not folder.is_dir():
            raise DefarError(f"{folder}: no such checkpoint; run in a clone of the project or name it with --root")
        return load_checkpoint(folder, device=self.device)

    @cached_property
    def test_images(self) -> ImageDataset:
        return cifar10("test")

    @cached_property
    def train_images(self) -> ImageDataset:
        return cifar10("train")

    @cached_property
    def reference(self) -> GaussianFlow:
        """The Gaussian with the mean and spectrum of the training images."""
        return exact_fields.gaussian(self.train_images, self.root / "results" / "reference", self.device)

    def field(self, name: str) -> VelocityModel:
        """The velocity field of that name: a checkpoint's network, or one of the exact fields."""
        if name == REFERENCE:
            return self.reference
        if name in EXACT:
            if name not in self._exact:
                self._exact[name] = exact_fields.empirical(
                    self.train_images, self.device, labelled=name == exact_fields.EMPIRICAL, count=self.scale.memories
                )
            return self._exact[name]
        return self.checkpoint(name).model

    def sweep(self, name: str) -> dict[str, pd.DataFrame]:
        """All measurements of one model, by measurement name: one sweep, or none where the store has them."""
        if name not in self._sweeps:
            context = self._context(name)
            # one slow walk serves the sensitivity study too, where it has the same grid
            more = SENSITIVITY if name in MEMORIES and context.grid.name == "quick" else ()
            tables, missing = self.store.measure((*self.measurements, *more), context)
            self.measured += [f"{m} of {name}" for m in missing]
            self._sweeps[name] = tables
        return self._sweeps[name]

    def samples(self, names: tuple[str, ...]) -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
        """One image of each class from each model, all rows from the same noise, by Euler; kept in the store."""
        tables = []
        for name in names:
            key = {"steps": self.scale.sampling_steps, "seed": SEED, "device": self.device.type, **self._identity(name)}
            table, new = self.store.keep("samples", key, partial(self._sample, name))
            tables.append(table)
            self.measured += [f"samples of {name}"] if new else []
        pictures = np.stack([table.attrs["arrays"]["samples"] for table in tables])
        return pd.concat(tables, ignore_index=True), {"samples": pictures}

    def _sample(self, name: str) -> pd.DataFrame:
        checkpoint, solver, count = self.checkpoint(name), Euler(self.scale.sampling_steps), len(CLASSES)
        noise = image_noise(SEED, range(count), checkpoint.shape).to(self.device)
        labels = torch.arange(count, device=self.device)
        drawn = sample(checkpoint.model, noise, solver, interpolant=checkpoint.interpolant, labels=labels)
        table = pd.DataFrame({"method": name, "image": range(count), "label": range(count), "label_name": CLASSES})
        table = table.assign(seed=SEED, solver=repr(solver), nfe=drawn.nfe)
        table.attrs["arrays"] = Arrays(samples=checkpoint.codec.decode(drawn.x).permute(0, 2, 3, 1).cpu().numpy())
        return table

    def paper_values(self, id: str) -> pd.DataFrame:
        """The values read off the paper's figure `id`: columns figure, panel, quantity, t, value, source."""
        return figure_values(self.root, id)

    def artefact(
        self,
        id: str,
        names: tuple[str, ...],
        table: pd.DataFrame,
        tables: dict[str, pd.DataFrame] | None = None,
        arrays: dict[str, np.ndarray] | None = None,
    ) -> Artefact:
        """An artefact with this experiment's provenance. It has no date, so the same inputs write the same files."""
        scale = self.scale
        note = f"{scale.images} test images of CIFAR-10, {len(scale.grid.t0)} t0 and {scale.grid.pairs} pairs (t0, t1)"
        if id == "samples":
            note = f"Euler, {scale.sampling_steps} evaluations, seed {SEED}"
        provenance = {
            "profile": self.profile,
            "note": f"{note}; profile {self.profile}",
            "models": {name: self._identity(name) for name in names},
            "test_data_sha256": self.test_images.hash,
            "classes": CLASSES,
            "seed": SEED,
            "torch": torch.__version__,
            "device": self.device.type,
        }
        return Artefact(id, table, tables or {}, arrays or {}, provenance, figures_folder(self.root, id, self.profile))

    @staticmethod
    def first_images(arrays: dict[str, np.ndarray], count: int) -> dict[str, np.ndarray]:
        """The same arrays with the first `count` images; `bias` has its images on the second axis."""
        whole = {"pairs"}
        return {k: v if k in whole else v[:, :count] if k == "bias" else v[:count] for k, v in arrays.items()}

    def _context(self, name: str) -> Context:
        # the empirical fields look at every training image in every call: more than the quick grid takes hours
        scale = SCALES["quick"] if name in MEMORIES and self.profile == "full" else self.scale
        batch = self.test_images.batch(range(scale.images), device=self.device)
        extra = {} if name in EXACT else {"interpolant": self.checkpoint(name).interpolant}
        return Context(
            self.field(name), batch, scale.grid, name,
            seed=SEED, chunk=scale.chunk, device=str(self.device), identity=self._identity(name), **extra,
        )  # fmt: skip

    def _identity(self, name: str) -> dict[str, Any]:
        if name in EXACT:
            return exact_fields.identity(name, self.train_images, self.scale.memories)
        card = self.checkpoint(name).card
        training = {key: card.training.get(key) for key in ("steps", "seconds", "hardware")}
        return {"checkpoint": card.name, "sha256": card.sha256, "weights": card.weights, **training}


def measure_checkpoint(
    path: Path, data: str, split: str, profile: str, results: Path, device: str = "auto"
) -> str | None:
    """Measure any checkpoint on any data set; returns the crossings and the curves' key rows as text, None in a process
    that is not the first of several, which share the images.

    Raises DefarError when the images do not have the checkpoint's shape.
    """
    with joined(device) as (processes, where):
        return _measured(path, data, split, profile, results, where, processes)


def _measured(
    path: Path, data: str, split: str, profile: str, results: Path, where: torch.device, processes: Processes
) -> str | None:
    scale = SCALES[profile]
    checkpoint, dataset = load_checkpoint(path, device=where), open_dataset(data, split, latents=True)
    check_shape(str(path), checkpoint.codec, checkpoint.shape, dataset)
    count = min(scale.images, len(dataset))
    batch = seen_batch(checkpoint.codec, dataset, range(count), device=where)
    if checkpoint.classes is None:
        batch = Batch(batch.data, None)
    elif batch.labels is not None and int(batch.labels.max()) >= checkpoint.classes:
        greatest, known = int(batch.labels.max()), checkpoint.classes
        raise DefarError(f"{data}: label {greatest} is unknown to {path}, which has {known} classes")
    identity = {"sha256": checkpoint.card.sha256, "data_sha256": dataset.hash}
    context = Context(
        checkpoint.model, batch, scale.grid, checkpoint.card.name, checkpoint.interpolant,
        seed=SEED, chunk=scale.chunk, device=str(where), identity=identity, codec=checkpoint.codec,
    )  # fmt: skip
    tables, new = Store(Path(results)).measure(Experiment.measurements, context, processes)
    if not processes.first:
        return None
    curves = tables["pfr"].query("dc == 'without' and estimator == 'mean_of_ratios'")
    wide = pd.concat([curves, tables["fel"]]).pivot(index="t", columns="quantity", values="value")
    unlabelled = checkpoint.classes is not None and batch.labels is None
    parts = [
        f"{checkpoint.card.name} on {count} images of {data}{', without labels' * unlabelled}, profile {profile}: "
        + (f"measured {', '.join(new)}" if new else f"all of it still valid in {results}"),
        wide.round(3).to_string(),
        crossings(tables["pfr"]).round(3).to_string(index=False),
        tables["maps"].round(3).to_string(index=False),
    ]
    return "\n\n".join(parts)
