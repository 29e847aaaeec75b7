"""Options that several subcommands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import arg

Device = Annotated[str, arg(help="cpu, cuda, cuda:1, npu, ...; auto takes an accelerator where there is one")]
Chunk = Annotated[int, arg(help="images in a network call; a GPU takes more, and a stopped run keeps whole chunks")]
Precision = Annotated[
    Literal["float32", "bf16"],
    arg(help="of the network; bf16, for accelerators, is autocast around a float32 state"),
]
Root = Annotated[Path, arg(help="the project folder: it holds reproduce/, notebooks/ and figures/")]
Profile = Literal["tiny", "quick", "full"]
ProtocolName = Annotated[
    str,
    arg(
        help="what is measured, by which network, against what: offline-effnet-lite0-128, -lite0-224, -lite2-224, "
        "cifar10-train, celeba64-train, adm-imagenet256, adm-imagenet512"
    ),
]
Count = Annotated[
    int | None,
    arg(
        help="how many images; values of different n do not compare",
        metavar="INT",
        help_behavior_hint="(default: the protocol's)",
    ),
]
Reference = Annotated[
    str | None,
    arg(
        help="another reference: a data set, a folder, an .npz of images or of statistics (ADM, EDM, pytorch-fid)",
        metavar="NAME",
        help_behavior_hint="(default: the protocol's)",
    ),
]
Inception = Annotated[
    Path | None,
    arg(
        help="Inception's weights", metavar="PATH", help_behavior_hint="(default: $DEFAR_INCEPTION, or the data folder)"
    ),
]
