"""Evaluations: the pure functions' values, with intervals; and differences between models, paired by noise."""

import warnings
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from defar_analysis.measures import quality
from defar_analysis.measures.evaluation import BETTER, COLUMNS, DIFFERENCES, UNDECIDED, WORSE, differences, evaluate
from defar_analysis.measures.extractors import Features
from defar_analysis.measures.influence import kernel_distance_influence
from defar_analysis.measures.moments import Moments, QualityWarning
from defar_analysis.measures.protocols import Protocol
from defar_analysis.measures.quality import FrechetReference
from defar_analysis.measures.references import Reference

N = 80
PROTOCOL = Protocol("p", "r", N, "effnet-lite0-128", split_size=40)
NAMES = PROTOCOL.metric_names
NOISE = {"seed": 0, "labels": "balanced"}


def features(seed=0, shift=0.0, scale=1.0, count=N):
    rng = np.random.default_rng(seed)
    pool, spatial, logits = (rng.normal(size=(count, size)).astype(np.float32) for size in (6, 4, 5))
    return Features(pool * scale + shift, spatial * scale + shift, 2 * logits)


REAL = features(seed=99, count=90)


def reference(spatial=True, images=True):
    return Reference(
        "r", "abcd", 90, FrechetReference.of(REAL.pool), FrechetReference.of(REAL.spatial) if spatial else None,
        REAL.pool if images else None,
    )  # fmt: skip


def values(evaluation, column="value"):
    return dict(zip(evaluation.table["metric"], evaluation.table[column], strict=True))


def one_row(evaluations, metric, baseline="base"):
    rows = differences(evaluations, baseline, PROTOCOL)
    (row,) = rows[rows["metric"] == NAMES[metric]].to_dict("records")
    return row


def with_value(evaluation, metric, value):
    """The same evaluation, one of its values another."""
    table = evaluation.table.copy()
    table.loc[table["metric"] == NAMES[metric], "value"] = value
    return replace(evaluation, table=table)


def test_every_metric_is_the_pure_function_of_the_features():
    own = features(shift=0.3)
    found = evaluate("m", own, reference(), PROTOCOL)
    precision, recall = quality.precision_recall(REAL.pool, own.pool, k=3)
    expected = {
        "frechet": FrechetReference.of(REAL.pool).distance_to(Moments.of(own.pool)),
        "spatial_frechet": FrechetReference.of(REAL.spatial).distance_to(Moments.of(own.spatial)),
        "kernel": kernel_distance_influence(REAL.pool, own.pool)[0],
        "inception_score": quality.inception_score(own.logits, split_size=40),
        "precision": precision,
        "recall": recall,
    }
    assert values(found) == {NAMES[kind]: value for kind, value in expected.items()}
    assert 0 < recall < 1 and len(set(expected.values())) == 6
    table = found.table
    assert list(table) == COLUMNS and found.model == "m"
    told = {"model": "m", "n": N, "protocol": "p", "reference": "r", "reference_n": 90, "reference_sha256": "abcd"}
    for column, value in told.items():
        assert (table[column] == value).all()


def test_the_protocols_splits_and_neighbours_are_taken():
    own = features(shift=0.3)
    found = values(evaluate("m", own, reference(), replace(PROTOCOL, split_size=20, neighbours=5)))
    assert found[NAMES["inception_score"]] == quality.inception_score(own.logits, split_size=20)
    assert (found["precision"], found["recall"]) == quality.precision_recall(REAL.pool, own.pool, k=5)


@pytest.mark.parametrize(
    "options, left_out",
    [
        ({"spatial": False}, {"spatial_frechet"}),
        ({"images": False}, {"precision", "recall", "kernel"}),
        ({"spatial": False, "images": False}, {"spatial_frechet", "precision", "recall", "kernel"}),
    ],
)
def test_metrics_that_the_reference_does_not_allow_are_left_out(options, left_out):
    found, whole = (evaluate("m", features(), reference(**given), PROTOCOL) for given in (options, {}))
    missing = {NAMES[kind] for kind in left_out}
    assert values(found) == {name: value for name, value in values(whole).items() if name not in missing}
    assert found.influences.keys() == values(found).keys()


def test_every_interval_contains_its_value_and_influences_are_centred():
    for seed in range(3):
        found = evaluate("m", features(seed, shift=0.2), reference(), PROTOCOL)
        table = found.table.set_index("metric")
        assert (table["low"] < table["value"]).all() and (table["value"] < table["high"]).all()
        for metric, influences in found.influences.items():
            assert influences.shape == (N,) and abs(influences.mean()) < 1e-9 * np.abs(influences).max(), metric


def test_more_images_give_narrower_intervals():
    def width(count):
        found = evaluate("m", features(count=count, shift=0.5), reference(), PROTOCOL.with_count(count))
        row = found.table.set_index("metric").loc[NAMES["frechet"]]
        return row["high"] - row["low"]

    assert 1.5 < width(100) / width(400) < 3  # a root of 4


def test_images_of_the_reference_are_named():
    copied = features(shift=0.3)
    copied.pool[:5] = REAL.pool[10:15]
    with pytest.warns(QualityWarning, match=f"5 of {N} images are images of the reference itself"):
        evaluate("m", copied, reference(), PROTOCOL)


def test_shares_of_0_and_1_keep_wilsons_doubt():
    table = evaluate("m", features(shift=50), reference(), PROTOCOL).table.set_index("metric")
    far = 1.96**2
    assert tuple(table.loc["precision", ["value", "low", "high"]]) == (0, 0, pytest.approx(far / (N + far)))
    real = len(REAL.pool)
    assert tuple(table.loc["recall", ["value", "low", "high"]]) == (0, 0, pytest.approx(far / (real + far)))


@pytest.mark.filterwarnings("ignore:.*images of the reference itself")
def test_shares_stay_between_0_and_1():
    inside = evaluate("m", Features(REAL.pool[:N], REAL.spatial[:N], REAL.logits[:N]), reference(), PROTOCOL).table
    far = evaluate("m", features(shift=50), reference(), PROTOCOL).table
    close = np.array(REAL.pool[:N])
    close[0] = 50  # one image astray: the normal range would pass 1
    nearly = evaluate("m", Features(close, REAL.spatial[:N], REAL.logits[:N]), reference(), PROTOCOL).table
    rows = pd.concat([inside, far, nearly])
    rows = rows[rows["metric"].isin(["precision", "recall"])]
    assert rows["low"].min() == 0 and rows["high"].max() == 1
    precision = nearly.set_index("metric").loc["precision"]
    assert precision["value"] == 1 - 1 / N and precision["low"] < precision["value"] < precision["high"] == 1


@pytest.mark.parametrize("count", [N - 1, N + 1])
def test_another_number_of_images_than_the_protocols_is_refused(count, refuses):
    refuses(lambda: evaluate("m", features(count=count), reference(), PROTOCOL), "m: ", count, f"takes {N}")


def test_features_of_another_size_than_the_references_are_refused(refuses):
    own = features()
    for wrong in (own._replace(pool=own.pool[:, :5]), own._replace(spatial=own.spatial[:, :3])):
        refuses(lambda wrong=wrong: evaluate("m", wrong, reference(), PROTOCOL), "use one extractor")


def test_features_that_are_not_finite_are_refused(refuses):
    own = features()
    own.pool[7, 2] = np.nan
    refuses(lambda: evaluate("m", own, reference(), PROTOCOL), "image 7", "NaN")


def test_fewer_images_than_features_are_warned_of():
    with pytest.warns(QualityWarning, match="n = 5 is not above the 6 features"):
        evaluate("m", features(count=5), reference(), PROTOCOL.with_count(5))


def test_an_extrapolated_distance_is_one_more_row_without_an_interval():
    own = features(shift=0.4)
    found, plain = (evaluate("m", own, reference(), PROTOCOL, extrapolate=given) for given in (True, False))
    row = found.table.iloc[-1]
    assert row["metric"] == f"{NAMES['frechet']} at infinite n" and row[["low", "high"]].isna().all()
    assert row["value"] == quality.frechet_at_infinity(own.pool, FrechetReference.of(REAL.pool)).intercept
    assert row["value"] < values(found)[NAMES["frechet"]]
    pd.testing.assert_frame_equal(found.table.iloc[:-1], plain.table)
    both = differences([plain, replace(found, table=found.table.assign(model="b"))], "m", PROTOCOL)
    assert set(both["metric"]) == set(plain.table["metric"])  # no interval, so nothing to compare


# --- differences ---


def test_the_same_samples_differ_by_exactly_nothing():
    one, two = (evaluate(name, features(), reference(), PROTOCOL, NOISE) for name in ("base", "other"))
    rows = differences([one, two], "base", PROTOCOL)
    assert list(rows) == DIFFERENCES and len(rows) == 6 and (rows["model"] == "other").all()
    assert (rows[["difference", "low", "high", "percent", "percent_low", "percent_high"]] == 0).all(axis=None)
    assert (rows["verdict"] == UNDECIDED).all() and rows["paired"].all() and (rows["n"] == N).all()


def test_shared_noise_narrows_the_interval_and_leaves_the_difference():
    own = features()
    near = Features(own.pool + 0.05 * features(seed=5).pool, own.spatial, own.logits)

    def row(pairing, other_pairing):
        evaluations = [
            evaluate("base", own, reference(), PROTOCOL, pairing),
            evaluate("other", near, reference(), PROTOCOL, other_pairing),
        ]
        return one_row(evaluations, "frechet")

    paired, apart = row(NOISE, NOISE), row(None, None)
    assert paired["paired"] and not apart["paired"]
    assert paired["difference"] == apart["difference"] != 0
    assert 0 < paired["high"] - paired["low"] < 0.3 * (apart["high"] - apart["low"])
    for pairing in ({"seed": 1, "labels": "balanced"}, {"seed": 0, "labels": "random"}, None):
        other = row(NOISE, pairing)
        assert not other["paired"] and other["low"] == apart["low"]


def test_an_unpaired_interval_has_the_spread_of_both_models():
    evaluations = [evaluate(name, features(seed), reference(), PROTOCOL) for seed, name in enumerate(["base", "b"])]
    row = one_row(evaluations, "inception_score")
    spread = [evaluation.influences[NAMES["inception_score"]].std() / np.sqrt(N) for evaluation in evaluations]
    assert (row["high"] - row["low"]) / 3.92 == pytest.approx(np.hypot(*spread), rel=0.15)


def test_a_lower_distance_and_a_higher_score_are_better():
    good, bad = features(), features(shift=2.0, scale=0.3)
    bad = bad._replace(logits=0.2 * bad.logits)
    evaluations = [evaluate(name, own, reference(), PROTOCOL) for name, own in (("good", good), ("bad", bad))]
    forward = differences(evaluations, "bad", PROTOCOL).set_index("metric")
    back = differences(evaluations, "good", PROTOCOL).set_index("metric")
    assert (forward["model"] == "good").all() and (back["baseline"] == "good").all()
    lower = [NAMES[kind] for kind in ("frechet", "spatial_frechet", "kernel")]
    higher = [NAMES[kind] for kind in ("inception_score", "recall")]
    assert (forward.loc[lower, "difference"] < 0).all() and (forward.loc[higher, "difference"] > 0).all()
    assert (forward.loc[lower + higher, "verdict"] == BETTER).all()
    assert (back.loc[lower + higher, "verdict"] == WORSE).all()
    value, base = values(evaluations[0]), values(evaluations[1])
    for metric, row in forward.iterrows():
        assert row["difference"] == value[metric] - base[metric] and row["low"] < row["difference"] < row["high"]
    metric = NAMES["frechet"]
    assert forward.loc[metric, "percent"] == pytest.approx(100 * (value[metric] / base[metric] - 1))


def test_several_models_are_each_compared_with_the_baseline_wherever_it_stands():
    names = ["a", "base", "c"]
    evaluations = [evaluate(name, features(seed), reference(), PROTOCOL) for seed, name in enumerate(names)]
    rows = differences(evaluations, "base", PROTOCOL)
    assert list(dict.fromkeys(rows["model"])) == ["a", "c"] and len(rows) == 12
    pd.testing.assert_frame_equal(rows.iloc[:6], differences(evaluations[:2], "base", PROTOCOL))


@pytest.mark.parametrize("metric, value", [("recall", 0.0), ("kernel", -0.01)])
def test_a_baseline_that_is_not_positive_has_no_percentage(metric, value):
    base, other = (evaluate(name, features(seed), reference(), PROTOCOL) for seed, name in enumerate(["base", "b"]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        row = one_row([with_value(base, metric, value), other], metric)
    assert row["difference"] == values(other)[NAMES[metric]] - value
    assert np.isnan([row["percent"], row["percent_low"], row["percent_high"]]).all()
    assert not np.isnan([row["difference"], row["low"], row["high"]]).any()


def test_evaluations_of_another_protocol_n_or_reference_are_refused(refuses):
    base = evaluate("base", features(), reference(), PROTOCOL)
    others = {
        "protocol": evaluate("b", features(), reference(), replace(PROTOCOL, name="q")),
        "n": evaluate("b", features(count=60), reference(), PROTOCOL.with_count(60)),
        "reference_sha256": evaluate("b", features(), replace(reference(), sha256="ffff"), PROTOCOL),
    }
    for column, other in others.items():
        refuses(lambda other=other: differences([base, other], "base", PROTOCOL), f"different {column}")


def test_a_baseline_that_is_not_there_is_refused(refuses):
    refuses(lambda: differences([evaluate("a", features(), reference(), PROTOCOL)], "b", PROTOCOL), "'b'", "among a")


# --- the kernel distance's two ways ---


@pytest.mark.parametrize("counts", [(60, 50), (50, 60), (40, 40)])
def test_kernel_matrices_of_all_images_give_what_those_of_each_subset_do(counts, monkeypatch):
    real, own = (features(seed, shift=seed, count=count).pool for seed, count in enumerate(counts))
    taken = []
    for name in ("_sums_over_all", "_sums_by_subset"):
        original = getattr(quality, name)
        monkeypatch.setattr(quality, name, lambda *given, of=original, name=name: (taken.append(name), of(*given))[1])
    once = quality.kernel_distance_parts(real, own, subset_size=20, subsets=30, seed=4)
    monkeypatch.setattr(quality, "GRAM_LIMIT", max(counts) - 1)
    each = quality.kernel_distance_parts(real, own, subset_size=20, subsets=30, seed=4)
    assert taken == ["_sums_over_all", "_sums_by_subset"]
    assert each.shape == (30,) and len(set(each)) == 30
    np.testing.assert_allclose(once, each, rtol=1e-9)
