"""The shared sweep and its reducers, against direct computation with the public functions."""

import copy

import numpy as np
import pandas as pd
import pytest
import torch

from defar_analysis.core.datasets import Batch
from defar_analysis.core.interpolants import GVP, VP, Linear
from defar_analysis.core.objectives import compensation_weight
from defar_analysis.core.oracles import GaussianFlow
from defar_analysis.core.rollout import exposure_bias
from defar_analysis.core.seeding import image_noise
from defar_analysis.errors import DefarError
from defar_analysis.measures.base import CURVE_COLUMNS, Context, TimeGrid, measure, minimal_forwards
from defar_analysis.measures.emphasis import FEL
from defar_analysis.measures.frequency import PFR, crossings, restoration
from defar_analysis.measures.maps import BiasMaps, correlation
from defar_analysis.measures.sensitivity_sweep import Emphases, Spectra
from defar_analysis.measures.spectral import (
    frequency_emphasis,
    high_pass,
    low_pass,
    predicted_frequency_ratio,
    radial_frequency,
    saliency_masks,
)
from defar_analysis.measures.velocity_error import VelocityError
from defar_analysis.measures.views import BiasViews

GRID = TimeGrid.spaced("test", 3, 2)
SIZE, COUNT = 16, 6


class Counting:
    def __init__(self, field):
        self.field, self.calls = field, 0

    def __call__(self, x, t, labels=None):
        self.calls += 1
        return self.field(x, t, labels)


def oracle(interpolant=None) -> GaussianFlow:
    mean = torch.randn(3, SIZE, SIZE, generator=torch.Generator().manual_seed(9))
    return GaussianFlow(mean, 1 / (0.02 + radial_frequency(SIZE, SIZE) ** 2), interpolant)


def context(model=None, grid=GRID, **changes) -> Context:
    data = oracle().sample(COUNT, torch.Generator().manual_seed(0)) / 20
    defaults = {"name": "oracle", "chunk": 4, "seed": 5}
    return Context(model or oracle(), Batch(data, torch.arange(COUNT)), grid, **{**defaults, **changes})


def noise_of(ctx: Context) -> torch.Tensor:
    return image_noise(ctx.seed, range(COUNT), ctx.batch.data.shape[1:])


def full(t: float) -> torch.Tensor:
    return torch.full((COUNT,), t)


def test_grids_say_what_they_hold():
    assert GRID.t0 == (0, 1 / 3, 2 / 3) and GRID.pairs == 6 and GRID.times[-1] == 1
    assert all(t0 < t1 <= 1 for t0, row in zip(GRID.t0, GRID.t1, strict=True) for t1 in row)
    paper = TimeGrid.all_pairs("full", 50)
    assert paper.pairs == 49 * 50 // 2 and len(paper.times) == 50
    assert paper.t0[0] == 0 and paper.times[-1] == 1


def test_one_sweep_makes_just_the_forwards_it_needs_however_many_measurements_share_it():
    model = Counting(oracle())
    tables = measure([PFR(), FEL(), BiasMaps()], context(model))
    chunks = 2
    assert model.calls == chunks * minimal_forwards(GRID)
    assert {table.attrs["forwards"] for table in tables.values()} == {model.calls}


def test_results_do_not_depend_on_the_chunk():
    whole, parts = (measure([PFR(), FEL(), BiasMaps()], context(chunk=c)) for c in (COUNT, 4))
    for name in whole:
        numbers = ["value", "low", "high"]
        np.testing.assert_allclose(whole[name][numbers], parts[name][numbers], rtol=1e-4, atol=1e-6, equal_nan=True)


@pytest.mark.parametrize("path", [Linear(), GVP(), VP()], ids=repr)
def test_pfr_rows_are_the_ratios_of_the_public_functions(path):
    ctx = context(oracle(path), interpolant=path)
    table, noise, data = PFR().run(ctx), noise_of(ctx), ctx.batch.data
    assert list(table.columns) == CURVE_COLUMNS
    begin, end = path.interval("train")
    times = [begin + (end - begin) * t for t in GRID.times]
    for dc in ("with", "without"):
        for i, t in enumerate(times):
            point = path.at(noise, data, full(t))
            rows = table[(table["dc"] == dc) & (table["estimator"] == "mean_of_ratios") & (table["t"] == GRID.times[i])]
            values = rows.set_index("quantity")["value"]
            drop = dc == "without"
            expected = predicted_frequency_ratio(ctx.model(point.x, full(t)), drop_dc=drop).mean()
            assert values["pfr_prediction"] == pytest.approx(float(expected), rel=1e-4)
            expected = predicted_frequency_ratio(point.velocity, drop_dc=drop).mean()
            assert values["pfr_target"] == pytest.approx(float(expected), rel=1e-4)
            if i < len(GRID.t0):
                ratios = [
                    predicted_frequency_ratio(
                        exposure_bias(
                            ctx.model, noise, data, full(t), full(begin + (end - begin) * t1), interpolant=path
                        ),
                        drop_dc=drop,
                    )
                    for t1 in GRID.t1[i]
                ]
                assert values["pfr_bias"] == pytest.approx(float(torch.stack(ratios).mean()), rel=1e-3)
            else:
                assert "pfr_bias" not in values


def test_every_row_has_an_interval_around_its_value():
    table = PFR().run(context())
    assert ((table["low"] <= table["value"]) & (table["value"] <= table["high"])).all()
    assert (table["low"] < table["high"]).all()
    assert (table["n"] == COUNT).all()


@pytest.mark.parametrize("settings", [{}, {"bias_norm": "mean"}, {"inside_square": False}, {"aggregate": "sum"}])
def test_fel_rows_are_the_reweighted_losses_of_the_public_functions(settings):
    ctx = context()
    table, noise, data = FEL(**settings).run(ctx), noise_of(ctx), ctx.batch.data
    reading = FEL(**settings)
    for i, t0 in enumerate(GRID.t0):
        point = Linear().at(noise, data, full(t0))
        error = ctx.model(point.x, full(t0)) - point.velocity
        weights = [
            compensation_weight(exposure_bias(ctx.model, noise, data, full(t0), full(t1)), 1.0, reading.bias_norm)
            for t1 in GRID.t1[i]
        ]
        extra = torch.stack(weights).sub(1)
        w = 1 + (extra.mean(0) if reading.aggregate == "mean" else extra.sum(0))
        reweighted = (w * error).square() if reading.inside_square else w * error.square()
        masks = saliency_masks(point.velocity)
        raw_fel, new_fel = (frequency_emphasis(e.mean(1), *masks) for e in (error.square(), reweighted))
        values = table[table["t"] == t0].set_index("quantity")["value"]
        assert values["fel_raw"] == pytest.approx(float(raw_fel.mean()), rel=1e-4)
        assert values["fel_reweighted"] == pytest.approx(float(new_fel.mean()), rel=1e-4)
        gain = 100 * ((new_fel - raw_fel) / raw_fel).mean()
        assert values["fel_gain_percent"] == pytest.approx(float(gain), rel=1e-3, abs=1e-4)


def test_fel_gain_is_zero_without_a_weight():
    table = FEL(alpha=0.0).run(context())
    assert (table.loc[table["quantity"] == "fel_gain_percent", "value"].abs() < 1e-4).all()


def test_maps_are_the_bias_at_the_nearest_pair_with_the_images_bands():
    ctx = context()
    table = BiasMaps(pairs=((0.3, 0.6), (0.0, 1.0)), images=4).run(ctx)
    arrays, noise, data = table.attrs["arrays"], noise_of(ctx), ctx.batch.data
    np.testing.assert_allclose(arrays["pairs"], [[1 / 3, 2 / 3], [0, 1]])
    for k, (t0, t1) in enumerate(arrays["pairs"].tolist()):
        bias = exposure_bias(ctx.model, noise, data, full(t0), full(t1))
        heat = bias.square().sum(1).sqrt()
        np.testing.assert_allclose(arrays["bias"][k], heat[:4], rtol=2e-3, atol=1e-4)
        values = table[(table["t0"] == t0) & (table["t1"] == t1)].set_index("quantity")["value"]
        assert values["bias_rms"] == pytest.approx(float(bias.square().mean((1, 2, 3)).sqrt().mean()), rel=1e-4)
        strength = high_pass(data).square().sum(1).sqrt()
        pairs = zip(heat, strength, strict=True)
        expected = np.mean([np.corrcoef(a.flatten(), b.flatten())[0, 1] for a, b in pairs])
        assert values["corr_high_band"] == pytest.approx(expected, abs=1e-4)
    assert arrays["images"].shape == (4, SIZE, SIZE, 3) and arrays["images"].dtype == np.uint8
    shown = low_pass(data[:4]).clamp(-1, 1).permute(0, 2, 3, 1).numpy()
    np.testing.assert_allclose(arrays["low_pass"] / 127.5 - 1, shown, atol=0.005)


def test_correlation_of_a_map_with_itself_its_negative_and_a_constant():
    a = torch.rand(2, 5, 5, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(correlation(a, 3 * a + 1), torch.ones(2))
    torch.testing.assert_close(correlation(a, -a), -torch.ones(2))
    torch.testing.assert_close(correlation(a, torch.ones_like(a)), torch.zeros(2))


def test_crossings_agree_with_the_curves():
    grid = TimeGrid.spaced("finer", 10, 2)
    table = PFR().run(context(grid=grid))
    found = crossings(table)
    assert len(found) == 8
    for row in found.itertuples():
        curve = table[(table["dc"] == row.dc) & (table["estimator"] == row.estimator)]
        wide = curve.pivot(index="t", columns="quantity", values="value").dropna()
        sign = np.sign(wide[row.quantity] - wide["pfr_target"])
        changes = wide.index[1:][sign.iloc[1:].to_numpy() != sign.iloc[0]]
        if len(changes) == 0:
            assert np.isnan(row.t_cross)
        else:
            assert changes[0] - 0.1 - 1e-9 <= row.t_cross <= changes[0] + 1e-9


def test_restoration_is_paired_and_zero_against_itself():
    table = PFR().run(context())
    same = restoration(table, table)
    np.testing.assert_allclose(same[["value", "low", "high"]], 0, atol=1e-9)

    def stronger(x, t, labels=None):
        v = oracle()(x, t)
        return v + low_pass(v)

    other = PFR().run(context(stronger, name="stronger"))
    difference = restoration(table, other)
    assert set(difference["model"]) == {"stronger against oracle"}
    for dc in ("with", "without"):
        # doubling the low band's amplitude multiplies its energy, and so every image's ratio, by 4
        rows = difference.loc[difference["dc"] == dc, ["value", "low", "high"]]
        np.testing.assert_allclose(rows, 300, rtol=1e-3)


def test_restoration_refuses_other_images():
    with pytest.raises(DefarError, match="same images"):
        restoration(PFR().run(context()), PFR().run(context(seed=6)))


def test_a_broken_model_is_named():
    with pytest.raises(DefarError, match="mine at t = 0"):
        PFR().run(context(lambda x, t, labels=None: x[:, :1], name="mine"))
    with pytest.raises(DefarError, match="not finite"):
        PFR().run(context(lambda x, t, labels=None: x / 0, name="mine"))
    with pytest.raises(DefarError, match="distinct names"):
        measure([PFR(), PFR(cutoff=0.1)], context())


def test_tables_with_arrays_can_be_joined():
    tables = [PFR().run(context(name=name)) for name in ("a", "b", "c")]
    assert len(pd.concat(tables)) == sum(map(len, tables))
    assert tables[0].copy().attrs["arrays"] is tables[0].attrs["arrays"]


class Rank:
    """One of several processes that run one after the other: the first comes last and has what the others left."""

    def __init__(self, rank, size, left):
        self.rank, self.size, self.first, self.left = rank, size, rank == 0, left

    def gather(self, value):
        self.left.setdefault(self.rank, []).append(copy.deepcopy(value))
        if not self.first:
            return []
        return [self.left[rank][len(self.left[0]) - 1] for rank in range(self.size)]


@pytest.mark.parametrize("size", [2, 3, 4])  # of 3 chunks
def test_processes_that_share_the_images_get_the_tables_of_one(size):
    everything = [PFR(), FEL(), BiasMaps(), BiasViews(), Spectra(), Emphases()]
    ctx, left = context(chunk=2), {}
    alone = measure(everything, ctx)
    for rank in range(1, size):
        assert measure(everything, ctx, Rank(rank, size, left)) == {}
    together = measure(everything, ctx, Rank(0, size, left))
    for name, table in alone.items():
        pd.testing.assert_frame_equal(together[name], table, check_exact=True)
        arrays, theirs = table.attrs["arrays"], together[name].attrs["arrays"]
        assert arrays.keys() == theirs.keys() and all(np.array_equal(arrays[key], theirs[key]) for key in arrays)
        assert table.attrs["forwards"] == together[name].attrs["forwards"]


def test_the_velocity_error_is_the_loss_of_each_image_at_each_time():
    ctx = context(Counting(oracle()))
    table = VelocityError().run(ctx)
    noise, data = noise_of(ctx), ctx.batch.data
    losses = torch.stack([
        (oracle()(Linear().at(noise, data, full(t)).x, full(t)) - (data - noise)).square().mean((1, 2, 3))
        for t in GRID.times
    ], dim=1)  # fmt: skip
    arrays = table.attrs["arrays"]
    assert arrays["loss"] == pytest.approx(losses.numpy(), rel=1e-4) and tuple(arrays["t"]) == GRID.times
    assert table["value"].to_numpy() == pytest.approx(losses.mean(0).numpy(), rel=1e-4)
    assert (table["low"] <= table["value"]).all() and (table["value"] <= table["high"]).all()
    assert list(table.columns) == CURVE_COLUMNS and set(table["quantity"]) == {"fm_loss"} and set(table["n"]) == {COUNT}


def test_the_velocity_error_of_the_pairs_own_velocity_is_nothing():
    ctx = context(grid=TimeGrid.spaced("test", 3, 1))
    noise, data = noise_of(ctx), ctx.batch.data

    def own(x, t, labels):
        return (data - noise)[labels]

    assert VelocityError().run(Context(own, ctx.batch, ctx.grid, seed=ctx.seed))["value"].to_numpy() == pytest.approx(0)
