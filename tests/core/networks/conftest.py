"""Recorded networks, for every family."""

import pytest
import torch
from safetensors.torch import load_file


@pytest.fixture
def official(fixture_path, recorded):
    """official(network, name, io): the network with the recorded weights, strictly, and the recorded tensors."""

    def load(network, name, leave_out="none"):
        weights = load_file(fixture_path(f"{name}.safetensors"))
        weights = {key: value for key, value in weights.items() if not key.startswith(leave_out)}
        assert {k: v.shape for k, v in network.state_dict().items()} == {k: v.shape for k, v in weights.items()}
        network.load_state_dict(weights, strict=True)
        numbers = {key: torch.from_numpy(value) for key, value in recorded(f"{name}_io.npz").items()}
        return network.eval().requires_grad_(False), numbers

    return load
