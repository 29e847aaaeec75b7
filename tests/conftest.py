"""What more than one test file uses. Tests read nothing outside the repository."""

import os
from pathlib import Path

import numpy as np
import pytest

from defar_analysis.errors import DefarError

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny tensors: threads would only wait for each other

FIXTURES = Path(__file__).parent / "fixtures"


@pytest.fixture
def fixture_path():
    """The path of a file of recorded numbers, by name."""
    return lambda name: FIXTURES / name


@pytest.fixture
def recorded(fixture_path):
    """The arrays of a recorded .npz, by name of the file, as a dict."""

    def load(name):
        with np.load(fixture_path(name), allow_pickle=False) as file:
            return dict(file)

    return load


@pytest.fixture
def refuses():
    """refuses(call, *parts): call raises a DefarError on one line that has all parts; returns the line."""

    def check(call, *parts):
        with pytest.raises(DefarError) as caught:
            call()
        message = str(caught.value)
        assert message and "\n" not in message
        for part in parts:
            assert str(part) in message, message
        return message

    return check
