"""The paper's claims, one row each: how far its own tables bear them out, and the verdict here."""

from __future__ import annotations

import textwrap

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..errors import DefarError
from .style import PAPER, Style, applied, require

COLUMNS = ("claim", "where", "paper_holds", "paper_comparisons", "verdict")
# A verdict is told apart by its word, its mark and its colour, any one of which is enough.
LOOKS = {
    "holds": ("holds", "o", "#009E73"),
    "does not hold": ("does not hold", "X", "#D55E00"),
    "undecided at this scale": ("undecided", "D", "#E69F00"),
    "not run": ("not run", "_", "#7F7F7F"),
}
_BAR, _REST, _RULE = "#4C4C4C", "#E3E3E3", "#D9D9D9"
_LETTERS = 44  # of a claim in one line
# Inches: the page, and where its columns begin.
_WIDTH, _WHERE, _CLAIM, _SHARE, _OF, _VERDICT = 6.9, 0.08, 1.02, 4.2, 0.95, 5.72
_LINE, _GAP, _HEAD, _FOOT = 0.145, 0.1, 0.42, 0.3


def plot(table: pd.DataFrame, style: Style = PAPER, *, note: str = "") -> Figure:
    """One row for each claim: where, what, the share of the paper's own comparisons that bear it out, and our verdict.

    table: columns COLUMNS. Raises DefarError for no rows, a missing column, or a verdict that is not in LOOKS.
    """
    require(table, COLUMNS, "the table of claims")
    unknown = [verdict for verdict in table["verdict"] if verdict not in LOOKS]
    if unknown:
        raise DefarError(f"the table of claims has verdict {unknown[0]!r}; choose from {', '.join(LOOKS)}")
    claims = [textwrap.wrap(str(words), _LETTERS) for words in table["claim"]]
    heights = [max(len(lines), 1) * _LINE + _GAP for lines in claims]
    total = _HEAD + sum(heights) + _FOOT
    with applied(style):
        figure = Figure(figsize=(_WIDTH, total))
        ax = figure.add_axes((0, 0, 1, 1))
        ax.set_axis_off()
        ax.set_xlim(0, _WIDTH)  # inches both ways, from the top
        ax.set_ylim(total, 0)
        _head(ax, style)
        top, section = _HEAD, None
        for row, lines, height in zip(table.itertuples(), claims, heights, strict=True):
            new = _section(row.where) != section
            ax.plot((_WHERE, _WIDTH - _WHERE), (top, top), color=_BAR if new else _RULE, linewidth=0.9 if new else 0.5)
            section = _section(row.where)
            _row(ax, row, "\n".join(lines), top + height / 2, style)
            top += height
        ax.plot((_WHERE, _WIDTH - _WHERE), (top, top), color=_BAR, linewidth=0.9)
        if note:
            ax.text(_WHERE, top + 0.17, note, fontsize=style.small_font, color="#555555", va="center")
    return figure


def _section(where: str) -> str:
    """Such as "Sec. 5.2" for "Sec. 5.2 (iv)"."""
    return where.partition(" (")[0]


def _head(ax: Axes, style: Style) -> None:
    places = {_WHERE: "Where", _CLAIM: "The paper's claim", _SHARE: "Its own tables", _VERDICT: "Here"}
    for x, words in places.items():
        ax.text(x, _HEAD - 0.15, words, fontsize=style.font, fontweight="bold", va="center")


def _row(ax: Axes, row, words: str, y: float, style: Style) -> None:
    ax.text(_WHERE, y, row.where, fontsize=style.small_font + 0.5, color="#555555", va="center")
    ax.text(_CLAIM, y, words, fontsize=style.font, va="center", linespacing=1.1)
    holds, total = int(row.paper_holds), int(row.paper_comparisons)
    if total:
        ax.barh(y, _OF, 0.11, left=_SHARE, color=_REST)
        ax.barh(y, _OF * holds / total, 0.11, left=_SHARE, color=_BAR)
    share = f"{holds}/{total}" if total else "no printed numbers"
    ax.text(_SHARE + (_OF + 0.06 if total else 0), y, share, fontsize=style.small_font, va="center")
    word, mark, colour = LOOKS[row.verdict]
    ax.plot([_VERDICT + 0.06], [y], linestyle="none", marker=mark, markersize=6.0, color=colour, markeredgewidth=1.6
            if mark == "_" else 0.5)  # fmt: skip
    ax.text(_VERDICT + 0.19, y, word, fontsize=style.font, va="center")
