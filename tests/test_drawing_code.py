"""A picture depends on the modules that draw it, and on all of plots/ where that is not to be seen."""

from functools import partial

import pytest

from defar_analysis import catalog, drawing_code
from defar_analysis.drawing_code import PLOTS
from defar_analysis.plots import maps

EVERYTHING = set(PLOTS.glob("*.py"))


def names(plot, notebook: str = "") -> set[str]:
    return {path.stem for path in drawing_code.drawing_code(plot, notebook) if path.parent == PLOTS}


def test_imports_are_followed_and_other_modules_left_out():
    assert names(catalog.FIGURES["fig3"].plot) == {"figure3", "emphasis", "frequency", "maps", "style"}
    assert names(catalog.FIGURES["samples"].plot) == {"samples", "style"}
    assert names(partial(catalog.FIGURES["samples"].plot)) == {"samples", "style"}


def test_what_lies_outside_plots_counts_too():
    assert PLOTS.parent / "errors.py" in drawing_code.drawing_code(catalog.FIGURES["fig9"].plot)


@pytest.mark.parametrize("id", catalog.FIGURES)
def test_every_entry_shows_what_draws_it(id):
    assert names(catalog.FIGURES[id].plot) < {path.stem for path in EVERYTHING}


@pytest.mark.parametrize(
    "line", ["from defar_analysis.plots import robustness", "from defar_analysis.plots.robustness import plot"]
)
def test_a_notebook_may_import_more(line):
    assert "robustness" in names(catalog.FIGURES["samples"].plot, f'"source": ["{line}\\n"]')
    assert "evaluator" not in names(catalog.FIGURES["samples"].plot, f'"source": ["{line}\\n"]')


def by_a_global(artefact):
    return maps.plot(artefact)


def by_its_full_name(artefact):
    from defar_analysis.plots import samples

    return samples.plot(artefact)


def test_where_the_function_does_not_show_it_all_modules_count():
    assert drawing_code.drawing_code(print) == EVERYTHING
    assert drawing_code.drawing_code(lambda artefact: artefact) == EVERYTHING
    assert drawing_code.drawing_code(by_its_full_name) == EVERYTHING


def test_a_module_imported_at_the_top_counts():
    assert names(by_a_global) == {"maps", "style"}
