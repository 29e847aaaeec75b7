"""What more than one test file uses. Tests read nothing outside the repository."""

import itertools
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from defar_analysis.errors import DefarError

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny tensors: threads would only wait for each other

ROOT = Path(__file__).parents[1]
FIXTURES = Path(__file__).parent / "fixtures"
LONGEST = ("test_reproduction.py", "test_real_quality.py")  # begun first, so that parallel workers end together


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: item.path.name not in LONGEST)


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


@pytest.fixture
def few_images_to_fit(monkeypatch):
    """The Gaussian reference fitted on a tenth of the training images: seconds less, where nothing depends on it."""
    from defar_analysis.core.oracles import GaussianFlow  # most tests need no torch before they ask for it

    fit = GaussianFlow.fit
    monkeypatch.setattr(GaussianFlow, "fit", lambda batches: fit(itertools.islice(batches, 5)))


@pytest.fixture
def shipped_project(tmp_path):
    """A project folder with the shipped checkpoints and the paper's values, and nothing measured."""
    shipped = ROOT / "reproduce"
    shutil.copytree(shipped / "checkpoints", tmp_path / "reproduce" / "checkpoints")
    shutil.copy(shipped / "paper_values.csv", tmp_path / "reproduce")
    return tmp_path
