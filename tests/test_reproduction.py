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

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.real_data


def project(folder: Path) -> Path:
    for name in ("reproduce", "notebooks"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("records"))
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
    assert said.count("measurements still valid, none repeated") == len(catalog.FIGURES)
    assert said.count("picture still valid, not redrawn") == len(catalog.FIGURES)
    assert modified(root) == before


def test_a_lost_picture_is_redrawn_without_measuring(root, capsys):
    before = (root / "figures" / "fig9.png").read_bytes()
    (root / "figures" / "fig9.png").unlink()
    reproduce(root, "tiny", ["fig9"], "cpu")
    assert "measured" not in capsys.readouterr().err
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
    assert main(["reproduce", "--profile", "tiny", "--device", "cpu", "--root", str(root)]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert str(weights) in said[-1] and "corrupt" in said[-1]
    assert len(said) == 2  # what is going to happen, and what is wrong
    assert modified(root) == before


def test_a_failing_notebook_is_named_and_its_copy_kept(root):
    notebook = root / "notebooks" / "fig9.ipynb"
    content = json.loads(notebook.read_text())
    code = [cell for cell in content["cells"] if cell["cell_type"] == "code"]
    code[-1]["source"] = "raise RuntimeError('no ink')"
    notebook.write_text(json.dumps(content))
    with pytest.raises(DefarError, match=r"fig9\.ipynb failed: RuntimeError: no ink"):
        reproduce(root, "tiny", ["fig9"], "cpu")
    assert "no ink" in (root / "results" / "tiny" / "notebooks" / "fig9.ipynb").read_text()


def test_a_folder_that_is_no_project_is_refused(tmp_path, capsys):
    assert main(["reproduce", "--profile", "tiny", "--device", "cpu", "--root", str(tmp_path)]) == 2
    assert "--root" in capsys.readouterr().err
    assert main(["figure", "fig3", "--folder", str(tmp_path)]) == 2
    assert "defar reproduce --only fig3" in capsys.readouterr().err
    assert main(["figure", "fig99"]) == 2
    assert "unknown figure 'fig99'" in capsys.readouterr().err
