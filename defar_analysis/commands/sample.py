"""`defar sample`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from ..errors import DefarError
from .options import Chunk, Device, Precision

Diffusion = Literal["SBDM", "sigma", "linear", "constant", "decreasing", "increasing-decreasing"]


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
    shift: Annotated[
        float | None,
        arg(
            help="of Euler's and Heun's grid, t' = s t / (1 + (s - 1) t): below 1 more steps near noise",
            metavar="S",
            help_behavior_hint="(default: none)",
        ),
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
    chunk: Chunk = 64,
    precision: Precision = "float32",
    device: Device = "auto",
) -> None:
    """Draw images from a checkpoint and say what they cost. Stopped or killed, an .npz or a folder goes on with the
    same command, bit for bit; finished, it is left as it is. Under torchrun the processes share the images. Every
    output carries its provenance."""
    from .. import sampling

    stepper = sampling.solver_named(solver, steps, diffusion, last_step, shift)
    plan = sampling.Plan(
        stepper, (8 if compare else 64) if count is None else count, seed, _class_or_plan(labels), guidance,
        guidance_interval, guidance_channels, chunk, autoguidance, discriminator, discriminator_weight, correction,
        precision,
    )  # fmt: skip
    if compare:
        said = sampling.compare_to_file([*([checkpoint] if checkpoint else []), *compare], out, plan, device)
    elif checkpoint is None:
        raise DefarError("sample needs a checkpoint: a folder, such as reproduce/checkpoints/cifar10-defar")
    else:
        said = sampling.sample_to_file(checkpoint, out, plan, device)
    if said is not None:  # of several processes the first one speaks
        print(said)


def _class_or_plan(labels: str) -> int | str:
    try:
        return int(labels)
    except ValueError:
        return labels
