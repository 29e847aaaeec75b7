"""The papers' tables and the methods study as pictures: every mark at its number, in its row."""

import numpy as np
import pandas as pd
import pytest

from defar_analysis.plots import methods, tables

CHANGES = pd.DataFrame(
    [
        ("cifar10", "IP", "paper", 0, "FID", -3.0, np.nan, np.nan),
        ("cifar10", "DEFAR", "paper", 0, "FID", -20.0, np.nan, np.nan),
        ("celeba64", "DEFAR", "paper", 0, "FID", -35.0, np.nan, np.nan),
        ("here", "DEFAR", "ours", 1, "FD-EffNet-128", 4.0, 1.0, 7.0),
        ("here", "DEFAR", "ours", 2, "FD-EffNet-128", 5.0, 2.0, 8.0),
    ],
    columns=list(tables.COLUMNS),
)


def marks(ax):
    """(x, row) of every marker."""
    drawn = [line for line in ax.lines if line.get_marker() not in ("None", "")]
    return {(round(x, 6), round(y)) for line in drawn for x, y in zip(*line.get_data(), strict=True)}


def test_every_mark_stands_at_its_number_in_its_row():
    left, right = tables.plot(CHANGES).axes
    assert [label.get_text() for label in left.get_yticklabels()] == ["IP", "DEFAR"]
    assert marks(left) == {(-3.0, 0), (-20.0, 1), (-35.0, 1)}
    assert marks(right) == {(4.0, 1), (5.0, 1)}
    ends = sorted(tuple(segment[:, 0]) for c in right.collections for segment in c.get_segments())
    assert ends == [(1.0, 7.0), (2.0, 8.0)]


def test_what_was_not_run_is_said():
    _, right = tables.plot(CHANGES[CHANGES["who"] == "paper"]).axes
    assert [text.get_text() for text in right.texts] == ["not run here"]


def test_a_far_value_lies_inside_the_axis():
    far = CHANGES.assign(percent=CHANGES["percent"].where(CHANGES["row"] != "IP", 2000.0))
    left = tables.plot(far).axes[0]
    assert left.get_xscale() == "symlog" and left.get_xlim()[1] > 2000


def test_a_missing_column_is_named(refuses):
    refuses(lambda: tables.plot(CHANGES.drop(columns="who")), "who")
    refuses(lambda: methods.plot(pd.DataFrame({"method": []}), CHANGES), "seed")


def test_a_configuration_that_differs_by_more_than_the_rounding_is_bold():
    cells = pd.DataFrame(
        {"parameter": ["Depth", "Params"], "quantity": "B/4, cifar10", "paper": [12.0, 131.0], "ours": [12.0, 129.6],
         "decimals": [0, 0]}
    )  # fmt: skip
    drawn = {t.get_text(): t.get_weight() for t in tables.plot_configurations(cells).axes[0].texts}
    assert drawn["12 | 12"] == "normal" and drawn["131 | 129.6"] == "bold"


def test_the_methods_lie_at_their_paired_changes():
    table = pd.DataFrame(
        [("IP", 1, m, v) for m, v in (("precision", 0.5), ("recall", 0.25))],
        columns=["method", "seed", "metric", "value"],
    )
    change = pd.DataFrame(
        [("IP", 1, "FD-EffNet-128", -2.0, -3.0, -1.0), ("IP", 1, "precision", 9.0, 9.0, 9.0)],
        columns=list(methods.COLUMNS),
    )
    left, right = methods.plot(table, change).axes
    assert marks(left) == {(-2.0, 0)}
    assert [tuple(line.get_data()[k][0] for k in (0, 1)) for line in right.lines] == [(0.25, 0.5)]


def test_equal_steps_are_filled_marks_beside_the_hollow_ones_of_equal_compute(refuses):
    table = pd.DataFrame([("IP", 1, "precision", 0.5), ("IP", 1, "recall", 0.25)],
                         columns=["method", "seed", "metric", "value"])  # fmt: skip
    change = pd.DataFrame([("IP", 1, "FD-EffNet-128", -2.0, -3.0, -1.0)], columns=list(methods.COLUMNS))
    longer = change.assign(percent=-5.0, percent_low=-6.0, percent_high=-4.0)
    another = longer.assign(method="MixFlow", percent=7.0, percent_low=6.0, percent_high=8.0)
    left = methods.plot(table, change, pd.concat([longer, another])).axes[0]
    assert [label.get_text() for label in left.get_yticklabels()] == ["IP", "MixFlow"]
    assert marks(left) == {(-2.0, 0), (-5.0, 0), (7.0, 1)}
    marked = {line.get_xdata()[0]: line for line in left.lines if line.get_marker() not in ("None", None)}
    hollow, filled = marked[-2.0], marked[-5.0]
    assert hollow.get_markerfacecolor() == "none" and filled.get_markerfacecolor() == filled.get_color()
    assert [text.get_text() for text in left.get_legend().get_texts()] == [
        "training seed 1", "training seed 1, equal steps"
    ]  # fmt: skip
    refuses(lambda: methods.plot(table, change, longer.drop(columns="percent_low")), "percent_low")


@pytest.mark.parametrize("groups", [tables.MOST_GROUPS, tables.MOST_GROUPS + 1])
def test_many_groups_go_to_the_rows(groups):
    many = pd.concat([CHANGES.iloc[[0]].assign(where=f"g{k}", percent=float(k)) for k in range(groups)])
    left = tables.plot(many).axes[0]
    assert len(left.get_yticks()) == (1 if groups <= tables.MOST_GROUPS else groups)
    assert {x for x, _ in marks(left)} == set(map(float, range(groups)))
