"""Two processes at once on one folder, store and data cache: both right. Two that were killed: one goes on."""

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What tests/two_runs.py reports, by case."""
    command = [sys.executable, "tests/two_runs.py", str(tmp_path_factory.mktemp("runs") / "two")]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, cwd=ROOT, text=True, start_new_session=True, **pipes) as process:
        try:
            said, told = process.communicate(timeout=600)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # with what it forked
    assert process.returncode == 0, told
    return json.loads(said)


@pytest.mark.parametrize("job", ["sampling", "evaluation", "robustness"])
def test_two_runs_at_once_leave_what_one_leaves(found, job):
    assert found[job] == {"statuses": [0, 0], "differs": ""}


def test_two_trainings_in_one_folder_end_as_one(found):
    """The second one is refused, or finds the work done where it came late."""
    assert set(found["training"]["statuses"]) in ({0, 2}, {0}) and found["training"]["differs"] == ""


@pytest.mark.parametrize("job", ["sampling", "robustness"])
def test_one_process_goes_on_where_two_were_killed(found, job):
    assert found[f"{job}, two then one"] == {"statuses": [-9, 0], "differs": ""}


def test_a_store_that_two_runs_share_is_right_at_every_moment(found):
    assert found["store"]["statuses"] == [0, 0] and all(found["store"]["trusted"])
    assert found["store"]["files"] == 1 + 3 * len(
        found["store"]["trusted"]
    )  # a folder; a table, arrays and a note each


def test_a_data_cache_is_made_once(found):
    assert found["data"] == {"statuses": [0, 0], "differs": "", "folders": []}
