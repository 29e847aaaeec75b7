"""`defar`, the one command line. Each function below is a subcommand; its docstring is the help."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Literal

try:
    import tyro
    from tyro.conf import Positional, UseAppendAction, arg
except ImportError:
    sys.exit("defar: error: the command line needs more than the core: pip install 'defar-analysis[analysis]'")

from .errors import DefarError, Interrupted, one_line

Device = Annotated[str, arg(help="cpu, cuda, cuda:1, npu, ...; auto takes an accelerator where there is one")]
Root = Annotated[Path, arg(help="the project folder: it holds reproduce/, notebooks/ and figures/")]
Profile = Literal["tiny", "quick", "full"]


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
        from . import planning

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
    from .core.devices import resolve_device
    from .core.training import train as run

    loaded = _recipe(recipe, set, scale)
    print(run(loaded, out or Path("runs") / loaded.name, device=str(resolve_device(device))))


def _recipe(path: Path | None, assignments: tuple[str, ...], scale: str):
    from .core.recipes import load_recipe

    if path is None:
        raise DefarError("train needs a recipe: a TOML file, such as reproduce/cifar10_defar.toml; --list shows more")
    return load_recipe(path, assignments, scale)


def sample(
    checkpoint: Annotated[Positional[Path], arg(help="a checkpoint's folder")],
    out: Annotated[Path, arg(help="a .png (one grid) or .npz (arr_0: N,H,W,C uint8; arr_1: labels)")],
    count: Annotated[int, arg(help="how many images")] = 64,
    steps: Annotated[int, arg(help="solver steps; Heun makes two evaluations in each")] = 50,
    solver: Literal["euler", "heun"] = "euler",
    seed: Annotated[int, arg(help="image i depends on this and i alone")] = 0,
    device: Device = "auto",
) -> None:
    """Draw images from a checkpoint, classes in turn, and say what they cost in network evaluations."""
    from .sampling import sample_to_file

    print(sample_to_file(checkpoint, out, count, steps, solver, seed, device))


def measure(
    checkpoint: Annotated[Positional[Path], arg(help="a checkpoint's folder")],
    data: Annotated[str, arg(help="cifar10, a folder of images, or an .npz")] = "cifar10",
    split: Literal["train", "test"] = "test",
    profile: Annotated[Profile, arg(help="tiny: 8 images; quick: 64, 10 x 6 times; full: 512, 1,225 pairs")] = "quick",
    results: Annotated[Path, arg(help="where tables are kept; a valid one is not measured again")] = Path("results"),
    device: Device = "auto",
) -> None:
    """Measure a checkpoint's exposure bias: PFR and its crossings, FEL and its gain, bias maps."""
    from .experiment import measure_checkpoint

    print(measure_checkpoint(checkpoint, data, split, profile, results, device))


def figure(
    id: Annotated[Positional[str], arg(help="fig3, fig5, fig9, samples or plane")],
    folder: Annotated[Path, arg(help="the figures' folder; its data/ holds the tables")] = Path("figures"),
) -> None:
    """Redraw one figure from its committed table, without checkpoints, data or a GPU."""
    from . import catalog
    from .reproduction import write_gallery

    artefact = catalog.load(id, folder)
    for path in catalog.save(artefact, catalog.draw(artefact)):
        print(path)
    write_gallery(folder)


def reproduce(
    profile: Annotated[Profile, arg(help="tiny: seconds; quick: minutes; full: the paper's grid")] = "quick",
    only: UseAppendAction[Annotated[tuple[str, ...], arg(help="one figure; repeat for more (default: all)")]] = (),
    device: Device = "auto",
    root: Root = Path("."),
) -> None:
    """Bring every figure up to date: measure the checkpoints, run the notebooks, write the gallery."""
    from . import catalog
    from .reproduction import reproduce as run

    print(run(root, profile, list(only) or list(catalog.FIGURES), device))


def data(
    name: Annotated[Positional[Literal["cifar10"]], arg(help="the data set")],
    root: Annotated[Path | None, arg(help="where to keep it (default: $DEFAR_DATA or ~/.cache/defar_analysis)")] = None,
    source: Annotated[Path | None, arg(help="your own copy: an official archive or folder, python or binary")] = None,
) -> None:
    """Fetch a data set once, check it against the official checksums and keep it memory-mapped."""
    from .core.cifar10 import prepare_cifar10

    print(prepare_cifar10(root, source))


COMMANDS = {f.__name__: f for f in (train, sample, measure, figure, reproduce, data)}


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status: 0, 2 for a mistake to mend, 130 when interrupted."""
    try:
        tyro.extras.subcommand_cli_from_dict(
            COMMANDS, prog="defar", args=arguments, config=(tyro.conf.FlagCreatePairsOff,),
            description="Measure and mend exposure bias in flow matching.",
        )  # fmt: skip
    except Interrupted as stopped:
        print(stopped, file=sys.stderr)
        return 130
    except DefarError as error:
        print(f"defar: error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # `defar ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        print(f"defar: error: {one_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("defar: interrupted; finished results are kept, the same command goes on", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
