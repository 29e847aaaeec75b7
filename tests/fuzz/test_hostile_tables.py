"""What lies behind figures and tables, CSV, JSON and .npz, and the notes beside samples, latents and logs."""

import json
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hostile.archives import hostile_npz
from hostile.words import hostile_csv, hostile_json
from safetensors.torch import save_file

from defar_analysis import catalog
from defar_analysis.commands.figures import table
from defar_analysis.core.latents import FORMAT, SIDE, open_latents
from defar_analysis.core.runs import cut_log
from defar_analysis.files import file_sha256
from defar_analysis.paper import paper_values
from defar_analysis.sample_files import Kept

ROOT = Path(__file__).parents[2]


@pytest.fixture
def figures(watch):
    """A folder of figures' data, as it is committed."""
    shutil.copytree(ROOT / "figures" / "data", watch.top / "figures" / "data")
    return watch.top / "figures"


def some(inputs, every):
    return [pair for number, pair in enumerate(inputs) if number % every == 0]


@pytest.mark.filterwarnings("ignore")
def test_figures_are_drawn_from_their_data_or_say_what_is_wrong(watch, figures):
    file = figures / "data" / "fig5.csv"
    whole = file.read_text(encoding="utf-8")
    for what, content in some(hostile_csv(whole), 3):
        file.write_bytes(content)
        line = watch(what, lambda: catalog.draw(catalog.load("fig5", figures)), lambda drawn: drawn.axes)
        assert not line or "fig5" in line or "column" in line or "table" in line, (what, line)
    file.write_text(whole, encoding="utf-8")
    watch.done("figures' CSV")


@pytest.mark.filterwarnings("ignore")
def test_tables_are_printed_from_their_data_or_say_what_is_wrong(watch, figures, capsys):
    for id, format in (("tab1", "markdown"), ("tab7", "latex")):
        file = figures / "data" / f"{id}.csv"
        for what, content in some(hostile_csv(file.read_text(encoding="utf-8")), 2):
            file.write_bytes(content)
            watch(
                what, lambda id=id, format=format: table(id, figures, format), lambda nothing: capsys.readouterr().out
            )
    watch.done("tables' CSV")


@pytest.mark.filterwarnings("ignore")
def test_the_papers_values(watch):
    file = watch.top / "reproduce" / "paper_values.csv"
    file.parent.mkdir()
    whole = "\n".join((ROOT / "reproduce" / "paper_values.csv").read_text(encoding="utf-8").splitlines()[:30])
    for what, content in some(hostile_csv(whole), 2):
        file.write_bytes(content)
        watch(what, lambda: paper_values(watch.top), lambda found: found["value"].dtype.kind == "f")
    watch.done("paper's CSV")


@pytest.mark.filterwarnings("ignore")
def test_notes_and_arrays_beside_a_figure(watch, figures):
    note, arrays = figures / "data" / "fig1.json", figures / "data" / "fig1.npz"
    whole = note.read_bytes()
    kept = {key: value for key, value in json.loads(whole).items() if key in ("profile", "note", "models")}
    for what, content in some(hostile_json(kept), 2):
        note.write_bytes(content)
        watch(what, lambda: catalog.load("fig1", figures).summary(), lambda said: isinstance(said, str))
    note.write_bytes(whole)
    with np.load(arrays) as found:
        base = {name: array[:1, :4] if array.ndim > 1 else array for name, array in found.items()}
    for what, content in some(hostile_npz(base), 2):
        arrays.write_bytes(content)
        watch(
            what,
            lambda: catalog.load("fig1", figures),
            lambda artefact: all(a.dtype != object for a in artefact.arrays.values()),
        )
    watch.done("figures' notes")


@pytest.fixture
def latents(watch):
    """A folder of latents of three images, and what its index says."""
    folder = watch.top / "latents"
    folder.mkdir()
    moments = {
        "mean": torch.randn(3, 4, 2, 2, generator=torch.Generator().manual_seed(0)),
        "std": torch.ones(3, 4, 2, 2),
    }
    save_file(moments, folder / "shard-000000.safetensors")
    save_file({"count": torch.tensor([3]), "labels": torch.tensor([0, 1, 2])}, folder / SIDE)
    shard = {"file": "shard-000000.safetensors", "count": 3, "sha256": file_sha256(folder / "shard-000000.safetensors")}
    index = {
        "format": FORMAT,
        "count": 3,
        "shape": [4, 2, 2],
        "shard": 4,
        "flip": False,
        "dtype": "float32",
        "source": {"name": "three", "classes": 3},
        "side": file_sha256(folder / SIDE),
        "complete": True,
        "shards": [shard],
        "codec": {"kind": "vae", "path": "none", "scale": 1.0, "shift": 0.0},
    }
    return folder, index


def whole_set(folder):
    """All that a training asks of latents."""
    dataset = open_latents(folder)
    assert len(dataset.hash) == 64 and dataset.name
    _ = dataset.spec, dataset.num_classes, dataset.labels
    return dataset.batch(range(len(dataset)), generator=torch.Generator().manual_seed(0))


@pytest.mark.filterwarnings("ignore")
def test_the_index_of_latents(watch, latents):
    folder, index = latents
    for what, content in hostile_json(index):
        (folder / "latents.json").write_bytes(content)
        watch(what, lambda: whole_set(folder), lambda b: b.data.shape == (3, 4, 2, 2) and bool(b.data.isfinite().all()))
    watch.done("latents' index")


@pytest.mark.filterwarnings("ignore")
def test_shards_of_latents_that_the_index_vouches_for(watch, latents):
    folder, index = latents
    ones, shard = torch.ones(3, 4, 2, 2), folder / "shard-000000.safetensors"
    for what, tensors in {
        "no std": {"mean": ones},
        "too few": {"mean": ones[:2], "std": ones[:2]},
        "flat": {"mean": ones[0], "std": ones[0]},
        "another shape": {"mean": ones[:, :3], "std": ones},
        "not numbers": {"mean": ones * torch.nan, "std": ones},
        "complex": {"mean": ones.to(torch.complex64), "std": ones},
        "broadcast": {"mean": ones[:, :1, :1, :1], "std": ones},
    }.items():
        save_file({name: tensor.clone() for name, tensor in tensors.items()}, shard)
        told = index | {"shards": [index["shards"][0] | {"sha256": file_sha256(shard)}]}
        (folder / "latents.json").write_text(json.dumps(told))
        watch(what, lambda: whole_set(folder))
    save_file({"mean": ones, "std": ones.clone()}, shard)
    told = index | {"shards": [index["shards"][0] | {"sha256": file_sha256(shard)}]}
    for what, labels in {
        "too few": torch.tensor([0]),
        "too many": torch.arange(9),
        "floats": torch.ones(3),
        "negative": torch.tensor([-1, 0, 1]),
        "beyond the classes": torch.tensor([0, 1, 3]),
        "square": torch.zeros(3, 3, dtype=torch.long),
        "none": torch.zeros(0),
    }.items():
        save_file({"count": torch.tensor([3]), "labels": labels}, folder / SIDE)
        (folder / "latents.json").write_text(json.dumps(told | {"side": file_sha256(folder / SIDE)}))
        watch(f"labels {what}", lambda: whole_set(folder))
    watch.done("latents' shards")


def test_the_record_of_samples(watch):
    folder, command = watch.top / "samples", {"checkpoint": "small", "seed": 0}
    folder.mkdir()
    for what, content in hostile_json({"command": command, "chunks": {"0": [50, 100]}, "nfe": 50}):
        (folder / "samples.json").write_bytes(content)
        watch(
            what,
            lambda: Kept(folder, command),
            lambda kept: all(isinstance(cost, tuple) for cost in kept.costs.values()),
        )
    watch.done("samples' record")


def test_the_log_of_a_run(watch):
    file = watch.out / "log.jsonl"
    good = '{"step": 1, "loss": 0.5}\n{"step": 2, "loss": 0.4}\n'
    for what, content in hostile_json({"step": 1, "loss": {"a": 1}}):
        if content.strip() and b"\xff" not in content:
            file.write_bytes(good.encode() + content)
            watch(what, lambda: cut_log(file, 1), lambda nothing: file.read_text().startswith(good[:25]))
    watch.done("logs")


def test_nothing_is_said_to_nobody():
    """The tests above ignore warnings for speed; reading what is whole warns of nothing."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        catalog.load("fig5", ROOT / "figures")
        paper_values(ROOT)
