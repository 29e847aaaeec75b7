"""Real CIFAR-10 before the evaluators: numbers that another implementation measured, and distances that grow with
damage. Each image goes through a network once, about two minutes of one core in all."""

from functools import cache

import numpy as np
import pytest

from defar_analysis.core.datasets import cifar10
from defar_analysis.measures.degradations import GaussianBlur, GaussianNoise
from defar_analysis.measures.extractors import efficientnet_lite, extracted
from defar_analysis.measures.protocols import balanced_indices
from defar_analysis.measures.quality import FrechetReference, Moments, inception_score, kernel_distance

pytestmark = pytest.mark.real_data
# Measured with the package efficientnet-lite-pytorch, bicubic antialiased to 128 pixels, float64 covariances. They are
# given to four digits; float32 features of another CPU move them by less than 1e-5.
TOLERANCE = 0.002
# of the noisy set the generator is unknown: that chance moves the distance by 0.1 %
OTHER_NOISE = 0.005


@pytest.fixture(scope="session")
def lite0():
    """Features of the first 4,000 training and test images, and of 2,000 of the latter with noise."""
    extractor, train, test = efficientnet_lite(0, 128), cifar10("train"), cifar10("test")
    noisy = GaussianNoise(8.0)(test.images[:2000], range(2000))
    sets = {"train": train.images[:4000], "test": test.images[:4000], "noisy": noisy}
    return {name: extracted(extractor, images) for name, images in sets.items()}


@pytest.fixture(scope="session")
def distance(lite0):
    """distance(features): Fréchet distance to the 4,000 training images."""
    reference = FrechetReference.of(lite0["train"].pool)
    return lambda features: reference.distance_to(Moments.of(features))


@pytest.mark.parametrize(("count", "expected"), [(4000, 50.3), (2000, 76.3)])
def test_train_against_test_is_what_others_measured(lite0, distance, count, expected):
    assert distance(lite0["test"].pool[:count]) == pytest.approx(expected, rel=TOLERANCE)


def test_noise_raises_it_to_what_others_measured(lite0, distance):
    assert distance(lite0["noisy"].pool) == pytest.approx(172.8, rel=OTHER_NOISE)


@pytest.mark.filterwarnings("ignore:.*n = 777 is not above")
def test_cats_and_dogs_alone_are_as_far_away_as_others_measured(lite0, distance):
    labels = cifar10("test").labels[:4000]
    chosen = np.isin(labels, [3, 5])
    assert chosen.sum() == 777
    assert distance(lite0["test"].pool[chosen]) == pytest.approx(387.6, rel=TOLERANCE)


def test_the_inception_score_of_this_network_is_what_others_measured(lite0):
    assert inception_score(lite0["test"].logits, split_size=4000) == pytest.approx(76.4, rel=TOLERANCE)


@pytest.fixture(scope="session")
def lite2():
    """lite2(degradation=None): kernel distance of 64 test images, damaged or plain, under the second evaluator."""
    extractor = efficientnet_lite(2, 224)
    train, test = cifar10("train"), cifar10("test")
    places = {data.name: balanced_indices(data.labels, len(data), 64) for data in (train, test)}
    reference = extracted(extractor, train.images[places[train.name]]).pool
    plain = test.images[places[test.name]]

    @cache
    def distance(degradation=None):
        images = plain if degradation is None else degradation(plain, places[test.name])
        return kernel_distance(reference, extracted(extractor, images).pool, subset_size=64, subsets=1)

    return distance


@pytest.mark.parametrize(("kind", "strengths"), [(GaussianNoise, (8, 16, 32)), (GaussianBlur, (0.75, 1, 2))])
def test_the_second_evaluator_sees_more_of_more_damage(lite2, kind, strengths):
    """By the kernel distance, which is unbiased at 64 images; the Fréchet distance is mostly bias there."""
    values = [lite2(), *(lite2(kind(strength)) for strength in strengths)]
    assert (np.diff(values) > 0).all(), values
    assert values[-1] > 10 * abs(values[0])
