"""The draws of a training step, made ahead by a thread, and its values, read late: nothing that is computed changes."""

import threading
import time
from dataclasses import fields

import numpy as np
import pytest
import torch

from defar_analysis.core import training
from defar_analysis.core.datasets import ImageDataset
from defar_analysis.core.objectives import LossTerms
from defar_analysis.core.parallel import ALONE
from defar_analysis.core.recipes import Network, Optimizer, Recipe
from defar_analysis.core.step_draws import DrawsAhead, StepDraws
from defar_analysis.core.step_values import StepValues
from defar_analysis.core.training import TrainingRun

STEPS = 7


@pytest.fixture
def run():
    """run(**changes): a run of a tiny network on 20 random images; 8 a step, so that epochs end inside a step."""
    rng = np.random.default_rng(0)
    data = ImageDataset(rng.integers(0, 256, (20, 3, 8, 8), dtype=np.uint8), np.arange(20) % 4, "noise", 4)

    def make(**changes):
        options = {"patch_size": 4, "hidden_size": 16, "depth": 1, "num_heads": 2}
        given = {
            "name": "tiny", "steps": STEPS, "global_batch": 8, "seed": 3, "objective": {"name": "defar"},
            "network": Network(size="", options=options), "optimizer": Optimizer(lr=3e-3, warmup=2),
            "log_every": 3, "save_every": 5,
        }  # fmt: skip
        return TrainingRun(Recipe(**{**given, **changes}), data)

    return make


def equal(one, two):
    """Whether two draws hold the same numbers."""
    for field in fields(one):
        a, b = getattr(one, field.name), getattr(two, field.name)
        if not (torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b):
            return False
    return True


def test_a_steps_draw_does_not_depend_on_what_was_drawn_before(run):
    in_order, backwards = run().draws, run().draws
    there = [in_order(step) for step in range(STEPS)]
    back = [backwards(step) for step in reversed(range(STEPS))]
    assert all(map(equal, there, reversed(back)))
    assert not equal(there[0], there[1])


def test_draws_ahead_are_the_draws(run):
    own = run()
    draws = StepDraws(own.recipe, own.dataset, own.objective_of)
    ahead = DrawsAhead(StepDraws(own.recipe, own.dataset, own.objective_of), STEPS)
    for step in (0, 1, 2, 5, 6, 3, 3, 4):  # as a run that is resumed, set back, asked twice
        assert equal(ahead(step), draws(step))


def test_each_is_made_once_one_at_a_time_and_none_beyond_the_end():
    made, busy, calling = [], threading.Lock(), threading.get_ident()

    def draw(step):
        assert busy.acquire(blocking=False) and threading.get_ident() != calling
        time.sleep(0.002)  # long enough to be caught by a second one
        made.append(step)
        busy.release()
        return step

    ahead = DrawsAhead(draw, STEPS)
    assert [ahead(step) for step in range(STEPS)] == list(range(STEPS))
    ahead._thread.shutdown()
    assert made == list(range(STEPS))


def test_the_next_one_is_begun_before_it_is_asked_for():
    begun = threading.Event()

    def draw(step):
        if step == 1:
            begun.set()
        return step

    DrawsAhead(draw, STEPS)(0)
    assert begun.wait(timeout=60)


def test_what_a_draw_raises_is_raised_at_its_step():
    def draw(step):
        if step == 1:
            raise OSError("the images are gone")
        return step

    ahead = DrawsAhead(draw, STEPS)
    assert ahead(0) == 0
    with pytest.raises(OSError, match="the images are gone"):
        ahead(1)
    assert ahead(2) == 2


@pytest.mark.parametrize("changes", [{}, {"accumulate": 2}, {"flow_matching_steps": 3}])
def test_training_with_draws_ahead_is_bit_equal(run, tmp_path, monkeypatch, changes):
    for name in ("plain", "ahead"):
        (tmp_path / name).mkdir()
    plain = run(**changes)
    plain.to_the_end(tmp_path / "plain")
    monkeypatch.setattr(training, "works_apart", lambda device: True)
    ahead = run(**changes)
    assert isinstance(ahead.draws, DrawsAhead) and isinstance(plain.draws, StepDraws)
    ahead.to_the_end(tmp_path / "ahead")
    weights = ahead.model.state_dict()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in plain.model.state_dict().items())


def test_the_log_holds_every_step_although_it_is_read_late(run, tmp_path, monkeypatch):
    stepped = run()
    values = [stepped.advance() for _ in range(STEPS)]
    logged, kept = [], []
    monkeypatch.setattr(training, "append_log", lambda path, record: logged.append(record))
    monkeypatch.setattr(TrainingRun, "save", lambda self, folder: kept.append((self.step, list(self.window))))
    run().to_the_end(tmp_path)
    for record, steps in zip(logged, (values[:3], values[3:6], values[6:]), strict=True):
        for name in values[0]:
            assert record[name] == pytest.approx(sum(v[name] for v in steps) / len(steps), rel=1e-12)
    assert kept == [(5, values[3:5]), (7, [])]


def test_a_step_is_launched_before_the_one_before_it_is_read(run, tmp_path, monkeypatch):
    order = []
    launch, read = TrainingRun.launch, TrainingRun.read

    def launched(self):
        order.append(("launch", self.step + 1))
        return launch(self)

    def read_late(self, values):
        order.append(("read", values.step))
        return read(self, values)

    monkeypatch.setattr(TrainingRun, "launch", launched)
    monkeypatch.setattr(TrainingRun, "read", read_late)
    run(steps=4, log_every=3, save_every=4).to_the_end(tmp_path)
    first = [("launch", 1), ("launch", 2), ("read", 1), ("launch", 3), ("read", 2), ("read", 3)]
    assert order == [*first, ("launch", 4), ("read", 4)]


def test_values_are_means_over_a_steps_parts_and_name_what_is_not_finite(refuses):
    def terms(fm, adr):
        fm, adr = torch.tensor(fm), torch.tensor(adr)
        return LossTerms(fm + adr, {"fm": fm, "adr": adr}, 3)

    values = StepValues.of(9, [terms(1.0, 2.0), terms(3.0, 6.0)], torch.tensor(0.5), ALONE)
    assert values.read() == {"fm": 2.0, "adr": 4.0, "loss": 6.0, "gradient_norm": 0.5}
    bad = StepValues.of(9, [terms(1.0, float("nan"))], torch.tensor(0.5), ALONE)
    refuses(bad.read, "step 9: adr is nan", "last good state")


def test_a_draw_moves_whole_but_for_its_subset(run):
    draw = run(objective={"name": "defar", "bias_fraction": 0.5}).draws(0)
    moved = draw.to("meta")
    assert moved.data.is_meta and moved.noise.is_meta and moved.labels.is_meta and moved.times.is_meta
    assert moved.perturbation is None and moved.subset is draw.subset and moved.seed == draw.seed
    assert equal(draw.to("cpu"), draw)
    perturbed = run(objective={"name": "input_perturbation"}).draws(0)
    assert perturbed.to("meta").perturbation.is_meta
