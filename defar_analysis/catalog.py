"""Every figure and table that can be regenerated; `entries` says what each is made of.

checkpoints + data -> measurements (results/) -> collect() -> figures/data/<id>.csv -> draw() -> figures/<id>.png, .pdf
                                                                          a table also as data/<id>.md, .tex
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from .artefacts import (
    PROFILES,
    Artefact,
    Figure,
    checked_profile,
    checked_root,
    data_files,
    figures_folder,
    read,
    write,
)
from .entries import ENTRIES
from .errors import DefarError, reason
from .paper_tables import TABLES, written

__all__ = [
    "FIGURES", "PROFILES", "TABLES", "Artefact", "Figure", "checked_profile", "collect", "data_files", "draw", "figure",
    "figures_folder", "its_own", "load", "save", "write",
]  # fmt: skip

if TYPE_CHECKING:
    from matplotlib.figure import Figure as MatplotlibFigure

FIGURES = {entry.id: entry for entry in ENTRIES}


def collect(id: str, profile: str = "quick", device: str = "auto", root: str | Path = ".") -> Artefact:
    """Measure what figure `id` shows, or take what is still valid from results/, and write it to <folder>/data/.

    profile: "tiny" (seconds, to try the pipeline), "quick" (minutes), "full" (the paper's grid). Data of a better
    profile is never overwritten: what a worse one makes goes to results/<profile>/figures.
    """
    from .experiment import Experiment

    return write(figure(id).build(Experiment(checked_root(root), checked_profile(profile), device)))


def load(id: str, folder: Path) -> Artefact:
    """The artefact whose data lies in `folder`/data, without measuring anything."""
    return read(id, folder, figure(id).tables)


def draw(artefact: Artefact) -> MatplotlibFigure:
    """The figure, from its data alone. Raises DefarError where these are not what the figure takes."""
    with its_own(artefact):
        return figure(artefact.id).plot(artefact)


@contextmanager
def its_own(artefact: Artefact) -> Iterator[None]:
    """The border where data that somebody changed, a column too few, words for numbers, become one line."""
    try:
        yield
    except DefarError:
        raise
    except (LookupError, ValueError, TypeError, AttributeError, ArithmeticError) as error:  # pandas', NumPy's
        what = f"{type(error).__name__}: {reason(error)}"
        files, again = artefact.folder / "data" / artefact.id, f"defar reproduce --only {artefact.id}"
        raise DefarError(f"{files}.*: are not the data of {artefact.id} ({what}); run: {again}") from error


def save(artefact: Artefact, drawn: MatplotlibFigure) -> list[Path]:
    """Write the figure as <folder>/<id>.png and .pdf, and a table of the paper as text; returns the paths."""
    from .plots import style

    texts = written(artefact) if artefact.id in TABLES else ()
    return [*style.save(drawn, artefact.folder / artefact.id), *texts]


def figure(id: str) -> Figure:
    """The entry of that id. Raises DefarError naming those there are."""
    if not isinstance(id, str) or id not in FIGURES:
        raise DefarError(f"unknown figure or table {id!r}; there are {', '.join(FIGURES)}")
    return FIGURES[id]
