"""The entries on drift and on the split at their smallest, without notebook and picture; test_reproduction runs the
whole."""

import itertools

import numpy as np
import pytest
import torch

from defar_analysis import exact_fields
from defar_analysis.core.networks import SiT
from defar_analysis.experiment import SHIPPED, Experiment
from defar_analysis.measures.drift_maps import KINDS, RINGS
from defar_analysis.measures.slow_split import QUANTITIES as SLOWED
from defar_analysis.studies import drift, drift_methods, split

pytestmark = [pytest.mark.real_data, pytest.mark.usefixtures("few_images_to_fit")]


def forbid_networks(monkeypatch):
    def forbidden(*args):
        raise AssertionError("a network was called")

    monkeypatch.setattr(SiT, "forward", forbidden)


def test_drift_of_every_model_kind_and_number_of_steps(shipped_project, monkeypatch):
    experiment = Experiment(shipped_project, "tiny", "cpu")
    artefact = drift.build(experiment)
    assert experiment.measured == [f"drift of {name}" for name in drift.MODELS]
    curves, maps = artefact.tables["curves"], artefact.table
    keys = set(itertools.product(drift.MODELS, KINDS, (2, 4)))
    assert set(curves.groupby(["model", "kind", "nfe"]).groups) == keys
    assert len(curves) == len(drift.MODELS) * len(KINDS) * (2 + 4) and len(maps) == RINGS * len(curves)
    assert curves["t"].between(0, 1, inclusive="right").all() and (curves["n"] == 4).all()
    # as many of Euler's steps as of Heun's: more steps come nearer to Heun's solution
    ends = curves[(curves["kind"] == "solver") & (curves["t"] == 1)].set_index(["model", "nfe"])["magnitude"]
    assert all(ends[name, 4] < ends[name, 2] for name in SHIPPED)
    forbid_networks(monkeypatch)
    assert drift.build(Experiment(shipped_project, "tiny", "cpu")).table.equals(maps)  # all from results/


def test_drift_of_the_methods_and_its_changes_against_sit(shipped_project, monkeypatch, refuses):
    experiment = Experiment(shipped_project, "tiny", "cpu")
    artefact = drift_methods.build(experiment)
    curves, paired = (artefact.tables[name] for name in drift_methods.TABLES)
    names = ["SiT", "DEFAR", *drift_methods.REFERENCES]
    assert experiment.measured == [f"drift of {name}" for name in names] and set(curves["model"]) == set(names)
    assert set(paired.groupby(["model", "kind", "nfe"]).groups) == set(itertools.product(names[1:], KINDS, (2, 4)))
    assert list(artefact.provenance["models"])[:2] == ["SiT, cifar10-sit", "DEFAR, cifar10-defar"]
    ends = curves[curves["t"] == 1].set_index(["model", "kind", "nfe"])["magnitude"]
    change = paired.set_index(["model", "kind", "nfe"])["percent"]
    wanted = 100 * (ends["DEFAR", "solver", 4] / ends["SiT", "solver", 4] - 1)
    assert change["DEFAR", "solver", 4] == pytest.approx(wanted, abs=1e-6)
    forbid_networks(monkeypatch)
    assert drift_methods.build(Experiment(shipped_project, "tiny", "cpu")).tables["paired"].equals(paired)
    for profile, parts in (("full", ("fm-1/checkpoint", "run.py fm")), ("quick", ("--only driftmethods",))):
        refuses(lambda p=profile: drift_methods.build(Experiment(shipped_project, p, "cpu")), *parts)


def test_the_split_of_the_smallest_profile_and_what_it_keeps(shipped_project, monkeypatch, refuses):
    experiment = Experiment(shipped_project, "tiny", "cpu")
    artefact = split.build(experiment)
    table = artefact.table
    assert list(dict.fromkeys(table["model"])) == ["FM", "DEFAR"]
    slow = table["quantity"].isin(SLOWED)
    assert (table[~slow]["n"] == 8).all() and (table[slow]["n"] == 4).all()
    assert set(table[slow]["quantity"]) == set(SLOWED) and table[slow]["t"].nunique() == 4
    np.testing.assert_allclose(table["measured"], table["inherent"] + table["of_model"], rtol=1e-6, atol=1e-9)
    assert (table[table["quantity"] == "excess"]["measured"] > 0).all()
    forbid_networks(monkeypatch)
    assert split.build(Experiment(shipped_project, "tiny", "cpu")).table.equals(table)
    refuses(lambda: split.build(Experiment(shipped_project, "full", "cpu")), "gaussian/fm/checkpoint", "run.py")
    refuses(lambda: split.build(Experiment(shipped_project, "quick", "cpu")), "--only split", split.TAKES)


def test_exact_fields_by_name(shipped_project):
    experiment = Experiment(shipped_project, "tiny", "cpu")
    batch = experiment.test_images.batch(range(4))
    noise, t = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0)), torch.full((4,), 0.5)
    x = (batch.data + noise) / 2
    ways = {name: experiment.field(name)(x, t, batch.labels) for name in exact_fields.EXACT}
    assert all(v.shape == x.shape and v.isfinite().all() for v in ways.values())
    # a memory walks to its own images: at t = 1/2 the end point x + v/2 is nearly one of them, of the label or of any
    train = experiment.train_images.batch(range(len(experiment.train_images)))
    for name in (exact_fields.EMPIRICAL, exact_fields.EMPIRICAL_ALL):
        for end, label in zip((x + ways[name] / 2).flatten(1), batch.labels, strict=True):
            allowed = train.data[train.labels == label] if name == exact_fields.EMPIRICAL else train.data
            nearest = (allowed.flatten(1) - end).square().mean(1).min()
            assert nearest < 1e-3
    assert experiment.field(exact_fields.EMPIRICAL) is experiment.field(exact_fields.EMPIRICAL)
    identities = {exact_fields.identity(name, experiment.train_images)["reference"] for name in exact_fields.EXACT}
    assert len(identities) == 3


def test_the_memories_take_the_quick_grid_in_the_full_profile(shipped_project):
    experiment = Experiment(shipped_project, "full", "cpu")
    contexts = {name: experiment._context(name) for name in ("SiT", exact_fields.GAUSSIAN, exact_fields.EMPIRICAL)}
    assert [c.grid.name for c in contexts.values()] == ["full", "full", "quick"]
    assert contexts[exact_fields.EMPIRICAL].count == 64
