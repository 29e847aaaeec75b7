"""The whole pipeline at the tiny profile: checkpoints -> measurements -> notebooks -> pictures -> gallery."""

import json
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest

from defar_analysis import catalog
from defar_analysis.cli import main
from defar_analysis.core.networks import SiT
from defar_analysis.errors import DefarError
from defar_analysis.reproduction import reproduce
from defar_analysis.studies.records import newest

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.real_data


def project(folder: Path) -> Path:
    for name in ("reproduce", "notebooks"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("records"))
    for record in (newest(ROOT, kind) for kind in ("eq15", "zoo")):  # what entries are drawn from
        shutil.copytree(record, folder / record.relative_to(ROOT))
    return folder


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A project in which everything has been made once; tests copy it before they change it."""
    root = project(tmp_path_factory.mktemp("project"))
    assert reproduce(root, "tiny", list(catalog.FIGURES), "cpu") == root / "figures" / "index.html"
    return root


@pytest.fixture
def root(finished, tmp_path):
    return Path(shutil.copytree(finished, tmp_path / "project"))


def modified(root: Path) -> dict[Path, int]:
    return {f: f.stat().st_mtime_ns for f in (root / "figures").glob("*.p*")}


def test_every_figure_has_picture_data_and_executed_notebook(finished):
    for id in catalog.FIGURES:
        for file in (f"figures/{id}.png", f"figures/{id}.pdf", f"figures/data/{id}.csv", f"figures/data/{id}.json"):
            assert (finished / file).stat().st_size > 100
        executed = json.loads((finished / "results" / "tiny" / "notebooks" / f"{id}.ipynb").read_text())
        outputs = [o for cell in executed["cells"] for o in cell.get("outputs", [])]
        assert any("image/png" in o.get("data", {}) for o in outputs)
        assert not any(o["output_type"] == "error" for o in outputs)


def test_the_gallery_links_to_files_that_exist(finished):
    class Links(HTMLParser):
        def __init__(self):
            super().__init__()
            self.found = []

        def handle_starttag(self, tag, attrs):
            self.found += [value for key, value in attrs if key in ("href", "src") and not value.startswith("#")]

    links = Links()
    links.feed((finished / "figures" / "index.html").read_text())
    assert len(links.found) >= 3 * len(catalog.FIGURES)
    assert all((finished / "figures" / link).is_file() for link in links.found)


def test_a_second_run_recomputes_nothing_and_says_so(root, capsys, monkeypatch):
    reproduce(root, "tiny", list(catalog.FIGURES), "cpu")  # the copy has new paths, not new contents
    before = modified(root)
    capsys.readouterr()

    def forbidden(*args):
        raise AssertionError("a network was called")

    monkeypatch.setattr(SiT, "forward", forbidden)
    reproduce(root, "tiny", list(catalog.FIGURES), "cpu")
    said = capsys.readouterr().err
    table = said.splitlines()[-len(catalog.FIGURES) :]
    assert [line.split()[0] for line in table] == list(catalog.FIGURES)
    assert all(line.endswith("  still valid") for line in table)
    assert modified(root) == before


def test_a_lost_picture_is_redrawn_without_measuring(root, capsys):
    before = (root / "figures" / "fig9.png").read_bytes()
    (root / "figures" / "fig9.png").unlink()
    reproduce(root, "tiny", ["fig9"], "cpu")
    said = capsys.readouterr().err
    assert said.endswith("  drawn\n") and "measured" not in said
    assert (root / "figures" / "fig9.png").read_bytes() == before


def test_a_figure_is_redrawn_from_its_data_alone_byte_for_byte(root, monkeypatch):
    for name in ("reproduce", "results", "notebooks"):
        shutil.rmtree(root / name)
    before = {id: (root / "figures" / f"{id}.png").read_bytes() for id in catalog.FIGURES}
    monkeypatch.chdir(root)
    for id in catalog.FIGURES:
        (root / "figures" / f"{id}.png").unlink()
        assert main(["figure", id]) == 0
        assert (root / "figures" / f"{id}.png").read_bytes() == before[id]


def test_data_of_a_better_profile_is_not_overwritten(root):
    note = root / "figures" / "data" / "fig9.json"
    note.write_text(json.dumps({**json.loads(note.read_text()), "profile": "full"}))
    kept = note.read_bytes()
    gallery = reproduce(root, "tiny", ["fig9"], "cpu")
    assert gallery == root / "results" / "tiny" / "figures" / "index.html"
    assert note.read_bytes() == kept
    assert (gallery.parent / "fig9.png").is_file()


def test_a_corrupt_checkpoint_is_named_and_nothing_is_lost(root, capsys):
    before = modified(root)
    weights = root / "reproduce" / "checkpoints" / "cifar10-sit" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    ids = [part for id in ("fig9", "plane", "fig3") for part in ("--only", id)]
    assert main(["reproduce", "--profile", "tiny", "--device", "cpu", "--root", str(root), *ids]) == 2
    said = capsys.readouterr().err.splitlines()
    fig9, plane, fig3 = said[-4:-1]
    for line in (fig9, fig3):
        assert "failed: " in line and str(weights) in line and "corrupt" in line
    assert plane.endswith("  still valid")  # which needs no checkpoint
    assert said[-1] == "defar: error: 2 of 3 failed: fig9, fig3; the table above says why"
    assert modified(root) == before


def test_a_failing_notebook_is_named_its_copy_kept_and_the_others_drawn(root, capsys):
    notebook = root / "notebooks" / "fig9.ipynb"
    content = json.loads(notebook.read_text())
    code = [cell for cell in content["cells"] if cell["cell_type"] == "code"]
    code[-1]["source"] = "raise RuntimeError('no ink')"
    notebook.write_text(json.dumps(content))
    (root / "figures" / "fig5.png").unlink()
    before = modified(root)
    with pytest.raises(DefarError, match=r"^fig9 failed: fig9\.ipynb failed: RuntimeError: no ink"):
        reproduce(root, "tiny", ["fig9", "fig5"], "cpu")
    assert "no ink" in (root / "results" / "tiny" / "notebooks" / "fig9.ipynb").read_text()
    assert capsys.readouterr().err.endswith("  drawn\n")
    after = modified(root)
    assert after.pop(root / "figures" / "fig5.png") and all(after[f] == before[f] for f in before if f.stem == "fig9")
    page = (root / "figures" / "index.html").read_text()
    assert 'src="fig9.png"' in page and 'src="fig5.png"' in page


def test_a_folder_that_is_no_project_is_refused(tmp_path, capsys):
    assert main(["reproduce", "--profile", "tiny", "--device", "cpu", "--root", str(tmp_path)]) == 2
    assert "--root" in capsys.readouterr().err
    assert main(["figure", "fig3", "--folder", str(tmp_path)]) == 2
    assert "defar reproduce --only fig3" in capsys.readouterr().err
    assert main(["figure", "fig99"]) == 2
    assert "'fig99'" in capsys.readouterr().err
