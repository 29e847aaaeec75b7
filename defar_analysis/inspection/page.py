"""`defar inspect`: all views of a few images on a grid of times, precomputed into one self-contained page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DefarError
from ..files import replaced
from ..measures.base import TimeGrid
from ..measures.radial import radii
from ..measures.spectral import CUTOFF
from ..plots import inspection_page
from ..provenance import environment
from .inspector import Inspector

CHUNK = 2  # images at a time: the bar moves, and more are hardly faster


def check_page(out: Path, times: int) -> Path:
    """`out` as a path. Raises DefarError where no page can be written there, and for fewer than 3 times."""
    out = Path(out)
    if out.suffix.lower() not in (".html", ".htm"):
        raise DefarError(f"{out}: give a name ending in .html")
    if out.is_dir():
        raise DefarError(f"{out}: is a folder; give another name")
    if not out.parent.is_dir():
        raise DefarError(f"{out.parent}: no such folder; make it first")
    if times < 3:
        raise DefarError(f"times = {times}; give 3 or more, from 0 to 1")
    return out


def write_page(inspector: Inspector, out: Path, times: int = 11, command: str = "") -> Path:
    """Measure every method on the inspector's images at all pairs of `times` uniform times; write the page.

    Raises DefarError where no page can be written to `out`, for fewer than 3 times, and where it would be too large.
    """
    out = check_page(out, times)
    methods, images = inspector.methods, inspector.images
    shapes = {checkpoint.shape for checkpoint in inspector.checkpoints.values()}
    if len(shapes) > 1:
        raise DefarError(f"the checkpoints see {' and '.join(map(str, sorted(shapes)))}; a page shows one shape")
    height, width = inspector.dataset.images.shape[2:]
    size = inspection_page.size_of(len(methods), len(images), times, height * width, len(radii(height, width)[0]))
    if size > inspection_page.LARGEST:
        raise DefarError(
            f"the page would take {size / 1e6:.0f} MB for {len(images)} images and {times} times; give fewer of either "
            f"(at most {inspection_page.LARGEST / 1e6:.0f} MB)"
        )
    grid = TimeGrid.all_pairs("inspect", times)
    found = [inspector.sweep(method, images, grid, CHUNK) for method in methods]
    kept = [table.attrs["arrays"] for table in found]
    arrays = {name: np.stack([part[name] for part in kept]) for name in ("map", "bias", "prediction", "target")}
    arrays["rms"] = np.stack([table["bias_rms"].to_numpy().reshape(grid.pairs, len(images)) for table in found])
    arrays |= {name: kept[0][name] for name in ("radii", "counts")}
    arrays["pictures"] = np.stack([inspector.picture(image) for image in images])
    text = inspection_page.page(
        arrays, methods, [{"index": image, "class": inspector.class_name(image)} for image in images], grid.times,
        CUTOFF, inspector.dataset.name, _models(inspector), _provenance(inspector, grid, command),
    )  # fmt: skip
    with replaced(out) as beside:
        beside.write_text(text, encoding="utf-8", newline="\n")
    return out


def _models(inspector: Inspector) -> list[dict[str, Any]]:
    """A row for each method: what it is and between which times its path is walked (the page's times are shares)."""
    rows = []
    for name, checkpoint in inspector.checkpoints.items():
        card, (begin, end) = checkpoint.card, checkpoint.interpolant.interval("train")
        path = f"{card.interpolant}, t from {begin:g} to {end:g}"
        row = {"method": name, "checkpoint": card.name, "weights": card.weights, "sha256": card.sha256, "path": path}
        rows.append(row | {"training steps": card.training.get("steps", "unknown")})
    return rows


def _provenance(inspector: Inspector, grid: TimeGrid, command: str) -> dict[str, Any]:
    data, labelled = inspector.dataset, inspector.dataset.labels is not None
    return {
        "data": f"{data.name}, sha256 {data.hash}",
        "images": ", ".join(f"{i} ({inspector.class_name(i)})" if labelled else str(i) for i in inspector.images),
        "times": f"{len(grid.times)} uniform shares of each path's interval, all {grid.pairs} pairs t0 < t1",
        "seed": f"{inspector.seed}; the noise of an image depends on this and its number alone",
        "map values": "kept to 1/255 of each map's greatest value; energies to 7 digits",
        "command": command or "defar_analysis.inspection.write_page",
        "device": str(inspector.device),
    } | environment()
