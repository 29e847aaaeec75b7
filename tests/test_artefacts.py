"""What an artefact's files hold, and when they are written again."""

import dataclasses

import numpy as np
import pandas as pd

from defar_analysis.artefacts import Artefact, read, write


def test_equal_arrays_keep_their_file_whatever_packed_it(tmp_path):
    arrays = {"images": np.arange(24, dtype=np.uint8).reshape(2, 12), "kind": np.array(["a", "b"])}
    provenance = {"profile": "tiny", "note": "synthetic", "models": {}}
    artefact = Artefact("fig9", pd.DataFrame({"value": [1.0]}), {}, arrays, provenance, tmp_path)
    write(artefact)
    file = tmp_path / "data" / "fig9.npz"
    np.savez(file, **arrays)  # the same arrays in other bytes, as another Python would have packed them
    kept = file.read_bytes()
    write(artefact)
    assert file.read_bytes() == kept
    other = arrays | {"images": arrays["images"] + 1}
    for content in (other, {"images": arrays["images"]}, arrays | {"more": np.zeros(1)}):
        write(dataclasses.replace(artefact, arrays=content))
        there = read("fig9", tmp_path).arrays
        assert there.keys() == content.keys() and all(np.array_equal(there[k], content[k]) for k in content)
    file.write_bytes(kept[:-30])
    write(artefact)
    assert read("fig9", tmp_path).arrays.keys() == arrays.keys()


def test_places_without_a_value_are_equal(tmp_path):
    arrays = {"curve": np.array([1.0, np.nan]), "count": np.array([1, 2])}
    artefact = Artefact("fig9", pd.DataFrame({"value": [1.0]}), {}, arrays, {"profile": "tiny", "note": ""}, tmp_path)
    write(artefact)
    file = tmp_path / "data" / "fig9.npz"
    np.savez(file, **arrays)
    kept = file.read_bytes()
    write(artefact)
    assert file.read_bytes() == kept
    write(dataclasses.replace(artefact, arrays=arrays | {"curve": np.array([np.nan, 1.0])}))
    assert file.read_bytes() != kept
