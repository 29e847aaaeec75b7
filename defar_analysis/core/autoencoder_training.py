"""Training a small KL autoencoder: mean squared error of the image, and a little of the posterior's KL divergence.

Step n draws from a generator seeded by (seed, n): a run resumed at step n is bit for bit the run that was never
stopped. A run's folder holds recipe.toml, log.jsonl, state.pt and in the end autoencoder/.
"""

from __future__ import annotations

import dataclasses
import math
import sys
import time
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from ..config import dump_toml, from_table, override, read_layers
from ..errors import DefarError, Interrupted
from ..files import replaced
from .autoencoders import AutoencoderCard, load_autoencoder, save_autoencoder
from .codecs import PixelCodec
from .datasets import ImageDataset, open_dataset
from .devices import keep_heap, resolve_device
from .ema import Ema
from .networks.autoencoder import KLAutoencoder
from .recipes import Optimizer
from .runs import LOG, RECIPE, STATE, append_log, cut_log, progress, stop_requests
from .seeding import derive_seed, generator_for

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
        if self.name in ("", ".", "..") or set(self.name) & set("/\\"):
            raise DefarError(f"name = {self.name!r}; it names the run's folder: give a word without / or \\")


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
    _claim(folder, recipe)
    if where.type == "cpu":
        keep_heap()
    run.resume(folder)
    if run.step == recipe.steps and (folder / AUTOENCODER).is_dir():
        load_autoencoder(folder / AUTOENCODER)
        print(f"{folder}: already trained for {run.step} steps", file=sys.stderr)
        return folder / AUTOENCODER
    cut_log(folder / LOG, run.step)
    with stop_requests() as stop, progress(recipe, run.step) as bar:
        while run.step < recipe.steps:
            values = run.advance()
            bar.update()
            if run.step % recipe.log_every == 0 or run.step == recipe.steps:
                append_log(folder / LOG, {"step": run.step, **values, "seconds": round(run.seconds, 3)})
                bar.set_postfix(loss=f"{values['loss']:.4f}")
            if stop.requested or run.step % recipe.save_every == 0 or run.step == recipe.steps:
                run.save(folder)
            if stop.requested and run.step < recipe.steps:
                raise Interrupted(f"stopped at step {run.step} of {recipe.steps}, saved; the same command goes on")
    return save_autoencoder(folder / AUTOENCODER, run.ema.model, run.card(dataset, test))


class AutoencoderRun:
    """The autoencoder, its average and its optimizer at one step of a recipe."""

    def __init__(self, recipe: AutoencoderRecipe, dataset: ImageDataset, device: torch.device) -> None:
        self.recipe, self.dataset, self.device, self.codec = recipe, dataset, device, PixelCodec()
        spec = dataset.spec
        if spec.size % KLAutoencoder.factor:
            raise DefarError(f"{dataset.name}: images of {spec.size} pixels; give a multiple of {KLAutoencoder.factor}")
        torch.manual_seed(derive_seed(recipe.seed, "initialization"))
        self.model = KLAutoencoder(spec.channels, **dataclasses.asdict(recipe.network)).to(device).train()
        self.ema = Ema(self.model, recipe.ema_decay, recipe.steps)
        o = recipe.optimizer
        self.optimizer = torch.optim.Adam(
            self.model.parameters(), lr=o.lr, betas=tuple(o.betas), weight_decay=o.weight_decay
        )
        self.step, self.seconds = 0, 0.0

    def rate(self) -> float:
        """The learning rate of the coming step."""
        o, steps = self.recipe.optimizer, self.recipe.steps
        return o.lr * min(1.0, (self.step + 1) / max(1, o.warmup)) * 0.5 * (1 + math.cos(math.pi * self.step / steps))

    def advance(self) -> dict[str, float]:
        """One optimizer step; returns loss, squared_error and kl."""
        started = time.perf_counter()
        recipe = self.recipe
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate()
        generator = generator_for(recipe.seed, "step", self.step)
        places = torch.randint(len(self.dataset), (recipe.batch,), generator=generator)
        flip = torch.rand(recipe.batch, generator=generator) < (0.5 if recipe.data.horizontal_flip else 0.0)
        images = self.dataset.batch(places, device=self.device, flip=flip).data
        autocast = torch.autocast(self.device.type, torch.bfloat16) if recipe.precision == "bf16" else nullcontext()
        with autocast:
            mean, logvar = self.model.encode(images)
            noise = torch.randn(mean.shape, generator=generator).to(self.device)
            squared = (self.model.decode(mean + (0.5 * logvar).exp() * noise) - images).square().mean()
        kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
        loss = squared + recipe.kl_weight * kl
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), recipe.optimizer.clip)
        if not bool(torch.isfinite(loss.detach() + norm)):
            raise DefarError(f"step {self.step + 1}: the loss is not finite; try a lower optimizer.lr in another --out")
        self.optimizer.step()
        self.ema.update(self.model, self.step)
        self.step += 1
        self.seconds += time.perf_counter() - started
        return {"loss": float(loss.detach()), "squared_error": float(squared.detach()), "kl": float(kl.detach())}

    def save(self, folder: Path) -> None:
        """Write the state beside and rename."""
        parts = {"model": self.model, "ema": self.ema.model, "optimizer": self.optimizer}
        state = {"step": self.step, "seconds": self.seconds, "data_sha256": self.dataset.hash}
        with replaced(folder / STATE) as beside:
            torch.save(state | {key: part.state_dict() for key, part in parts.items()}, beside)

    def resume(self, folder: Path) -> None:
        """Load the saved state, if there is one. Raises DefarError where it is damaged or of other images."""
        if not (folder / STATE).exists():
            return
        try:
            state = torch.load(folder / STATE, map_location=self.device, weights_only=True)
            trained_on = state["data_sha256"]
            for key, part in (("model", self.model), ("ema", self.ema.model), ("optimizer", self.optimizer)):
                part.load_state_dict(state[key])
            self.step, self.seconds = state["step"], state["seconds"]
        except (OSError, MemoryError, torch.OutOfMemoryError) as error:
            raise DefarError(f"{folder / STATE}: cannot be read now ({type(error).__name__}); try again") from None
        except Exception as error:  # torch raises many kinds for a damaged file
            reason = " ".join(str(error).split())[:100]
            raise DefarError(f"{folder / STATE}: corrupt ({reason}); remove it to start again") from None
        if trained_on != self.dataset.hash:
            raise DefarError(f"{folder}: was trained on other images than {self.dataset.name}; give another --out")

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


def _claim(folder: Path, recipe: AutoencoderRecipe) -> None:
    """Make the folder this recipe's, or refuse if it is another's. A key the older file lacks counts as its default."""
    file = folder / RECIPE
    if file.exists():
        theirs = load_autoencoder_recipe(file)
        names = [f.name for f in dataclasses.fields(recipe) if getattr(theirs, f.name) != getattr(recipe, f.name)]
        if names:
            raise DefarError(f"{folder}: holds a run with other {', '.join(names)}; give another --out or remove it")
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with replaced(file) as beside:
            beside.write_text(dump_toml(dataclasses.asdict(recipe)), encoding="utf-8")
    except OSError as error:
        raise DefarError(f"{folder}: cannot be written: {error.strerror}; give another --out") from None
