"""Discriminators for discriminator guidance (Kim et al. 2023): their recipes, their files, and how well they tell.

One tells noised data from noised samples of one checkpoint, at all t; core.discriminator_training trains it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from scipy.stats import rankdata
from torch import Tensor

from ..config import from_table, override, read_layers, read_toml
from ..errors import DefarError
from .cards import CARD, WEIGHTS, as_saved, read_weights, write_pair
from .checkpoints import Checkpoint
from .interpolants import Interpolant
from .networks.discriminator import ConvDiscriminator
from .recipes import Optimizer, check_run_name
from .seeding import derive_seed, generator_for, image_noise

CHUNK = 64  # images in a call of the network


@dataclass(frozen=True)
class RealImages:
    """name: "cifar10", "celeba64", a folder of images, or an .npz. horizontal_flip: mirror with probability 1/2, data
    and samples alike."""

    name: str = "cifar10"
    split: Literal["train", "test"] = "train"
    image_size: int | None = None
    horizontal_flip: bool = True


@dataclass(frozen=True)
class Generated:
    """How many samples of the checkpoint, and as many data images; held_out of them are kept for the AUC."""

    count: int = 50_000
    held_out: int = 5_000
    solver: Literal["euler", "heun"] = "euler"
    steps: int = 50


@dataclass(frozen=True)
class Shape:
    """ConvDiscriminator's size: channels of its first block (the others have twice as many), width of its embedding."""

    width: int = 48
    embedding: int = 128


@dataclass(frozen=True)
class DiscriminatorRecipe:
    """A whole training of a discriminator. checkpoint: the folder of the checkpoint to judge. batch: pairs of a data
    image and a sample in a step. label_dropout: how often a pair goes without its label, so that the discriminator also
    guides under CFG. bins: of t, for the held-out AUC. save_every, log_every are in steps."""

    name: str
    checkpoint: str
    steps: int
    batch: int = 128
    seed: int = 0
    label_dropout: float = 0.1
    ema_decay: float = 0.999
    bins: int = 10
    log_every: int = 50
    save_every: int = 500
    data: RealImages = field(default_factory=RealImages)
    samples: Generated = field(default_factory=Generated)
    network: Shape = field(default_factory=Shape)
    optimizer: Optimizer = field(default_factory=lambda: Optimizer(lr=3e-4, weight_decay=1e-7, clip=1.0))

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "bins", "log_every", "save_every"):
            if getattr(self, name) < 1:
                raise DefarError(f"{name} = {getattr(self, name)}; it must be at least 1")
        if not (0 <= self.label_dropout <= 1 and 0 <= self.ema_decay < 1):
            raise DefarError(
                f"label_dropout = {self.label_dropout} must lie in [0, 1] and ema_decay = {self.ema_decay} in [0, 1)"
            )
        check_run_name(self.name)
        if not 0 < self.samples.held_out < self.samples.count:
            raise DefarError(
                f"samples.held_out = {self.samples.held_out}; it must lie in 1 ... {self.samples.count - 1} "
                "(samples.count - 1)"
            )
        if self.samples.steps < 1:
            raise DefarError(f"samples.steps = {self.samples.steps}; it must be at least 1")


def load_discriminator_recipe(path: Path, assignments: tuple[str, ...] = ()) -> DiscriminatorRecipe:
    """The recipe in a TOML file, with "KEY=VALUE" assignments on top. Raises DefarError naming the file and key."""
    return from_table(DiscriminatorRecipe, override(read_layers(path), assignments), str(path))


# --- what it says of itself, on disk ---


@dataclass(frozen=True)
class DiscriminatorCard:
    """judges: name and sha256 of the checkpoint whose samples it was trained on. auc: on held-out images, over all t
    ("overall") and in bins of equal width ("bins" from t = 0 up). training: recipe, seconds, data, versions."""

    name: str
    sha256: str
    interpolant: str
    judges: dict[str, Any]
    network: dict[str, Any]
    auc: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)

    def summary(self) -> str:
        """One line: the held-out AUC, overall and in each bin of t."""
        bins = " ".join(f"{value:.2f}" for value in self.auc["bins"])
        return (
            f"held-out AUC {self.auc['overall']:.3f} on {self.auc['images']} data images and as many samples of "
            f"{self.judges['name']}; by t, {len(self.auc['bins'])} bins from 0 to 1: {bins}"
        )


@dataclass(frozen=True)
class LoadedDiscriminator:
    """A discriminator(x, t, labels) -> logits (B,), ready for `DiscriminatorGuidance`, and its card."""

    model: ConvDiscriminator
    card: DiscriminatorCard


def save_discriminator(folder: Path, model: ConvDiscriminator, card: DiscriminatorCard) -> Path:
    """Write `model` in float16 and its card, whose sha256 and network are filled in here. Returns the folder."""
    return write_pair(folder, as_saved(model.state_dict()), card, model.config, "try a lower optimizer.lr")


def load_discriminator(folder: Path, checkpoint: Checkpoint, device: torch.device | str = "cpu") -> LoadedDiscriminator:
    """The discriminator in a folder, as float32, in eval mode, without gradients of its weights.

    Raises DefarError where it judges another checkpoint than `checkpoint` (by the sha256 of the weights), and where
    files are missing, damaged or do not fit together.
    """
    folder = Path(folder)
    if not (folder / CARD).is_file():
        raise DefarError(f"{folder}: no such discriminator; give a folder with {WEIGHTS} and {CARD}")
    card = from_table(DiscriminatorCard, read_toml(folder / CARD), str(folder / CARD))
    if card.judges.get("sha256") != checkpoint.card.sha256:
        raise DefarError(
            f"{folder}: judges {card.judges.get('name')} ({str(card.judges.get('sha256'))[:8]}), not "
            f"{checkpoint.card.name} ({checkpoint.card.sha256[:8]}); train one for it: defar train-discriminator"
        )
    weights = read_weights(folder, card.sha256)
    try:
        model = ConvDiscriminator(**card.network)
        model.load_state_dict({name: tensor.float() for name, tensor in weights.items()})
    except (DefarError, TypeError, RuntimeError) as error:
        raise DefarError(f"{folder / WEIGHTS}: does not fit {CARD}: {' '.join(str(error).split())[:200]}") from None
    return LoadedDiscriminator(model.to(device).eval().requires_grad_(False), card)


# --- how well it tells ---


def auc(real, generated) -> float:
    """The probability that a data image's logit is above a sample's, ties counted half (Mann-Whitney), exact by ranks.

    real (n,), generated (m,), both not empty.
    """
    real, generated = np.asarray(real, np.float64).ravel(), np.asarray(generated, np.float64).ravel()
    n, m = len(real), len(generated)
    if not n or not m:
        raise DefarError(f"an AUC needs both sides; got {n} data images and {m} samples")
    ranks = rankdata(np.concatenate([real, generated]))
    return float((ranks[:n].sum() - n * (n + 1) / 2) / (n * m))


@dataclass(frozen=True)
class Verdict:
    """AUC over t ~ U (overall) and in bins of equal width from the interpolant's first time to its last."""

    overall: float
    bins: tuple[float, ...]


@torch.no_grad()
def noised_logits(
    discriminator, images: Tensor, labels: Tensor | None, interpolant: Interpolant, times: Tensor, seed: int = 0
) -> Tensor:
    """Logits (N,) on the CPU of images (N, C, H, W) in [-1, 1], noised to times (N,); noise from the seed and i."""
    found = []
    for start in range(0, len(images), CHUNK):
        part = slice(start, min(start + CHUNK, len(images)))
        data, t = images[part], times[part].to(images.device)
        noise = image_noise(seed, range(part.start, part.stop), data.shape[1:]).to(data.device)
        given = None if labels is None else labels[part]
        found.append(discriminator(interpolant.at(noise, data, t).x, t, given).float().cpu())
    return torch.cat(found)


def held_out_auc(
    discriminator, real: Tensor, generated: Tensor, labels: Tensor | None, interpolant: Interpolant, *,
    bins: int = 10, seed: int = 0,
) -> Verdict:  # fmt: skip
    """AUC of real against generated images (N, C, H, W) in [-1, 1], which share labels (N,). Each image is noised once
    in every bin of t, at a time uniform in it, with noise of its own."""
    low, high = interpolant.interval("train")
    logits: list[tuple[Tensor, Tensor]] = []
    for index in range(bins):
        pair = []
        for side, images in (("real", real), ("generated", generated)):
            place = torch.rand(len(images), generator=generator_for(seed, "auc times", side, index))
            times = low + (high - low) * (index + place) / bins
            noise_seed = derive_seed(seed, "auc noise", side, index)
            pair.append(noised_logits(discriminator, images, labels, interpolant, times, noise_seed))
        logits.append((pair[0], pair[1]))
    overall = auc(*(torch.cat(side) for side in zip(*logits, strict=True)))
    return Verdict(overall, tuple(auc(*pair) for pair in logits))
