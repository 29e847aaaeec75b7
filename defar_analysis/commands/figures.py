"""`defar measure`, `defar figure`, `defar table` and `defar reproduce`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, UseAppendAction, arg

from .options import Device, Profile, Root


def measure(
    checkpoint: Annotated[Positional[Path], arg(help="a checkpoint's folder")],
    data: Annotated[str, arg(help="cifar10, a folder of images, or an .npz")] = "cifar10",
    split: Literal["train", "test"] = "test",
    profile: Annotated[Profile, arg(help="tiny: 8 images; quick: 64, 10 x 6 times; full: 512, 1,225 pairs")] = "quick",
    results: Annotated[Path, arg(help="where tables are kept; a valid one is not measured again")] = Path("results"),
    device: Device = "auto",
) -> None:
    """Measure a checkpoint's exposure bias: PFR and its crossings, FEL and its gain, bias maps. Under torchrun the
    processes share the images."""
    from ..experiment import measure_checkpoint

    said = measure_checkpoint(checkpoint, data, split, profile, results, device)
    if said is not None:  # of several processes the first one speaks
        print(said)


def figure(
    id: Annotated[Positional[str], arg(help="an id of the gallery, such as fig3 or robustness")],
    folder: Annotated[Path, arg(help="the figures' folder; its data/ holds the tables")] = Path("figures"),
) -> None:
    """Redraw one figure from its committed table, without checkpoints, data or a GPU."""
    from .. import catalog
    from ..reproduction import write_gallery

    artefact = catalog.load(id, folder)
    for path in catalog.save(artefact, catalog.draw(artefact)):
        print(path)
    write_gallery(folder)


def table(
    id: Annotated[Positional[str], arg(help="tab1 ... tab11, or mixflow")],
    folder: Annotated[Path, arg(help="the figures' folder; its data/ holds the tables")] = Path("figures"),
    format: Annotated[Literal["markdown", "latex", "csv"], arg(help="what is printed")] = "markdown",
) -> None:
    """Print a table of the paper with ours and the difference beside its values, from the committed data."""
    from .. import catalog, tables
    from ..errors import DefarError
    from ..paper_tables import whole

    if id not in catalog.TABLES:
        raise DefarError(f"unknown table {id!r}; there are {', '.join(catalog.TABLES)}")
    artefact, caption = catalog.load(id, folder), catalog.TABLES[id].caption
    with catalog.its_own(artefact):
        comparison = whole(artefact)
        if format == "csv":
            said = comparison.to_csv(index=False, float_format="%.6g")
        elif format == "latex":
            said = tables.latex(comparison, caption, f"tab:{id}")
        else:
            said = tables.markdown(comparison, caption)
    print(said, end="")


def reproduce(
    profile: Annotated[Profile, arg(help="tiny: seconds; quick: minutes; full: the paper's grid")] = "quick",
    only: UseAppendAction[Annotated[tuple[str, ...], arg(help="one id; repeat for more (default: all)")]] = (),
    device: Device = "auto",
    root: Root = Path("."),
) -> None:
    """Bring every figure up to date: measure the checkpoints, run the notebooks, write the gallery.

    One that fails does not stop the others; a table at the end says what happened to each.
    """
    from .. import catalog
    from ..reproduction import reproduce as run

    print(run(root, profile, list(only) or list(catalog.FIGURES), device))
