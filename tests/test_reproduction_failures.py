"""One figure that fails stops no other, loses nothing, and is named at the end. The entries here are made up."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from defar_analysis import catalog, reproduction
from defar_analysis.artefacts import Artefact, Figure
from defar_analysis.cli import main
from defar_analysis.errors import DefarError, Interrupted


class Entry(Figure):
    """Drawn by one notebook for several entries."""

    notebook = "shared.ipynb"


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder with three entries; `values` says what a build finds, or raises; drawing writes what the table holds."""
    values = {"one": 1.0, "two": 2.0, "three": 3.0}

    def build(id, e):
        if isinstance(values[id], BaseException):
            raise values[id]
        e.measured += [] if values[id] == "again" else [f"value of {id}"]
        note = {"profile": e.profile, "note": "made up", "models": {}, "device": "cpu"}
        return Artefact(id, pd.DataFrame({"value": [values[id]]}), provenance=note, folder=e.root / "figures")

    def run(root, profile, device, entry):
        content = (root / "figures" / "data" / f"{entry.id}.csv").read_text()
        for kind in ("png", "pdf"):
            (root / "figures" / f"{entry.id}.{kind}").write_text(f"{content} as {kind}")
        if "-1" in content:
            (root / "figures" / "data" / f"{entry.id}.npz").write_text("new")
            raise DefarError("no ink")

    entries = {
        id: Entry(id, "Fig. 0", id.title(), "", lambda e, id=id: build(id, e), lambda artefact: None) for id in values
    }
    monkeypatch.setattr(catalog, "FIGURES", entries)
    monkeypatch.setattr(reproduction, "_run_notebook", run)
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "notebooks" / "shared.ipynb").write_text("{}")
    return tmp_path, values


def contents(root: Path, id: str) -> dict[str, bytes]:
    return {f.name: f.read_bytes() for f in (root / "figures").rglob(f"{id}.*")}


def run(root: Path) -> int:
    return main(["reproduce", "--profile", "tiny", "--device", "cpu", "--root", str(root)])


def test_the_others_go_on_and_a_table_says_what_happened(project, capsys):
    root, values = project
    values["two"] = ZeroDivisionError("division\nby zero")
    assert run(root) == 2
    said = capsys.readouterr().err
    lines = said.splitlines()
    assert lines[-1] == "defar: error: two failed: ZeroDivisionError: division by zero"
    assert [line.split()[0] for line in lines[-5:-1]] == ["artefact", "one", "two", "three"]
    happened = [line.split(maxsplit=2)[2] for line in lines[-5:-1]]
    assert happened == [
        "what happened", "measured + drawn", "failed: ZeroDivisionError: division by zero", "measured + drawn",
    ]  # fmt: skip
    assert "[2/3] two: failed: ZeroDivisionError" in said
    assert all(c.isprintable() or c == "\n" for c in said)  # no colours or bars in a log
    page = (root / "figures" / "index.html").read_text()
    assert 'id="one"' in page and 'id="three"' in page and 'id="two"' not in page


def test_several_failures_are_all_named(project, capsys):
    root, values = project
    values |= {"one": DefarError("no data"), "three": OSError(28, "No space left on device", "results/x")}
    assert run(root) == 2
    said = capsys.readouterr().err
    assert said.splitlines()[-1] == "defar: error: 2 of 3 failed: one, three; the table above says why"
    assert "failed: no data" in said and "failed: results/x: No space left on device" in said


def test_an_earlier_figure_is_kept_as_a_whole_when_its_rebuild_fails(project, capsys):
    root, values = project
    assert run(root) == 0
    before = contents(root, "two")
    page = (root / "figures" / "index.html").read_bytes()
    assert len(before) == 4
    for failing in (
        -1.0,
        DefarError("no data"),
    ):  # in the drawing, when data and pictures are new already; in the build
        values["two"] = failing
        assert run(root) == 2
        assert contents(root, "two") == before
        assert (root / "figures" / "index.html").read_bytes() == page
    values["two"] = 2.0
    capsys.readouterr()
    assert run(root) == 0
    assert capsys.readouterr().err.count("measured, picture still valid") == 2 * 3  # as it goes, and in the table


def test_what_is_valid_or_only_drawn_is_told_apart(project, capsys):
    root, values = project
    values |= dict.fromkeys(values, "again")
    assert run(root) == 0
    (root / "figures" / "two.png").unlink()
    (root / "figures" / "data" / "three.tex").write_text("edited by hand")
    capsys.readouterr()
    assert run(root) == 0
    table = capsys.readouterr().err.splitlines()[-3:]
    assert [line.split(maxsplit=2)[2] for line in table] == ["still valid", "drawn", "drawn"]


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), Interrupted("stopped; run again")])
def test_an_interruption_stops_at_once(project, capsys, stop):
    root, values = project
    values["two"] = stop
    assert run(root) == 130
    assert "[3/3]" not in capsys.readouterr().err
    assert (root / "figures" / "one.png").is_file()


def test_a_folder_may_be_named_from_where_one_stands(project, monkeypatch):
    root, _ = project
    assert run(root) == 0
    page = (root / "figures" / "index.html").read_bytes()
    monkeypatch.chdir(root)
    assert reproduction.write_gallery(Path("figures")).read_bytes() == page
    monkeypatch.chdir(root / "figures")
    assert reproduction.write_gallery(Path(".")).read_bytes() == page


def test_an_entry_without_a_picture_is_shown_and_one_that_cannot_be_read_left_out(project, capsys):
    root, _ = project
    assert run(root) == 0
    (root / "figures" / "one.png").unlink()
    (root / "figures" / "data" / "one.tex").write_text("\\begin{tabular}")
    (root / "figures" / "data" / "two.csv").write_text("")
    page = reproduction.write_gallery(root / "figures").read_text()
    assert 'id="one"' in page and "data/one.tex" in page and "one.png" not in page
    assert 'id="two"' not in page and "gallery: two left out" in capsys.readouterr().err
    assert "defar reproduce --profile tiny --only one" in page


def test_only_the_gallery_under_results_links_to_notebooks_there(project):
    root, _ = project
    executed = root / "results" / "tiny" / "notebooks"
    executed.mkdir(parents=True)
    (executed / "one.ipynb").write_text("{}")
    assert run(root) == 0
    assert "ipynb" not in (root / "figures" / "index.html").read_text()
    (root / "docs").mkdir()
    (root / "docs" / "one_executed.ipynb").write_text("{}")
    assert 'href="../docs/one_executed.ipynb"' in reproduction.write_gallery(root / "figures").read_text()
    (root / "figures").rename(root / "results" / "tiny" / "figures")
    page = reproduction.write_gallery(root / "results" / "tiny" / "figures").read_text()
    assert 'href="../notebooks/one.ipynb"' in page and "docs" not in page


def test_a_shared_notebook_is_told_which_entry_and_makes_one_copy_for_each(tmp_path):
    cells = [
        {"cell_type": "code", "id": "a", "metadata": {"tags": ["parameters"]}, "outputs": [], "execution_count": None,
         "source": "profile = device = root = id = ''"},
        {"cell_type": "code", "id": "b", "metadata": {}, "outputs": [], "execution_count": None,
         "source": "print(id, profile, device)"},
    ]  # fmt: skip
    kernel = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    (tmp_path / "notebooks").mkdir()
    notebook = {"cells": cells, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}
    (tmp_path / "notebooks" / "shared.ipynb").write_text(json.dumps(notebook))
    reproduction._run_notebook(tmp_path, "tiny", "cpu", Entry("one", "", "", "", None, None))
    done = json.loads((tmp_path / "results" / "tiny" / "notebooks" / "one.ipynb").read_text())
    assert "".join(done["cells"][-1]["outputs"][0]["text"]) == "one tiny cpu\n"


def test_a_shared_notebook_that_is_not_there_is_named(tmp_path, refuses):
    entry = Entry("one", "", "", "", None, None)
    refuses(lambda: reproduction._run_notebook(tmp_path, "tiny", "cpu", entry), "shared.ipynb", "one")
