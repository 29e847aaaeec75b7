"""Training a small KL autoencoder: mean squared error of the image, and a little of the posterior's KL divergence.

Step n draws from a generator seeded by (seed, n): a run resumed at step n is bit for bit the run that was never
stopped. A run's folder holds recipe.toml, log.jsonl, the newest states and in the end autoencoder/.
"""

from __future__ import annotations

import dataclasses
import math
import sys
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ..config import from_table, override, read_layers
from ..errors import DefarError
from ..files import alone
from .autoencoders import AutoencoderCard, load_autoencoder, save_autoencoder
from .codecs import PixelCodec
from .datasets import ImageDataset, open_dataset
from .devices import keep_heap, resolve_device
from .networks.autoencoder import KLAutoencoder
from .recipes import Optimizer, check_run_name
from .runs import claim, stop_requests
from .seeding import generator_for
from .side_runs import SideRun

AUTOENCODER, CHUNK = "autoencoder", 64
SCALE_IMAGES = 10_000  # how many training images the latents' mean and standard deviation are measured on


@dataclass(frozen=True)
class Images:
    """name: "cifar10", "celeba64", a folder of images, or an .npz. horizontal_flip: mirror with probability 1/2. The
    PSNR is measured on test_split."""

    name: str = "cifar10"
    split: Literal["train", "test"] = "train"
    test_split: Literal["train", "test"] = "test"
    image_size: int | None = None
    horizontal_flip: bool = True


@dataclass(frozen=True)
class Shape:
    """KLAutoencoder's size."""

    latent_channels: int = 4
    width: int = 48
    blocks: int = 1


@dataclass(frozen=True)
class AutoencoderRecipe:
    """A whole training of an autoencoder. The rate falls to zero along half a cosine, after a linear warm-up.

    kl_weight: of the posterior's KL divergence from a standard normal, nats for each number of a latent, beside the
    mean squared error for each number of an image in [-1, 1]. save_every, log_every are in steps.
    """

    name: str
    steps: int
    batch: int = 64
    seed: int = 0
    kl_weight: float = 1e-6
    ema_decay: float = 0.999
    precision: Literal["float32", "bf16"] = "float32"
    log_every: int = 50
    save_every: int = 500
    data: Images = field(default_factory=Images)
    network: Shape = field(default_factory=Shape)
    optimizer: Optimizer = field(default_factory=lambda: Optimizer(lr=2e-3, clip=1.0, warmup=50))

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "log_every", "save_every"):
            if getattr(self, name) < 1:
                raise DefarError(f"{name} = {getattr(self, name)}; it must be at least 1")
        if not (self.kl_weight >= 0 and 0 <= self.ema_decay < 1):
            raise DefarError(
                f"kl_weight = {self.kl_weight} must not be negative and ema_decay = {self.ema_decay} lie in [0, 1)"
            )
        check_run_name(self.name)


def load_autoencoder_recipe(path: Path, assignments: tuple[str, ...] = ()) -> AutoencoderRecipe:
    """The recipe in a TOML file, with "KEY=VALUE" assignments on top. Raises DefarError naming the file and key."""
    return from_table(AutoencoderRecipe, override(read_layers(path), assignments), str(path))


def train_autoencoder(
    recipe: AutoencoderRecipe, folder: Path, *, device: str = "cpu", data_root: Path | None = None
) -> Path:
    """Train and judge `recipe` in `folder`, going on where an earlier call stopped; returns the autoencoder's folder.

    Raises DefarError when the folder holds another run, for images that are not a multiple of 4 pixels, and when the
    loss is not finite; Interrupted, after saving, on Ctrl-C or SIGTERM.
    """
    folder, where, data = Path(folder), resolve_device(str(device)), recipe.data
    dataset, test = (
        open_dataset(data.name, split, root=data_root, size=data.image_size) for split in (data.split, data.test_split)
    )
    run = AutoencoderRun(recipe, dataset, where)
    if where.type == "cpu":
        keep_heap()
    with alone(folder, "wait, or give another --out"):
        claim(folder, recipe, load_autoencoder_recipe)
        run.resume(folder)
        if run.step == recipe.steps and _is_whole(folder / AUTOENCODER):
            print(f"{folder}: already trained for {run.step} steps", file=sys.stderr)
            return folder / AUTOENCODER
        with stop_requests() as stop:
            run.to_the_end(folder, stop)
        return save_autoencoder(folder / AUTOENCODER, run.ema.model, run.card(dataset, test))


def _is_whole(folder: Path) -> bool:
    try:
        return bool(load_autoencoder(folder))
    except DefarError:  # absent, or killed between its two files: written again
        return False


class AutoencoderRun(SideRun):
    """The autoencoder, its average and its optimizer at one step of a recipe."""

    def __init__(self, recipe: AutoencoderRecipe, dataset: ImageDataset, device: torch.device) -> None:
        spec = dataset.spec
        if spec.size % KLAutoencoder.factor:
            raise DefarError(f"{dataset.name}: images of {spec.size} pixels; give a multiple of {KLAutoencoder.factor}")
        self.dataset = dataset
        self.seed_initialization(recipe.seed)
        model = KLAutoencoder(spec.channels, **dataclasses.asdict(recipe.network))
        super().__init__(recipe, model, device, dataset.hash)

    def rate(self) -> float:
        """The learning rate of the coming step: after the warm-up it falls to zero along half a cosine."""
        return super().rate() * 0.5 * (1 + math.cos(math.pi * self.step / self.recipe.steps))

    def loss(self, step: int) -> dict[str, Tensor]:
        """loss, squared_error and kl of the batch that belongs to `step`."""
        recipe, generator = self.recipe, generator_for(self.recipe.seed, "step", step)
        places = torch.randint(len(self.dataset), (recipe.batch,), generator=generator)
        flip = torch.rand(recipe.batch, generator=generator) < (0.5 if recipe.data.horizontal_flip else 0.0)
        images = self.dataset.batch(places, device=self.device, flip=flip).data
        autocast = torch.autocast(self.device.type, torch.bfloat16) if recipe.precision == "bf16" else nullcontext()
        with autocast:
            mean, logvar = self.model.encode(images)
            noise = torch.randn(mean.shape, generator=generator).to(self.device)
            squared = (self.model.decode(mean + (0.5 * logvar).exp() * noise) - images).square().mean()
        kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
        return {"loss": squared + recipe.kl_weight * kl, "squared_error": squared, "kl": kl}

    def card(self, dataset: ImageDataset, test: ImageDataset) -> AutoencoderCard:
        """The card of the averaged weights, with the latents' scale on training images and the PSNR on test ones."""
        model = _rounded(self.ema.model)
        shift, deviation = latent_moments(model, dataset, min(SCALE_IMAGES, len(dataset)), self.device)
        found = psnr(model, test, self.device)
        training = {
            "steps": self.step, "seconds": round(self.seconds, 1), "data": dataset.name, "data_sha256": dataset.hash,
            "torch": torch.__version__, "threads": torch.get_num_threads(), "recipe": dataclasses.asdict(self.recipe),
            "scale_images": min(SCALE_IMAGES, len(dataset)),
        }  # fmt: skip
        told = {"db": round(found, 3), "data": test.name, "images": len(test)}
        size = dataset.spec.size
        return AutoencoderCard(self.recipe.name, "", {}, 1 / deviation, shift, size, told, training)


def _rounded(model: KLAutoencoder) -> KLAutoencoder:
    """What will be read back: the weights through float16, so that the card's numbers are those of the file."""
    twin = KLAutoencoder(**model.config).to(next(model.parameters()).device).eval().requires_grad_(False)
    twin.load_state_dict({name: tensor.half().float() for name, tensor in model.state_dict().items()})
    return twin


@torch.no_grad()
def latent_moments(
    model: KLAutoencoder, dataset: ImageDataset, count: int, device: torch.device | str = "cpu"
) -> tuple[float, float]:
    """Mean and standard deviation of the latents of the first `count` images, over images, channels and places; the
    posterior's own variance counts."""
    first = second = places = 0.0
    for start in range(0, count, CHUNK):
        mean, logvar = model.encode(dataset.batch(range(start, min(start + CHUNK, count)), device=device).data)
        mean, variance = mean.double(), logvar.double().exp()
        first, second = first + float(mean.sum()), second + float((mean.square() + variance).sum())
        places += mean.numel()
    average = first / places
    return average, math.sqrt(second / places - average**2)


@torch.no_grad()
def psnr(model: KLAutoencoder, dataset: ImageDataset, device: torch.device | str = "cpu") -> float:
    """10 log10(255^2 / mean squared error) in dB over all images (uint8) of the data set, rounded back to uint8."""
    codec, error = PixelCodec(), 0.0
    for start in range(0, len(dataset), CHUNK):
        images = torch.from_numpy(np.array(dataset.images[start : start + CHUNK])).to(device)
        found: Tensor = codec.decode(model.decode(model.encode(codec.encode(images))[0]))
        error += float((found.double() - images.double()).square().sum())
    return 10 * math.log10(255**2 * dataset.images.size / error) if error else math.inf
