"""`defar import`: another project's model as a checkpoint of ours; `defar doctor`: whether it is plugged in right."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, UseAppendAction, arg

from .options import Device


def import_(
    source: Annotated[
        Positional[str],
        arg(
            help="a file of weights (.safetensors, .pt, .pth, .ckpt), a model's folder of diffusers, my_model:build, "
            "your own function that returns a network (naming it here is trust), or a .toml that names one",
            metavar="SOURCE",
        ),
    ],
    weights_file: Annotated[
        Positional[Path | None],
        arg(help="the weights of my_model:build (default: those it returns)", metavar="WEIGHTS", help_behavior_hint=""),
    ] = None,
    *,
    out: Annotated[Path, arg(help="the checkpoint's folder")],
    family: Annotated[
        Literal["sit", "repa", "ddt", "rae", "lightningdit", "unet", "diffusers"] | None,
        arg(help="where the file's keys cannot tell", metavar="FAMILY", help_behavior_hint="(default: by its keys)"),
    ] = None,
    weights: Annotated[Literal["ema", "raw"], arg(help="which to take where the file has both")] = "ema",
    set: Annotated[
        tuple[str, ...],
        arg(
            help="what weights do not show, or my_model:build's arguments: --set num_heads=16 encoder_depth=22",
            metavar="KEY=VALUE",
            help_behavior_hint="",
        ),
    ] = (),
    input_size: Annotated[
        int | None,
        arg(
            help="side of one x; other than the file's, its positions are made anew",
            metavar="INT",
            help_behavior_hint="(default: the file's)",
        ),
    ] = None,
    channels: Annotated[
        int | None, arg(help="channels of one x", metavar="INT", help_behavior_hint="(default: the file's)")
    ] = None,
    classes: Annotated[
        int | None, arg(help="number of classes", metavar="INT", help_behavior_hint="(default: the file's; none)")
    ] = None,
    conventions: Annotated[
        tuple[str, ...],
        arg(
            help="how my_model:build's network differs from v(x, t, labels), noise at t = 0: noise_at=1, "
            'velocity=noise-data, time_scale=1000, \'arguments=["t", "x"]\', output=0, attribute=sample, '
            "null_label=1000",
            metavar="KEY=VALUE",
            help_behavior_hint="",
        ),
    ] = (),
    interpolant: Annotated[Literal["linear", "gvp", "vp"], arg(help="the path it was trained on")] = "linear",
    codec: Annotated[
        Path | None,
        arg(help="a TOML file: what decodes its latents", metavar="FILE", help_behavior_hint="(default: pixels)"),
    ] = None,
    constants: Annotated[
        Path | None,
        arg(
            help="a .safetensors of inputs that are the same for every image (diffusers: a prompt's embedding)",
            metavar="FILE",
            help_behavior_hint="(default: none)",
        ),
    ] = None,
    name: Annotated[
        str | None, arg(help="its name in tables", metavar="NAME", help_behavior_hint="(default: the file's)")
    ] = None,
    allow_class: UseAppendAction[
        Annotated[
            tuple[str, ...],
            arg(help="a class that a pickle may rebuild, by name; repeat for more", metavar="PACKAGE.CLASS"),
        ]
    ] = (),
) -> None:
    """Bring another project's model: convert it once to safetensors and a card, in this project's clock and sign.

    Reads SiT, REPA, DDT, RAE, LightningDiT and torchcfm's U-Net. Nothing in a file is ever run; what cannot be seen in
    it is asked for by option.
    """
    from ..config import override
    from ..core.foreign.importing import ImportOptions, import_model

    asked = ImportOptions(
        family, weights, override({}, set), input_size, channels, classes, override({}, conventions), name,
        interpolant, codec, allow_class, constants,
    )  # fmt: skip
    for line in import_model(source, out, asked, weights_file):
        print(line)


def doctor(
    checkpoint: Annotated[Positional[Path], arg(help="a checkpoint's folder")],
    data: Annotated[str, arg(help="what it was trained on: cifar10, a folder of images or of latents, or an .npz")] = (
        "cifar10"
    ),
    split: Literal["train", "test"] = "test",
    images: Annotated[int, arg(help="how many; verdicts are sure from about 32 on")] = 64,
    weights: Annotated[Literal["ema", "raw"], arg(help="what its card says that it holds")] = "ema",
    json: Annotated[bool, arg(help="print one JSON object instead of lines")] = False,
    device: Device = "auto",
) -> int:
    """Prove that a model is plugged in right: clock, sign, scale, labels, weights, one line per check.

    Each line says what was seen and, where it is wrong, the mend. The fingerprint of 16 fixed images tells whether two
    machines run the same network. Exit status 1 where a check fails.
    """
    from ..doctor import examine_checkpoint

    diagnosis = examine_checkpoint(checkpoint, data, split, images, device, weights)
    print(diagnosis.as_json() if json else diagnosis)
    return 0 if diagnosis.healthy else 1
