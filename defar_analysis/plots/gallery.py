"""The gallery: one page that opens from disk and shows every figure with its numbers and where they come from."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pandas as pd

from ..errors import DefarError
from ..files import replaced

KEYS = ("id", "title")
LONGEST_NAME = 40  # letters; longer cells are sentences
FILES = {
    "png": "PNG", "pdf": "PDF", "csv": "CSV", "md": "Markdown", "tex": "LaTeX", "notebook": "Executed notebook",
}  # fmt: skip

CSS = """
:root { color-scheme: light dark; --text: #1c1c1c; --soft: #5c5c5c; --page: #fbfbf9; --card: #fff; --line: #ddd;
  --link: #0a5fa8 }
@media (prefers-color-scheme: dark) { :root { --text: #e8e8e6; --soft: #a5a5a0; --page: #161617; --card: #1f1f21;
  --line: #38383b; --link: #7fbcf2 } }
* { box-sizing: border-box }
body { margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 76rem; background: var(--page); color: var(--text);
  font: 16px/1.5 system-ui, sans-serif }
a { color: var(--link) }
nav ul { display: flex; flex-wrap: wrap; gap: .3rem 1.2rem; margin: .3rem 0; padding: 0; list-style: none }
nav p { margin: .8rem 0 0; color: var(--soft) }
section { margin: 1.5rem 0; padding: 1rem 1.25rem; background: var(--card); border: 1px solid var(--line);
  border-radius: 8px }
h2 { margin: 0 0 .3rem; font-size: 1.2rem }
h2 span { margin-left: .5rem; color: var(--soft); font-size: .85rem; font-weight: normal }
img { display: block; max-width: 100%; margin: .8rem auto; padding: .5rem; background: #fff; border-radius: 4px }
.note { padding-left: .8rem; border-left: 3px solid var(--line); color: var(--soft) }
.table { overflow-x: auto }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums }
th, td { padding: .2rem .7rem; border-bottom: 1px solid var(--line); text-align: left; white-space: nowrap }
td.number, th.number { text-align: right }
td.words { min-width: 15rem; white-space: normal }
details { margin-top: .7rem; color: var(--soft); font-size: .85rem }
dl { display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: .1rem 1rem; margin: .4rem 0 }
dd { margin: 0 }
dt, dd { overflow-wrap: anywhere }
@media (max-width: 40rem) { body { padding: 1rem .5rem 3rem } section { padding: .8rem } dl { display: block }
  dd { margin-left: .7rem } nav ul { flex-direction: column } }
"""


def write(folder: Path, entries: Sequence[Mapping], title: str = "Figures") -> Path:
    """Write folder/index.html and return its path.

    Each entry: id and title; and, where there are any, paper ("Fig. 3"), group (of the contents), caption, the FILES
    (paths, relative ones within `folder`), numbers (a DataFrame), provenance (a dict) and note. Raises DefarError for a
    file that is missing.
    """
    folder = Path(folder)
    for entry in entries:
        for key in KEYS:
            if key not in entry:
                raise DefarError(f"a gallery entry has no {key!r}; it has: {', '.join(map(str, entry)) or 'nothing'}")
    page = (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{CSS}</style>\n</head>\n<body>\n<h1>{escape(title)}</h1>\n"
        f'<nav aria-label="Contents">{_contents(entries)}</nav>\n<main>\n'
        + "\n".join(_section(folder, entry) for entry in entries)
        + "\n</main>\n</body>\n</html>\n"
    )
    path = folder / "index.html"
    with replaced(path) as beside:
        beside.write_text(page, encoding="utf-8", newline="\n")
    return path


def _contents(entries: Sequence[Mapping]) -> str:
    """Links to the entries, a list for each group in the order in which they come."""
    groups: dict[str, list[str]] = {}
    for entry in entries:
        link = f'<li><a href="#{_anchor(entry["id"])}">{escape(str(entry["title"]))}</a></li>'
        groups.setdefault(str(entry.get("group") or ""), []).append(link)
    named = {name: f"<p>{escape(name)}</p>" if name else "" for name in groups}
    return "\n".join(f"{named[name]}<ul>{''.join(links)}</ul>" for name, links in groups.items())


def _section(folder: Path, entry: Mapping) -> str:
    heading = escape(str(entry["title"]))
    paper = f"<span>{escape(str(entry['paper']))} of the paper</span>" if entry.get("paper") else ""
    parts = [f'<section id="{_anchor(entry["id"])}">\n<h2>{heading}{paper}</h2>']
    if entry.get("caption"):
        parts.append(f"<p>{escape(str(entry['caption']))}</p>")
    links = {kind: _link(folder, entry[kind]) for kind in FILES if entry.get(kind)}
    if "png" in links:
        parts.append(f'<a href="{links["png"]}"><img src="{links["png"]}" alt="{heading}" loading="lazy"></a>')
    if links:
        files = " · ".join(f'<a href="{link}">{FILES[kind]}</a>' for kind, link in links.items())
        parts.append(f"<p>{files}</p>")
    if entry.get("note"):
        parts.append(f'<p class="note">{escape(str(entry["note"]))}</p>')
    if entry.get("numbers") is not None:
        parts.append(_table(entry["numbers"]))
    if entry.get("provenance"):
        listed = _definitions(entry["provenance"])
        parts.append(f"<details><summary>Where this comes from</summary>{listed}</details>")
    return "\n".join(parts) + "\n</section>"


def _definitions(values: Mapping) -> str:
    rows = []
    for key, value in values.items():
        shown = _definitions(value) if isinstance(value, Mapping) else escape(str(value))
        rows.append(f"<dt>{escape(str(key))}</dt><dd>{shown}</dd>")
    return f"<dl>{''.join(rows)}</dl>"


def _anchor(name: object) -> str:
    # An id in HTML holds no spaces; quoting also makes it the same in the link and at its target.
    return escape("".join(c if c.isalnum() or c in "-_." else "-" for c in str(name)))


def _link(folder: Path, path: Path | str) -> str:
    """A relative link, so that the folder can be moved or sent as a whole."""
    full = Path(path) if Path(path).is_absolute() else folder / path
    if not full.is_file():
        raise DefarError(f"the gallery would link to {str(full)!r}, which does not exist")
    return escape(quote(Path(os.path.relpath(full, folder.absolute())).as_posix()))


def _table(frame: pd.DataFrame) -> str:
    mark = [f' class="{kind}"' if (kind := _kind(frame[name])) else "" for name in frame]
    head = "".join(f"<th{kind}>{escape(str(name))}</th>" for kind, name in zip(mark, frame.columns, strict=True))
    lines = []
    for row in frame.itertuples(index=False, name=None):
        cells = "".join(f"<td{kind}>{escape(_text(value))}</td>" for kind, value in zip(mark, row, strict=True))
        lines.append(f"<tr>{cells}</tr>")
    body = "\n".join(lines)
    return f'<div class="table"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>'


def _kind(column: pd.Series) -> str:
    """How a column is set: numbers to the right, sentences in several lines, words and names in one."""
    if pd.api.types.is_numeric_dtype(column):
        return "number"
    return "words" if column.astype(str).str.len().max() > LONGEST_NAME else ""


def _text(value: object) -> str:
    """Three significant digits, whole numbers as they are, a dash for nothing."""
    if value is None or value is pd.NA:
        return "–"
    if not isinstance(value, (float, np.floating)):
        return str(value)
    if np.isnan(value):
        return "–"
    whole = np.isfinite(value) and abs(value) < 1e6 and (abs(value) >= 1000 or value == int(value))
    return f"{value:.0f}" if whole else f"{value:.3g}"
