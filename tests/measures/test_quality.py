import warnings

import numpy as np
import pytest
import scipy.linalg
import torch

from defar_analysis.measures import frechet, moments, neighbours
from defar_analysis.measures.quality import (
    FrechetReference,
    Moments,
    QualityWarning,
    frechet_at_infinity,
    frechet_distance,
    frechet_jackknife,
    inception_score,
    inception_score_parts,
    is_class_sorted,
    kernel_distance,
    kernel_distance_parts,
    neighbour_radii,
    precision_recall,
    spatial_features,
)
from defar_analysis.measures.statistics import resampling_weights


def features(count, dimension, seed=0, mixing=1.0):
    """Correlated, with a falling spectrum and a mean, as a network's features are."""
    rng = np.random.default_rng(seed)
    shape = np.random.default_rng(99).standard_normal((dimension, dimension)) / np.sqrt(dimension)
    scales = np.arange(1, dimension + 1) ** -0.7
    return rng.standard_normal((count, dimension)) * scales @ (np.eye(dimension) + mixing * shape) + 0.3


def distance(a, b):
    a, b = Moments.of(a), Moments.of(b)
    return frechet_distance(a.mean, a.covariance, b.mean, b.covariance)


def rotation(dimension, seed=5):
    return np.linalg.qr(np.random.default_rng(seed).standard_normal((dimension, dimension)))[0]


# Fréchet distance


def test_distance_of_one_dimensional_gaussians():
    assert frechet_distance([1.0], [[4.0]], [3.5], [[9.0]]) == pytest.approx(2.5**2 + (2 - 3) ** 2, rel=1e-14)


@pytest.mark.parametrize("turn", [np.eye(30), rotation(30)], ids=["diagonal", "commuting"])
def test_distance_of_commuting_covariances_is_that_of_the_roots(turn):
    rng = np.random.default_rng(0)
    a, b, shift = rng.uniform(0.01, 4, 30), rng.uniform(0.01, 4, 30), rng.standard_normal(30)
    expected = shift @ shift + np.square(np.sqrt(a) - np.sqrt(b)).sum()
    got = frechet_distance(np.zeros(30), turn * a @ turn.T, shift, turn * b @ turn.T)
    assert got == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("ranks", [(40, 40), (12, 40), (40, 12), (12, 20), (12, 12)])
def test_distance_agrees_with_the_matrix_root(ranks):
    rng = np.random.default_rng(1)
    a, b = (x.T @ x / len(x) for x in (rng.standard_normal((rank, 40)) * np.arange(1, 41) ** -0.5 for rank in ranks))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # sqrtm says when its argument is singular
        root = np.trace(scipy.linalg.sqrtm(a @ b)).real
    expected = 1.0 + np.trace(a) + np.trace(b) - 2 * root
    tolerance = 1e-6 if min(ranks) == 40 else 1e-4
    for first, second in ((a, b), (b, a)):
        got = frechet_distance(np.zeros(40), first, np.eye(40)[0], second)
        assert got == pytest.approx(expected, rel=tolerance)


@pytest.mark.parametrize("count", [20, 400])
def test_a_set_is_at_no_distance_from_itself(count):
    own = Moments.of(features(count, 96))
    value = frechet_distance(own.mean, own.covariance, own.mean, own.covariance)
    assert 0 <= value < 1e-6 * np.trace(own.covariance)


def test_zero_covariances_leave_the_shift_and_the_trace():
    nothing, mean = np.zeros((3, 3)), np.zeros(3)
    assert frechet_distance(mean, nothing, mean + 1, nothing) == 3
    assert frechet_distance(mean, nothing, mean, np.eye(3)) == 3
    assert frechet_distance(mean, np.eye(3), mean, nothing) == 3


def test_distance_does_not_depend_on_the_frame_or_the_order():
    a, b, turn = features(300, 24), features(250, 24, seed=1, mixing=0.3), rotation(24)
    value = distance(a, b)
    assert value > 0.05
    assert distance(a @ turn + 7, b @ turn + 7) == pytest.approx(value, rel=1e-10)
    assert distance(a[::-1], b[np.random.default_rng(0).permutation(250)]) == pytest.approx(value, rel=1e-10)
    assert distance(b, a) == pytest.approx(value, rel=1e-10)
    assert distance(3 * a, 3 * b) == pytest.approx(9 * value, rel=1e-10)


def test_distance_agrees_with_adms_evaluator(recorded):
    it = recorded("adm_evaluator.npz")
    reference, sample = Moments.of(it["reference_features"]), Moments.of(it["sample_features"])
    against = FrechetReference.of(reference)
    assert against.distance_to(sample) == pytest.approx(it["fid"], rel=1e-6)
    assert FrechetReference.of(sample).distance_to(reference) == pytest.approx(it["fid_swapped"], rel=1e-6)
    assert against.distance_to(reference) == pytest.approx(it["fid_same"], abs=1e-9)
    stored = [it[f"{side}_{kind}"] for side in ("reference", "sample") for kind in ("mu", "sigma")]
    assert frechet_distance(*stored) == pytest.approx(it["fid"], rel=1e-6)
    assert distance(it["reference_spatial"], it["sample_spatial"]) == pytest.approx(it["sfid"], rel=1e-6)
    assert distance(it["few_reference"], it["few_sample"]) == pytest.approx(it["fid_singular"], rel=1e-6)


@pytest.mark.parametrize("side", [0, 2])
def test_distance_refuses_what_is_no_gaussian(side, refuses):
    good = [np.zeros(3), np.eye(3), np.zeros(3), np.eye(3)]

    def changed(offset, value):
        return lambda: frechet_distance(*(value if i == side + offset else x for i, x in enumerate(good)))

    refuses(changed(1, np.diag([1.0, 1.0, -0.5])), "negative eigenvalue")
    refuses(changed(1, np.array([[1.0, 2, 0], [2, 1, 0], [0, 0, 3]])), "negative eigenvalue")
    refuses(changed(1, np.array([[0.0, 1, 0], [1, 0, 0], [0, 0, 0]])), "no covariance")
    refuses(changed(1, np.triu(np.ones((3, 3)))), "not symmetric")
    refuses(changed(1, np.full((3, 3), np.nan)), "NaN")
    refuses(changed(0, np.array([0, np.inf, 0])), "inf")
    refuses(changed(1, np.ones(3)), "(3,)")
    refuses(changed(0, np.eye(3)), "(3, 3)")
    refuses(lambda: frechet_distance(np.zeros(3), np.zeros(3), np.eye(3), np.eye(3)), "a mean (D,)")  # mu, mu, S, S
    refuses(lambda: frechet_distance(*good[:2], np.zeros(4), np.eye(4)), "3 features", "4")


# Moments


def test_moments_are_numpys_in_any_dtype_and_from_torch():
    rows = features(200, 7).astype(np.float32)
    for given in (rows, torch.from_numpy(rows), torch.from_numpy(rows).requires_grad_(), rows.astype(np.float64)):
        own = Moments.of(given)
        assert (own.count, own.mean.dtype, own.covariance.dtype) == (200, np.float64, np.float64)
        np.testing.assert_allclose(own.mean, rows.astype(np.float64).mean(axis=0), rtol=1e-13)
        np.testing.assert_allclose(own.covariance, np.cov(rows.astype(np.float64), rowvar=False), rtol=1e-12)
    assert Moments.of(torch.from_numpy(rows).bfloat16()).mean == pytest.approx(Moments.of(rows).mean, abs=0.01)


def test_moments_of_parts_streams_and_blocks_are_those_of_the_whole(monkeypatch):
    rows = 1e4 + features(257, 12)  # far from 0: sums of squares would lose eight digits
    whole = Moments.of(rows)
    np.testing.assert_allclose(whole.covariance, np.cov(rows - 1e4, rowvar=False), rtol=1e-9)
    merged = Moments.merged([Moments.of(part) for part in (rows[:2], rows[2:100], rows[100:])])
    streamed = Moments.of_blocks(rows[start : start + 32] for start in range(0, 257, 32))  # the last has one row
    monkeypatch.setattr(moments, "BLOCK", 10)
    scale = np.abs(whole.covariance).max()
    for other in (merged, streamed, Moments.of(rows), Moments.merged([whole])):
        assert other.count == 257
        np.testing.assert_allclose(other.mean, whole.mean, rtol=1e-12)
        np.testing.assert_allclose(other.covariance, whole.covariance, atol=1e-11 * scale)
    near = [Moments.of(part) for part in np.array_split(rows - 1e4, 5)]
    np.testing.assert_allclose(
        Moments.merged(near).covariance, Moments.of(rows - 1e4).covariance, rtol=0, atol=1e-12 * scale
    )


def test_moments_refuse_what_would_give_a_wrong_number(refuses):
    rows = features(10, 4)
    rows[6, 2] = np.nan
    refuses(lambda: Moments.of(rows), "image 6", "NaN")
    refuses(lambda: Moments.of(features(1, 4)), "at least 2")
    refuses(lambda: Moments.of(features(9, 4)[0]), "(4,)")
    refuses(lambda: Moments.of(np.zeros((4, 3, 8, 8))), "(4, 3, 8, 8)")
    refuses(lambda: Moments.of(np.array([["a", "b"], ["c", "d"]])), "real numbers")
    refuses(lambda: Moments.of_blocks([features(1, 4)]), "the stream had 1")
    refuses(lambda: Moments.of_blocks([]), "the stream had 0")
    refuses(lambda: Moments.merged([]), "nothing to merge")
    refuses(lambda: Moments.merged([Moments.of(features(9, 4)), Moments.of(features(9, 5))]), "[4, 5]")


# A fixed reference: replicates, intervals, infinite n


def test_few_images_are_warned_of_and_enough_are_not():
    few, enough = Moments.of(features(16, 16)), Moments.of(features(17, 16))
    with pytest.warns(QualityWarning, match="reference: n = 16 is not above the 16 features"):
        FrechetReference.of(few)
    with warnings.catch_warnings():
        warnings.simplefilter("error", QualityWarning)
        against = FrechetReference.of(enough)
        against.distance_to(enough)
    with pytest.warns(QualityWarning, match="generated: n = 16 .* kernel_distance"):
        against.distance_to(few)


@pytest.mark.filterwarnings("ignore::defar_analysis.measures.quality.QualityWarning")
@pytest.mark.parametrize("count", [15, 90])  # below and above the dimension
def test_replicates_are_the_distances_of_the_resamples(count):
    against, rows = FrechetReference.of(features(200, 24)), features(count, 24, seed=1)
    weights = resampling_weights(count, 6)
    got = against.replicates(rows, weights)
    for value, weight in zip(got, weights, strict=True):
        resample = np.repeat(rows, np.rint(weight * count).astype(int), axis=0)
        assert value == pytest.approx(against.distance_to(Moments.of(resample)), rel=1e-6)
    (same,) = against.replicates(rows, np.full((1, count), 1 / count))
    assert same == pytest.approx(against.distance_to(Moments.of(rows)), rel=1e-6)


def test_replicates_refuse_weights_that_are_none(refuses):
    against, rows = FrechetReference.of(features(50, 5)), features(40, 5)
    refuses(lambda: against.replicates(rows, np.ones((3, 40))), "sum to 1")
    refuses(lambda: against.replicates(rows, resampling_weights(39, 3)), "(3, 39)", "40 images")
    refuses(lambda: against.replicates(features(40, 6), resampling_weights(40, 3)), "5 features", "6")


@pytest.mark.filterwarnings("ignore::defar_analysis.measures.quality.QualityWarning")
@pytest.mark.parametrize("count", [15, 24, 25, 90])  # around the dimension
@pytest.mark.parametrize("rank", [10, 200])
def test_jackknife_leaves_each_image_out_exactly(count, rank):
    against, rows = FrechetReference.of(features(rank, 24)), features(count, 24, seed=1) + 0.2
    without = [against.distance_to(Moments.of(np.delete(rows, i, axis=0))) for i in range(count)]
    expected = (count - 1) * (np.mean(without) - without)
    got = frechet_jackknife(rows, against)
    # 25 images without one are singular: there the expected values themselves have five digits.
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-4 * np.std(expected))
    assert abs(got.mean()) < 1e-9 * got.std()


def test_jackknife_of_features_that_do_not_vary_is_that_of_the_mean(refuses):
    against = FrechetReference(np.zeros(3), np.zeros((3, 3)))
    rows = features(30, 3)
    without = [against.distance_to(Moments.of(np.delete(rows, i, axis=0))) for i in range(30)]
    np.testing.assert_allclose(frechet_jackknife(rows, against), 29 * (np.mean(without) - without), atol=1e-10)
    refuses(lambda: frechet_jackknife(features(30, 4), against), "3 features", "4")


def test_jackknife_needs_three_images(refuses):
    against = FrechetReference(np.zeros(1), np.eye(1))
    refuses(lambda: frechet_jackknife(features(2, 1), against), "2 images")


def first_order_effects(against, rows):
    """n dFD/dw_i with d tr sqrt(S1 S2) = tr(T dS2)/2, T = S1^(1/2) (S1^(1/2) S2 S1^(1/2))^(-1/2) S1^(1/2)."""
    own = Moments.of(rows)
    root = scipy.linalg.sqrtm(against.sigma).real
    transport = root @ np.linalg.inv(scipy.linalg.sqrtm(root @ own.covariance @ root).real) @ root
    deviations = rows - own.mean
    bent = np.einsum("ni,ij,nj->n", deviations, np.eye(len(root)) - transport, deviations)
    return 2 * deviations @ (own.mean - against.mu) + bent


def test_the_spread_of_replicates_is_that_of_independent_draws():
    dimension, count, times = 64, 400, 150
    against = FrechetReference.of(features(4000, dimension, mixing=0.4))
    draws = [features(count, dimension, seed=10 + i) for i in range(times)]
    truth = np.std([against.distance_to(Moments.of(rows)) for rows in draws])
    resampled = [against.replicates(rows, resampling_weights(count, 50)).std() for rows in draws[:4]]
    linear = [first_order_effects(against, rows).std() / np.sqrt(count) for rows in draws[:20]]
    left_out = [frechet_jackknife(rows, against).std() / np.sqrt(count) for rows in draws[:20]]
    assert 1 / 1.3 < np.mean(left_out) / truth < 1.3
    assert 1 / 1.3 < np.mean(resampled) / truth < 1.3
    assert 1 / 1.3 < np.mean(linear) / truth < 1.3


def test_where_images_are_few_for_the_dimension_only_the_jackknife_holds():
    dimension, count, times = 64, 100, 150
    against = FrechetReference.of(features(4000, dimension, mixing=0.4))
    draws = [features(count, dimension, seed=10 + i) for i in range(times)]
    truth = np.std([against.distance_to(Moments.of(rows)) for rows in draws])
    left_out = np.mean([frechet_jackknife(rows, against).std() / np.sqrt(count) for rows in draws[:30]])
    linear = np.mean([first_order_effects(against, rows).std() / np.sqrt(count) for rows in draws[:10]])
    resampled = np.mean([against.replicates(rows, resampling_weights(count, 50)).std() for rows in draws[:3]])
    assert truth < left_out < 1.5 * truth
    assert left_out < linear and left_out < resampled


def test_infinitely_many_images_have_the_exact_distance_and_not_the_biased_one():
    dimension, rng = 16, np.random.default_rng(3)
    scales = np.linspace(0.5, 1.5, dimension)
    against = FrechetReference(np.zeros(dimension), np.eye(dimension))
    exact = np.square(scales - 1).sum()
    intercepts, biased = [], []
    for seed in range(24):
        rows = rng.standard_normal((400, dimension)) * scales
        found = frechet_at_infinity(rows, against, sizes=(100, 150, 200, 300, 400), seed=seed)
        assert found.slope > 0 and found.sizes == (100, 150, 200, 300, 400)
        assert found.distances[-1] == pytest.approx(against.distance_to(Moments.of(rows)), rel=1e-12)
        intercepts.append(found.intercept)
        biased.append(found.distances[-1])
    errors = [3 * np.std(values) / np.sqrt(24) for values in (intercepts, biased)]
    assert abs(np.mean(intercepts) - exact) < errors[0] < 0.15
    assert np.mean(biased) - exact > errors[1]


def test_sizes_that_the_line_does_not_hold_for_are_refused_or_warned_of(refuses):
    against, rows = FrechetReference(np.zeros(16), np.eye(16)), features(100, 16)
    refuses(lambda: frechet_at_infinity(rows, against, sizes=(16, 100)), "above the 16 features")
    refuses(lambda: frechet_at_infinity(rows, against, sizes=(50, 101)), "up to the 100 images")
    refuses(lambda: frechet_at_infinity(rows, against, sizes=(50,)), "two or more")
    refuses(lambda: frechet_at_infinity(rows[:30], against), "over 32")
    with pytest.warns(QualityWarning, match="size 50 is below 5 times the 16 features"):
        found = frechet_at_infinity(rows, against)
    assert (found.sizes[0], found.sizes[-1], len(found.sizes)) == (50, 100, 8)


# Inception score


def test_inception_score_of_certain_and_of_ignorant_networks():
    certain = 200.0 * np.eye(10)[np.arange(500) % 10]
    assert inception_score(certain) == pytest.approx(10, rel=1e-12)
    assert inception_score(np.zeros((50, 10))) == pytest.approx(1, rel=1e-12)
    assert inception_score(certain + np.arange(500)[:, None]) == pytest.approx(10, rel=1e-12)  # softmax ignores shifts
    half = np.log([[0.75, 0.25], [0.25, 0.75]])
    assert inception_score(half) == pytest.approx(0.75**0.75 * 0.25**0.25 * 2, rel=1e-12)
    assert inception_score(-2000.0 * np.eye(3)[[0, 0]]) == pytest.approx(1, rel=1e-12)  # a probability of exactly 0


@pytest.mark.filterwarnings("ignore:the last split")
def test_inception_score_agrees_with_adms_evaluator(recorded):
    it = recorded("adm_evaluator.npz")
    logits = it["sample_features"].astype(np.float64) @ it["classifier_weight"].T.astype(np.float64)
    for size in (5000, 100, 64):
        assert inception_score(logits, size) == pytest.approx(it[f"inception_score.split{size}"], rel=1e-6)
    np.testing.assert_allclose(inception_score_parts(logits, 64), it["inception_score_parts.split64"], rtol=1e-6)
    ordered = logits[it["class_sorted_order"]]
    for size in (5000, 64):
        assert inception_score(ordered, size) == pytest.approx(it[f"inception_score_sorted.split{size}"], rel=1e-6)
    assert inception_score(np.log(it["probabilities"]), 5000) == pytest.approx(inception_score(logits), rel=1e-6)


def test_splits_follow_the_file_and_a_sorted_file_is_warned_of():
    labels = np.repeat(np.arange(5), 20)
    logits = 200.0 * np.eye(5)[labels]
    with warnings.catch_warnings():
        warnings.simplefilter("error", QualityWarning)
        assert inception_score(logits, 100, labels) == pytest.approx(5)  # one split: the order is nothing to it
        assert inception_score(logits.reshape(5, 20, 5).swapaxes(0, 1).reshape(100, 5), 20) == pytest.approx(5)
    with pytest.warns(QualityWarning, match="sorted by class"):
        assert inception_score(logits, 20, labels) == pytest.approx(1)
    with pytest.warns(QualityWarning, match="last split has 10 images"):
        assert inception_score_parts(logits, 30).shape == (4,)


def test_sorted_labels_are_told_from_others():
    assert is_class_sorted([0, 0, 1, 1, 2]) and is_class_sorted(torch.tensor([7, 7, 3, 3]))
    assert not is_class_sorted([0, 1, 0, 1]) and not is_class_sorted([4, 4, 4]) and not is_class_sorted([0, 1, 2])


def test_inception_score_refuses_what_is_no_logit(refuses):
    refuses(lambda: inception_score(np.full((6, 4), 0.25)), "probabilities")
    refuses(lambda: inception_score(np.zeros((1, 4))), "at least 2")
    refuses(lambda: inception_score(np.zeros((6, 1))), "two classes")
    refuses(lambda: inception_score(np.zeros((6, 4)), split_size=1), "got 1")
    refuses(lambda: inception_score(np.full((6, 4), np.nan)), "NaN")
    refuses(lambda: inception_score(np.zeros((6, 4)), labels=[0, 1]), "2 labels for 6 images")


# Precision and recall


def by_definition(real, generated, k):
    def radii(points):
        return np.sort(np.square(points[:, None] - points).sum(axis=2), axis=1)[:, k]

    between = np.square(real[:, None] - generated).sum(axis=2)
    held = between <= radii(generated)
    return (between <= radii(real)[:, None]).any(axis=0), held.any(axis=1)


@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize("block", [7, 1024])
def test_precision_and_recall_follow_the_definition_in_blocks_of_any_size(k, block, monkeypatch):
    monkeypatch.setattr(neighbours, "BLOCK", block)
    real, generated = features(60, 3), features(45, 3, seed=1, mixing=-0.5) + 0.4
    expected = by_definition(real, generated, k)
    covered = neighbours.coverage(real, generated, k)
    assert 0 < expected[0].mean() < 1 and 0 < expected[1].mean() < 1
    for got, want in zip((covered.generated_inside, covered.real_inside), expected, strict=True):
        np.testing.assert_array_equal(got, want)
    left_out = [by_definition(real, np.delete(generated, i, axis=0), k)[1].sum() for i in range(45)]
    lost = expected[1].sum() - np.array(left_out)
    np.testing.assert_array_equal(covered.lost, lost)
    assert lost.max() > 0
    shares = expected[0].mean(), expected[1].mean()
    assert precision_recall(real, generated, k) == shares
    assert precision_recall(generated, real, k) == shares[::-1]  # mixed up


def test_recall_without_an_image_can_rise_and_the_jackknife_knows():
    rng = np.random.default_rng(0)
    real, generated = rng.normal(size=(80, 2)), rng.normal(size=(12, 2))
    lost = neighbours.coverage(real, generated, 1).lost
    left_out = [by_definition(real, np.delete(generated, i, axis=0), 1)[1].sum() for i in range(12)]
    np.testing.assert_array_equal(lost, by_definition(real, generated, 1)[1].sum() - np.array(left_out))
    assert lost.min() < 0 < lost.max()


def test_copies_of_real_images_are_known():
    real, generated = features(60, 3), features(45, 3, seed=1)
    generated[[3, 8]] = real[[50, 7]] * (1 + 1e-7)
    np.testing.assert_array_equal(np.flatnonzero(neighbours.coverage(real, generated, 3).copies), [3, 8])


def test_precision_and_recall_agree_with_adms_evaluator(recorded):
    it = recorded("adm_evaluator.npz")
    real, generated = it["reference_features"], it["sample_features"]
    assert precision_recall(real, generated) == (it["precision"], it["recall"])
    assert precision_recall(torch.from_numpy(real), torch.from_numpy(generated)) == (it["precision"], it["recall"])
    for name, rows in (("reference", real), ("sample", generated)):
        np.testing.assert_allclose(neighbour_radii(rows), it[f"{name}_radii_squared"][:, 0], rtol=2e-6)


def test_precision_and_recall_do_not_depend_on_the_frame():
    real, generated, turn = features(200, 8), features(150, 8, seed=1, mixing=0.5), rotation(8)
    value = precision_recall(real, generated)
    assert precision_recall(1000 + 3 * real @ turn, 1000 + 3 * generated @ turn) == value
    assert precision_recall(real[::-1], generated[::-1]) == value


def test_a_collapsed_generator_has_precision_and_no_recall():
    real = features(500, 6)
    centre = real[np.square(real - real.mean(axis=0)).sum(axis=1).argmin()]
    precision, recall = precision_recall(real, centre + 1e-3 * features(400, 6, seed=1))
    assert precision > 0.99 and recall < 0.01
    precision, recall = precision_recall(real, np.tile(centre, (400, 1)))  # one image, over and over
    assert precision == 1 and recall == 1 / 500
    assert precision_recall(real, real) == (1, 1)
    assert precision_recall(real, real + 100) == (0, 0)


def test_precision_and_recall_refuse_too_few_images(refuses):
    rows = features(9, 4)
    refuses(lambda: precision_recall(rows[:3], rows), "k = 3", "3 real")
    refuses(lambda: precision_recall(rows, rows[:3]), "k = 3", "3 generated")
    refuses(lambda: precision_recall(rows, rows, k=0), "k = 0")
    refuses(lambda: precision_recall(rows, rows[:1]), "at least 2")
    refuses(lambda: precision_recall(rows, features(9, 5)), "4 features", "5")
    refuses(lambda: precision_recall(rows, np.full((9, 4), np.inf)), "generated", "inf")


# Kernel distance


def test_kernel_distance_is_the_unbiased_estimate():
    real, generated = features(30, 5), features(30, 5, seed=1) + 0.5

    def kernel(a, b):
        return (a @ b / 5 + 1) ** 3

    pairs = [(i, j) for i in range(30) for j in range(30) if i != j]
    within = sum(kernel(real[i], real[j]) + kernel(generated[i], generated[j]) for i, j in pairs) / (30 * 29)
    across = np.mean([kernel(a, b) for a in real for b in generated])
    got = kernel_distance_parts(real, generated, subset_size=30, subsets=3)
    np.testing.assert_allclose(got, within - 2 * across, rtol=1e-12)  # a subset of all is a permutation
    assert kernel_distance(real, generated, subset_size=30, subsets=2) == pytest.approx(within - 2 * across, rel=1e-12)


def test_kernel_distance_is_unbiased_at_small_n_and_repeats():
    values = [kernel_distance(features(40, 8, 2 * i), features(40, 8, 2 * i + 1), 40, 1) for i in range(200)]
    assert abs(np.mean(values)) < 3 * np.std(values) / np.sqrt(200)
    real, generated = features(90, 8), features(70, 8, seed=1)
    parts = kernel_distance_parts(real, generated, subset_size=20, subsets=50, seed=3)
    assert parts.std() > 0
    np.testing.assert_array_equal(parts, kernel_distance_parts(real, generated, subset_size=20, subsets=50, seed=3))
    assert kernel_distance(real, generated, 20, 50, seed=4) != parts.mean()


def test_kernel_distance_does_not_depend_on_rotation():
    real, generated, turn = features(50, 6), features(50, 6, seed=1), rotation(6)
    value = kernel_distance(real, generated, 40, 4)
    assert kernel_distance(real @ turn, generated @ turn, 40, 4) == pytest.approx(value, rel=1e-10)


def test_kernel_distance_refuses_subsets_it_cannot_draw(refuses):
    rows = features(30, 4)
    refuses(lambda: kernel_distance(rows, rows), "1000", "up to the 30")
    refuses(lambda: kernel_distance(rows, rows, subset_size=1), "subsets of 1")
    refuses(lambda: kernel_distance(rows, rows, subset_size=5, subsets=0), "0 subsets")
    refuses(lambda: kernel_distance(rows, features(30, 3), subset_size=5), "4 features", "3")


# Spatial features


def test_spatial_features_are_channels_last_as_adms(recorded):
    it = recorded("adm_evaluator.npz")
    maps = np.moveaxis(it["nhwc_images"], 3, 1)[:, :, :3, :3].astype(np.float32) * np.float32(0.01)
    for given in (maps, torch.from_numpy(maps)):
        np.testing.assert_allclose(np.asarray(spatial_features(given)), it["spatial_features"], rtol=1e-6)
    counted = np.arange(2 * 9 * 2 * 2).reshape(2, 9, 2, 2)
    assert spatial_features(counted)[1, :8].tolist() == [36, 40, 44, 48, 52, 56, 60, 37]
    assert isinstance(spatial_features(torch.from_numpy(maps)), torch.Tensor)
    assert spatial_features(np.zeros((2, 192, 17, 17))).shape == (2, 2023)


def test_spatial_features_refuse_other_layouts(refuses):
    refuses(lambda: spatial_features(np.zeros((2, 17, 17, 192))), "channels-last")
    refuses(lambda: spatial_features(np.zeros((2, 6, 17, 17))), "at least 7")
    refuses(lambda: spatial_features(np.zeros((2, 2048))), "(2, 2048)")


@pytest.mark.parametrize("block", [3, 256])
def test_triangular_products_in_blocks_are_the_whole_ones(block, monkeypatch):
    """Ten dimensions in blocks of three: the last is cut short. Only the lower triangle is promised."""
    monkeypatch.setattr(frechet, "BLOCK", block)
    one, other = Moments.of(features(60, 10)), Moments.of(features(60, 10, seed=1))
    reference = FrechetReference.of(one)
    factor = reference.factor
    assert np.array_equal(factor, np.tril(factor))
    np.testing.assert_allclose(factor @ factor.T, one.covariance, rtol=1e-12, atol=1e-12)
    expected = factor.T @ other.covariance @ factor
    np.testing.assert_allclose(np.tril(reference._between(other.covariance)), np.tril(expected), rtol=1e-11, atol=1e-12)
