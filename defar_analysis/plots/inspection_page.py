"""The inspector's page: HTML, script and numbers in one file that opens from disk, without a network."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

import matplotlib as mpl
import numpy as np

from ..errors import DefarError
from .maps import COLOUR_MAP
from .style import PAPER, Style, pick

HERE = Path(__file__).parent
LARGEST = 64_000_000  # bytes; a browser still opens it in a moment


def size_of(methods: int, images: int, times: int, pixels: int, radii: int) -> int:
    """About how many bytes the page takes: a byte for each pixel of a map, four for an energy, a third more as text."""
    pairs = times * (times - 1) // 2
    content = methods * images * (pairs * (pixels + 4 * radii) + 2 * (times - 1) * 4 * radii) + images * 3 * pixels
    return 22_000 + content * 4 // 3


def page(
    arrays: Mapping[str, np.ndarray],
    methods: Sequence[str],
    images: Sequence[Mapping],
    times: Sequence[float],
    cutoff: float,
    source: str,
    models: Sequence[Mapping],
    provenance: Mapping,
    style: Style = PAPER,
) -> str:
    """The whole page as text.

    arrays: of measures.views.BiasViews for all pairs of `times`, with the methods on a first axis: map (M, P, N, H, W),
    rms (M, P, N), bias (M, P, N, R), prediction, target (M, S, N, R), radii, counts (R,); and pictures (N, H, W, C)
    uint8. images: index and class of each; source: the data set they are from. models (a row for each) and provenance
    are shown below. Raises DefarError where shapes do not fit.
    """
    maps, pictures = pick(arrays, "map"), pick(arrays, "pictures")
    starts = range(len(times) - 1)
    pairs = [(s, e) for s in starts for e in range(s + 1, len(times))]
    expected = (len(methods), len(pairs), len(images))
    if maps.shape[:3] != expected:
        raise DefarError(f"the maps have shape {maps.shape}; {expected} methods, pairs and images are named")
    tops = maps.max(axis=(3, 4))
    scale = np.where(tops > 0, 255 / np.where(tops > 0, tops, 1), 0)[..., None, None]
    data = {
        "methods": [{"name": name, "colour": style.colour(name)} for name in methods],
        "images": list(images), "classes": list(dict.fromkeys(image["class"] for image in images)), "source": source,
        "times": list(times), "pairs": pairs, "cutoff": cutoff, "size": maps.shape[3:],
        "radii": pick(arrays, "radii").tolist(), "counts": pick(arrays, "counts").tolist(),
        # a byte for each pixel, 255 at the map's own greatest value: finer than the 256 colours that show it
        "maps": _text(np.rint(maps * scale).astype(np.uint8)),
        "tops": _text(tops.astype("<f4")),
        "pictures": _text(np.broadcast_to(pictures, (*pictures.shape[:3], 3)).astype(np.uint8)),
        "colours": _text(np.rint(255 * mpl.colormaps[COLOUR_MAP](np.arange(256))[:, :3]).astype(np.uint8)),
    } | {name: _text(pick(arrays, name).astype("<f4")) for name in ("rms", "bias", "prediction", "target")}  # fmt: skip
    content = json.dumps(data, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    template, script = (
        (HERE / f"inspection_page.{kind}").read_text(encoding="utf-8").rstrip() for kind in ("html", "js")
    )
    about = f"<details><summary>Where this comes from</summary>{_rows(models)}{_definitions(provenance)}</details>"
    parts = {"SCRIPT": script, "ABOUT": about, "DATA": content}
    return re.sub("@(SCRIPT|ABOUT|DATA)@", lambda mark: parts[mark[1]], template) + "\n"


def _text(array: np.ndarray) -> str:
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()


def _rows(rows: Sequence[Mapping]) -> str:
    head = "".join(f"<th>{escape(str(key))}</th>" for key in rows[0])
    body = "".join(f"<tr>{''.join(f'<td>{escape(str(v))}</td>' for v in row.values())}</tr>" for row in rows)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _definitions(values: Mapping) -> str:
    return f"<dl>{''.join(f'<dt>{escape(str(k))}</dt><dd>{escape(str(v))}</dd>' for k, v in values.items())}</dl>"
