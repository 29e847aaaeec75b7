"""`defar train`, `defar train-discriminator` and `defar train-autoencoder`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from ..errors import DefarError
from .options import Device


def train(
    recipe: Annotated[
        Positional[Path | None],
        arg(help="a TOML recipe, such as reproduce/cifar10_defar.toml; with --list, a folder", metavar="RECIPE"),
    ] = None,
    out: Annotated[Path | None, arg(help="the run's folder (default: runs/NAME)")] = None,
    device: Device = "auto",
    set: Annotated[tuple[str, ...], arg(help="change keys of the recipe: --set steps=100 optimizer.lr=0.0002")] = (),
    scale: Annotated[
        Literal["paper", "gpu", "cpu"], arg(help="the paper's sizes, or what a small GPU or CPU trains")
    ] = "paper",
    list: Annotated[
        bool, arg(help="list the paper's experiments with parameters, forwards a step and compute")
    ] = False,
    dry_run: Annotated[bool, arg(help="check one step, without data; above 50M parameters, its shapes")] = False,
) -> None:
    """Train a network from a recipe. Stopped or killed, the same command goes on where it was."""
    if list or dry_run:
        from .. import planning

        folder = recipe or planning.EXPERIMENTS
        if list:
            if set:
                raise DefarError(f"--set {' '.join(set)}: goes with one recipe, not with --list")
            print(planning.survey(folder, scale))
            tried = planning.recipes_in(folder, scale).values() if dry_run else ()
        else:
            tried = [_recipe(recipe, set, scale)]
        for line in planning.dry_runs(tried):
            print(line, flush=True)
        return
    from ..core.devices import resolve_device
    from ..core.training import train as run

    loaded, encoder = _recipe(recipe, set, scale), None
    if loaded.alignment is not None:
        from ..measures.encoders import open_encoder

        encoder = open_encoder(loaded.alignment.encoder)
    print(run(loaded, out or Path("runs") / loaded.name, device=str(resolve_device(device)), encoder=encoder))


def _recipe(path: Path | None, assignments: tuple[str, ...], scale: str):
    from ..core.recipes import load_recipe

    if path is None:
        raise DefarError("train needs a recipe: a TOML file, such as reproduce/cifar10_defar.toml; --list shows more")
    return load_recipe(path, assignments, scale)


def train_discriminator(
    recipe: Annotated[Positional[Path], arg(help="a TOML recipe, such as reproduce/cifar10_discriminator.toml")],
    out: Annotated[Path | None, arg(help="the run's folder (default: runs/NAME)")] = None,
    device: Device = "auto",
    set: Annotated[tuple[str, ...], arg(help="change keys of the recipe: --set steps=100 samples.count=1000")] = (),
) -> None:
    """Train the discriminator that guides a checkpoint's samples, and report its held-out AUC. Stopped or killed, the
    same command goes on where it was."""
    from ..core.checkpoints import load_checkpoint
    from ..core.devices import resolve_device
    from ..core.discriminator_training import train_discriminator as run
    from ..core.discriminators import load_discriminator, load_discriminator_recipe

    loaded = load_discriminator_recipe(recipe, set)
    folder = run(loaded, out or Path("runs") / loaded.name, device=str(resolve_device(device)))
    card = load_discriminator(folder, load_checkpoint(Path(loaded.checkpoint))).card
    print(f"{folder}: {card.summary()}")


def train_autoencoder(
    recipe: Annotated[Positional[Path], arg(help="a TOML recipe, such as reproduce/cifar10_autoencoder.toml")],
    out: Annotated[Path | None, arg(help="the run's folder (default: runs/NAME)")] = None,
    device: Device = "auto",
    set: Annotated[tuple[str, ...], arg(help="change keys of the recipe: --set steps=100 network.width=32")] = (),
) -> None:
    """Train a small KL autoencoder, for latents, and report its PSNR on test images. Stopped or killed, the same
    command goes on where it was."""
    from ..core.autoencoder_training import load_autoencoder_recipe
    from ..core.autoencoder_training import train_autoencoder as run
    from ..core.autoencoders import load_autoencoder
    from ..core.devices import resolve_device

    loaded = load_autoencoder_recipe(recipe, set)
    folder = run(loaded, out or Path("runs") / loaded.name, device=str(resolve_device(device)))
    card = load_autoencoder(folder).card
    print(f"{folder}: {card.psnr['db']:.2f} dB on {card.psnr['images']} images of {card.psnr['data']}")
