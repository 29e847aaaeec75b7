"""The inspector: which images it offers, its single views, its sliders, its page and `defar inspect`."""

import base64
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from defar_analysis.cli import main
from defar_analysis.core.checkpoints import Card, load_checkpoint, save_checkpoint
from defar_analysis.core.networks import SiT
from defar_analysis.core.rollout import exposure_bias
from defar_analysis.core.seeding import image_noise
from defar_analysis.core.tensors import l2_norm
from defar_analysis.inspection import open_inspector, write_page
from defar_analysis.inspection.opening import in_turn
from defar_analysis.measures.spectral import predicted_frequency_ratio
from defar_analysis.plots import inspection_page

ROOT = Path(__file__).parents[1]


def checkpoint(folder, seed=0, classes=4, **card):
    torch.manual_seed(seed)
    model = SiT(8, 4, 3, 32, 1, 2, num_classes=classes)
    torch.nn.init.normal_(model.final_layer.linear.weight, std=0.1)
    return save_checkpoint(folder, model, Card(folder.name, "ema", "", {}, **card))


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A data set of 8 x 8 pixels and two checkpoints, in the current folder."""
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "data.npz", images=rng.integers(0, 256, (12, 8, 8, 3), np.uint8),
             labels=[2, 2, 2, 0, 1, 3, 0, 2, 1, 0, 3, 2])  # fmt: skip
    checkpoint(tmp_path / "one"), checkpoint(tmp_path / "two", seed=1)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def opened(**options):
    return open_inspector({"SiT": "one", "DEFAR": "two"}, "data.npz", device="cpu", **options)


def data_of(page):
    text = Path(page).read_text(encoding="utf-8")
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)[1])


def floats(text):
    return np.frombuffer(base64.b64decode(text), "<f4")


# ---- which images


def test_images_are_taken_from_the_classes_in_turn():
    labels = np.array([2, 2, 2, 0, 1, 3, 0])
    assert in_turn(labels, 7, 7) == (3, 4, 0, 5, 6, 1, 2)
    assert in_turn(labels, 7, 3) == (3, 4, 0)
    assert in_turn(None, 7, 3) == (0, 1, 2)


def test_classes_hold_exactly_the_offered_images_of_each(small):
    inspector = opened(images=6)
    assert inspector.images == (3, 4, 0, 5, 6, 8)
    assert inspector.classes() == {"class 0": [3, 6], "class 1": [4, 8], "class 2": [0], "class 3": [5]}
    assert len(opened().images) == 12 and len(opened(profile="tiny").images) == 8


def test_a_class_is_named_by_the_data_set_where_it_has_names(small):
    assert replace(opened(), class_names=("cat", "dog")).class_name(3) == "cat"
    assert replace(opened(), class_names=("cat", "dog")).class_name(0) == "class 2"


# ---- one view


def test_a_view_is_the_bias_of_that_image_with_its_own_noise_and_label(small):
    view, loaded = opened(seed=3).view("DEFAR", 7, 0.2, 0.7, 0.25), load_checkpoint(small / "two")
    batch, noise = opened().dataset.batch([7]), image_noise(3, [7], (3, 8, 8))
    t0, t1 = torch.tensor([0.2]), torch.tensor([0.7])
    bias = exposure_bias(loaded.model, noise, batch.data, t0, t1, labels=batch.labels)
    np.testing.assert_allclose(view.map, l2_norm(bias, 1)[0], atol=1e-5)
    assert view.rms == pytest.approx(float(bias.square().mean().sqrt()), rel=1e-4)
    x = 0.2 * batch.data + 0.8 * noise
    vectors = {"bias": bias, "prediction": loaded.model(x, t0, batch.labels), "target": batch.data - noise}
    for row in view.pfr.itertuples():
        for drop_dc, value in ((False, row.with_dc), (True, row.without_dc)):
            wanted = float(predicted_frequency_ratio(vectors[row.quantity], 0.25, drop_dc))
            assert value == pytest.approx(wanted, rel=1e-3)
    assert view.forwards == 3 and (view.method, view.image, view.class_name) == ("DEFAR", 7, "class 2")
    np.testing.assert_array_equal(view.picture, np.load("data.npz")["images"][7])


def test_another_cutoff_needs_no_other_view(small):
    view = opened().view("SiT", 0, 0.2, 0.7, 0.2)
    assert replace(view, cutoff=0.4).pfr.equals(opened().view("SiT", 0, 0.2, 0.7, 0.4).pfr)


def test_views_that_cannot_be_are_refused(small, refuses):
    inspector = opened()
    refuses(lambda: inspector.view("IP", 0, 0.1, 0.2, 0.2), "'IP' is not open", "SiT, DEFAR")
    refuses(lambda: inspector.view("SiT", 12, 0.1, 0.2, 0.2), "image 12", "0 to 11")
    refuses(lambda: inspector.view("SiT", 0, 0.2, 0.2, 0.2), "0 <= t0 < t1 <= 1")
    refuses(lambda: inspector.view("SiT", 0, 0.2, 0.3, 0.8), "got 0.8")


def test_a_network_without_labels_gets_none_and_data_without_labels_have_no_classes(small):
    checkpoint(small / "free", data={"class_conditional": False})
    inspector = open_inspector({"free": "free"}, "data.npz", device="cpu")
    assert inspector.view("free", 0, 0.2, 0.7, 0.2).rms > 0
    np.savez("bare.npz", images=np.load("data.npz")["images"])
    bare = open_inspector({"one": "one"}, "bare.npz", device="cpu")
    assert list(bare.classes()) == ["none"] and bare.view("one", 0, 0.2, 0.7, 0.2).rms > 0


# ---- the sliders


def test_every_slider_changes_the_picture_and_the_time_is_shown(small):
    from defar_analysis.inspection.widgets import Explorer

    explorer, seen = Explorer(opened()), set()
    moves = {"method": "DEFAR", "image": 1, "t0": 0.1, "t1": 0.9, "cutoff": 0.4, "overlay": 0.5}
    for name, value in moves.items():
        before = bytes(explorer.picture.value)
        getattr(explorer, name).value = value
        now = bytes(explorer.picture.value)
        assert now != before and now.startswith(b"\x89PNG"), name
        said = explorer.took.value
        assert re.fullmatch(r"answered in \d+ ms: \d+ forwards in \d+ ms, the figure in \d+ ms", said)
        seen.add(" 6 forwards" in said)
        assert (" 0 forwards" in said) == (name in ("method", "cutoff", "overlay"))
    assert seen == {True, False}


def test_t1_stays_above_t0(small):
    from defar_analysis.inspection.widgets import Explorer

    explorer = Explorer(opened())
    for t0 in (0.6, 0.95, 0.0, 0.35):
        explorer.t0.value = t0
        assert t0 < explorer.t1.value <= 1 and explorer.t1.min == pytest.approx(t0 + 0.05)
    explorer.t1.value = 0.1  # as from a text field
    assert explorer.t1.value == pytest.approx(0.4)


def test_a_class_leaves_its_images_to_the_slider(small):
    from defar_analysis.inspection.widgets import Explorer

    explorer = Explorer(opened())
    explorer.image.value = 11
    explorer.class_.value = "class 1"
    assert (explorer.image.max, explorer.image.value) == (1, 1)
    assert explorer._images["class 1"] == [4, 8] and list(explorer._views) == [(8, 0.2, 0.6)]
    explorer.class_.value = "all classes"
    assert explorer.image.max == 11


# ---- the page


def test_the_page_holds_what_the_views_hold(small):
    inspector = opened(images=5)
    text = write_page(inspector, small / "a.html", times=4, command="defar inspect").read_text(encoding="utf-8")
    assert not re.search(r"https?:|src=|href=|@[A-Z]+@", text)  # nothing from elsewhere
    assert all(loaded.card.sha256 in text for loaded in inspector.checkpoints.values())
    assert inspector.dataset.hash in text and "defar inspect" in text
    data = data_of(small / "a.html")
    assert [image["index"] for image in data["images"]] == list(inspector.images)
    shape, radii = (2, 6, 5), len(data["radii"])
    maps = np.frombuffer(base64.b64decode(data["maps"]), np.uint8).reshape(*shape, 8, 8)
    tops, rms = floats(data["tops"]).reshape(shape), floats(data["rms"]).reshape(shape)
    bias, prediction = floats(data["bias"]).reshape(*shape, radii), floats(data["prediction"]).reshape(2, 3, 5, radii)
    for m, p, n in ((0, 0, 0), (1, 4, 2), (1, 5, 4)):
        start, end = data["pairs"][p]
        view = inspector.view(inspector.methods[m], inspector.images[n], data["times"][start], data["times"][end], 0.2)
        np.testing.assert_allclose(maps[m, p, n] / 255 * tops[m, p, n], view.map, atol=tops[m, p, n] / 500)
        assert rms[m, p, n] == pytest.approx(view.rms, rel=1e-4)
        np.testing.assert_allclose(bias[m, p, n], view.spectra["bias"], rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(prediction[m, start, n], view.spectra["prediction"], rtol=1e-3, atol=1e-5)
    assert not list(small.glob(".*tmp"))


def test_names_cannot_break_the_page(small):
    name = "</script><b>@DATA@"
    page = write_page(open_inspector({name: "one"}, "data.npz", images=1, device="cpu"), small / "a.html", 3)
    assert data_of(page)["methods"][0]["name"] == name and "<b>" not in page.read_text(encoding="utf-8")


def test_the_size_is_foretold_and_the_default_is_small(small):
    inspector = opened(images=5)
    real = write_page(inspector, small / "a.html", times=4).stat().st_size
    assert abs(real - inspection_page.size_of(2, 5, 4, 64, len(data_of("a.html")["radii"]))) < 8_000
    assert inspection_page.size_of(3, 8, 11, 1024, 135) < 4_000_000


def test_a_page_too_large_is_refused_before_anything_is_measured(small, refuses, monkeypatch):
    monkeypatch.setattr(inspection_page, "LARGEST", 50_000)
    monkeypatch.setattr("defar_analysis.inspection.inspector.Inspector.sweep", None)
    refuses(lambda: write_page(opened(), small / "a.html", times=11), "MB for 12 images and 11 times", "give fewer")
    assert not (small / "a.html").exists()


# ---- the command


def test_defar_inspect_writes_one_page_and_says_so(small, capsys):
    command = ["inspect", "A=one", "two", "--data", "data.npz", "--images", "4", "--times", "3", "--device", "cpu"]
    assert main([*command, "--out", "page.html"]) == 0
    captured = capsys.readouterr()
    assert re.fullmatch(r"page.html: 24 views of A, two, 0\.0\d+ MB\n", captured.out) and captured.err == ""
    assert sorted(path.name for path in small.iterdir()) == ["data.npz", "one", "page.html", "two"]
    assert [method["name"] for method in data_of("page.html")["methods"]] == ["A", "two"]


MISTAKES = {
    "no clone": ([], "reproduce/checkpoints: not there; give checkpoints"),
    "no checkpoint": (["nowhere"], "nowhere: no such checkpoint"),
    "no name": (["=one"], "write NAME=CHECKPOINT"),
    "a name twice": (["A=one", "A=two"], "A is one already"),
    "no data": (["one", "--data", "none.npz"], "none.npz"),
    "another shape": (["one", "--data", "large.npz"], "one was trained on (3, 8, 8)"),
    "unknown labels": (["few", "--data", "data.npz"], "label 3 is unknown to few, which has 2 classes"),
    "no images": (["one", "--images", "0"], "images = 0; give 1 or more"),
    "too many images": (["one", "--images", "13"], "images = 13, but data.npz has 12"),
    "two times": (["one", "--times", "2"], "times = 2; give 3 or more"),
    "a folder": (["one", "--out", "one.html"], "one.html: is a folder"),
    "no folder": (["one", "--out", "no/a.html"], "no: no such folder"),
    "another ending": (["one", "--out", "a.png"], "a.png: give a name ending in .html"),
    "bad device": (["one", "--device", "gpu9"], "device 'gpu9' cannot be used here"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_that_says_how_to_mend_it(mistake, small, capsys):
    arguments, expected = MISTAKES[mistake]
    np.savez("large.npz", images=np.zeros((8, 16, 16, 3), np.uint8))
    (small / "one.html").mkdir()
    checkpoint(small / "few", classes=2)
    data = [] if "--data" in arguments else ["--data", "data.npz"]
    device = [] if "--device" in arguments else ["--device", "cpu"]
    assert main(["inspect", *arguments, *data, *device]) == 2
    captured = capsys.readouterr()
    (line,) = captured.err.strip().splitlines()
    assert line.startswith("defar: error: ") and expected in line and captured.out == ""
    assert not [path for path in small.iterdir() if path.is_file() and path.suffix != ".npz"]


# ---- the notebook


@pytest.mark.real_data
def test_the_notebook_runs_without_a_reader_and_shows_the_first_view(tmp_path):
    papermill = pytest.importorskip("papermill")
    parameters = {"profile": "tiny", "device": "cpu", "root": str(ROOT)}
    done = papermill.execute_notebook(
        ROOT / "notebooks" / "inspect_bias.ipynb", tmp_path / "done.ipynb", parameters, kernel_name="python3",
        cwd=str(ROOT), progress_bar=False,
    )  # fmt: skip
    outputs = {cell["id"]: cell.get("outputs", []) for cell in done["cells"] if cell["cell_type"] == "code"}
    assert "SiT, DEFAR, MixFlow on 8 images" in outputs["open"][0]["text"]
    assert any("image/png" in output.get("data", {}) for output in outputs["static"])
    assert any(" ms" in output.get("text", "") for output in outputs["explore"])
    assert any("application/vnd.jupyter.widget-view+json" in output.get("data", {}) for output in outputs["explore"])
