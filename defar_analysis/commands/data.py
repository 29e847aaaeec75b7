"""`defar data cifar10` and `defar data latents`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import OmitArgPrefixes, Positional, arg, subcommand

from ..errors import DefarError
from .options import Device

Cache = Annotated[Path | None, arg(help="where data is kept (default: $DEFAR_DATA or ~/.cache/defar_analysis)")]


@dataclass(frozen=True)
class Cifar10:
    """Fetch CIFAR-10 once, check it against the official checksums and keep it memory-mapped."""

    root: Cache = None
    source: Annotated[Path | None, arg(help="your own copy: an official archive or folder, python or binary")] = None

    def run(self) -> None:
        from ..core.cifar10 import prepare_cifar10

        print(prepare_cifar10(self.root, self.source))


@dataclass(frozen=True)
class Latents:
    """Encode images once, for trainings and measurements in latent space. Stopped or killed, the same command goes on,
    and its files are bit for bit those of an uninterrupted one."""

    source: Annotated[
        Positional[str],
        arg(
            help="a folder of pictures, with a subfolder for each class or none; cifar10; or an .npz", metavar="SOURCE"
        ),
    ]
    codec: Annotated[
        Path, arg(help="the autoencoder's folder: diffusers' (such as sd-vae-ft-ema) or of `defar train-autoencoder`")
    ]
    out: Annotated[Path, arg(help="the folder that is written; a recipe names it as data.name")]
    size: Annotated[
        int | None, arg(help="cut a folder's pictures to squares of this side, as ADM does; 256, say", metavar="INT")
    ] = None
    split: Literal["train", "test"] = "train"
    flip: Annotated[bool, arg(help="the mirror images, too, for data.horizontal_flip")] = False
    scale: Annotated[
        float | None,
        arg(help="what latents are multiplied by", metavar="SCALE", help_behavior_hint="(default: the autoencoder's)"),
    ] = None
    shift: Annotated[
        float | None,
        arg(help="taken off before", metavar="SHIFT", help_behavior_hint="(default: the autoencoder's)"),
    ] = None
    statistics: Annotated[
        Path | None,
        arg(help="a file of mean and std, or var, to standardise by (VA-VAE, RAE)", help_behavior_hint=""),
    ] = None
    shard: Annotated[int, arg(help="images in a file")] = 4096
    chunk: Annotated[int, arg(help="images in a call of the autoencoder")] = 16
    dtype: Annotated[Literal["float16", "float32"], arg(help="of what is kept")] = "float16"
    device: Device = "auto"
    root: Cache = None

    def run(self) -> None:
        from ..core.codecs import open_codec
        from ..core.devices import resolve_device
        from ..core.latent_shards import open_source, write_latents

        table = {
            "kind": "vae", "path": str(self.codec.expanduser().resolve()), "scale": self.scale, "shift": self.shift,
            "statistics": None if self.statistics is None else str(self.statistics.expanduser().resolve()),
            "chunk": self.chunk,
        }  # fmt: skip
        table = {key: value for key, value in table.items() if value is not None}
        try:
            codec = open_codec(table, device=resolve_device(self.device))
        except DefarError as error:
            raise DefarError(f"--codec {self.codec}: {error}") from None
        source = open_source(self.source, self.split, self.root, self.size)
        out = write_latents(source, codec, table, self.out, shard=self.shard, flip=self.flip, dtype=self.dtype)
        print(f"{out}: latents of {source.count} images, {codec.latent_shape(source.shape)} from {source.shape}")


def data(
    what: OmitArgPrefixes[
        Annotated[Cifar10, subcommand(name="cifar10")] | Annotated[Latents, subcommand(name="latents")]
    ],
) -> None:
    """Make data ready: fetch CIFAR-10, or encode images into latents."""
    what.run()
