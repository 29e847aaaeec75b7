"""What the repository ships: checkpoints that have learned, small enough, and figures that were measured on them."""

import json
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from defar_analysis import catalog, paper
from defar_analysis.core.checkpoints import load_checkpoint
from defar_analysis.core.datasets import cifar10
from defar_analysis.core.oracles import GaussianFlow
from defar_analysis.core.recipes import load_recipe
from defar_analysis.core.seeding import image_noise
from defar_analysis.exact_fields import EXACT
from defar_analysis.experiment import METHODS, SHIPPED
from defar_analysis.measures.drift import sentences

ROOT = Path(__file__).parents[1]
CHECKPOINTS = {name: ROOT / "reproduce" / "checkpoints" / folder for name, folder in SHIPPED.items()}
MIB = 2**20


# The networks of these are trained while they are measured, and their arrays hold points.
IN_THE_PLANE = ("plane", "fig1", "fig2")


def tracked_files() -> list[Path]:
    try:
        run = subprocess.run(["git", "-C", str(ROOT), "ls-files", "-z"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    return [ROOT / name for name in run.stdout.split("\0") if name and (ROOT / name).is_file()]


def test_sizes_stay_within_their_limits():
    files = tracked_files()
    assert sum(f.stat().st_size for f in files) <= 55 * MIB
    weights = [f for f in files if f.is_relative_to(ROOT / "reproduce" / "checkpoints")]
    assert sum(f.stat().st_size for f in weights) <= 40 * MIB
    assert all(f.stat().st_size <= 16 * MIB for f in weights)


def test_checkpoints_are_one_architecture_of_the_shipped_size_in_float16():
    loaded = {name: load_checkpoint(folder) for name, folder in CHECKPOINTS.items()}
    networks = [checkpoint.card.network for checkpoint in loaded.values()]
    assert all(network == networks[0] for network in networks)
    for name, checkpoint in loaded.items():
        assert 1.5e6 <= sum(p.numel() for p in checkpoint.model.parameters()) <= 2.5e6
        stored = load_file(CHECKPOINTS[name] / "weights.safetensors")
        assert {tensor.dtype for tensor in stored.values()} == {torch.float16}


def test_checkpoints_had_equal_compute_and_their_recipes_are_the_committed_ones():
    passes = {}
    for name, folder in CHECKPOINTS.items():
        card = load_checkpoint(folder).card
        assert card.name == folder.name
        recipe = load_recipe(ROOT / "reproduce" / f"{card.name.replace('-', '_')}.toml")
        trained = card.training["recipe"]
        assert trained["steps"] == recipe.steps == card.training["steps"]
        assert trained["objective"] == recipe.objective
        assert trained["optimizer"]["lr"] == recipe.optimizer.lr
        assert trained.get("flow_matching_steps", 0) == recipe.flow_matching_steps
        plain = recipe.flow_matching_steps if name == "DEFAR" else recipe.steps
        # a pass is a forward; backward counts two; DEFAR makes two forwards with backward and one without
        passes[name] = 3 * plain + 7 * (recipe.steps - plain)
    assert passes["SiT"] == passes["DEFAR"]


@pytest.mark.real_data
def test_checkpoints_beat_the_gaussian_reference_on_test_images():
    """512 test images: the losses of SiT and DEFAR are below the best stationary Gaussian's, at five times."""
    train, test = cifar10("train"), cifar10("test")
    starts = range(0, len(train), 1000)
    reference = GaussianFlow.fit(train.batch(range(s, s + 1000)).data for s in starts)
    batch = test.batch(range(512))
    noise = image_noise(123, range(512), batch.data.shape[1:])
    for name in METHODS:  # MixFlow answers another question at true states
        checkpoint = load_checkpoint(CHECKPOINTS[name])
        for t in (0.1, 0.3, 0.5, 0.7, 0.9):
            times = torch.full((512,), t)
            point = checkpoint.interpolant.at(noise, batch.data, times)
            with torch.no_grad():
                ours, theirs = (
                    float((field(point.x, times, batch.labels) - point.velocity).square().mean())
                    for field in (checkpoint.model, reference)
                )
            assert ours < theirs, f"{name} at t = {t}: {ours:.4f} against the reference's {theirs:.4f}"


@pytest.mark.parametrize("id", catalog.FIGURES)
def test_committed_figures_were_measured_on_the_shipped_checkpoints(id):
    artefact = catalog.load(id, ROOT / "figures")
    for name, identity in artefact.provenance["models"].items():
        if name in CHECKPOINTS and id not in IN_THE_PLANE:  # whose networks are trained while they are measured
            assert identity["sha256"] == load_checkpoint(CHECKPOINTS[name]).card.sha256
    assert (ROOT / "figures" / f"{id}.png").is_file() and (ROOT / "figures" / f"{id}.pdf").is_file()


@pytest.mark.parametrize("id", catalog.FIGURES)
def test_committed_figure_data_is_small(id):
    stem = ROOT / "figures" / "data" / id
    if stem.with_suffix(".npz").exists():
        assert stem.with_suffix(".npz").stat().st_size <= 300_000
        with np.load(stem.with_suffix(".npz")) as arrays:
            if id not in IN_THE_PLANE:
                pictures = arrays["samples"] if "samples" in arrays else arrays["images"]
                assert int(np.prod(pictures.shape[:-3])) <= 32
    assert json.loads(stem.with_suffix(".json").read_text())["profile"] in catalog.PROFILES


def test_the_papers_values_are_complete_rows():
    table = pd.read_csv(ROOT / "reproduce" / "paper_values.csv")
    assert list(table.columns) == paper.COLUMNS and not table.duplicated(paper.CELL).any()
    assert not table[["id", "dataset", "column", "kind", "value", "source"]].isna().any(axis=None)


def executed_outputs(id: str, pictures: int) -> tuple[dict, catalog.Artefact]:
    """Outputs by cell of docs/<id>_executed.ipynb, and the committed data, once it is clear that they belong together.

    reproduce/executed_copy.py makes that notebook.
    """
    shipped = json.loads((ROOT / "notebooks" / f"{id}.ipynb").read_text(encoding="utf-8"))["cells"]
    path = ROOT / "docs" / f"{id}_executed.ipynb"
    executed = json.loads(path.read_text(encoding="utf-8"))["cells"]
    assert [(c["id"], c["source"]) for c in executed] == [(c["id"], c["source"]) for c in shipped]
    outputs = {cell["id"]: cell["outputs"] for cell in executed if cell["cell_type"] == "code"}
    drawn = [o for found in outputs.values() for o in found if "image/png" in o.get("data", {})]
    assert len(drawn) == pictures and path.stat().st_size <= 400_000
    artefact = catalog.load(id, ROOT / "figures")
    assert artefact.provenance["note"] in "".join("".join(o["text"]) for o in outputs["collect"])
    return outputs, artefact


def test_the_executed_corrections_say_what_the_committed_table_says():
    outputs, artefact = executed_outputs("corrections", pictures=2)
    said = "".join(outputs["sentences"][0]["text"])
    on_sit = sentences(artefact.tables["changes"], "SiT", EXACT[0], EXACT[1:])
    assert said.strip() == on_sit + "\n\n" + sentences(artefact.tables["changes_defar"], "DEFAR")
    assert set(artefact.tables["changes"]["band"]) == {"dc", "low", "high"}


def test_the_executed_notebook_is_the_shipped_one_and_was_run_on_the_committed_data():
    outputs, artefact = executed_outputs("plane", pictures=3)
    said = "".join(outputs["sentences"][0]["text"])
    for nfe in (5, 50):
        rows = artefact.tables["verdicts"].query(f"quantity == 'quality' and nfe == {nfe}")
        assert len(rows) == 6
        assert all(f"{row.model} {row.percent:+.0f} % [" in said for row in rows.itertuples())
