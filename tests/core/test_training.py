"""Training on a tiny data set: a run that is stopped, killed or damaged ends where an uninterrupted one ends."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
import torch
from disk import full_after

from defar_analysis import files
from defar_analysis.config import dump_toml, from_table
from defar_analysis.core import training
from defar_analysis.core.cards import CARD, WEIGHTS
from defar_analysis.core.checkpoints import load_checkpoint
from defar_analysis.core.datasets import ImageDataset, npz_dataset
from defar_analysis.core.ema import Ema
from defar_analysis.core.objectives import FlowMatching
from defar_analysis.core.recipes import Data, Network, Optimizer, Recipe
from defar_analysis.core.runs import CHECKPOINT, LOG, RECIPE
from defar_analysis.core.states import POINTER, saved_states
from defar_analysis.core.training import TrainingRun, main, train

ROOT = Path(__file__).parents[2]
IMAGES, CLASSES = 64, 3
DEFAR = {"name": "defar", "label_dropout": 0.2}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """64 smooth images of 8 x 8 in three classes."""
    rng = np.random.default_rng(0)
    place = np.linspace(0, 1, 8)
    slope = rng.uniform(-100, 100, (IMAGES, 1, 1, 3))
    images = 128 + slope * (place[:, None, None] - 0.5) + rng.normal(0, 10, (IMAGES, 8, 8, 3))
    file = tmp_path_factory.mktemp("data") / "tiny.npz"
    np.savez(file, arr_0=images.clip(0, 255).astype(np.uint8), arr_1=np.arange(IMAGES) % CLASSES)
    return file


@pytest.fixture
def recipe(data):
    """recipe(**changes): 12 steps of DEFAR on a tiny SiT, saved every 5, logged every 2."""

    def make(**changes):
        options = {"patch_size": 4, "hidden_size": 16, "depth": 1, "num_heads": 2}
        return Recipe(**{
            "name": "tiny", "steps": 12, "global_batch": 24, "seed": 3, "data": Data(str(data)),
            "network": Network(size="", options=options), "objective": DEFAR,
            "optimizer": Optimizer(lr=3e-3, warmup=4), "log_every": 2, "save_every": 5, **changes,
        })  # fmt: skip

    return make


@pytest.fixture
def recipe_file(recipe, tmp_path):
    """The path of recipe(**changes) as a file."""

    def write(**changes):
        file = tmp_path / "recipe-of-a-test.toml"
        file.write_text(dump_toml(dataclasses.asdict(recipe(**changes))), encoding="utf-8")
        return file

    return write


class Killed(Exception):
    pass


@pytest.fixture
def kill_at(monkeypatch):
    """kill_at(n, act): act() at the end of step n (from 0); with n = None never again."""

    def arm(step, act):
        def update(self, model, now):
            plain(self, model, now)
            if now == step:
                act()

        monkeypatch.setattr(Ema, "update", update)

    plain = Ema.update
    return arm


def kill():
    raise Killed


def same(a, b):
    """Equal bit for bit, through nested dicts and lists."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def last_state(folder):
    return torch.load(saved_states(folder)[0], weights_only=True)


def assert_same_end(folder, other):
    """Network, average, optimizer and exported weights of two finished runs are equal bit for bit."""
    states = [last_state(f) for f in (folder, other)]
    for key in ("step", "model", "ema", "optimizer"):
        assert same(states[0][key], states[1][key]), key
    assert (folder / CHECKPOINT / WEIGHTS).read_bytes() == (other / CHECKPOINT / WEIGHTS).read_bytes()


def log_of(folder):
    return [json.loads(line) for line in (folder / LOG).read_text(encoding="utf-8").splitlines()]


def steps_in_log(folder):
    return [record["step"] for record in log_of(folder)]


EVERY_SECOND = [2, 4, 6, 8, 10, 12]


@pytest.fixture
def straight(recipe, tmp_path):
    """The folder of the 12 steps without any interruption."""
    train(recipe(), tmp_path / "straight")
    return tmp_path / "straight"


@pytest.fixture
def killed_at_8(recipe, tmp_path, kill_at):
    """A folder whose run was killed in its eighth step, last saved after the fifth."""
    kill_at(7, kill)
    with pytest.raises(Killed):
        train(recipe(), tmp_path / "killed")
    kill_at(None, kill)
    assert last_state(tmp_path / "killed")["step"] == 5
    return tmp_path / "killed"


# --- a run from its beginning to its end ---


def test_a_run_leaves_recipe_log_states_and_a_checkpoint(straight, recipe, data):
    assert {f.name for f in straight.iterdir()} == {
        RECIPE, LOG, CHECKPOINT, POINTER, "state-0000012.pt", "state-0000010.pt",
    }  # fmt: skip
    assert steps_in_log(straight) == EVERY_SECOND
    for record in log_of(straight):
        assert record.keys() == {"step", "loss", "fm", "adr", "fc", "gradient_norm", "seconds"}
        assert record["loss"] == pytest.approx(10 * record["adr"] + record["fc"], rel=1e-5)
    card = load_checkpoint(straight / CHECKPOINT).card
    assert (card.name, card.weights, card.interpolant) == ("tiny", "ema", "linear")
    assert card.data["sha256"] == npz_dataset(data).hash and card.data["classes"] == CLASSES
    assert card.training["steps"] == 12 and card.training["forwards_per_step"] == 3
    assert card.training["recipe"]["optimizer"]["lr"] == 3e-3
    assert from_table(Recipe, card.training["recipe"], "card") == recipe()


def test_the_checkpoint_is_the_average_and_not_the_raw_network(straight):
    loaded = load_checkpoint(straight / CHECKPOINT).model.state_dict()
    state = last_state(straight)
    for name, tensor in loaded.items():
        assert torch.equal(tensor, state["ema"][name].half().float())
    assert not same(state["ema"], state["model"])


def test_training_twice_gives_the_same_and_another_seed_another(recipe, straight, tmp_path):
    torch.manual_seed(99)  # whatever the global generator was before
    train(recipe(), tmp_path / "again")
    assert_same_end(straight, tmp_path / "again")
    train(recipe(seed=4), tmp_path / "other")
    assert (straight / CHECKPOINT / WEIGHTS).read_bytes() != (tmp_path / "other" / CHECKPOINT / WEIGHTS).read_bytes()


def test_every_epoch_shows_every_image_once_in_another_order(recipe, tmp_path, monkeypatch):
    seen, plain = [], ImageDataset.batch

    def batch(self, indices, **options):
        seen.extend(indices.tolist())
        return plain(self, indices, **options)

    monkeypatch.setattr(ImageDataset, "batch", batch)
    train(recipe(steps=8), tmp_path / "run")  # 8 batches of 24 are three epochs of 64
    epochs = [seen[i : i + IMAGES] for i in range(0, 3 * IMAGES, IMAGES)]
    assert all(sorted(epoch) == list(range(IMAGES)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0]


def test_a_batch_may_be_larger_than_the_data(recipe, tmp_path, monkeypatch):
    seen, plain = [], ImageDataset.batch

    def batch(self, indices, **options):
        seen.extend(indices.tolist())
        return plain(self, indices, **options)

    monkeypatch.setattr(ImageDataset, "batch", batch)
    train(recipe(steps=1, global_batch=2 * IMAGES), tmp_path / "run")
    assert sorted(seen[:IMAGES]) == sorted(seen[IMAGES:]) == list(range(IMAGES))


def test_the_rate_warms_up_linearly(recipe, data):
    run, rates = TrainingRun(recipe(), npz_dataset(data)), []
    for _ in range(6):
        run.advance()
        rates.append(run.optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([3e-3 * share for share in (0.25, 0.5, 0.75, 1, 1, 1)], rel=1e-12)


def test_the_first_steps_can_train_flow_matching(recipe, tmp_path):
    """They are those of a flow-matching run of that length; then the objective takes over."""
    train(recipe(flow_matching_steps=4, steps=6), tmp_path / "both")
    log = log_of(tmp_path / "both")
    assert ["adr" in record for record in log] == [False, False, True]
    assert log[0]["loss"] == log[0]["fm"]
    plain = recipe(objective={"name": "flow_matching", "label_dropout": 0.2}, steps=6)
    train(plain, tmp_path / "plain")
    for a, b in zip(log[:2], log_of(tmp_path / "plain")[:2], strict=True):
        assert {**a, "seconds": 0} == {**b, "seconds": 0}


def test_the_average_is_as_good_as_the_network_after_a_short_run(recipe, data):
    """A constant decay of 0.9999 would still hold 95 % of the initial weights."""
    dataset = npz_dataset(data)
    objective = {"name": "flow_matching", "label_dropout": 0.1}
    network = Network(size="", options={"patch_size": 4, "hidden_size": 32, "depth": 1, "num_heads": 2})
    run = TrainingRun(
        recipe(steps=500, objective=objective, network=network, optimizer=Optimizer(lr=5e-3)), dataset
    )  # fmt: skip
    batch = dataset.batch(torch.arange(IMAGES).repeat(8))
    draw = FlowMatching().draw(batch, torch.Generator().manual_seed(0))

    @torch.no_grad()
    def loss(model):
        return FlowMatching()(model, draw).total.item()

    start = loss(run.model)
    for _ in range(500):
        run.advance()
    assert loss(run.model) < 0.6 * start
    assert loss(run.ema.model) <= 1.1 * loss(run.model)


# --- conditions ---


@pytest.mark.parametrize("class_conditional", [True, False])
def test_labels_reach_the_network_only_where_the_recipe_says(recipe, data, class_conditional):
    run = TrainingRun(recipe(data=Data(str(data), class_conditional=class_conditional)), npz_dataset(data))
    assert run.model.num_classes == (CLASSES if class_conditional else 1)
    seen = []
    run.model.register_forward_pre_hook(lambda model, inputs: seen.append(inputs[2]))
    for _ in range(3):
        run.advance()
    labels = {label for batch in seen if batch is not None for label in batch.tolist()}
    assert labels == {0, 1, 2, 3} if class_conditional else labels <= {0, 1}
    card = run.card()
    assert card.data["class_conditional"] == class_conditional and card.data["classes"] == run.model.num_classes


def test_an_unconditional_network_trains_what_no_labels_evaluates(recipe, data):
    objective = {"name": "flow_matching"}
    run = TrainingRun(recipe(objective=objective, data=Data(str(data), class_conditional=False)), npz_dataset(data))
    table = run.model.y_embedder.embedding_table.weight
    before = table.detach().clone()
    for _ in range(3):
        run.advance()
    assert not torch.equal(table[run.model.num_classes], before[run.model.num_classes])


def test_data_without_labels_trains_an_unconditional_network_only(recipe, tmp_path, data, refuses):
    bare = tmp_path / "bare.npz"
    with np.load(data) as file:
        np.savez(bare, arr_0=file["arr_0"])
    refuses(lambda: train(recipe(data=Data(str(bare))), tmp_path / "run"), bare, "class_conditional = false")
    folder = train(recipe(steps=2, data=Data(str(bare), class_conditional=False)), tmp_path / "run")
    assert load_checkpoint(folder).classes is None


# --- stopping and going on ---


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_saves_and_goes_on_to_the_same_end(recipe, straight, tmp_path, kill_at, signum):
    before = signal.getsignal(signum)
    kill_at(6, lambda: os.kill(os.getpid(), signum))
    folder = tmp_path / "stopped"
    with pytest.raises(training.Interrupted, match="step 7 of 12"):
        train(recipe(), folder)
    assert last_state(folder)["step"] == 7
    assert not (folder / CHECKPOINT).exists()
    assert signal.getsignal(signum) is before
    kill_at(None, kill)
    assert train(recipe(), folder) == folder / CHECKPOINT
    assert_same_end(folder, straight)
    assert steps_in_log(folder) == EVERY_SECOND


def test_a_killed_run_loses_nothing_before_its_last_save(recipe, straight, killed_at_8):
    train(recipe(), killed_at_8)
    assert_same_end(killed_at_8, straight)
    assert steps_in_log(killed_at_8) == EVERY_SECOND


def test_a_line_cut_short_leaves_the_log_without_gaps_or_doubles(recipe, killed_at_8):
    with open(killed_at_8 / LOG, "a", encoding="utf-8") as log:
        log.write('{"step": 6, "loss": 1.0}\n{"step": 8, "lo')
    train(recipe(), killed_at_8)
    assert steps_in_log(killed_at_8) == EVERY_SECOND


def test_the_log_of_a_resumed_run_holds_the_same_means(recipe, straight, killed_at_8):
    """The run was saved between two lines of the log."""
    train(recipe(), killed_at_8)
    for a, b in zip(log_of(straight), log_of(killed_at_8), strict=True):
        assert {**a, "seconds": 0} == {**b, "seconds": 0}


def test_a_kill_while_saving_leaves_the_state_before(recipe, straight, tmp_path, monkeypatch):
    folder, plain, calls = tmp_path / "killed", torch.save, []

    def save(state, file):
        calls.append(state["step"])
        if state["step"] == 10:
            file.write(b"half")
            raise Killed
        plain(state, file)

    monkeypatch.setattr(training.torch, "save", save)
    with pytest.raises(Killed):
        train(recipe(), folder)
    assert last_state(folder)["step"] == 5
    assert {f.name for f in folder.iterdir()} == {RECIPE, LOG, POINTER, "state-0000005.pt"}
    monkeypatch.setattr(training.torch, "save", plain)
    train(recipe(), folder)
    assert_same_end(folder, straight)


def test_a_folder_that_another_process_trains_in_is_refused(recipe, straight, monkeypatch, refuses):
    monkeypatch.setattr(files, "PATIENCE", 0.0)
    before = {f: f.read_bytes() for f in straight.rglob("*") if f.is_file()}
    with files.alone(straight):
        refuses(lambda: train(recipe(), straight), straight, "another process", "--out")
    assert {f: f.read_bytes() for f in straight.rglob("*") if f.is_file()} == before


@pytest.mark.parametrize("saved", [0, 5])
def test_a_full_disk_ends_in_one_line_and_loses_nothing(recipe_file, straight, tmp_path, kill_at, capsys, saved):
    """Before the first state was saved, or the second."""
    folder, arguments = tmp_path / "run", command(recipe_file(), "--out", tmp_path / "run")
    with ExitStack() as stack:
        kill_at(saved, lambda: stack.enter_context(full_after(4000)))
        assert main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    failed = folder / f"state-{saved + 5:07d}.pt"
    assert line.startswith(f"error: {failed}: File too large") and "make room and run again" in line
    kept = [POINTER, "state-0000005.pt"] if saved else []
    assert {f.name for f in folder.iterdir()} == {RECIPE, LOG, *kept}
    kill_at(None, kill)
    assert main(arguments) == 0
    assert_same_end(folder, straight)
    assert steps_in_log(folder) == EVERY_SECOND


def test_weights_that_are_not_finite_never_become_the_last_good_state(recipe, straight, tmp_path, refuses):
    """The loss of the step before was finite, so only its state tells."""

    def spoil(self, model, now):
        plain(self, model, now)
        if now == 9:
            with torch.no_grad():
                next(model.parameters()).view(-1)[0] = torch.inf

    plain = Ema.update
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Ema, "update", spoil)
        refuses(lambda: train(recipe(), tmp_path / "run"), "step 10: model.", "is not finite", "state is kept")
    assert last_state(tmp_path / "run")["step"] == 5
    train(recipe(), tmp_path / "run")
    assert_same_end(tmp_path / "run", straight)


DAMAGES = {
    "cut": lambda whole: whole[: len(whole) // 2],
    "a bit that torch does not miss": lambda whole: bytes([*whole[:1000], whole[1000] ^ 1]) + whole[1001:],
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_corrupt_state_is_kept_aside_and_the_one_before_goes_on(recipe, straight, tmp_path, kill_at, capsys, damage):
    kill_at(10, kill)
    folder = tmp_path / "killed"
    with pytest.raises(Killed):
        train(recipe(), folder)
    kill_at(None, kill)
    newest = saved_states(folder)[0]
    whole = newest.read_bytes()
    broken = damage(whole)
    newest.write_bytes(broken)
    capsys.readouterr()
    train(recipe(), folder)
    (line,) = capsys.readouterr().err.splitlines()
    (aside,) = folder.glob("*.corrupt")
    assert str(newest) in line and aside.name in line
    assert aside.read_bytes() == broken
    assert_same_end(folder, straight)
    assert steps_in_log(folder) == EVERY_SECOND


@pytest.mark.parametrize("content", [b"", b"no state"])
def test_without_a_readable_state_nothing_is_overwritten(recipe, killed_at_8, content, refuses):
    for file in saved_states(killed_at_8):
        file.write_bytes(content)
    before = {f: f.read_bytes() for f in killed_at_8.iterdir() if f.is_file()}
    refuses(lambda: train(recipe(), killed_at_8), "state-0000005.pt", "corrupt", "--out")
    assert {f: f.read_bytes() for f in killed_at_8.iterdir() if f.is_file()} == before


def test_a_state_that_cannot_be_read_just_now_is_left_alone(recipe, straight, killed_at_8, monkeypatch, refuses):
    def full(*args, **kwargs):
        raise MemoryError("no memory")

    with monkeypatch.context() as patch:
        patch.setattr(training.torch, "load", full)
        refuses(lambda: train(recipe(), killed_at_8), "state-0000005.pt", "no memory", "try again")
    train(recipe(), killed_at_8)
    assert_same_end(killed_at_8, straight)


def test_a_run_does_not_go_on_with_other_images(recipe, data, killed_at_8, refuses):
    with np.load(data) as file:
        arrays = dict(file)
    np.savez(data, **{**arrays, "arr_0": 255 - arrays["arr_0"]})
    try:
        refuses(lambda: train(recipe(), killed_at_8), killed_at_8, "other images")
    finally:
        np.savez(data, **arrays)


def test_a_finished_run_is_not_trained_again(recipe, straight, monkeypatch, capsys):
    before = (straight / CHECKPOINT / WEIGHTS).read_bytes()
    monkeypatch.setattr(TrainingRun, "advance", kill)
    assert train(recipe(), straight) == straight / CHECKPOINT
    assert "already trained" in capsys.readouterr().err
    assert (straight / CHECKPOINT / WEIGHTS).read_bytes() == before


@pytest.mark.parametrize("left", [(), (WEIGHTS,), (CARD,)])
def test_a_finished_run_killed_before_its_checkpoint_writes_it_again(recipe, straight, tmp_path, left):
    weights = (straight / CHECKPOINT / WEIGHTS).read_bytes()
    for name in {WEIGHTS, CARD} - set(left):
        (straight / CHECKPOINT / name).unlink()
    folder = train(recipe(), straight)
    assert (folder / WEIGHTS).read_bytes() == weights
    assert load_checkpoint(folder).card.training["forwards_per_step"] == 3


def test_a_finished_run_without_a_checkpoint_folder_writes_it_again(recipe, straight):
    weights = (straight / CHECKPOINT / WEIGHTS).read_bytes()
    for file in (straight / CHECKPOINT).iterdir():
        file.unlink()
    (straight / CHECKPOINT).rmdir()
    folder = train(recipe(), straight)
    assert (folder / WEIGHTS).read_bytes() == weights
    assert load_checkpoint(folder).card.training["steps"] == 12


# --- starting from a checkpoint ---


@pytest.fixture
def start(straight):
    """A checkpoint to start from, another folder than the runs'."""
    return straight / CHECKPOINT


def test_post_training_starts_from_exactly_the_checkpoints_weights(recipe, data, start):
    run = TrainingRun(recipe(init_from=str(start), seed=9), npz_dataset(data))
    weights = dict(load_checkpoint(start).model.state_dict())
    assert same(dict(run.model.state_dict()), weights) and same(dict(run.ema.model.state_dict()), weights)
    assert not same(dict(TrainingRun(recipe(seed=9), npz_dataset(data)).model.state_dict()), weights)
    trained = [p for p in run.model.parameters() if p.requires_grad]
    assert len(trained) == len(run.parameters) > 10  # the checkpoint is loaded frozen; the run is not
    before = run.model.final_layer.linear.weight.detach().clone()
    run.advance()
    assert not torch.equal(run.model.final_layer.linear.weight, before)
    assert same(dict(load_checkpoint(start).model.state_dict()), weights)


def test_post_training_may_have_another_objective_and_seed(recipe, start, tmp_path):
    objective = {"name": "mixflow", "label_dropout": 0.2}
    folder = train(recipe(init_from=str(start), seed=9, objective=objective, steps=3), tmp_path / "post")
    card = load_checkpoint(folder).card
    assert card.training["started_from"] == {"checkpoint": "tiny", "sha256": load_checkpoint(start).card.sha256}
    assert card.training["recipe"]["init_from"] == str(start) and card.training["steps"] == 3
    assert "started_from" not in load_checkpoint(start).card.training


def test_a_killed_post_training_goes_on_to_the_same_end(recipe, start, tmp_path, kill_at):
    post = recipe(init_from=str(start), seed=9, steps=8, save_every=3)
    train(post, tmp_path / "at once")
    kill_at(4, kill)
    with pytest.raises(Killed):
        train(post, tmp_path / "in two")
    kill_at(None, kill)
    assert last_state(tmp_path / "in two")["step"] == 3
    train(post, tmp_path / "in two")
    assert_same_end(tmp_path / "in two", tmp_path / "at once")
    cards = [load_checkpoint(tmp_path / f / CHECKPOINT).card.training for f in ("in two", "at once")]
    assert cards[0]["started_from"] == cards[1]["started_from"]


def test_a_post_training_that_has_begun_needs_its_origin_no_more(recipe, start, tmp_path, kill_at):
    origin = Path(shutil.copytree(start, tmp_path / "origin"))
    post = recipe(init_from=str(origin), seed=9, steps=8, save_every=3)
    kill_at(4, kill)
    with pytest.raises(Killed):
        train(post, tmp_path / "run")
    kill_at(None, kill)
    known = load_checkpoint(origin).card.sha256
    shutil.rmtree(origin)
    train(post, tmp_path / "run")
    assert load_checkpoint(tmp_path / "run" / CHECKPOINT).card.training["started_from"]["sha256"] == known


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"interpolant": "gvp"}, ("interpolant linear instead of gvp",)),
        ({"network": {"depth": 2}}, ("depth 1 instead of 2",)),
        (
            {"network": {"hidden_size": 32, "mlp_ratio": 2.0}},
            ("hidden_size 16 instead of 32", "mlp_ratio 4.0 instead of 2.0"),
        ),
        ({"network": {"patch_size": 2}}, ("patch_size 4 instead of 2",)),
    ],
    ids=str,
)
def test_a_checkpoint_of_another_network_is_refused_by_what_differs(recipe, start, tmp_path, changes, parts, refuses):
    changes = dict(changes)
    if "network" in changes:
        options = {"patch_size": 4, "hidden_size": 16, "depth": 1, "num_heads": 2, **changes["network"]}
        changes["network"] = Network(size="", options=options)
    message = refuses(
        lambda: train(recipe(init_from=str(start), **changes), tmp_path / "post"), start, "another network", *parts
    )
    assert message.count(" instead of ") == len(parts)
    assert not (tmp_path / "post").exists()


def test_a_training_without_labels_goes_on_from_the_null_label(recipe, data, start, tmp_path, refuses):
    unlabelled = recipe(init_from=str(start), seed=9, steps=2, data=Data(str(data), class_conditional=False))
    model, origin = TrainingRun(unlabelled, npz_dataset(data)).model.eval(), load_checkpoint(start).model
    x, t = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([0.1, 0.5, 0.9])
    with torch.no_grad():
        for labels in (None, torch.tensor([0, 1, 1])):
            assert torch.equal(model(x, t, labels), origin(x, t))
        assert not torch.equal(origin(x, t, torch.tensor([0, 1, 1])), origin(x, t))
    folder = train(unlabelled, tmp_path / "post")
    assert load_checkpoint(folder).card.training["started_from"]["labels"].startswith("none")
    assert load_checkpoint(folder).classes is None
    never = train(recipe(objective={"name": "flow_matching"}, steps=1), tmp_path / "never")
    lacking = recipe(init_from=str(never), data=Data(str(data), class_conditional=False))
    refuses(lambda: train(lacking, tmp_path / "lacking"), never, "label_dropout = 0")
    labelled = recipe(init_from=str(folder))
    refuses(lambda: train(labelled, tmp_path / "back"), folder, f"num_classes 1 instead of {CLASSES}")


def test_a_checkpoint_that_is_not_there_is_refused(recipe, tmp_path, refuses):
    refuses(lambda: train(recipe(init_from=str(tmp_path / "none")), tmp_path / "post"), "none", "no such checkpoint")
    assert not (tmp_path / "post").exists()


def test_a_folder_of_another_start_is_refused(recipe, start, tmp_path, refuses):
    train(recipe(init_from=str(start), steps=1), tmp_path / "post")
    refuses(lambda: train(recipe(steps=1), tmp_path / "post"), tmp_path / "post", "init_from")


# --- every kind of step ---


@pytest.mark.parametrize(
    "name", ["input_perturbation", "sdss", "mdss", "mixflow", "reflexflow", "simpletuner", "strong"]
)
def test_every_objective_trains_twice_the_same(recipe, tmp_path, name):
    for folder in ("one", "two"):
        train(recipe(steps=3, objective={"name": name, "label_dropout": 0.2}), tmp_path / folder)
    assert_same_end(tmp_path / "one", tmp_path / "two")
    record = log_of(tmp_path / "one")[-1]
    term = {"input_perturbation": "ip", "reflexflow": "adr", "simpletuner": "adr", "strong": "adr"}.get(name, name)
    assert record[term] > 0
    card = load_checkpoint(tmp_path / "one" / CHECKPOINT).card
    assert from_table(Recipe, card.training["recipe"], "card").objective["name"] == name


def test_optimal_transport_trains_without_labels(recipe, data, tmp_path):
    plain, coupled = (
        recipe(steps=3, objective={"name": "flow_matching"}, data=Data(str(data), class_conditional=False), **coupling)
        for coupling in ({}, {"coupling": "ot"})
    )
    for folder, made in (("plain", plain), ("one", coupled), ("two", coupled)):
        train(made, tmp_path / folder)
    assert_same_end(tmp_path / "one", tmp_path / "two")
    states = [last_state(tmp_path / f) for f in ("plain", "one")]
    assert not same(states[0]["model"], states[1]["model"])


# --- what is refused ---


def test_another_recipe_in_the_same_folder_is_refused(recipe, straight, refuses):
    before = {f: f.read_bytes() for f in straight.rglob("*") if f.is_file()}
    refuses(lambda: train(recipe(seed=5), straight), straight, "seed")
    refuses(lambda: train(recipe(objective={"name": "flow_matching"}), straight), straight, "objective")
    assert {f: f.read_bytes() for f in straight.rglob("*") if f.is_file()} == before


def test_a_recipe_that_cannot_start_does_not_claim_its_folder(recipe, tmp_path, refuses):
    """Otherwise the mended recipe is refused as another one."""
    refuses(lambda: train(recipe(objective={"name": "defar", "beta9": 1.0}), tmp_path / "run"), "beta9")
    refuses(lambda: train(recipe(network=Network(size="", options={"dept": 1})), tmp_path / "run"), "dept")
    train(recipe(steps=1), tmp_path / "run")


def test_a_loss_that_is_not_finite_is_named_and_the_last_state_stays(recipe, tmp_path, refuses):
    """A rate of 1e30 in the first step makes the second one overflow."""
    wild = recipe(optimizer=Optimizer(lr=1e30), save_every=1)
    message = refuses(lambda: train(wild, tmp_path / "run"), "step 2", "state is kept")
    assert message.startswith(("step 2: fm is nan", "step 2: fm is inf"))
    state = last_state(tmp_path / "run")
    assert state["step"] == 1
    assert all(tensor.isfinite().all() for tensor in state["model"].values())


@pytest.mark.parametrize("name", ["adr", "fc", "fm"])
def test_the_term_that_is_not_finite_is_the_one_that_is_named(recipe, data, monkeypatch, name, refuses, tmp_path):
    run = TrainingRun(recipe(), npz_dataset(data))
    plain = type(run.objective).__call__

    def broken(self, model, draw):
        loss = plain(self, model, draw)
        terms = {**loss.terms, name: loss.terms[name] * torch.inf}
        return dataclasses.replace(loss, total=loss.total * torch.inf, terms=terms)

    monkeypatch.setattr(type(run.objective), "__call__", broken)
    refuses(run.advance, f"step 1: {name} is ")
    refuses(lambda: run.save(tmp_path), "not finite")  # who goes on all the same
    assert not saved_states(tmp_path)


# --- the command line ---


def command(*arguments):
    return [str(argument) for argument in arguments]


def test_the_command_trains_and_prints_the_checkpoint(recipe_file, recipe, straight, tmp_path, capsys):
    assert main(command(recipe_file(steps=3), "--out", tmp_path / "run", "--set", "steps=12")) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'run' / CHECKPOINT}\n"
    assert_same_end(tmp_path / "run", straight)


@pytest.mark.parametrize(
    ("settings", "part"),
    [
        (["stpes=3"], "did you mean 'steps'"),
        (["steps"], "KEY=VALUE"),
        (["steps=0"], "steps = 0"),
        (["steps=many"], "int"),
        (["flow_matching_steps=13"], "flow_matching_steps"),
        (["interpolant=cubic"], "linear, gvp, vp"),
        (["precision=float16"], "'bf16'"),
        (["data.name=nowhere.npz"], "nowhere.npz"),
        (["data.image_size=16"], "16"),
        (["network.family=gan"], "'gan'"),
        (["network.size=H/2"], "'H/2'"),
        (["network.size=Ti/4"], "patch_size"),
        (["network.options.patch_size=3"], "patch_size"),
        (["network.options.num_heads=0"], "num_heads"),
        (["objective.name=magic"], "'magic'"),
        (["coupling=best"], "independent, ot"),
        (["init_from=nowhere"], "nowhere"),
        (["objective.bias_norm=l3"], "'l3'"),
        (["objective.label_dropout=2.0"], "label_dropout"),
        (["objective.steps=0"], "steps"),
        (["optimizer.lr=-1.0"], "lr"),
        (["optimizer.betas=[0.9]"], "betas"),
        (["optimizer.betas=[0.9, 2.0]"], "betas"),
        (["optimizer.weight_decay=-1.0"], "weight_decay"),
        (["ema_decay=1.5"], "ema_decay"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_mistakes_in_a_recipe_end_in_one_line_and_status_2(recipe_file, tmp_path, capsys, settings, part):
    options = [word for setting in settings for word in ("--set", setting)]
    assert main(command(recipe_file(), "--out", tmp_path / "run", *options)) == 2
    streams = capsys.readouterr()
    (line,) = streams.err.splitlines()
    assert line.startswith("error: ") and part in line and streams.out == ""


def test_other_mistakes_end_in_one_line_and_status_2(recipe_file, tmp_path, capsys):
    (tmp_path / "a-file").write_text("")
    (tmp_path / "broken.toml").write_text("steps = ")
    for arguments, part in [
        ((tmp_path / "none.toml",), "none.toml"),
        ((tmp_path / "broken.toml",), "broken.toml"),
        ((recipe_file(), "--out", tmp_path / "a-file"), "a-file"),
        ((recipe_file(), "--out", tmp_path / "a-file" / "below"), "a-file"),
        ((recipe_file(), "--out", tmp_path / "run", "--device", "toaster"), "toaster"),
    ]:
        assert main(command(*arguments)) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("error: ") and part in line


def test_training_needs_no_progress_bar(recipe, tmp_path, monkeypatch):
    """tqdm is not among the core's dependencies."""
    monkeypatch.setitem(sys.modules, "tqdm", None)
    train(recipe(steps=1), tmp_path / "run")


INTERRUPTED = """
import os, runpy, signal, sys
from defar_analysis.core.ema import Ema
plain = Ema.update
def update(self, model, step):
    plain(self, model, step)
    if step == 6:
        os.kill(os.getpid(), signal.SIGINT)
Ema.update = update
runpy.run_module("defar_analysis.core.training", run_name="__main__", alter_sys=True)
"""


def test_ctrl_c_saves_exits_130_with_one_line_and_the_same_command_goes_on(recipe_file, straight, tmp_path):
    arguments = command(recipe_file(), "--out", tmp_path / "run")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": str(torch.get_num_threads())}

    def run(*python):
        return subprocess.run(
            [sys.executable, *python, *arguments], cwd=tmp_path, env=environment,
            capture_output=True, text=True, timeout=300,
        )  # fmt: skip

    stopped = run("-c", INTERRUPTED)  # `python -m`, with Ctrl-C pressed during the seventh step
    assert (stopped.returncode, stopped.stdout) == (130, "")
    (line,) = stopped.stderr.splitlines()
    assert "step 7 of 12" in line
    finished = run("-m", "defar_analysis.core.training")
    assert (finished.returncode, finished.stderr) == (0, "")
    assert_same_end(tmp_path / "run", straight)


# --- half precision ---


def test_bf16_runs_the_network_in_bf16_and_everything_else_in_float32(recipe, data):
    run = TrainingRun(recipe(precision="bf16"), npz_dataset(data))
    inside = set()
    run.model.blocks[0].mlp.fc1.register_forward_hook(lambda module, args, out: inside.add(out.dtype))
    torch.nn.init.normal_(run.model.final_layer.linear.weight, std=0.1)
    values = [run.advance() for _ in range(3)]
    assert inside == {torch.bfloat16}
    assert all(np.isfinite(list(v.values())).all() for v in values)
    assert {p.dtype for p in run.model.parameters()} == {torch.float32}
    with torch.autocast("cpu", torch.bfloat16):
        generator = torch.Generator().manual_seed(0)
        batch = npz_dataset(data).batch([0, 1, 2, 3])
        loss = run.objective(run.model, run.objective.draw(batch, generator))
    assert loss.total.dtype == torch.float32
    assert {term.dtype for term in loss.terms.values()} == {torch.float32}
