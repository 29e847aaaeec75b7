"""The paper's own pictures show what their tables and arrays hold, each method in its own column."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.text import Text

from defar_analysis import paper_figures
from defar_analysis.artefacts import Artefact, write
from defar_analysis.core.interpolants import Linear
from defar_analysis.core.objectives import Defar
from defar_analysis.core.rollout import Draw, rollout
from defar_analysis.measures.plane import ring
from defar_analysis.plots import columns, method, mismatch, style
from defar_analysis.studies import methods as methods_study

ROOT = Path(__file__).parents[2]
T, SEEDS = np.linspace(0, 1, 6), (0, 1, 2)
CLASSES = ["airplane", "automobile", "bird", "cat"]
METHODS = ["SiT", "IP", "SDSS", "MDSS", "ADR", "DEFAR"]


@pytest.fixture
def drift():
    rows = [(model, seed, quantity, t, nfe, 0.1 * (k + 1) + 0.03 * seed**2 + t / nfe)
            for k, model in enumerate(("FM", "ADR", "exact field", "fresh data")) for seed in SEEDS
            for quantity in ("drift", "quality") for nfe in (10.0, 20.0) for t in T]  # fmt: skip
    return pd.DataFrame(rows, columns=mismatch.COLUMNS)


@pytest.fixture
def step():
    """One exact step of the ring's field, perturbed, as the arrays of measures.plane.one_step, and what made it."""
    generator = torch.Generator().manual_seed(3)
    law = ring()  # its exact field
    noise, data = torch.randn(1, 1, 1, 2, generator=generator), law.sample(1, generator)

    def model(x, t, labels=None):
        return 0.9 * law(x, t) + 0.2

    draw = Draw(data, noise, None, torch.tensor([[0.4], [0.8]]))
    r = rollout(model, Linear(), draw)
    found = {"noise": noise, "data": data, "x0": Linear().at(noise, data, draw.times[0]).x, "x1": r.end.x,
             "x_hat": r.x_hat, "v0": r.v0, "target": r.target0, "v_hat": r.v_hat, "v_ideal": r.v_ideal,
             "bias": r.bias, "slowed": noise}  # fmt: skip
    arrays = {f"step_{name}": value.flatten(1).numpy() for name, value in found.items()}
    return {**arrays, "step_times": np.array([0.4, 0.8, 0.5])}, (model, draw)


@pytest.fixture
def plane(drift, step):
    rng = np.random.default_rng(0)
    arrays = {**step[0], "walks": rng.normal(size=(3, 7, 5, 2)), "side": np.linspace(-3, 3, 9),
              "density": rng.random((9, 9)), "samples": rng.normal(size=(3, 30, 2))}  # fmt: skip
    provenance = {
        "profile": "tiny",
        "note": "made for a test; profile tiny",
        "models": {"FM": {}, "ADR": {}, "exact field": {}},
    }
    return Artefact("plane", drift, {}, arrays, provenance)


@pytest.fixture
def methods():
    """Image i of method m has the colour (40 m, 10 i, 7) in every pixel."""
    samples = np.full((len(METHODS), 20, 4, 4, 3), 7, np.uint8)
    samples[..., 0] = 40 * np.arange(len(METHODS))[:, None, None, None]
    samples[..., 1] = 10 * np.arange(20)[:, None, None]
    models = {f"{name}, run-{k}": {"checkpoint": f"run-{k}"} for k, name in enumerate(METHODS)}
    note = "Euler, 50 evaluations; profile full"
    provenance = {"profile": "full", "note": note, "classes": CLASSES, "sampled": METHODS, "models": models}
    return Artefact("methods", pd.DataFrame(), {}, {"samples": samples}, provenance)


@pytest.fixture
def experiment(tmp_path, monkeypatch, plane, methods):
    monkeypatch.setattr(paper_figures, "_plane", lambda e: plane)
    monkeypatch.setattr(methods_study, "sampled", lambda e: methods)
    return SimpleNamespace(root=tmp_path, profile="tiny")


def words(figure):
    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]


def boxes(figure):
    """The texts that the figure and its axes were given, with their boxes in pixels; no ticks, no titles."""
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.canvas.draw()
    texts = [*figure.texts, *(text for ax in figure.axes for text in ax.texts)]
    return [(text.get_text(), text.get_window_extent(renderer)) for text in texts if text.get_text().strip()]


def assert_apart(found, figure):
    for k, (one, first) in enumerate(found):
        assert first.x0 >= 0 and first.x1 <= figure.bbox.width and first.y0 >= 0, one
        assert not any(first.padded(-1).overlaps(second.padded(-1)) for _, second in found[k + 1 :]), one


# ---- Fig. 1


def test_drift_curves_are_the_tables_means_and_the_band_its_extreme_seeds(plane, drift, experiment):
    artefact = paper_figures.build_fig1(experiment)
    figure = mismatch.plot(artefact.table, artefact.arrays, note="3 seeds")
    ax = figure.axes[2]
    lines = {line.get_label(): line for line in ax.get_lines()}
    for name in ("FM", "exact field"):
        for nfe in (10, 20):
            rows = drift[(drift["model"] == name) & (drift["nfe"] == nfe) & (drift["quantity"] == "drift")]
            line = lines[f"{name}, {nfe} evaluations"]
            np.testing.assert_array_equal(line.get_xdata(), T)
            np.testing.assert_array_equal(line.get_ydata(), rows.groupby("t")["value"].mean())
    assert lines["exact field, 20 evaluations"].get_linestyle() == "--"
    assert to_hex(lines["FM, 20 evaluations"].get_color()) == to_hex(style.PAPER.colour("SiT"))
    edges = ax.collections[1].get_paths()[0].vertices[:, 1]
    by = drift.query("model == 'FM' and nfe == 20 and quantity == 'drift'").groupby("t")["value"]
    assert {*by.min().round(9), *by.max().round(9)} <= {*edges.round(9)}
    assert any("3 seeds" in text for text in words(figure))


def test_fig1_keeps_the_walks_of_its_two_models_and_marks_the_widest_gap(plane, experiment):
    artefact = paper_figures.build_fig1(experiment)
    np.testing.assert_array_equal(artefact.arrays["walks"], plane.arrays["walks"][[0, 2]])
    assert {*artefact.table["model"], *artefact.table["quantity"]} == {"FM", "exact field", "fresh data", "drift"}
    ours, exact = artefact.arrays["walks"]
    gaps = np.linalg.norm(ours[-1] - exact[-1], axis=-1)
    training, inference, _ = mismatch.plot(artefact.table, artefact.arrays).axes
    drawn = [line.get_xydata() for line in inference.get_lines()]
    for walk in (ours, exact):
        assert any(d.shape == walk[:, 0].shape and np.array_equal(d, walk[:, gaps.argmax()]) for d in drawn)
    assert f"{gaps.max():.2f} (median {np.median(gaps):.2f})" in inference.get_xlabel()
    noise, data = plane.arrays["step_noise"][0], plane.arrays["step_data"][0]
    inputs = next(points for points in (line.get_xydata() for line in training.get_lines()) if len(points) > 2)
    way = data - noise
    off = (inputs - noise) @ np.array([-way[1], way[0]])
    np.testing.assert_allclose(off, 0, atol=1e-6)  # training's inputs lie on the pair's path


def test_what_fig1_lacks_is_named(plane, drift, refuses):
    for column in mismatch.COLUMNS:
        refuses(lambda c=column: mismatch.plot(drift.drop(columns=c), plane.arrays), repr(column))
    refuses(lambda: mismatch.plot(drift[drift["model"] != "exact field"], plane.arrays), "exact field")
    arrays = {key: value for key, value in plane.arrays.items() if key != "density"}
    refuses(lambda: mismatch.plot(drift, arrays), "density")


# ---- Fig. 2


def test_the_losses_of_fig2_are_those_that_train(step):
    arrays, (model, draw) = step
    table = paper_figures.step_losses(arrays)
    numbers = table[table["component"].isna()].set_index("quantity")["value"]
    trained = Defar()(model, draw)
    assert numbers["loss_fc"] == pytest.approx(float(trained.terms["fc"]), rel=1e-5)
    assert numbers["loss_adr"] == pytest.approx(float(trained.terms["adr"]), rel=1e-5)
    assert numbers["loss"] == pytest.approx(float(trained.total), rel=1e-5)
    assert (numbers["beta1"], numbers["beta2"], numbers["alpha"]) == (10, 1, 1)


def test_fig2_turns_the_plane_without_stretching_it_and_prints_the_numbers(experiment, step):
    artefact = paper_figures.build_fig2(experiment)
    figure = method.plot(artefact.table, artefact.arrays, note="a note")
    arrays, marks = step[0], {}
    for line in figure.axes[0].get_lines():
        if len(line.get_xydata()) == 1:
            marks.setdefault((line.get_marker(), to_hex(line.get_color())), []).append(line.get_xydata()[0])
    (noise,), (data,) = marks["o", "#ffffff"], marks["*", to_hex(method.TRUE)]
    (x_hat,) = marks["o", to_hex(method.BIAS)]
    start, end, drifted = (arrays[f"step_{key}"][0] for key in ("noise", "data", "x_hat"))
    assert noise == pytest.approx([0, 0]) and data[1] == pytest.approx(0, abs=1e-6) and data[0] > 0 and x_hat[1] >= 0
    assert np.linalg.norm(x_hat - data) == pytest.approx(np.linalg.norm(drifted - end), rel=1e-5)
    assert np.linalg.norm(x_hat) == pytest.approx(np.linalg.norm(drifted - start), rel=1e-5)
    value = artefact.table.set_index("quantity")["value"]
    said = " | ".join(words(figure))
    for key, after in (("loss_fc", ".2f"), ("loss_adr", ".2f"), ("loss", ".1f")):
        assert f"= {value[key]:{after}}" in said
    assert "a note" in said and all(f"Eq. {k}" in said for k in (6, 7, 8, 15, 16)) and "Eqs. 9, 20" in said


def test_the_committed_pairs_fig2_has_no_texts_on_top_of_each_other():
    arrays = dict(np.load(ROOT / "figures" / "data" / "plane.npz"))
    figure = method.plot(paper_figures.step_losses(arrays), arrays, note="a note")
    assert_apart(boxes(figure), figure)


def test_what_fig2_lacks_is_named(step, refuses):
    arrays, table = step[0], paper_figures.step_losses(step[0])
    for column in method.COLUMNS:
        refuses(lambda c=column: method.plot(table.drop(columns=c), arrays), repr(column))
    for quantity in ("weight", "loss_adr"):
        refuses(lambda q=quantity: method.plot(table[table["quantity"] != q], arrays), repr(quantity))
    refuses(lambda: method.plot(table, {k: v for k, v in arrays.items() if k != "step_v_hat"}), "step_v_hat")


# ---- Figs. 4, 6 and 8


@pytest.mark.parametrize(("id", "images"), [("fig4", range(6)), ("fig6", range(6, 12))])
def test_each_method_has_its_own_column_and_each_image_its_row(experiment, id, images):
    artefact = write(getattr(paper_figures, f"build_{id}")(experiment))
    assert artefact.provenance["note"] == "Euler, 50 evaluations; profile full"
    figure = columns.plot(artefact.table, artefact.arrays, note=artefact.provenance["note"])
    axes = [ax for ax in figure.axes if ax.images]
    across = sorted({round(ax.get_position().x0, 6) for ax in axes})
    down = sorted({round(ax.get_position().y1, 6) for ax in axes}, reverse=True)
    assert len(axes) == len(across) * len(down) == len(images) * 5
    for ax in axes:
        row, column = down.index(round(ax.get_position().y1, 6)), across.index(round(ax.get_position().x0, 6))
        colour = 40 * METHODS.index(paper_figures.SHOWN[column]), 10 * images[row], 7
        assert (ax.images[0].get_array() == colour).all()
    headers = {text: box.x0 + box.width / 2 for text, box in boxes(figure) if text in METHODS}
    assert sorted(headers, key=headers.get) == list(paper_figures.SHOWN)
    names = [(box.y0, text) for text, box in boxes(figure) if text in CLASSES]
    assert [text for _, text in sorted(names, reverse=True)] == [CLASSES[i % 4] for i in images]


def test_headers_have_their_methods_colours_and_texts_do_not_overlap(experiment):
    artefact = paper_figures.build_fig4(experiment)
    long = artefact.table.assign(label_name="a rather long class name")
    figure = columns.plot(long, artefact.arrays, note="a note that is much longer than the grid is wide " * 4)
    bars = [to_hex(line.get_color()) for line in figure.artists]
    assert bars == [to_hex(style.PAPER.colour(name)) for name in paper_figures.SHOWN]
    assert_apart(boxes(figure), figure)
    for text, box in boxes(figure):
        assert not any(box.overlaps(ax.get_window_extent()) for ax in figure.axes), text


def test_fig8_shows_all_of_defars_images_once(experiment):
    artefact = paper_figures.build_fig8(experiment)
    axes = columns.plot(artefact.table, artefact.arrays).axes
    assert sorted(int(ax.images[0].get_array()[0, 0, 1]) for ax in axes) == [10 * i for i in range(20)]
    assert {int(ax.images[0].get_array()[0, 0, 0]) for ax in axes} == {40 * METHODS.index("DEFAR")}
    assert list(artefact.provenance["models"]) == [f"DEFAR, run-{METHODS.index('DEFAR')}"]


def test_what_a_grid_lacks_is_named(experiment, methods, refuses):
    artefact = paper_figures.build_fig4(experiment)
    for column in columns.COLUMNS:
        refuses(lambda c=column: columns.plot(artefact.table.drop(columns=c), artefact.arrays), repr(column))
    refuses(lambda: columns.plot(artefact.table, {"samples": artefact.arrays["samples"][:4]}), "column method")
    shifted = artefact.table.assign(image=artefact.table["image"] + (artefact.table["method"] == "IP"))
    refuses(lambda: columns.plot(shifted, artefact.arrays), "'IP'", "same images")
    methods.provenance["sampled"] = ["SiT", "other", *METHODS[2:]]
    refuses(lambda: paper_figures.build_fig4(experiment), "'IP'", "fig4")
    methods.provenance["profile"] = "tiny"
    assert list(dict.fromkeys(paper_figures.build_fig4(experiment).table["method"])) == ["SiT", "SDSS", "MDSS", "DEFAR"]
    del methods.arrays["samples"]
    refuses(lambda: paper_figures.build_fig8(experiment), "no samples", "defar reproduce")


# ---- Fig. 7


def test_fig7_says_what_was_not_run_and_how_to_run_it(experiment, refuses):
    artefact = write(paper_figures.build_fig7(experiment))
    figure = columns.plot_not_run(artefact.table, note=artefact.provenance["note"])
    said = [" ".join(text.split()) for text in words(figure)]
    assert said.count("not run") == len(paper_figures.SHOWN)
    for row in artefact.table.itertuples():
        assert row.row in said and row.protocol in said and f"{row.row}: {row.command}" in said
        name = tomllib.loads((ROOT / row.command.split()[2]).read_text())["name"]
        assert f"runs/{name}/checkpoint" in row.command
    assert_apart(boxes(figure), figure)
    for column in columns.NOT_RUN_COLUMNS:
        refuses(lambda c=column: columns.plot_not_run(artefact.table.drop(columns=c)), repr(column))


def test_provenance_is_the_sources_own_copy_and_better_data_is_not_overwritten(experiment, plane):
    for id, shown in (("fig1", ("FM", "exact field")), ("fig2", ("FM",))):
        artefact = getattr(paper_figures, f"build_{id}")(experiment)
        models = {name: {} for name in shown}
        assert artefact.provenance == {**plane.provenance, "models": models, "taken_from": "plane"}
        assert len(plane.provenance["models"]) == 3 and artefact.id == id
        assert artefact.folder == experiment.root / "figures"
        better = experiment.root / "figures" / "data" / f"{id}.json"
        better.parent.mkdir(parents=True, exist_ok=True)
        better.write_text('{"profile": "full"}')
        again = getattr(paper_figures, f"build_{id}")(experiment)
        assert again.folder == experiment.root / "results" / "tiny" / "figures"


@pytest.mark.parametrize("name", ["fig1", "fig2", "methods_samples"])
def test_notebooks_are_thin_and_start_with_parameters(name):
    notebook = json.loads((ROOT / "notebooks" / f"{name}.ipynb").read_text(encoding="utf-8"))
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert code[0]["metadata"]["tags"] == ["parameters"] and len(notebook["cells"]) <= 8
    assert not any(cell["outputs"] or "def " in "".join(cell["source"]) for cell in code)
    text = "".join("".join(cell["source"]) for cell in code)
    assert f'catalog.collect("{name}"' in text or (name == "methods_samples" and "catalog.collect(id" in text)
