"""Damage to images: of the size that was asked for, the same for an image whatever comes with it."""

import numpy as np
import pytest
from quality_inputs import MeanColours

from defar_analysis.core.seeding import image_noise
from defar_analysis.measures.degradations import DegradedImages, GaussianBlur, GaussianNoise, without_classes
from defar_analysis.measures.features import FeatureStore, StoredImages

GREY = np.full((40, 3, 16, 16), 128, np.uint8)
DEGRADATIONS = [GaussianNoise(8.0), GaussianNoise(8.0, seed=1), GaussianBlur(1.0)]


def pictures(count, seed=0, side=8):
    return np.random.default_rng(seed).integers(0, 256, (count, 3, side, side), dtype=np.uint8)


@pytest.mark.parametrize("sigma", [2.0, 8.0, 20.0])
def test_noise_has_the_size_that_was_asked_for_and_no_bias(sigma):
    found = GaussianNoise(sigma)(GREY, range(40)).astype(float) - 128
    # rounding adds a variance of 1/12; the error of a standard deviation of 30,720 values is 0.4 %
    assert found.std() == pytest.approx(np.sqrt(sigma**2 + 1 / 12), rel=0.02)
    assert abs(found.mean()) < 4 * sigma / np.sqrt(found.size)
    assert np.abs(np.corrcoef(found.reshape(40, -1)[:2])[0, 1]) < 0.15  # no two images share theirs


def test_noise_is_clipped_and_not_wrapped_around():
    for level, ends in ((0, "low"), (255, "high")):
        found = GaussianNoise(30.0)(np.full_like(GREY, level), range(40)).astype(int)
        assert 0.45 < (found == level).mean() < 0.55, ends  # half of it ends at the border
        assert np.abs(found - level).max() < 170


def test_strengths_differ_in_size_alone():
    noise = image_noise(0, range(40), GREY.shape[1:]).numpy()
    for sigma in (4.0, 16.0):
        moved = GaussianNoise(sigma)(GREY, range(40)).astype(float) - 128
        assert np.abs(moved - sigma * noise).max() <= 0.5001  # rounded to the nearest
    assert not np.array_equal(GaussianNoise(4.0, seed=1)(GREY, range(40)), GaussianNoise(4.0)(GREY, range(40)))


@pytest.mark.parametrize("degradation", DEGRADATIONS, ids=str)
def test_an_image_is_damaged_alike_alone_and_among_others(degradation):
    images, places = pictures(6), np.array([3, 14, 15, 92, 65, 35])
    together = degradation(images, places)
    for k in range(6):
        np.testing.assert_array_equal(degradation(images[k : k + 1], places[k : k + 1])[0], together[k])
    np.testing.assert_array_equal(degradation(images[::-1], places[::-1]), together[::-1])
    assert together.dtype == np.uint8 and not np.array_equal(together, images)


def test_no_damage_at_strength_0():
    images = pictures(4)
    np.testing.assert_array_equal(GaussianNoise(0)(images, range(4)), images)
    np.testing.assert_array_equal(GaussianBlur(0)(images, range(4)), images)


def test_blur_is_a_gaussian_in_space_that_mixes_neither_channels_nor_images():
    images = np.zeros((2, 3, 33, 33), np.uint8)
    images[0, 1, 16, 16] = 255
    found = GaussianBlur(1.0)(images, range(2)).astype(float)
    assert not found[1].any() and not found[0, [0, 2]].any()
    y, x = np.mgrid[-16:17, -16:17]
    kernel = np.exp(-(x**2 + y**2) / 2)
    np.testing.assert_allclose(found[0, 1], 255 * kernel / kernel.sum(), atol=0.51)
    np.testing.assert_array_equal(GaussianBlur(2.0)(GREY, range(40)), GREY)  # flat images stay, borders too


def test_a_stream_is_the_degraded_base_in_chunks(tmp_path):
    everything, chosen = pictures(30, side=4), np.array([0, 2, 3, 7, 9, 11, 20, 21, 29])
    base = StoredImages("base", everything, "hash", chosen, np.arange(30) % 10, chunk=4)
    stream = DegradedImages("noise", base, GaussianNoise(8.0))
    parts = [stream.images(start) for start in range(0, stream.count, 4)]
    np.testing.assert_array_equal(np.concatenate(parts), GaussianNoise(8.0)(everything[chosen], chosen))
    np.testing.assert_array_equal(stream.labels, chosen % 10)
    assert stream.shape == (3, 4, 4)
    identities = [base.identity] + [DegradedImages("x", base, d).identity for d in DEGRADATIONS]
    assert all(a != b for k, a in enumerate(identities) for b in identities[:k])
    store = FeatureStore(tmp_path)
    store.features(stream, MeanColours())
    assert store.missing(stream, MeanColours()) == [] and store.missing(base, MeanColours()) == [0, 4, 8]


def test_classes_are_removed_from_the_end_and_the_rest_keep_equal_shares():
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(10), 50))
    previous = None
    for removed in (0, 2, 5, 8):
        places = without_classes(labels, removed, 100)
        kept, counts = np.unique(labels[places], return_counts=True)
        assert kept.tolist() == list(range(10 - removed)) and np.ptp(counts) <= 1
        assert len(places) == 100 and (np.diff(places) > 0).all()
        if previous is not None:  # growing damage: what stays is kept, only more of it
            stays = previous[np.isin(labels[previous], kept)]
            assert np.isin(stays, places).all()
        previous = places


def test_what_cannot_be_is_refused_in_one_line(refuses):
    labels = np.arange(20) % 10
    refuses(lambda: without_classes(labels, 10, 4), "10 of 10 classes removed")
    refuses(lambda: without_classes(labels, -1, 4), "-1 of 10")
    refuses(lambda: without_classes(labels, 8, 5), "5 images asked for, 4 there")
    refuses(lambda: GaussianNoise(-1.0), "noise", "-1")
    refuses(lambda: GaussianBlur(float("nan")), "blur", "nan")
    for degradation in DEGRADATIONS:
        refuses(lambda d=degradation: d(GREY.astype(np.float32), range(40)), "float32", "uint8")
        refuses(lambda d=degradation: d(GREY[0], range(3)), "(3, 16, 16)")
