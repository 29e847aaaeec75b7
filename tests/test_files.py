"""Files are whole or not there: after a kill, beside another process, and when the disk says no."""

import errno
import io
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from disk import full_after
from PIL import Image
from safetensors.torch import save_file

from defar_analysis import files
from defar_analysis.core.runs import append_log
from defar_analysis.errors import DefarError, one_line
from defar_analysis.files import HOST, alone, replaced, tidy

NOBODY = 2**22 + 1  # Linux gives no process such a number


# --- what a killed process has left ---


def left(folder, name, host=HOST, process=NOBODY, age=0.0):
    file = folder / f".{name}.{host}-{process}.tmp"
    file.write_text("half")
    os.utime(file, (time.time() - age, time.time() - age))
    return file


def test_the_first_writing_in_a_folder_removes_what_dead_processes_left(tmp_path):
    dead = [left(tmp_path, "a.csv"), left(tmp_path, "b", process=os.getpid()), left(tmp_path, "c", "other", age=1e6)]
    alive = [left(tmp_path, "a.csv", process=os.getppid()), left(tmp_path, "c", "other", age=3600)]
    dead.append(tmp_path / ".d.77.tmp")  # as older versions named them: its host is not known
    dead[-1].touch()
    os.utime(dead[-1], (0, 0))
    with replaced(tmp_path / "new.csv") as beside:
        beside.write_text("whole")
    assert {file.name for file in tmp_path.iterdir()} == {"new.csv", *(file.name for file in alive)}


def test_tidying_up_after_one_file_leaves_the_others(tmp_path):
    one, two = left(tmp_path, "a[1].npz"), left(tmp_path, "b.npz")
    tidy(tmp_path, "a[1].npz")
    assert not one.exists() and two.exists()


# --- one at a time ---

HOLDER = """
import select, sys
from pathlib import Path
from defar_analysis.files import alone
with alone(Path(sys.argv[1])):
    print("has it", flush=True)
    select.select([sys.stdin], [], [], 60)
"""


@contextmanager
def held(path):
    """Another process is alone with `path` until its stdin is closed or it is killed, a minute at most."""
    command = [sys.executable, "-c", HOLDER, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        try:
            assert holder.stdout.readline() == b"has it\n"
            yield holder
        finally:
            holder.kill()


def test_another_process_is_waited_for_and_said_so(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "PATIENCE", 0.0)
    with held(tmp_path / "a") as holder:

        class Said(io.StringIO):
            def write(self, text):
                holder.stdin.close()  # it may end now that it is waited for
                return super().write(text)

        monkeypatch.setattr(sys, "stderr", said := Said())
        with alone(tmp_path / "a"):
            assert holder.wait() == 0  # it is through
        monkeypatch.undo()
    assert said.getvalue() == f"{tmp_path / 'a'}: another process is writing it; waiting\n"
    assert not list(tmp_path.iterdir())


def test_or_it_is_refused(tmp_path, refuses):
    def try_it():
        with alone(tmp_path / "a", "give another --out"):
            pytest.fail("was let in")

    with held(tmp_path / "a"):
        refuses(try_it, tmp_path / "a", "another process is writing it; give another --out")


def test_a_folder_has_one_lock_by_whichever_name_it_is_reached(tmp_path, monkeypatch, refuses):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    monkeypatch.chdir(tmp_path / "real")

    def try_it(path):
        with alone(path, "give another --out"):
            pytest.fail("was let in")

    with held(tmp_path / "real"):
        for path in (tmp_path / "link", Path("."), Path("../real"), Path("../link/")):
            refuses(lambda path=path: try_it(path), f"{path}: another process")
    assert sorted(os.listdir(tmp_path)) == [".real.lock", "link", "real"]  # the killed one's
    for path in (Path("."), Path("..")):
        with alone(path, "never") as surely:
            assert surely
    assert sorted(os.listdir(tmp_path)) == ["link", "real"]


def test_a_lock_that_was_removed_elsewhere_is_made_anew(tmp_path, monkeypatch):
    """On a network file system its handle is stale, where a local one is a file without a name."""
    plain, told = os.fstat, []

    def stale_once(file):
        if not told:
            told.append(file)
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return plain(file)

    monkeypatch.setattr(os, "fstat", stale_once)
    with alone(tmp_path / "a") as surely:
        assert surely and told


def test_a_killed_process_lets_go(tmp_path):
    with held(tmp_path / "a") as holder:
        os.kill(holder.pid, signal.SIGKILL)
        with alone(tmp_path / "a", "never"):
            pass
    assert not list(tmp_path.iterdir())


def test_where_there_can_be_no_lock_it_goes_on_without(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    with alone(tmp_path / "file" / "below") as surely:
        assert not surely
    with alone(tmp_path / "a") as surely:
        assert surely

    def unable(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(files.fcntl, "flock", unable)
    with alone(tmp_path / "a"), alone(tmp_path / "a"):
        pass
    monkeypatch.setattr(files, "fcntl", None)
    with alone(tmp_path / "a"), alone(tmp_path / "a"):
        pass


# --- a disk that refuses ---


NOISE = np.random.default_rng(0).integers(0, 256, (200, 200, 3), np.uint8)


def opened(write):
    def call(path):
        with open(path, "wb") as file:
            write(file)

    return call


def figure(path):
    drawn, axes = plt.subplots()
    axes.imshow(NOISE)
    drawn.savefig(path, format="png")
    plt.close(drawn)


WRITERS = {
    "torch": opened(lambda file: torch.save(torch.from_numpy(NOISE), file)),
    "safetensors": lambda path: save_file({"noise": torch.from_numpy(NOISE)}, path),
    "parquet": lambda path: pd.DataFrame(NOISE[0]).to_parquet(path),
    "csv": lambda path: pd.DataFrame(NOISE[0]).to_csv(path),
    "npz": opened(lambda file: np.savez_compressed(file, NOISE)),
    "npy": opened(lambda file: np.save(file, NOISE)),
    "png": lambda path: Image.fromarray(NOISE).save(path, format="PNG"),
    "figure": figure,
    "text": lambda path: path.write_text("text" * 1000),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_a_full_disk_names_the_file_and_leaves_the_old_one(writer, tmp_path):
    pd.DataFrame(NOISE[0]).to_parquet(tmp_path / "warm")  # what is imported late is imported now
    (tmp_path / "warm").unlink()
    (tmp_path / "result").write_text("old")
    with full_after(1000), pytest.raises(OSError) as caught, replaced(tmp_path / "result") as beside:
        WRITERS[writer](beside)
    line = one_line(caught.value)
    assert line.startswith(f"{tmp_path / 'result'}: ") and "make room and run again" in line and "\n" not in line
    assert caught.value.errno and ("too large" in line or "written" in line)
    assert [file.name for file in tmp_path.iterdir()] == ["result"]
    assert (tmp_path / "result").read_text() == "old"
    with replaced(tmp_path / "result") as beside:
        WRITERS[writer](beside)
    assert (tmp_path / "result").stat().st_size > 1000


def test_a_full_disk_refuses_a_line_of_the_log(tmp_path):
    with pytest.raises(OSError, match="/dev/full") as caught:
        append_log("/dev/full", {"step": 1})
    assert caught.value.errno == errno.ENOSPC


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.EDQUOT, errno.EIO])
def test_other_refusals_name_the_file_too(number, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OSError) as caught, replaced(tmp_path / "result") as beside:
        beside.write_text("new")
    assert one_line(caught.value).startswith(f"{tmp_path / 'result'}: {os.strerror(number)}")
    assert not list(tmp_path.iterdir())


def test_other_errors_stay_what_they_are(tmp_path):
    for error in (DefarError("mine"), RuntimeError("torch's"), FileNotFoundError(2, "gone", "another")):
        with pytest.raises(type(error)) as caught, replaced(tmp_path / "result") as beside:
            beside.write_text("new")
            raise error
        assert caught.value is error and not list(tmp_path.iterdir())
