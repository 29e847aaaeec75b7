"""Training the discriminator of discriminator guidance (Kim et al. 2023): noised data against noised samples of one
checkpoint, at all t, by binary cross-entropy.

The samples are drawn once and kept as bytes. Sample i has the label of data image i, so both sides hold every class
equally often, as the ratio of class-conditional densities wants it. Step n draws from a generator seeded by (seed, n):
a run resumed at step n is bit for bit the run that was never stopped. A run's folder holds recipe.toml, samples/,
log.jsonl, the newest states and in the end discriminator/.
"""

from __future__ import annotations

import dataclasses
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..config import dump_toml, from_table, read_toml
from ..errors import DefarError, Interrupted
from ..files import alone, replaced
from .arrays import read_npy
from .checkpoints import Checkpoint, load_checkpoint
from .datasets import ImageDataset, open_dataset
from .devices import keep_heap, resolve_device
from .discriminators import DiscriminatorCard, DiscriminatorRecipe, Verdict, held_out_auc, save_discriminator
from .networks.discriminator import ConvDiscriminator
from .runs import RECIPE, progress, stop_requests
from .samplers import Euler, Heun, sample
from .seeding import derive_seed, generator_for, image_noise
from .side_runs import SideRun

DISCRIMINATOR, SAMPLES, CHUNK = "discriminator", "samples", 64


def train_discriminator(
    recipe: DiscriminatorRecipe, folder: Path, *, device: str = "cpu", data_root: Path | None = None
) -> Path:
    """Sample, train and judge `recipe` in `folder`, going on where an earlier call stopped; returns the folder of the
    discriminator.

    Raises DefarError when the folder holds another run and when the loss is not finite; Interrupted, after saving, on
    Ctrl-C or SIGTERM.
    """
    folder, where = Path(folder), resolve_device(str(device))
    checkpoint = load_checkpoint(Path(recipe.checkpoint), device=where)
    dataset = open_dataset(recipe.data.name, recipe.data.split, root=data_root, size=recipe.data.image_size)
    _check_fit(recipe, checkpoint, dataset)
    if where.type == "cpu":
        keep_heap()
    with alone(folder, "wait, or give another --out"), stop_requests() as stop:
        _claim(folder, recipe, checkpoint, dataset)
        pairs = _draw_pairs(recipe, folder, checkpoint, dataset, where, stop)
        run = DiscriminatorRun(recipe, checkpoint, pairs, where)
        run.resume(folder)
        run.to_the_end(folder, stop)
        return save_discriminator(folder / DISCRIMINATOR, run.ema.model, run.card(dataset))


@dataclass(frozen=True)
class Pairs:
    """Data images and samples, uint8 (N, C, H, W), with the labels (N,) that both have; None without classes."""

    real: Tensor
    generated: Tensor
    labels: Tensor | None

    def part(self, places: slice | Tensor) -> Pairs:
        labels = None if self.labels is None else self.labels[places]
        return Pairs(self.real[places], self.generated[places], labels)


class DiscriminatorRun(SideRun):
    """The discriminator, its average and its optimizer at one step of a recipe."""

    restart = "remove it: the samples are kept"

    def __init__(self, recipe: DiscriminatorRecipe, checkpoint: Checkpoint, pairs: Pairs, device: torch.device) -> None:
        self.checkpoint = checkpoint
        kept = len(pairs.real) - recipe.samples.held_out
        self.pairs, self.held_out = pairs.part(slice(0, kept)), pairs.part(slice(kept, None))
        self.null = checkpoint.classes or 1
        self.seed_initialization(recipe.seed)
        model = ConvDiscriminator(checkpoint.shape[0], self.null, **dataclasses.asdict(recipe.network))
        super().__init__(recipe, model, device)

    def loss(self, step: int) -> dict[str, Tensor]:
        """The loss of the `batch` pairs that belong to `step`, both of a pair at the same t."""
        recipe, path = self.recipe, self.checkpoint.interpolant
        generator = generator_for(recipe.seed, "step", step)
        places = torch.randint(len(self.pairs.real), (recipe.batch,), generator=generator)
        low, high = path.interval("train")
        t = (low + (high - low) * torch.rand(recipe.batch, generator=generator)).repeat(2).to(self.device)
        flip = torch.rand(2 * recipe.batch, generator=generator) < (0.5 if recipe.data.horizontal_flip else 0.0)
        dropped = torch.rand(recipe.batch, generator=generator) < recipe.label_dropout
        pairs = self.pairs.part(places)
        images = torch.cat([pairs.real, pairs.generated])
        images = torch.where(flip[:, None, None, None], images.flip(-1), images)
        noise = torch.randn(images.shape, generator=generator).to(self.device)
        data = self.checkpoint.codec.encode(images.to(self.device))
        labels = torch.full((recipe.batch,), self.null) if pairs.labels is None else pairs.labels
        labels = torch.where(dropped, self.null, labels).repeat(2).to(self.device)
        logits = self.model(path.at(noise, data, t).x, t, labels)
        truth = torch.cat([torch.ones(recipe.batch), torch.zeros(recipe.batch)]).to(self.device)
        return {"loss": F.binary_cross_entropy_with_logits(logits, truth)}

    def verdict(self) -> Verdict:
        """The averaged discriminator's AUC on the held-out pairs."""
        codec, held = self.checkpoint.codec, self.held_out
        real, generated = (codec.encode(images.to(self.device)) for images in (held.real, held.generated))
        labels = None if held.labels is None else held.labels.to(self.device)
        recipe, path = self.recipe, self.checkpoint.interpolant
        return held_out_auc(self.ema.model, real, generated, labels, path, bins=recipe.bins, seed=recipe.seed)

    def card(self, dataset: ImageDataset) -> DiscriminatorCard:
        """The card of the averaged weights, with their held-out AUC."""
        found, judged = self.verdict(), self.checkpoint.card
        training = {
            "seconds": round(self.seconds, 1), "data_sha256": dataset.hash, "torch": torch.__version__,
            "threads": torch.get_num_threads(), "recipe": dataclasses.asdict(self.recipe),
        }  # fmt: skip
        measured = {"overall": round(found.overall, 4), "bins": [round(value, 4) for value in found.bins]}
        return DiscriminatorCard(
            self.recipe.name, "", judged.interpolant, {"name": judged.name, "sha256": judged.sha256}, {},
            measured | {"images": len(self.held_out.real)}, training,
        )  # fmt: skip


def _check_fit(recipe: DiscriminatorRecipe, checkpoint: Checkpoint, dataset: ImageDataset) -> None:
    if dataset.images.shape[1:] != checkpoint.pixel_shape:
        theirs, ours = tuple(dataset.images.shape[1:]), checkpoint.pixel_shape
        raise DefarError(f"{recipe.data.name}: images are {theirs}; {checkpoint.card.name} makes {ours}")
    if checkpoint.classes is not None and (dataset.num_classes or 0) != checkpoint.classes:
        raise DefarError(
            f"{recipe.data.name}: has {dataset.num_classes or 'no'} classes; {checkpoint.card.name} was trained with "
            f"{checkpoint.classes}"
        )
    if len(dataset) < recipe.samples.count:
        raise DefarError(f"samples.count = {recipe.samples.count}; {recipe.data.name} has {len(dataset)} images")


def _claim(folder: Path, recipe: DiscriminatorRecipe, checkpoint: Checkpoint, dataset: ImageDataset) -> None:
    """Make the folder this recipe's, for this checkpoint and data, or refuse if it is another's. A key the older file
    lacks counts as its default."""
    judges = {"name": checkpoint.card.name, "sha256": checkpoint.card.sha256, "data_sha256": dataset.hash}
    file = folder / RECIPE
    if file.exists():
        table = read_toml(file)
        other = [f"judges.{key}" for key, value in judges.items() if table.get("judges", {}).get(key) != value]
        theirs = from_table(DiscriminatorRecipe, {k: v for k, v in table.items() if k != "judges"}, str(file))
        names = [f.name for f in dataclasses.fields(recipe)]
        other += [name for name in names if getattr(theirs, name) != getattr(recipe, name)]
        if other:
            raise DefarError(f"{folder}: holds a run with other {', '.join(other)}; give another --out or remove it")
        return
    text = dump_toml(dataclasses.asdict(recipe) | {"judges": judges})
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with replaced(file) as beside:
            beside.write_text(text, encoding="utf-8")
    except OSError as error:
        raise DefarError(f"{folder}: cannot be written: {error.strerror}; give another --out") from None


def _draw_pairs(recipe, folder: Path, checkpoint: Checkpoint, dataset: ImageDataset, device, stop) -> Pairs:
    """Data images in a drawn order, and as many samples under their labels, chunk by chunk; finished ones are kept."""
    wanted = recipe.samples
    order = torch.randperm(len(dataset), generator=generator_for(recipe.seed, "data"))[: wanted.count].sort().values
    order = order[torch.randperm(wanted.count, generator=generator_for(recipe.seed, "order"))]
    real = torch.from_numpy(np.array(dataset.images[order.numpy()]))
    labels = None if checkpoint.classes is None else torch.from_numpy(dataset.labels[order.numpy()])
    solver = {"euler": Euler, "heun": Heun}[wanted.solver](wanted.steps)
    starts = range(0, wanted.count, CHUNK)
    files = [folder / SAMPLES / f"{start:06d}.npy" for start in starts]
    done = sum(CHUNK for file in files if file.exists())
    parts = []
    with progress(SimpleNamespace(steps=len(starts), name=f"samples of {checkpoint.card.name}"), done // CHUNK) as bar:
        for start, file in zip(starts, files, strict=True):
            part = range(start, min(start + CHUNK, wanted.count))
            images = _kept(file, (len(part), *checkpoint.pixel_shape))
            if images is None:
                given = None if labels is None else labels[start : part.stop].to(device)
                noise = image_noise(derive_seed(recipe.seed, "samples"), part, checkpoint.shape).to(device)
                drawn = sample(checkpoint.model, noise, solver, interpolant=checkpoint.interpolant, labels=given)
                images = checkpoint.codec.decode(drawn.x).cpu().numpy()
                with replaced(file) as beside, open(beside, "wb") as out:
                    np.save(out, images, allow_pickle=False)
                bar.update()
            parts.append(torch.from_numpy(images))
            if stop.requested:
                raise Interrupted(f"stopped after {part.stop} of {wanted.count} samples; the same command goes on")
    return Pairs(real, torch.cat(parts), labels)


def _kept(file: Path, shape: tuple[int, ...]) -> np.ndarray | None:
    """A finished chunk; None where there is none, or a damaged one, which is drawn again."""
    if not file.exists():
        return None
    try:
        images = read_npy(file)
    except DefarError:
        images = np.empty(0)
    if images.shape == shape and images.dtype == np.uint8:
        return images
    print(f"{file}: damaged; drawn again", file=sys.stderr)
    return None
