"""Which modules of plots/ draw a picture, so that a change to another one does not redraw it."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Callable
from pathlib import Path
from types import FunctionType, ModuleType

PLOTS = Path(__file__).parent / "plots"


def drawing_code(plot: Callable, notebook: str = "") -> set[Path]:
    """The modules of plots/ that a plot function and a notebook's text import, and what those import in turn.

    Where they do not show it, all of plots/: a picture drawn once too often is better than a stale one.
    """
    named = _imported(plot)
    if not named:
        return set(PLOTS.glob("*.py"))
    named |= set(re.findall(r"\w+", " ".join(re.findall(r"defar_analysis\.plots(?:\.| import )([\w, ]+)", notebook))))
    found, waiting = set(), [PLOTS / "style.py", *(PLOTS / f"{name}.py" for name in sorted(named))]
    while waiting:
        module = waiting.pop()
        if module in found or not module.is_file():
            continue
        found.add(module)
        for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.level:
                base = module.parents[node.level - 1].joinpath(*(node.module or "").split("."))
                waiting += [base.with_suffix(".py"), *(base / f"{alias.name}.py" for alias in node.names)]
    return found


def _imported(plot: Callable) -> set[str] | None:
    """Names of the modules of plots/ behind a plot function and the helpers it names; None if some may be hidden."""
    plot = getattr(plot, "func", plot)  # of a partial
    try:
        tree, used = ast.parse(textwrap.dedent(inspect.getsource(plot))), inspect.getclosurevars(plot)
    except (OSError, TypeError, SyntaxError):
        return None
    named = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.level or (node.module or "").startswith(__package__)):
            package, *module = (node.module or "").split(".")
            if package != "plots":
                return None
            named |= set(module or (alias.name for alias in node.names))
    for value in (used.globals | used.nonlocals).values():
        if isinstance(value, ModuleType) and value.__name__.startswith(f"{__package__}."):
            if not value.__name__.startswith(f"{__package__}.plots."):
                return None
            named.add(value.__name__.rpartition(".")[2])
        elif isinstance(value, FunctionType) and value.__module__.startswith(f"{__package__}.") and value is not plot:
            helped = _imported(value)
            if helped is None:
                return None
            named |= helped
    return named
