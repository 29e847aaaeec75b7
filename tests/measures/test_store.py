"""Results are kept, found again, and never trusted when damaged."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch

from defar_analysis.core.datasets import Batch
from defar_analysis.errors import DefarError
from defar_analysis.measures.base import Context, TimeGrid
from defar_analysis.measures.emphasis import FEL
from defar_analysis.measures.frequency import PFR
from defar_analysis.measures.store import Store


class Field:
    calls = 0

    def __call__(self, x, t, labels=None):
        self.calls += 1
        return torch.sin(3 * x) + t[:, None, None, None]


def context(field, **changes) -> Context:
    data = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    return Context(field, Batch(data, None), TimeGrid.spaced("test", 2, 2), identity={"weights": "a"}, **changes)


def test_a_second_call_measures_nothing_and_returns_the_same(tmp_path):
    store, field = Store(tmp_path), Field()
    first, new = store.measure([PFR(), FEL()], context(field))
    assert new == ["pfr", "fel"] and field.calls > 0
    field.calls = 0
    second, new = store.measure([PFR(), FEL()], context(field))
    assert new == [] and field.calls == 0
    for name in first:
        pd.testing.assert_frame_equal(first[name], second[name])
        for key, array in first[name].attrs["arrays"].items():
            np.testing.assert_array_equal(array, second[name].attrs["arrays"][key])


def test_only_what_is_missing_is_measured(tmp_path):
    store, field = Store(tmp_path), Field()
    store.measure([PFR()], context(field))
    _, new = store.measure([PFR(), FEL()], context(field))
    assert new == ["fel"]


@pytest.mark.parametrize("change", [{"seed": 1}, {"name": "other"}, {"chunk": 2}, {"indices": (4, 5, 6, 7)}])
def test_another_context_is_another_result(tmp_path, change):
    store = Store(tmp_path)
    store.measure([PFR()], context(Field()))
    assert store.measure([PFR()], context(Field(), **change))[1] == ["pfr"]


def test_other_settings_are_another_result(tmp_path):
    store = Store(tmp_path)
    store.measure([PFR()], context(Field()))
    assert store.measure([PFR(cutoff=0.1)], context(Field()))[1] == ["pfr"]


@pytest.mark.parametrize("suffix", [".parquet", ".npz", ".json"])
def test_a_damaged_file_is_measured_again_and_said_so(tmp_path, capsys, suffix):
    store = Store(tmp_path)
    good, _ = store.measure([PFR()], context(Field()))
    file = next(tmp_path.rglob(f"*{suffix}"))
    file.write_bytes(file.read_bytes()[:-20])
    again, new = store.measure([PFR()], context(Field()))
    assert new == ["pfr"]
    assert "cannot be trusted" in capsys.readouterr().err
    pd.testing.assert_frame_equal(good["pfr"], again["pfr"])
    assert store.measure([PFR()], context(Field()))[1] == []


def test_other_images_are_another_result_and_no_identity_is_refused(tmp_path):
    store = Store(tmp_path)
    ctx = context(Field())
    store.measure([PFR()], ctx)
    other = dataclasses.replace(ctx, batch=Batch(ctx.batch.data + 0.1, None))
    assert store.measure([PFR()], other)[1] == ["pfr"]
    with pytest.raises(DefarError, match="identity"):
        store.measure([PFR()], dataclasses.replace(ctx, identity={}))


def test_anything_can_be_kept_and_is_computed_once(tmp_path):
    made = []

    def compute():
        made.append(1)
        return pd.DataFrame({"a": [1.5]})

    for expected_new in (True, False):
        table, new = Store(tmp_path).keep("thing", {"seed": 0}, compute)
        assert new == expected_new and table["a"].tolist() == [1.5]
    assert len(made) == 1 and Store(tmp_path).keep("thing", {"seed": 1}, compute)[1]


def test_nothing_half_written_is_left(tmp_path):
    Store(tmp_path).measure([PFR()], context(Field()))
    assert not [f for f in tmp_path.rglob("*") if f.name.endswith(".tmp")]
    assert sorted(f.suffix for f in tmp_path.rglob("*") if f.is_file()) == [".json", ".npz", ".parquet"]
