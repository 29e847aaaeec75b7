"""The inspector's page in a real browser, opened from disk without a network: its sliders, its numbers, its width."""

import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from browser import CHROMIUM, Browser

from defar_analysis.core.checkpoints import Card, load_checkpoint, save_checkpoint
from defar_analysis.core.networks import SiT
from defar_analysis.core.rollout import Draw, rollout
from defar_analysis.core.seeding import image_noise
from defar_analysis.inspection import open_inspector, write_page
from defar_analysis.measures.spectral import predicted_frequency_ratio

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
TIMES = (0.0, 0.5, 1.0)
# What a reader sees, and how one moves a control: as the browser does it, by an event that bubbles.
TOOLS = """
const at = id => document.getElementById(id);
const move = (id, value) => { at(id).value = value; at(id).dispatchEvent(new Event('input', {bubbles: true})); };
const pixels = id => Array.from(at(id).getContext('2d').getImageData(0, 0, at(id).width, at(id).height).data).join();
const ratios = () => [...document.querySelectorAll('#pfr tr')].map(r => [...r.cells].map(c => c.textContent));
const look = () => ({map: pixels('map'), picture: pixels('picture'), spectrum: at('spectrum').innerHTML,
  bars: at('bars').innerHTML, pfr: ratios(), greatest: at('greatest').textContent, rms: at('rms').textContent});
const errors = []; window.addEventListener('error', e => errors.push(e.message));
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """Two networks, two images of two classes, three times: on one page."""
    folder = tmp_path_factory.mktemp("page")
    for seed, name in enumerate(("one", "two")):
        torch.manual_seed(seed)
        model = SiT(8, 4, 3, 32, 1, 2, num_classes=2)
        torch.nn.init.normal_(model.final_layer.linear.weight, std=0.1)
        save_checkpoint(folder / name, model, Card(name, "ema", "", {}))
    pictures = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), np.uint8)
    np.savez(folder / "data.npz", images=pictures, labels=[0, 1])
    networks = {"SiT": folder / "one", "DEFAR": folder / "two"}
    write_page(open_inspector(networks, str(folder / "data.npz"), device="cpu"), folder / "page.html", len(TIMES))
    return folder / "page.html"


@pytest.fixture
def see(page, tmp_path):
    def evaluate(script, width=1280):
        with Browser(tmp_path) as browser:
            return browser.evaluate(page, TOOLS + script, width)

    return evaluate


def test_every_control_changes_what_it_should(see):
    seen = see("""
    const found = {start: look()};
    for (const [id, value] of [['method', 1], ['image', 1], ['t0', 1], ['cutoff', 0.4], ['overlay', 40]]) {
      move(id, value); found[id] = look();
    }
    move('t0', 0); found.t1before = look(); move('t1', 1); found.t1 = look();
    move('scale', 'page'); found.page = look();
    found.errors = errors; found.took = at('took').textContent;
    return found;
    """)
    order = ["start", "method", "image", "t0", "cutoff", "overlay"]
    changed = {
        now: {part for part in seen[now] if seen[now][part] != seen[before][part]} for before, now in pairwise(order)
    }
    everything = {"map", "spectrum", "bars", "pfr", "rms"}
    assert changed["method"] == everything  # the scale is shared, so that colours compare
    assert changed["image"] == everything | {"picture", "greatest"}
    assert changed["t0"] >= everything and "picture" not in changed["t0"]
    assert changed["cutoff"] == {"spectrum", "bars", "pfr"}
    assert changed["overlay"] == {"map"}
    assert seen["t1"]["map"] != seen["t1before"]["map"] and seen["t1"]["rms"] != seen["t1before"]["rms"]
    assert float(seen["page"]["greatest"]) > float(seen["t1"]["greatest"]) and seen["page"]["map"] != seen["t1"]["map"]
    assert seen["errors"] == [] and "ms" in seen["took"]


def shown(value):
    """As the page writes it, for the numbers below 1000 that stand here."""
    return float(f"{value:.3g}")


@pytest.mark.parametrize("cutoff", [0.2, 0.43])
def test_the_pages_pfr_is_the_one_of_measures_spectral(page, see, cutoff):
    seen = see(f"""
    const found = [];
    for (const method of [0, 1]) for (const image of [0, 1]) for (const [start, end] of [[0, 1], [0, 2], [1, 2]]) {{
      move('method', method); move('image', image); move('t1', 2); move('t0', start); move('t1', end);
      move('cutoff', {cutoff});
      found.push({{method, image, start, end, rows: ratios(), rms: at('rms').textContent}});
    }}
    return found;
    """)
    assert len(seen) == 12
    inspector = open_inspector({"SiT": page.parent / "one"}, str(page.parent / "data.npz"), device="cpu")
    for row in seen:
        network = load_checkpoint(page.parent / ("one", "two")[row["method"]])
        batch, noise = inspector.dataset.batch([row["image"]]), image_noise(0, [row["image"]], (3, 8, 8))
        times = torch.tensor([[TIMES[row["start"]]], [TIMES[row["end"]]]])
        with torch.no_grad():
            r = rollout(network.model, network.interpolant, Draw(batch.data, noise, batch.labels, times))
        assert float(row["rms"]) == pytest.approx(float(r.bias.square().mean().sqrt()), rel=6e-3)
        for (name, without, with_dc), v in zip(row["rows"], (r.bias, r.v0, r.target0), strict=True):
            assert name in ("bias", "prediction", "target")
            for text, drop_dc in ((without, True), (with_dc, False)):
                value = float(predicted_frequency_ratio(v, cutoff, drop_dc))
                # the third digit may round the other way
                assert float(text) == pytest.approx(shown(value), rel=1e-9) or abs(float(text) / value - 1) < 5.1e-3


def test_t1_stays_above_t0_whichever_is_moved(see):
    seen = see("""
    const found = [];
    for (const [id, value] of [['t0', 1], ['t1', 2], ['t1', 1], ['t0', 0], ['t1', 1], ['t0', 1], ['t1', 0]]) {
      move(id, value); found.push([at('t0').value, at('t1').value, at('t1-value').textContent].map(Number));
    }
    return found;
    """)
    assert all(t0 < t1 <= 2 and told == TIMES[t1] for t0, t1, told in seen)
    assert seen[2] == [1, 2, 1.0] and seen[5] == [1, 2, 1.0]


def test_a_class_leaves_its_own_image(see):
    seen = see("""
    const options = [...at('class').options].map(o => o.value);
    move('class', 'class 1');
    return {options, about: at('about').textContent, counted: at('image-value').textContent, off: at('image').disabled};
    """)
    assert seen["options"] == ["", "class 0", "class 1"] and seen["off"] is True
    assert seen["about"].startswith("image 1 of ") and seen["counted"] == "1 of 1"


def test_the_map_has_the_colours_of_its_values(page, see):
    """The brightest colour is where the map is greatest among the methods; the bar names that value."""
    seen = see("return [0, 1].map(m => { move('method', m); return [pixels('map'), at('greatest').textContent]; });")
    inspector = open_inspector(
        {name: page.parent / name for name in ("one", "two")}, str(page.parent / "data.npz"), device="cpu"
    )
    # the page starts at the first and second of its three times
    maps = [inspector.view(name, 0, TIMES[0], TIMES[1], 0.2).map for name in ("one", "two")]
    greatest = max(m.max() for m in maps)
    for heat, (text, told) in zip(maps, seen, strict=True):
        assert float(told) == pytest.approx(greatest, rel=6e-3)
        colours = np.array(text.split(","), int).reshape(8, 8, 4)
        brightest = np.unravel_index(colours[..., :3].sum(-1).argmax(), (8, 8))
        assert heat[brightest] >= 0.98 * heat.max()
    assert any("253,231,37" in text for text, _ in seen)  # the end of viridis


@pytest.mark.parametrize("width", [390, 800, 1280])
def test_the_page_fits_and_every_control_has_a_label(see, width):
    seen = see(
        """
    document.querySelector('details').open = true;
    const width = document.documentElement.clientWidth, all = [...document.querySelectorAll('input, select')];
    return {
      sideways: document.documentElement.scrollWidth - width,
      outside: [...document.querySelectorAll('main *, label, label *')]
        .filter(e => e.getBoundingClientRect().right > width + 1).map(e => e.outerHTML.slice(0, 90)),
      named: all.every(e => e.labels.length === 1 && e.tabIndex === 0), controls: all.length,
      requests: performance.getEntriesByType('resource').length,
      small: [...document.querySelectorAll('p, td, li, dd, label')]
        .filter(e => parseFloat(getComputedStyle(e).fontSize) < 11).length,
    };
    """,
        width,
    )
    assert seen["sideways"] <= 0 and seen["outside"] == [] and seen["small"] == 0
    assert seen["named"] and seen["controls"] == 8 and seen["requests"] == 0
