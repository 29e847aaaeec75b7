"""Every reading of PFR and FEL from one sweep, verdicts on known curves, and sentences that are the tables'."""

import numpy as np
import pandas as pd
import pytest
import torch

from defar_analysis.core.datasets import Batch
from defar_analysis.core.filters import low_pass
from defar_analysis.core.oracles import GaussianFlow
from defar_analysis.measures import sensitivity, sensitivity_sweep
from defar_analysis.measures.base import Context, TimeGrid, measure
from defar_analysis.measures.emphasis import FEL
from defar_analysis.measures.frequency import PFR
from defar_analysis.measures.sensitivity import Reading, ratio_curves
from defar_analysis.measures.sensitivity_sweep import Emphases, Spectra, channel_energies
from defar_analysis.measures.sensitivity_words import sentences
from defar_analysis.measures.spectral import (
    band_masks,
    predicted_frequency_ratio,
    radial_frequency,
    saliency_masks,
    top_pixels,
)
from defar_analysis.measures.statistics import resampling_weights

SIZE, COUNT = 16, 6
GRID = TimeGrid.spaced("test", 4, 2)


def normal(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture(scope="module")
def swept():
    """All readings and the two measurements that they must agree with, on the same forwards."""
    fall = 1 / (0.05 + radial_frequency(SIZE, SIZE)) ** 2
    flow = GaussianFlow(normal(5, 3, SIZE, SIZE), torch.stack([0.02 * fall, 0.01 * fall, 0.005 * fall]))
    data = flow.sample(COUNT, torch.Generator().manual_seed(1), torch.float64)
    context = Context(lambda x, t, y: flow(x, t) + 0.1 * x.square(), Batch(data, None), GRID, "SiT", chunk=4)
    emphases = Emphases(cutoffs=(0.2, 0.3), shares=((0.2, 0.25), (0.4, 0.5)))
    return measure([PFR(), FEL(), Spectra(), emphases], context), context


def curve(table, quantity, dc="", estimator=""):
    rows = table[(table["quantity"] == quantity) & (table["dc"] == dc) & (table["estimator"] == estimator)]
    return rows[["value", "low", "high"]].to_numpy()


def interval(curves):
    return np.stack([curves[0], *np.percentile(curves[1:], [2.5, 97.5], axis=0)], axis=1)


def all_weights(count=COUNT):
    return np.concatenate([np.full((1, count), 1 / count), resampling_weights(count)])


@pytest.mark.parametrize("cutoff", [0.2, 0.3])
def test_pfr_is_that_of_the_measurement(swept, cutoff):
    """At every cutoff, with and without DC, in both estimators: value and interval."""
    tables, context = swept
    table = tables["pfr"] if cutoff == 0.2 else PFR(cutoff=cutoff).run(context)
    arrays = tables["radial_spectra"].attrs["arrays"]
    for dc in ("with", "without"):
        for estimator in ("mean_of_ratios", "ratio_of_sums"):
            for name in ("prediction", "target", "bias"):
                found = ratio_curves(
                    arrays[name], arrays["radii"], Reading(cutoff, dc, "joint", estimator), all_weights()
                )
                expected = curve(table, f"pfr_{name}", dc, estimator)
                np.testing.assert_allclose(interval(found), expected, rtol=1e-10)


def test_fel_is_that_of_the_measurement(swept):
    tables, context = swept
    emphases = tables["emphases"].attrs["arrays"]["fel"]
    assert emphases.shape == (COUNT, 4, 2, 2, 3, 4)
    np.testing.assert_array_equal(emphases[:, :, 0, 0, 0, :2], tables["fel"].attrs["arrays"]["fel"])
    other = FEL(cutoff=0.3, low=0.4, high=0.5, bias_norm="mean").run(context).attrs["arrays"]["fel"]
    np.testing.assert_array_equal(emphases[:, :, 1, 1, 0][..., [0, 3]], other)


def test_a_spectrum_sums_to_the_energy_and_channels_to_all():
    v = normal(0, 5, 3, SIZE, SIZE)
    energies = channel_energies(v)
    assert energies.shape == (5, 3, len(sensitivity_sweep.radii(SIZE, SIZE)[0]))
    np.testing.assert_allclose(energies.sum(-1), v.square().sum((2, 3)), rtol=1e-12)
    np.testing.assert_allclose(energies[..., 0], v.sum((2, 3)).square() / SIZE**2, rtol=1e-10)  # the DC bin
    radii = sensitivity_sweep.radii(SIZE, SIZE)[0]
    one = np.ones((1, 5)) / 5
    for channel in range(3):
        alone = ratio_curves(energies[:, None, channel : channel + 1], radii, Reading(0.2, "with"), one)
        expected = predicted_frequency_ratio(v[:, channel : channel + 1]).mean()
        np.testing.assert_allclose(alone, float(expected), rtol=1e-12)
    each = ratio_curves(energies[:, None], radii, Reading(0.2, "with", "each"), one)
    ratios = [float(predicted_frequency_ratio(v[:, c : c + 1]).mean()) for c in range(3)]
    np.testing.assert_allclose(each, np.mean(ratios), rtol=1e-12)


@pytest.mark.parametrize("cutoff", sensitivity.CUTOFFS)
def test_a_white_field_has_the_ratio_of_the_bins(cutoff):
    """All coefficients of magnitude 1: a unit impulse. Exactly, at every cutoff, in every reading."""
    impulse = torch.zeros(4, 3, 32, 32, dtype=torch.float64)
    impulse[..., 3, 5] = 1
    low, high = (int(mask.sum()) for mask in band_masks(32, 32, cutoff))
    energies, radii = channel_energies(impulse)[:, None], sensitivity_sweep.radii(32, 32)[0]
    for channels in sensitivity.CHANNELS:
        for estimator in ("mean_of_ratios", "ratio_of_sums"):
            for dc, bins in (("with", low), ("without", low - 1)):
                found = ratio_curves(energies, radii, Reading(cutoff, dc, channels, estimator), all_weights(4))
                np.testing.assert_allclose(found, bins / high, rtol=1e-12)


def test_norms_of_masks():
    """One channel: all norms agree. Channels of opposite sign cancel in their mean; l1 sums what l2 squares."""
    one = normal(0, 3, 1, SIZE, SIZE)
    for norm in ("l1", "mean"):
        for mask, other in zip(saliency_masks(one), saliency_masks(one, norm=norm), strict=True):
            assert torch.equal(mask, other)
    field, weak = low_pass(normal(1, 1, 1, SIZE, SIZE)), low_pass(0.1 * normal(2, 1, 1, SIZE, SIZE))
    opposite = torch.cat([field + weak, weak - field], dim=1)
    assert torch.equal(saliency_masks(opposite, norm="mean")[0], saliency_masks(weak)[0])
    v = low_pass(normal(3, 2, 3, SIZE, SIZE))
    total = v.abs().sum(1)
    assert torch.equal(saliency_masks(v, norm="l1")[0], total >= total.flatten(1).quantile(0.8, dim=1)[:, None, None])
    assert not torch.equal(saliency_masks(v, norm="l1")[0], saliency_masks(v)[0])


def arrays_with(prediction, target, bias, t):
    """Spectra with these PFRs at the cutoff 0.2, for all images: one low and one high radius, (N, T, 1, 2)."""

    def of(curve):
        return np.tile(np.stack([np.asarray(curve, float), np.ones(len(curve))], axis=-1)[None, :, None], (8, 1, 1, 1))

    low = {"prediction": of(prediction), "target": of(target), "bias": of(bias)[:, :, None]}
    return {**low, "radii": np.array([0.05, 0.4]), "t": np.asarray(t, float)}


def fel_with(gain, t):
    """FEL arrays with this gain in percent in every setting, slightly different for each image."""
    shape = (8, len(t), len(sensitivity.FEL_CUTOFFS), len(sensitivity.SHARES), 3, 1 + 3)
    fel = np.ones(shape)
    jitter = 1 + 0.01 * np.arange(8)[:, None] / 8
    fel[..., 1:] += (jitter * np.asarray(gain) / 100)[:, :, None, None, None, None]
    return {"fel": fel, "t": np.asarray(t, float)}


T = np.array([0.0, 0.1, 0.2, 0.5, 0.8, 1.0])


@pytest.fixture
def known():
    """SiT as the paper says; DEFAR above it; the exact field as SiT but with a gain that stays."""
    ones = np.ones(6)
    sit = arrays_with([0.2, 0.3, 0.4, 0.8, 1.2, 2], ones, [8, 4, 2, 0.5, 0.25], T)
    defar = arrays_with([0.3, 0.4, 0.5, 0.8, 1.2, 2], ones, [8, 4, 2, 0.5, 0.6], T)
    spectra = {"SiT": sit, "DEFAR": defar, "exact": sit}
    gains = {"SiT": [0.5, 0.7, 0.4, 0.01, 0], "DEFAR": [-0.5, 0.7, 0.4, 0.01, 0], "exact": [0.5, 0.7, 0.4, 0.3, 0]}
    return spectra, {name: fel_with(gain, T[:-1]) for name, gain in gains.items()}


def default(table, statement, model):
    (row,) = table[
        sensitivity.is_default(table) & (table["statement"] == statement) & (table["model"] == model)
    ].itertuples()
    return row


def test_masks_of_all_shares_at_once_are_those_of_each():
    target = torch.randn(3, 2, 16, 16, generator=torch.Generator().manual_seed(0))
    low, shares = low_pass(target, 0.15), (0.1, 0.2, 0.4)
    for norm in sensitivity_sweep.MASK_NORMS:
        found = zip(top_pixels(low, shares, norm), top_pixels(target - low, shares, norm), strict=True)
        for share, pair in zip(shares, found, strict=True):
            wanted = saliency_masks(target, 0.15, share, share, norm)
            assert all(torch.equal(one, other) for one, other in zip(pair, wanted, strict=True))
        assert top_pixels(low, [0.25], norm).float().mean() == pytest.approx(0.25, abs=0.01)


def test_verdicts_on_known_curves(known):
    table = sensitivity.evaluate(*known, "SiT", "DEFAR")
    assert list(table.columns) == sensitivity.COLUMNS and (table["n"] == 8).all()
    assert len(table) == 3 * 3 * 56 + 3 * 2 * 108 + 56
    below = default(table, "prediction below target", "SiT")
    assert (below.value, below.verdict) == (pytest.approx(0.6), "holds")  # 1 - 0.4 at the last time before 0.25
    assert default(table, "bias falls", "SiT").value == pytest.approx(np.log(2))
    assert default(table, "bias falls", "DEFAR").verdict == "does not hold"  # up by 0.1 at the last step
    crossing = default(table, "bias crosses target", "SiT")
    assert crossing.verdict == "holds" and crossing.value == pytest.approx(np.log(4))
    assert crossing.where == pytest.approx(0.35)  # from 2 at 0.2 to 1/2 at 0.5, halfway in the logarithm
    assert default(table, "gain positive", "SiT").value == pytest.approx(0.4, rel=0.01)
    assert default(table, "gain positive", "DEFAR").verdict == "does not hold"
    vanishes = [default(table, "gain vanishes", name) for name in ("SiT", "exact")]
    assert [row.verdict for row in vanishes] == ["holds", "does not hold"]
    assert vanishes[0].value == pytest.approx(0.2 - 0.01 / 0.7)
    above = default(table, "DEFAR above SiT", "DEFAR against SiT")
    assert above.verdict == "holds" and above.value == pytest.approx(0.25)  # 0.5 against 0.4
    for column in ("dc", "estimator", "channels"):  # of readings of PFR alone
        assert table.loc[table["statement"].isin(sensitivity.FEL_STATEMENTS), column].isna().all()


def test_an_interval_across_zero_decides_nothing(known):
    spectra, emphases = known
    rng = np.random.default_rng(3)
    noisy = dict(spectra["SiT"])
    noisy["prediction"] = spectra["SiT"]["target"] * rng.lognormal(-0.1, 0.5, (8, 6, 1, 1)) ** np.array([1, 0])
    table = sensitivity.evaluate({"SiT": noisy}, {"SiT": emphases["SiT"]}, "SiT", "DEFAR")
    row = default(table, "prediction below target", "SiT")
    assert row.low < row.value < 0 < row.high and row.verdict == "undecided"  # the least of three, by noise alone
    assert "DEFAR above SiT" not in set(table["statement"])


def test_a_paired_statement_is_paired():
    """Images that differ a hundredfold, and a second field 1 % above the first in each of them."""
    scale = np.logspace(0, 2, 8)[:, None, None, None] ** np.array([1, 0])
    ones = arrays_with(np.ones(6), np.ones(6), [8, 4, 2, 0.5, 0.25], T)
    first = {**ones, "prediction": ones["prediction"] * scale}
    second = {**ones, "prediction": first["prediction"] * np.array([1.01, 1])}
    emphases = fel_with([1, 1, 1, 0, 0], T[:-1])
    table = sensitivity.evaluate(
        {"SiT": first, "DEFAR": second}, dict.fromkeys(("SiT", "DEFAR"), emphases), "SiT", "DEFAR"
    )
    row = default(table, "DEFAR above SiT", "DEFAR against SiT")
    assert [row.value, row.low, row.high] == pytest.approx([0.01] * 3, abs=1e-9)


def test_verdicts_count_settings_and_sentences_follow(known):
    table = sensitivity.evaluate(*known, "SiT", "DEFAR")
    counted = sensitivity.verdicts(table)
    assert list(counted.columns) == sensitivity.VERDICTS
    of = counted.set_index(["statement", "model"])
    assert of.loc[("gain positive", "SiT"), "settings"] == 108 and of.loc[("gain positive", "SiT"), "holds"] == 108
    assert of.loc[("gain positive", "DEFAR"), "does_not_hold"] == 108
    assert (of[["holds", "does_not_hold", "undecided"]].sum(axis=1) == of["settings"]).all()
    # without the DC bin the one low radius counts too: it is not 0, so DC changes nothing
    assert of.loc[("bias falls", "SiT"), "share_holds"] == 1

    said = sentences(table, counted, "exact")
    assert "Of 6 statements 4 hold for the networks under every setting" in said
    assert "exact, an exact field without defect, shares 2 (prediction below target, bias crosses target)" in said
    assert "the setting decides on bias falls (SiT 56 of 56, DEFAR 0 of 56" in said
    assert "moves from t = 0.35 to 0.35" in said and "over 8 images" in said

    other = table[table["model"] == "exact"].assign(model="other")
    other.loc[other["statement"] == "bias crosses target", "verdict"] = "does not hold"
    both = pd.concat([table, other], ignore_index=True)
    said = sentences(both, sensitivity.verdicts(both), "exact", "other")
    assert "the exact fields without defect (exact, other) share 1 (prediction below target), and what" in said

    failed = table.assign(verdict="does not hold")
    said = sentences(failed, sensitivity.verdicts(failed), "exact")
    assert (
        "Of 6 statements none holds for the networks under every setting." in said
        and "Under no setting and for no network holds: prediction below" in said
        and "perfect" not in said
    )
    mixed = table.copy()
    mixed.loc[(mixed["statement"] == "gain positive") & (mixed["mask_norm"] == "l1"), "verdict"] = "undecided"
    said = sentences(mixed, sensitivity.verdicts(mixed), "exact")
    assert "gain positive (SiT 72 of 108, DEFAR 0 of 108, exact 67 %; most by mask_norm: 0 % at l1, 50 % at" in said


def test_what_does_not_fit_is_one_line(known, refuses):
    spectra, emphases = known
    other = {**spectra["DEFAR"], "t": T + 0.01}
    refuses(
        lambda: sensitivity.evaluate({**spectra, "DEFAR": other}, emphases, "SiT", "DEFAR"), "DEFAR", "other images"
    )
    refuses(lambda: sensitivity.evaluate({}, emphases, "SiT", "DEFAR"), "nothing")
    refuses(lambda: saliency_masks(normal(0, 1, 3, 8, 8), norm="l3"), "'l3'", "'mean'")
    ragged = Context(lambda x, t, y: x, Batch(normal(0, 2, 1, 8, 8), None), TimeGrid.all_pairs("ragged", 4))
    refuses(lambda: Spectra().run(ragged), "'ragged'", "[1, 2, 3]")
    table = sensitivity.evaluate(spectra, emphases, "SiT", "DEFAR")
    only = sensitivity.verdicts(table[table["model"] == "exact"])
    refuses(lambda: sentences(table, only, "exact"), "no verdict")
