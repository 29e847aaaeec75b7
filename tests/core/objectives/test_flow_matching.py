"""The baseline against SiT's own training loss, recorded on the three paths."""

import pytest
import torch

from defar_analysis.core.interpolants import GVP, VP, Linear
from defar_analysis.core.objectives import FlowMatching
from defar_analysis.core.rollout import Draw
from defar_analysis.core.times import uniform_times

PATHS = {"Linear": Linear(), "GVP": GVP(), "VP": VP()}


@pytest.fixture
def sit(recorded):
    return {name: torch.from_numpy(array) for name, array in recorded("sit_training_loss.npz").items()}


@pytest.mark.parametrize("name", PATHS)
def test_each_samples_loss_is_the_official_one(name, sit):
    objective, t = FlowMatching(interpolant=PATHS[name]), sit[f"t.{name}.velocity"]
    for i, expected in enumerate(sit[f"loss.{name}.velocity.None"]):
        draw = Draw(sit["data"][i : i + 1], sit["noise"][i : i + 1], None, t[None, i : i + 1])
        loss = objective(lambda x, t, labels: x.tanh() * (1 + t[:, None, None, None]), draw).total
        torch.testing.assert_close(loss, expected, rtol=1e-5, atol=0, check_dtype=False)


@pytest.mark.parametrize("name", PATHS)
def test_times_are_drawn_from_the_official_interval(name, sit, monkeypatch):
    monkeypatch.setattr(torch, "rand", lambda *shape, **options: sit["uniforms"].reshape(shape))
    times = uniform_times(5, PATHS[name], torch.Generator())
    torch.testing.assert_close(times[0], sit[f"t.{name}.velocity"], rtol=0, atol=1e-7, check_dtype=False)
