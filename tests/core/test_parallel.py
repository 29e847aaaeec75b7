"""Training in several processes and in several parts is the training in one: the same steps, up to rounding."""

import copy
import dataclasses
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from defar_analysis.config import dump_toml
from defar_analysis.core.checkpoints import load_checkpoint
from defar_analysis.core.datasets import Batch, npz_dataset
from defar_analysis.core.ema import Ema
from defar_analysis.core.networks import SiT
from defar_analysis.core.networks.toy import PlaneMLP
from defar_analysis.core.objectives import Defar, FlowMatching
from defar_analysis.core.parallel import BACKENDS, Processes, joined
from defar_analysis.core.recipes import Data, Network, Optimizer, Recipe
from defar_analysis.core.recompute import recompute_blocks
from defar_analysis.core.runs import CHECKPOINT, LOG
from defar_analysis.core.states import saved_states
from defar_analysis.core.training import TrainingRun, train
from defar_analysis.errors import DefarError


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    rng = np.random.default_rng(0)
    file = tmp_path_factory.mktemp("data") / "tiny.npz"
    np.savez(file, arr_0=rng.integers(0, 256, (32, 8, 8, 3), dtype=np.uint8), arr_1=np.arange(32) % 3)
    return file


@pytest.fixture
def recipe(data):
    """recipe(**changes): 6 steps of DEFAR on a tiny SiT without dropout of labels."""

    def make(**changes):
        options = {"patch_size": 4, "hidden_size": 16, "depth": 2, "num_heads": 2}
        return Recipe(**{
            "name": "tiny", "steps": 6, "global_batch": 8, "seed": 3, "data": Data(str(data)), "flow_matching_steps": 2,
            "network": Network(size="", options=options), "objective": {"name": "defar", "label_dropout": 0.2},
            "optimizer": Optimizer(lr=3e-3), "log_every": 1, "save_every": 3, **changes,
        })  # fmt: skip

    return make


def launch(recipe, folder, processes):
    """`torchrun --nproc-per-node N -m defar_analysis.core.training RECIPE`: its exit status and what it said."""
    file = folder.parent / f"{folder.name}.toml"
    file.write_text(dump_toml(dataclasses.asdict(recipe)), encoding="utf-8")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command += ["-m", "defar_analysis.core.training", str(file), "--out", str(folder), "--device", "cpu"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    return done.returncode, done.stdout + done.stderr


def log_of(folder):
    return [json.loads(line) for line in (folder / LOG).read_text(encoding="utf-8").splitlines()]


def assert_same_run(folder, other):
    """The logged numbers and the exported weights of two runs agree to rounding."""
    for ours, theirs in zip(log_of(folder), log_of(other), strict=True):
        assert ours.keys() == theirs.keys()
        for key in ours.keys() - {"seconds"}:
            assert ours[key] == pytest.approx(theirs[key], rel=1e-4, abs=1e-6), key
    one, two = (load_checkpoint(f / CHECKPOINT).model for f in (folder, other))
    for a, b in zip(one.parameters(), two.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)  # they are kept as float16


class Killed(Exception):
    pass


def test_two_processes_go_on_where_one_was_killed_and_end_where_one_ends(recipe, tmp_path, monkeypatch):
    train(recipe(), tmp_path / "straight")

    def killed_in_step_five(self, model, step):
        plain(self, model, step)
        if step == 4:
            raise Killed

    plain = Ema.update
    monkeypatch.setattr(Ema, "update", killed_in_step_five)
    with pytest.raises(Killed):
        train(recipe(), tmp_path / "several")
    assert [file.name for file in saved_states(tmp_path / "several")] == ["state-0000003.pt"]
    status, said = launch(recipe(accumulate=2), tmp_path / "several", 2)
    assert status == 0, said
    assert "deprecated" not in said, "a user of torchrun would read it once for every process"
    assert_same_run(tmp_path / "several", tmp_path / "straight")


def test_four_processes_pair_noise_and_data_over_the_whole_batch(recipe, data, tmp_path):
    changes = {"coupling": "ot", "data": Data(str(data), class_conditional=False), "objective": {"name": "defar"}}
    status, said = launch(recipe(**changes), tmp_path / "four", 4)
    assert status == 0, said
    train(recipe(**changes), tmp_path / "one")
    assert_same_run(tmp_path / "four", tmp_path / "one")


@pytest.mark.parametrize("accumulate", [2, 4])
def test_parts_of_a_step_add_up_to_it(recipe, data, accumulate):
    images = npz_dataset(data)
    whole, parts = (TrainingRun(recipe(accumulate=k), images) for k in (1, accumulate))
    for _ in range(4):  # the last two are DEFAR's
        one, several = whole.advance(), parts.advance()
        assert one == pytest.approx(several, rel=1e-4)
    for a, b in zip(whole.model.parameters(), parts.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("objective", [FlowMatching(), Defar(), Defar(sampled_fraction=0.5), Defar(bias_fraction=0.25)])
def test_the_mean_over_equal_parts_is_the_loss_of_the_whole(objective):
    network = SiT(8, 4, 3, 16, 1, 2, num_classes=3).double()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in network.parameters():
            p.copy_(0.3 * torch.randn(p.shape, generator=generator, dtype=torch.float64))
    data = torch.randn(8, 3, 8, 8, generator=generator, dtype=torch.float64)
    draw = objective.draw(Batch(data, torch.arange(8) % 3), generator)
    parts = [draw.part(i, 2) for i in range(2)]
    rows = torch.cat([part.data for part in parts]).flatten(1)
    assert sorted(rows[:, 0].tolist()) == sorted(data.flatten(1)[:, 0].tolist())  # every image once
    total = torch.stack([objective(network, part).total for part in parts]).mean()
    torch.testing.assert_close(total, objective(network, draw).total, rtol=1e-6, atol=0)  # time features are float32


def test_parts_that_cannot_be_equal_are_refused():
    draw = Defar(sampled_fraction=0.5).draw(Batch(torch.randn(6, 1, 4, 4)), torch.Generator().manual_seed(0))
    with pytest.raises(DefarError, match="3 of a batch's 6 samples cannot be shared equally by 2"):
        draw.part(0, 2)


def test_recomputed_blocks_give_the_same_gradients():
    plain = SiT(8, 4, 3, 16, 2, 2, num_classes=3)
    with torch.no_grad():
        for p in plain.parameters():
            p.copy_(0.3 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))
    saving = copy.deepcopy(plain)
    recompute_blocks(saving)
    assert saving.state_dict().keys() == plain.state_dict().keys()
    calls = []
    saving.blocks[0].attn.register_forward_hook(lambda *_: calls.append(None))
    x, t = torch.randn(2, 3, 8, 8), torch.rand(2)
    for network in (plain, saving):
        network(x, t, torch.tensor([0, 2])).square().sum().backward()
    assert len(calls) == 2  # once more in the backward pass
    for a, b in zip(plain.parameters(), saving.parameters(), strict=True):
        assert (a.grad is None and b.grad is None) or torch.equal(a.grad, b.grad)
    with pytest.raises(DefarError, match="PlaneMLP has no blocks"):
        recompute_blocks(PlaneMLP())


def test_a_run_with_recomputed_blocks_is_the_run_without(recipe, tmp_path):
    train(recipe(recompute_blocks=True), tmp_path / "saving")
    train(recipe(), tmp_path / "plain")
    assert_same_run(tmp_path / "saving", tmp_path / "plain")


@pytest.mark.parametrize("told", [{"RANK": "2", "WORLD_SIZE": "2"}, {"RANK": "one"}, {"WORLD_SIZE": "0"}])
def test_a_senseless_environment_is_named(monkeypatch, told):
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(DefarError, match="=".join(next(iter(told.items())))):
        Processes.from_environment()


def test_one_process_needs_no_connection():
    with joined("cpu") as (processes, device):
        assert processes == Processes(0, 1, 0) and device.type == "cpu" and not torch.distributed.is_initialized()
        assert processes.any(True) and not processes.any(False)
        values = torch.tensor([1.0, 2.0])
        assert processes.mean(values) is values


@pytest.mark.parametrize("kind", BACKENDS)
def test_what_lies_in_the_cpus_memory_waits_for_no_device(kind):
    known = torch.distributed.BackendConfig(torch.distributed.Backend(BACKENDS[kind])).get_device_backend_map()
    assert known["cpu"] == "gloo" and known[kind] == {"cpu": "gloo", "cuda": "nccl", "npu": "hccl"}[kind]


def test_several_processes_do_not_share_a_numbered_device(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(DefarError, match="cpu:0: 2 processes would share it"), joined("cpu:0"):
        raise AssertionError("not reached")
