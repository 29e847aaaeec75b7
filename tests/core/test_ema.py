"""The average against a recursion by hand."""

import pytest
import torch
from torch import nn

from defar_analysis.core.ema import Ema


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.trained = nn.Parameter(torch.zeros(3, dtype=torch.float64))
        self.frozen = nn.Parameter(torch.full((2,), 0.1), requires_grad=False)
        self.register_buffer("counter", torch.tensor(0))


def test_decay_is_the_warm_up_until_the_longest_memory():
    ema = Ema(Model(), decay=0.99, total_steps=1_000_000)
    assert [ema.decay_at(n) for n in (0, 1, 90)] == pytest.approx([0.1, 2 / 11, 0.91], abs=1e-15)
    assert ema.decay_at(889) == pytest.approx(890 / 899, abs=1e-15)  # the last one below 0.99
    assert ema.decay_at(891) == ema.decay_at(10**9) == 0.99


def test_half_life_is_at_most_a_twentieth_of_the_run():
    ema = Ema(Model(), decay=0.9999, total_steps=2000)
    assert ema.decay_at(10**9) ** 100 == pytest.approx(0.5, abs=1e-12)
    assert Ema(Model(), 0.9999, 10**6).decay_at(10**9) == 0.9999
    assert Ema(Model(), 0.9999, 5).decay_at(10**9) == 0.5  # never shorter than one step


def test_average_is_the_recursion_by_hand():
    model = Model()
    ema = Ema(model, decay=0.7, total_steps=10_000)
    by_hand = torch.zeros(3, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    for step in range(40):
        with torch.no_grad():
            model.trained.copy_(torch.randn(3, dtype=torch.float64, generator=generator))
        ema.update(model, step)
        decay = min(0.7, (1 + step) / (10 + step))
        by_hand = decay * by_hand + (1 - decay) * model.trained.detach()
    torch.testing.assert_close(ema.model.trained.detach(), by_hand, rtol=1e-13, atol=1e-13)


def test_what_is_not_trained_is_copied_exactly():
    model = Model()
    ema = Ema(model, decay=0.9999, total_steps=1000)
    for step in range(200):
        ema.update(model, step)
    assert torch.equal(ema.model.frozen, model.frozen)
    with torch.no_grad():
        model.frozen.fill_(0.3)
        model.counter += 5
    ema.update(model, 200)
    assert torch.equal(ema.model.frozen, model.frozen) and ema.model.counter == 5


def test_the_average_is_a_copy_in_eval_mode_without_gradients():
    model = Model().train()
    ema = Ema(model, 0.9, 100)
    assert not ema.model.training and model.training
    assert not any(p.requires_grad for p in ema.model.parameters()) and model.trained.requires_grad
    with torch.no_grad():
        model.trained.fill_(1)
    assert ema.model.trained.abs().sum() == 0
    ema.update(model, 0)
    assert not ema.model.trained.requires_grad
    torch.testing.assert_close(ema.model.trained, torch.full((3,), 0.9, dtype=torch.float64))
