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
Diffusion = Literal["SBDM", "sigma", "linear", "constant", "decreasing", "increasing-decreasing"]


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
    checkpoint: Annotated[
        Positional[Path | None], arg(help="a checkpoint's folder", metavar="CHECKPOINT", help_behavior_hint="")
    ] = None,
    *,
    out: Annotated[
        Path,
        arg(help="NAME.png: one grid; NAME.npz: ADM's layout, arr_0 (N,H,W,C) uint8 and arr_1 labels; NAME: a folder"),
    ],
    compare: Annotated[
        tuple[Path, ...],
        arg(
            help="more checkpoints: one .png, a row for each, the same noise and labels down a column",
            help_behavior_hint="",
        ),
    ] = (),
    count: Annotated[
        int | None,
        arg(help="how many images", metavar="INT", help_behavior_hint="(default: 64; 8 a row with --compare)"),
    ] = None,
    solver: Annotated[Literal["euler", "heun", "dopri5", "em"], arg(help="em: Euler-Maruyama, the SDE")] = "euler",
    steps: Annotated[
        int | None,
        arg(
            help="solver steps; Heun makes two evaluations in each; dopri5 takes none",
            metavar="INT",
            help_behavior_hint="(default: 50)",
        ),
    ] = None,
    diffusion: Annotated[Diffusion | None, arg(help="em's diffusion", help_behavior_hint="(default: sigma)")] = None,
    last_step: Annotated[
        Literal["mean", "euler", "tweedie", "noisy"] | None,
        arg(help="em's last step; noisy: one like the others", help_behavior_hint="(default: mean)"),
    ] = None,
    guidance: Annotated[
        float | None,
        arg(
            help="classifier-free guidance's scale, or with --autoguidance that one's; 1 changes nothing",
            metavar="SCALE",
            help_behavior_hint="(default: none)",
        ),
    ] = None,
    guidance_interval: Annotated[
        tuple[float, float] | None,
        arg(
            help="guide between these times only; t = 0 is noise, 1 data",
            metavar="LOW HIGH",
            help_behavior_hint="(default: 0 1)",
        ),
    ] = None,
    guidance_channels: Annotated[
        Literal["all", "first3"] | None,
        arg(help="first3 guides three channels only, as SiT does", help_behavior_hint="(default: all)"),
    ] = None,
    autoguidance: Annotated[
        Path | None,
        arg(
            help="a weaker checkpoint: --guidance goes on from its velocity, not from that without label",
            metavar="CHECKPOINT",
            help_behavior_hint="(default: none)",
        ),
    ] = None,
    discriminator: Annotated[
        Path | None,
        arg(
            help="discriminator guidance by the one in this folder, which must judge CHECKPOINT",
            metavar="FOLDER",
            help_behavior_hint="(default: none)",
        ),
    ] = None,
    discriminator_weight: Annotated[
        float | None,
        arg(help="its weight; 0 changes nothing", metavar="WEIGHT", help_behavior_hint="(default: 1)"),
    ] = None,
    correction: Annotated[
        tuple[str, ...],
        arg(
            help="training-free corrections: es=SCALE, ts-label=WINDOW, and after each step one of ts-target=WINDOW, "
            "dcw=SCALE, dcw-haar=LOW,HIGH; further settings by name: es=1.005,slope=0.001",
            metavar="NAME=VALUE",
            help_behavior_hint="",
        ),
    ] = (),
    labels: Annotated[str, arg(help="balanced (classes in turn), random, or one class number for all")] = "balanced",
    seed: Annotated[int, arg(help="image i depends on this and i alone")] = 0,
    chunk: Annotated[int, arg(help="images in a network call; an interrupted run keeps whole chunks")] = 64,
    device: Device = "auto",
) -> None:
    """Draw images from a checkpoint and say what they cost. Stopped or killed, an .npz or a folder goes on with the
    same command, bit for bit; finished, it is left as it is. Every output carries its provenance."""
    from . import sampling

    plan = sampling.Plan(
        sampling.solver_named(solver, steps, diffusion, last_step), (8 if compare else 64) if count is None else count,
        seed, _class_or_plan(labels), guidance, guidance_interval,
        guidance_channels, chunk, autoguidance, discriminator, discriminator_weight, correction,
    )  # fmt: skip
    if compare:
        print(sampling.compare_to_file([*([checkpoint] if checkpoint else []), *compare], out, plan, device))
    elif checkpoint is None:
        raise DefarError("sample needs a checkpoint: a folder, such as reproduce/checkpoints/cifar10-defar")
    else:
        print(sampling.sample_to_file(checkpoint, out, plan, device))


def _class_or_plan(labels: str) -> int | str:
    try:
        return int(labels)
    except ValueError:
        return labels


def train_discriminator(
    recipe: Annotated[Positional[Path], arg(help="a TOML recipe, such as reproduce/cifar10_discriminator.toml")],
    out: Annotated[Path | None, arg(help="the run's folder (default: runs/NAME)")] = None,
    device: Device = "auto",
    set: Annotated[tuple[str, ...], arg(help="change keys of the recipe: --set steps=100 samples.count=1000")] = (),
) -> None:
    """Train the discriminator that guides a checkpoint's samples, and report its held-out AUC. Stopped or killed, the
    same command goes on where it was."""
    from .core.checkpoints import load_checkpoint
    from .core.devices import resolve_device
    from .core.discriminator_training import train_discriminator as run
    from .core.discriminators import load_discriminator, load_discriminator_recipe

    loaded = load_discriminator_recipe(recipe, set)
    folder = run(loaded, out or Path("runs") / loaded.name, device=str(resolve_device(device)))
    card = load_discriminator(folder, load_checkpoint(Path(loaded.checkpoint))).card
    print(f"{folder}: {card.summary()}")


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


def evaluate(
    sources: Annotated[
        Positional[tuple[Path, ...]],
        arg(
            help="checkpoints' folders, folders of images or .npz files; the others are compared with the first",
            metavar="SOURCE [SOURCE ...]",
        ),
    ],
    protocol: Annotated[
        str,
        arg(
            help="what is measured, by which network, against what: offline-effnet-lite0-128, -lite0-224, -lite2-224, "
            "cifar10-train, celeba64-train, adm-imagenet256, adm-imagenet512"
        ),
    ] = "offline-effnet-lite0-128",
    n: Annotated[
        int | None,
        arg(
            help="how many images; values of different n do not compare",
            metavar="INT",
            help_behavior_hint="(default: the protocol's)",
        ),
    ] = None,
    reference: Annotated[
        str | None,
        arg(
            help="another reference: a data set, a folder, an .npz of images or of statistics (ADM, EDM, pytorch-fid)",
            metavar="NAME",
            help_behavior_hint="(default: the protocol's)",
        ),
    ] = None,
    inception: Annotated[
        Path | None,
        arg(
            help="Inception's weights",
            metavar="PATH",
            help_behavior_hint="(default: $DEFAR_INCEPTION, or the data folder)",
        ),
    ] = None,
    solver: Annotated[Literal["euler", "heun", "dopri5", "em"], arg(help="for checkpoints; em: the SDE")] = "euler",
    steps: Annotated[
        int | None, arg(help="for checkpoints: solver steps", metavar="INT", help_behavior_hint="(default: 50)")
    ] = None,
    guidance: Annotated[
        float | None,
        arg(
            help="for checkpoints: classifier-free guidance's scale",
            metavar="SCALE",
            help_behavior_hint="(default: none)",
        ),
    ] = None,
    labels: Annotated[
        Literal["balanced", "random"] | None,
        arg(help="for checkpoints: the label plan", help_behavior_hint="(default: the protocol's)"),
    ] = None,
    seed: Annotated[int, arg(help="for checkpoints: image i depends on this and i alone")] = 0,
    extrapolate: Annotated[bool, arg(help="also the Fréchet distance at infinite n of samples")] = False,
    results: Annotated[Path, arg(help="where features are kept; none is extracted twice")] = Path("results"),
    device: Device = "auto",
) -> None:
    """Measure sample quality under a named protocol: JSON on stdout, words on stderr. Checkpoints are sampled straight
    into the extractor. Stopped or killed, the same command goes on; under torchrun the processes share the images."""
    import json

    from . import sampling
    from .evaluating import evaluate_sources, in_words
    from .measures.protocols import protocol as named

    chosen = named(protocol, n)
    plan = sampling.Plan(sampling.solver_named(solver, steps), chosen.count, seed, labels or chosen.labels, guidance)
    report = evaluate_sources(
        sources, chosen, plan, results=results, reference=reference, inception_weights=inception,
        extrapolate=extrapolate, device=device,
    )  # fmt: skip
    if report is not None:
        print(in_words(report), file=sys.stderr)
        print(json.dumps(report, indent=1, ensure_ascii=False))


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


COMMANDS = {
    f.__name__.replace("_", "-"): f
    for f in (train, train_discriminator, sample, measure, evaluate, figure, reproduce, data)
}


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
