"""`defar inspect`."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from ..errors import DefarError
from .options import Device, Root


def inspect(
    checkpoints: Annotated[
        Positional[tuple[str, ...]],
        arg(
            help="checkpoints' folders; as NAME=FOLDER a method has a name of yours",
            metavar="[[NAME=]CHECKPOINT ...]",
            help_behavior_hint="(default: the shipped ones under --root)",
        ),
    ] = (),
    *,
    data: Annotated[str, arg(help="cifar10, a folder of images, or an .npz")] = "cifar10",
    split: Literal["train", "test"] = "test",
    images: Annotated[int, arg(help="how many images, classes in turn")] = 8,
    times: Annotated[int, arg(help="how many times from 0 to 1; all pairs t0 < t1 of them")] = 11,
    out: Annotated[Path, arg(help="the page to write")] = Path("inspect.html"),
    seed: Annotated[int, arg(help="image i's noise depends on this and i alone")] = 0,
    root: Root = Path("."),
    device: Device = "auto",
) -> None:
    """Write one page to inspect bias maps, spectra and PFR with sliders. It holds all its views and opens from disk in
    any browser, without a network."""
    from ..inspection import open_inspector, write_page
    from ..inspection.page import check_page

    check_page(out, times)  # before anything is loaded
    inspector = open_inspector(
        _named(checkpoints) or None, data, split, images=images, root=root, seed=seed, device=device
    )
    path = write_page(inspector, out, times, shlex.join(["defar", *sys.argv[1:]]))
    views = len(inspector.methods) * images * times * (times - 1) // 2
    print(f"{path}: {views} views of {', '.join(inspector.methods)}, {path.stat().st_size / 1e6:.2g} MB")


def _named(given: tuple[str, ...]) -> dict[str, Path]:
    """Folders by method: NAME=FOLDER as named, the others each by its own name."""
    from ..sample_files import row_names

    named = {text: text.partition("=")[::2] for text in given if "=" in text and not Path(text).exists()}
    plain = iter(row_names([Path(text) for text in given if text not in named]))
    found: dict[str, Path] = {}
    for text in given:
        name, folder = named[text] if text in named else (next(plain), text)
        if not name or not folder:
            raise DefarError(f"{text}: write NAME=CHECKPOINT")
        if name in found:
            raise DefarError(f"{text}: {name} is {found[name]} already; give it another name: NAME=CHECKPOINT")
        found[name] = Path(folder)
    return found
