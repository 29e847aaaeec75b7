"""Protocols: what may be compared, and which images stand on the other side."""

import numpy as np
import pandas as pd
import pytest

from defar_analysis.measures.protocols import DEFAULT, PROTOCOLS, balanced_indices, comparable, protocol


def test_every_protocol_of_the_design_is_there_and_names_its_metrics_by_its_network():
    names = "cifar10-train celeba64-train adm-imagenet256 adm-imagenet512"
    offline = ("offline-effnet-lite0-128", "offline-effnet-lite0-224", "offline-effnet-lite2-224")
    assert set(PROTOCOLS) == {*names.split(), *offline} and offline[0] == DEFAULT
    frechet = {name: each.metric_names["frechet"] for name, each in PROTOCOLS.items()}
    assert [frechet[name] for name in names.split()] == ["FID"] * 4
    assert [frechet[name] for name in offline] == ["FD-EffNet-128", "FD-EffNet-224", "FD-EffNet-Lite2-224"]
    for name in offline:
        assert not {"FID", "sFID", "KID", "IS"} & set(PROTOCOLS[name].metric_names.values())


def test_another_n_changes_both_sides_where_they_are_tied():
    assert protocol(DEFAULT).reference_count == protocol(DEFAULT).count == 2000
    small = protocol(DEFAULT, 64)
    assert small.count == small.reference_count == 64
    adm = protocol("adm-imagenet256", 1000)
    assert adm.count == 1000 and adm.reference_count is None
    assert protocol(DEFAULT, 2000) is PROTOCOLS[DEFAULT]


def test_an_unknown_protocol_and_too_few_images_are_refused(refuses):
    refuses(lambda: protocol("fid"), "'fid'", DEFAULT)
    refuses(lambda: protocol(DEFAULT, 1), "n = 1")


@pytest.mark.parametrize("column, other", [("protocol", "q"), ("n", 100), ("reference_sha256", "ffff")])
def test_rows_of_different_protocols_refuse_to_be_compared(refuses, column, other):
    row = {"protocol": "p", "n": 64, "reference_sha256": "abcd", "value": 1.0}
    rows = pd.DataFrame([row, row])
    assert comparable(rows) is rows
    rows.loc[1, column] = other
    refuses(lambda: comparable(rows), column, other)


def test_balanced_indices_take_the_first_of_every_class_in_order():
    labels = np.array([0, 0, 0, 1, 1, 2, 2, 2, 1])
    assert balanced_indices(labels, 9, 6).tolist() == [0, 1, 3, 4, 5, 6]
    assert balanced_indices(labels, 9, 7).tolist() == [0, 1, 2, 3, 4, 5, 6]  # the first class has one more
    assert balanced_indices(None, 9, 4).tolist() == [0, 1, 2, 3]
    assert balanced_indices(labels, 9, 9).tolist() == list(range(9))


def test_balanced_indices_refuse_more_than_there_is(refuses):
    refuses(lambda: balanced_indices(None, 9, 10), "10", "9")
    refuses(lambda: balanced_indices(np.array([0] * 8 + [1]), 9, 6), "a class has too few")
