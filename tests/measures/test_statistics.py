import numpy as np
import pytest

from defar_analysis.errors import DefarError
from defar_analysis.measures.statistics import first_crossing, mean_interval, ratio_interval, resampling_weights


def test_weights_are_shares_and_repeat():
    weights = resampling_weights(7, 50)
    np.testing.assert_allclose(weights.sum(axis=1), 1)
    np.testing.assert_allclose(weights * 7, np.round(weights * 7))
    np.testing.assert_array_equal(weights, resampling_weights(7, 50))
    with pytest.raises(DefarError, match="at least two"):
        resampling_weights(1)


def test_interval_of_a_mean_has_the_width_of_the_normal_theory():
    values = np.random.default_rng(0).normal(3.0, 2.0, size=(400, 5))
    mean, low, high = mean_interval(values, resampling_weights(400, 4000))
    np.testing.assert_allclose(mean, values.mean(axis=0))
    np.testing.assert_allclose(high - low, 2 * 1.96 * values.std(axis=0) / 20, rtol=0.1)
    assert ((low < mean) & (mean < high)).all()


def test_ratio_interval_is_a_ratio_of_sums():
    rng = np.random.default_rng(1)
    denominator = rng.uniform(1, 2, size=(300, 2))
    value, low, high = ratio_interval(4 * denominator, denominator, resampling_weights(300))
    for part in (value, low, high):
        np.testing.assert_allclose(part, 4)


def test_first_crossing_is_found_on_log_lines_and_missing_is_nan():
    t = np.linspace(0, 1, 11)
    rising, level = np.exp(3 * (t - 0.34)), np.ones(11)
    np.testing.assert_allclose(first_crossing(t, np.stack([rising, 1 / rising]), level), [0.34, 0.34])
    assert np.isnan(first_crossing(t, 2 + t, level))
    wave = np.exp(np.sin(2 * np.pi * (t + 0.05) * 1.5))
    assert first_crossing(t, wave, level) == pytest.approx(1 / 3 - 0.05, abs=0.01)
