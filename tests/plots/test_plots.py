"""The figures show what their tables hold, in one colour per model, and are written the same way each time."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from defar_analysis.catalog import FIGURES
from defar_analysis.errors import DefarError
from defar_analysis.plots import emphasis, figure3, frequency, maps, samples, style

ROOT = Path(__file__).parents[2]
T = np.linspace(0.0, 0.95, 20)
MODELS = ("SiT", "DEFAR", "Gaussian reference")


def curve(model, quantity, value, dc="", estimator="", t=T):
    value = np.broadcast_to(value, t.shape)
    return pd.DataFrame(
        {"model": model, "quantity": quantity, "dc": dc, "estimator": estimator, "t": t, "value": value,
         "low": value - 0.1 * abs(value), "high": value + 0.1 * abs(value), "n": 64}
    )  # fmt: skip


@pytest.fixture(scope="module")
def curves():
    parts = []
    for k, model in enumerate(MODELS):
        for i, dc in enumerate(("without", "with")):
            for j, estimator in enumerate(("mean_of_ratios", "ratio_of_sums")):
                scale = 1 + 0.1 * k + 0.5 * i + 0.03 * j
                parts.append(curve(model, "pfr_prediction", scale * (0.2 + T), dc, estimator))
                parts.append(curve(model, "pfr_target", 0.5 + 0.5 * i, dc, estimator))
                parts.append(curve(model, "pfr_bias", scale * 6 * np.exp(-4 * T), dc, estimator))
        parts.append(curve(model, "fel_gain_percent", 0.7 * np.exp(-5 * T) - 0.1 * k))
    parts.append(curve("DEFAR against SiT", "pfr_change_percent", 0.1 - 0.1 * T, "without", "mean_of_ratios"))
    return pd.concat(parts, ignore_index=True)


@pytest.fixture(scope="module")
def crossings():
    rows = [
        (model, quantity, dc, estimator, at, at - 0.02, at + 0.02, 1.0, 64)
        for model, at in (("SiT", 0.3), ("DEFAR", np.nan))
        for quantity in ("pfr_prediction", "pfr_bias")
        for dc in ("without", "with")
        for estimator in ("mean_of_ratios", "ratio_of_sums")
    ]
    return pd.DataFrame(
        rows, columns=["model", "quantity", "dc", "estimator", "t_cross", "low", "high", "found_share", "n"]
    )


@pytest.fixture(scope="module")
def paper():
    rows = [("fig3", "a", "pfr_prediction", 0.0, 0.17), ("fig3", "a", "pfr_prediction", 0.25, 0.54),
            ("fig3", "b", "pfr_bias", 0.1, 2.6), ("fig3", "d", "fel_gain_percent", 0.12, 0.74)]  # fmt: skip
    return pd.DataFrame(rows, columns=["figure", "panel", "quantity", "t", "value"])


PAIRS = np.array([[0.1, 0.4], [0.4, 0.7]])


@pytest.fixture(scope="module")
def arrays():
    rng = np.random.default_rng(0)
    pictures = {key: rng.integers(0, 256, (3, 8, 8, 3), dtype=np.uint8) for key in ("images", "low_pass", "high_pass")}
    heat = {f"bias_{slug}": rng.random((2, 3, 8, 8)) for slug in ("sit", "defar")}
    return {**pictures, **heat, "pairs": PAIRS, "image_index": np.array([4, 7, 9]), "labels": np.array([3, 8, -1])}


@pytest.fixture(scope="module")
def per_image():
    rows = [(model, image, "cat", t0, t1, 0.1 * (1 + k), 0.4, -0.1)
            for model in ("DEFAR", "SiT") for k, image in enumerate((4, 7, 9)) for t0, t1 in PAIRS]  # fmt: skip
    return pd.DataFrame(rows, columns=list(maps.COLUMNS))


@pytest.fixture(scope="module")
def pooled():
    quantities = {"bias_rms": 0.25, "corr_low_band": 0.4, "corr_high_band": -0.1}
    rows = [("SiT", q, t0, t1, v, v - 0.1, v + 0.1, 64) for t0, t1 in PAIRS for q, v in quantities.items()]
    return pd.DataFrame(rows, columns=["model", "quantity", "t0", "t1", "value", "low", "high", "n"])


def line_of(ax, label):
    (found,) = [line for line in ax.get_lines() if line.get_label() == label]
    return found


def rows_of(df, model, quantity, dc="without", estimator="mean_of_ratios"):
    mine = df[(df["model"] == model) & (df["quantity"] == quantity)]
    return mine[mine["dc"].isin([dc, ""]) & mine["estimator"].isin([estimator, ""])]


def texts(figure):
    found = [text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text"))]
    return [text for text in found if text]


# ---- curves


@pytest.mark.parametrize("dc", ["without", "with"])
@pytest.mark.parametrize("estimator", ["mean_of_ratios", "ratio_of_sums"])
def test_curves_are_the_tables_values_of_that_reading(curves, dc, estimator):
    figure = frequency.plot(curves.sample(frac=1, random_state=0), dc=dc, estimator=estimator)  # order does not matter
    for ax, quantity in zip(figure.axes, ("pfr_prediction", "pfr_bias"), strict=True):
        assert len(ax.get_lines()) == len(MODELS) + 1  # one target: all models saw the same pairs
        for model in MODELS:
            rows, line = rows_of(curves, model, quantity, dc, estimator), line_of(ax, model)
            np.testing.assert_array_equal(line.get_xdata(), rows["t"])
            np.testing.assert_array_equal(line.get_ydata(), rows["value"])
        np.testing.assert_array_equal(
            line_of(ax, "target").get_ydata(), rows_of(curves, "SiT", "pfr_target", dc, estimator)["value"]
        )
    assert [ax.get_yscale() for ax in figure.axes] == ["log", "log"]


def test_interval_reaches_from_low_to_high(curves):
    figure = emphasis.plot(curves[curves["model"] == "SiT"])
    (area,) = figure.axes[0].collections
    rows = rows_of(curves, "SiT", "fel_gain_percent")
    corners = {tuple(point) for point in area.get_paths()[0].vertices.round(9)}
    for edge in ("low", "high"):
        assert {tuple(point) for point in rows[["t", edge]].to_numpy().round(9)} <= corners


def test_targets_measured_on_other_pairs_are_not_hidden(curves):
    other = curves.copy()
    moved = (other["model"] == "DEFAR") & (other["quantity"] == "pfr_target")
    other.loc[moved, "value"] *= 1.2
    labels = frequency.plot(other).axes[0].get_legend_handles_labels()[1]
    assert {"target (SiT)", "target (DEFAR)"} <= set(labels)


def test_paper_values_are_hollow_and_only_its_own(curves, paper):
    other = paper.assign(figure="fig5", value=99.0)
    figure = figure3.plot(curves, paper=pd.concat([paper, other]))
    for ax, quantity in zip(figure.axes, ("pfr_prediction", "pfr_bias", "fel_gain_percent"), strict=True):
        points = line_of(ax, style.PAPER_LABEL)
        np.testing.assert_array_equal(points.get_ydata(), paper[paper["quantity"] == quantity]["value"])
        assert points.get_markerfacecolor() == "none"
        assert points.get_linestyle() == "None"


def test_crossing_has_line_interval_and_number_and_none_is_said(curves, crossings):
    with style.applied():
        ax = Figure().subplots()
        taken = frequency.draw_pfr(ax, curves, "pfr_prediction", crossings=crossings)
        bare = Figure().subplots()
        assert frequency.draw_pfr(bare, curves, "pfr_prediction") == 0.0
    extra = ax.get_lines()[len(bare.get_lines()) :]
    assert [list(line.get_xdata()) for line in extra] == [[0.3, 0.3]]  # DEFAR's NaN draws nothing
    (span,) = ax.patches
    assert span.get_x() == pytest.approx(0.28)
    assert span.get_x() + span.get_width() == pytest.approx(0.32)
    assert [text.get_text() for text in ax.texts][::-1] == ["SiT crosses at 0.30 [0.28, 0.32]", "DEFAR never crosses"]
    assert taken > 0


def test_a_rare_crossing_says_how_rare(curves, crossings):
    rare = crossings.assign(found_share=0.4)
    assert any("(40%)" in text for text in texts(frequency.plot(curves, crossings=rare)))
    assert frequency.crossing_note(rare)
    assert not frequency.crossing_note(crossings)


def test_restoration_shows_the_paired_change(curves):
    left, right = frequency.plot_restoration(curves, note="64 images").axes
    assert {model for model in MODELS if line_of(left, model)} == set(MODELS)
    drawn = line_of(right, "DEFAR against SiT")
    np.testing.assert_array_equal(
        drawn.get_ydata(), rows_of(curves, "DEFAR against SiT", "pfr_change_percent")["value"]
    )
    assert to_hex(drawn.get_color()) == to_hex(style.PAPER.colour("DEFAR"))
    zero = [line for line in right.get_lines() if set(line.get_ydata()) == {0.0}]
    assert len(zero) == 1
    for ax in (left, right):
        assert any(patch.get_x() == 0 and patch.get_width() == frequency.HIGH_NOISE for patch in ax.patches)


def test_gain_has_the_raw_loss_at_zero(curves):
    ax = emphasis.plot(curves).axes[0]
    assert set(line_of(ax, style.RAW_LOSS).get_ydata()) == {0.0}
    assert len(ax.get_lines()) == len(MODELS) + 1


def test_tables_that_went_through_csv_draw_the_same(curves, tmp_path):
    curves.to_csv(tmp_path / "t.csv", index=False)
    again = pd.read_csv(tmp_path / "t.csv")  # empty texts are NaN now
    for model in MODELS:
        drawn = [line_of(emphasis.plot(table).axes[0], model).get_ydata() for table in (curves, again)]
        np.testing.assert_allclose(*drawn)


def test_colours_belong_to_models_not_to_places(curves):
    alone = curves[curves["model"].isin(["DEFAR"])]
    for model in MODELS:
        wanted = to_hex(style.PAPER.colour(model))
        figures = [frequency.plot(curves), frequency.plot_restoration(curves), figure3.plot(curves)]
        for figure in figures:
            assert to_hex(line_of(figure.axes[0], model).get_color()) == wanted
    assert to_hex(line_of(frequency.plot(alone).axes[0], "DEFAR").get_color()) == to_hex(style.PAPER.colour("DEFAR"))
    assert style.PAPER.line("SiT")["linestyle"] == "-"
    assert style.PAPER.line("Gaussian reference")["linestyle"] != "-"
    assert style.PAPER.line("my own model") == style.Style().line("my own model")
    assert style.PAPER.colour("my own model") not in style.PAPER.colours.values()


def test_figure3_has_the_papers_panels_and_one_legend(curves, crossings, paper, arrays):
    figure = figure3.plot(curves, arrays, paper, crossings, note="64 images; profile tiny")
    assert len(figure.axes) == 5  # a, b, two overlays, d
    assert len(figure.legends) == 1
    assert all(ax.get_legend() is None for ax in figure.axes)
    said = texts(figure)
    assert [sum(text.startswith(f"({letter})") for text in said) for letter in "abcd"] == [1, 1, 1, 1]
    assert any(text.startswith("64 images; profile tiny") for text in said)
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels[:3] == list(MODELS)
    assert len(figure3.plot(curves, None).axes) == 3


# ---- pictures


def test_maps_show_the_arrays_and_the_rows_numbers(per_image, arrays):
    figure = maps.plot(per_image, arrays)
    assert len(figure.axes) == 3 * (3 + len(PAIRS))
    row = figure.axes[5:10]  # the second image
    for ax, key in zip(row, ("images", "high_pass", "low_pass"), strict=False):
        np.testing.assert_array_equal(ax.images[0].get_array(), arrays[key][1])
        assert ax.images[0].get_interpolation() == "nearest"
    for k, ax in enumerate(row[3:]):
        np.testing.assert_array_equal(ax.images[0].get_array(), arrays["bias_sit"][k, 1])  # SiT first, as in the paper
        assert ax.get_xlabel() == "rms 0.2\nr +0.40 / -0.10"
    assert [ax.get_title() for ax in figure.axes[:5]] == ["image", "high-pass", "low-pass", "t 0.1→0.4", "t 0.4→0.7"]
    again = maps.plot(per_image, arrays, "DEFAR")
    np.testing.assert_array_equal(again.axes[3].images[0].get_array(), arrays["bias_defar"][0, 0])


def test_maps_take_the_pooled_table_and_float32_times(pooled, arrays):
    mine = {key: value for key, value in arrays.items() if not key.startswith("bias")}
    mine |= {"bias": arrays["bias_sit"].astype(np.float16), "pairs": PAIRS.astype(np.float32)}
    figure = maps.plot(pooled, mine, names=[f"class {k}" for k in range(10)])
    assert [ax.get_ylabel() for ax in figure.axes[::5]] == ["class 3", "class 8", "image 9"]
    captions = [ax.get_xlabel() for ax in figure.axes if ax.get_xlabel()]
    assert captions == ["rms 0.25\nr +0.40 / -0.10"] * len(PAIRS)  # once a column, not once an image


def test_shared_scale_is_shared_and_has_a_bar(per_image, arrays):
    figure = maps.plot(per_image, arrays, scale="column")
    assert len(figure.axes) == 3 * 5 + 2
    limits = {ax.images[0].get_clim() for ax in figure.axes if ax.get_xlabel().startswith("rms")}
    assert limits == {(0.0, arrays["bias_sit"][k].max()) for k in range(2)}
    with pytest.raises(DefarError, match="scale"):
        maps.plot(per_image, arrays, scale="global")


def test_overlay_puts_the_map_over_the_grey_image(arrays):
    axes = Figure().subplots(1, 2)
    maps.draw_overlay(axes, arrays, model="DEFAR", images=(2, 0), pair=1)
    for ax, index in zip(axes, (2, 0), strict=True):
        grey, heat = ax.images
        assert grey.get_array().ndim == 2
        np.testing.assert_array_equal(heat.get_array(), arrays["bias_defar"][1, index])
        assert 0 < heat.get_alpha() < 1
        assert grey.get_extent() == heat.get_extent()
    with pytest.raises(DefarError, match="hold 3"):
        maps.draw_overlay(axes, arrays, images=(0, 3))


def sample_table(methods=("SiT", "DEFAR"), count=4):
    names = ["airplane", "automobile", "bird", "cat"]
    return pd.DataFrame([(m, i, i, names[i], 0, "euler", 50) for m in methods for i in range(count)],
                        columns=["method", "image", "label", "label_name", "seed", "solver", "nfe"])  # fmt: skip


def test_samples_one_row_per_method_one_column_per_noise():
    pictures = np.random.default_rng(0).integers(0, 256, (2, 4, 8, 8, 3), dtype=np.uint8)
    figure = samples.plot(sample_table(), {"samples": pictures}, note="Euler, 50 evaluations")
    assert len(figure.axes) == 8
    np.testing.assert_array_equal(figure.axes[5].images[0].get_array(), pictures[1, 1])
    assert [ax.get_title() for ax in figure.axes[:4]] == ["airplane", "automobile", "bird", "cat"]
    assert {"SiT", "DEFAR", "Euler, 50 evaluations"} <= set(texts(figure))


def test_samples_that_do_not_compare_are_refused():
    pictures = {"samples": np.zeros((2, 4, 8, 8, 3), np.uint8)}
    mixed = sample_table()
    mixed.loc[mixed["method"] == "DEFAR", "label_name"] = list("abcd")
    with pytest.raises(DefarError, match="label_name"):
        samples.plot(mixed, pictures)
    with pytest.raises(DefarError, match="method"):
        samples.plot(sample_table(("SiT", "DEFAR", "IP")), pictures)


# ---- wrong tables


@pytest.mark.parametrize("column", ["model", "quantity", "dc", "estimator", "t", "value", "low", "high"])
def test_missing_column_is_named_in_one_line(curves, column):
    for plot in (frequency.plot, frequency.plot_restoration, emphasis.plot, figure3.plot):
        with pytest.raises(DefarError) as raised:
            plot(curves.drop(columns=column))
        assert repr(column) in str(raised.value)
        assert "\n" not in str(raised.value)


def test_missing_column_or_array_of_pictures(per_image, arrays, crossings, curves):
    for column in maps.COLUMNS:
        with pytest.raises(DefarError, match=repr(column)):
            maps.plot(per_image.drop(columns=column), arrays)
    for key in ("images", "high_pass", "pairs", "image_index"):
        with pytest.raises(DefarError, match=key):
            maps.plot(per_image, {name: value for name, value in arrays.items() if name != key})
    with pytest.raises(DefarError, match="bias_<model>"):
        maps.plot(per_image, {name: value for name, value in arrays.items() if "bias" not in name})
    with pytest.raises(DefarError, match="'method'"):
        samples.plot(sample_table().drop(columns="method"), {})
    with pytest.raises(DefarError, match="t_cross"):
        frequency.plot(curves, crossings=crossings.drop(columns="t_cross"))


def test_no_rows_names_the_column_and_what_it_holds(curves, per_image, arrays):
    with pytest.raises(DefarError, match=r"quantity = 'pfr_bias'.*'pfr_prediction'"):
        frequency.plot(curves[curves["quantity"].isin(["pfr_prediction", "pfr_target"])])
    with pytest.raises(DefarError, match="dc = 'never'"):
        frequency.plot(curves, dc="never")
    with pytest.raises(DefarError, match="model = 'IP'"):
        maps.plot(per_image, arrays, "IP")
    with pytest.raises(DefarError, match="no rows"):
        emphasis.plot(curves[:0])
    with pytest.raises(DefarError, match="column t repeats"):
        emphasis.plot(pd.concat([curves, curves]))


# ---- files, imports, notebooks


def test_saved_bytes_are_the_same_twice(curves, crossings, paper, arrays, tmp_path):
    written = []
    for k in range(2):
        figure = figure3.plot(curves, arrays, paper, crossings, note="64 images")
        paths = style.save(figure, tmp_path / f"v{k}.0" / "fig3.a")  # dots are no suffix
        assert [path.name for path in paths] == ["fig3.a.png", "fig3.a.pdf"]
        assert sorted(path.parent for path in paths) == [tmp_path / f"v{k}.0"] * 2
        assert len(list(paths[0].parent.iterdir())) == 2  # nothing left beside
        written.append([path.read_bytes() for path in paths])
    assert written[0] == written[1]
    assert written[0][0].startswith(b"\x89PNG")
    assert written[0][1].startswith(b"%PDF")
    assert b"CreationDate" not in written[0][1]


def test_a_failed_save_leaves_the_old_file(tmp_path):
    path = tmp_path / "fig.png"
    path.write_bytes(b"old")
    with pytest.raises(RuntimeError), style.replaced(path) as beside:
        beside.write_bytes(b"half")
        raise RuntimeError
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_users_matplotlib_settings_neither_matter_nor_change(curves, tmp_path):
    import matplotlib as mpl

    first, _ = style.save(emphasis.plot(curves), tmp_path / "a")
    with mpl.rc_context({"font.size": 30, "axes.facecolor": "red", "lines.linewidth": 9}):
        second, _ = style.save(emphasis.plot(curves), tmp_path / "b")
        assert mpl.rcParams["font.size"] == 30
    assert first.read_bytes() == second.read_bytes()


def test_plots_import_no_torch():
    modules = [f"defar_analysis.plots.{path.stem}" for path in (ROOT / "defar_analysis" / "plots").glob("[a-z]*.py")]
    lines = [*(f"import {name}" for name in modules), "import sys", "assert 'torch' not in sys.modules, 'torch'",
             "assert 'matplotlib.pyplot' not in sys.modules, 'pyplot'"]  # fmt: skip
    subprocess.run([sys.executable, "-c", "\n".join(lines)], check=True, cwd=ROOT)


TOOLS = {"inspect_bias.ipynb"}  # to look around in, with sliders; they make no figure of the gallery


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda path: path.stem)
def test_notebook_is_thin_clean_and_parametrized(path):
    notebook = json.loads(path.read_text(encoding="utf-8"))
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    kernel = notebook["metadata"]["kernelspec"]
    assert (kernel["name"], kernel["language"]) == ("python3", "python")
    ids = [cell["id"] for cell in notebook["cells"]]
    assert len(set(ids)) == len(ids)
    assert notebook["cells"][0]["cell_type"] == "markdown"
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
    (parameters,) = [cell for cell in code if "parameters" in cell["metadata"].get("tags", [])]
    assert parameters is code[0]
    values = {}
    for statement in ast.parse("".join(parameters["source"])).body:
        assert isinstance(statement, ast.Assign)
        values[statement.targets[0].id] = ast.literal_eval(statement.value)
    served = [entry.id for entry in FIGURES.values() if entry.notebook == path.name]
    id = values.pop("id", path.stem)  # a notebook of several entries takes theirs
    text = "".join("".join(cell["source"]) for cell in code)
    assert values == {"profile": "quick", "device": "cpu", "root": "."}
    if path.name not in TOOLS:
        assert id in served
        assert ("catalog.collect(id," if len(served) > 1 else f'catalog.collect("{id}"') in text
    assert len(notebook["cells"]) <= 20 and "def " not in text  # thin: what it does lies in the package


def test_every_entry_has_its_notebook_and_every_notebook_an_entry():
    there = {path.name for path in (ROOT / "notebooks").glob("*.ipynb")}
    assert {entry.notebook for entry in FIGURES.values()} == there - TOOLS


def test_every_figure_and_table_of_the_paper_has_an_entry():
    wanted = {f"Fig. {n}" for n in range(1, 10)} | {f"Tab. {n}" for n in range(1, 12)}
    assert wanted <= {entry.paper.removesuffix(" (a-d)") for entry in FIGURES.values()}
    assert all(entry.paper and entry.title and entry.caption for entry in FIGURES.values())


@pytest.mark.parametrize(
    ("low", "high", "most", "ticks"),
    [(-0.2, 0.3, 8, [-1, 0, 1]), (-20, 49, 8, [-10, -1, 0, 1, 10]), (-20, 900, 5, [-10, 0, 10, 1000])],
)
@pytest.mark.parametrize("side", ["x", "y"])
def test_an_axis_of_percents_is_linear_up_to_one_and_has_few_ticks(side, low, high, most, ticks):
    ax = Figure().subplots()
    style.percent_axis(ax, side, low, high, most)
    axis = getattr(ax, f"{side}axis")
    assert list(axis.get_ticklocs()) == ticks and len(axis.get_ticklocs(minor=True)) == 0
    # within one percent equal changes are equally far apart; beyond, equal factors are
    at = axis.get_transform().transform(np.array([0.0, 0.5, 1.0, 10.0, 100.0]))
    assert at[1] == pytest.approx(at[2] / 2) and at[3] - at[2] == pytest.approx(at[4] - at[3])
