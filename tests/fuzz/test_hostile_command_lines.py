"""Command lines, most of them in this process and some as true ones: status, one line, and nothing else."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from hostile.command_lines import CHOSEN, hostile_command_lines

from defar_analysis import cli
from defar_analysis.core.checkpoints import Card, save_checkpoint
from defar_analysis.core.networks import SiT
from defar_analysis.errors import DefarError

RECIPE = """
name = "small"
steps = 3
global_batch = 4
[data]
name = "data.npz"
[network]
size = ""
options = { hidden_size = 32, depth = 1, num_heads = 2 }
"""


@pytest.fixture
def here(watch):
    """The current folder, with a data set, a recipe and a checkpoint, all tiny, and a file and a folder in the way."""
    here = watch.top / "here"
    pixels = np.random.default_rng(0).integers(0, 256, (16, 8, 8, 3), np.uint8)
    np.savez(here / "data.npz", images=pixels, labels=np.arange(16) % 4)
    (here / "recipe.toml").write_text(RECIPE)
    (here / "taken").write_text("mine")
    (here / "taken.npz").write_text("mine")
    (here / "folder").mkdir()
    torch.manual_seed(0)
    save_checkpoint(here / "checkpoint", SiT(8, 4, 3, 32, 1, 2, num_classes=4), Card("small", "ema", "", {}))
    return here


def at(watch, arguments):
    return [word.replace("OUT", str(watch.out)) for word in arguments]


def run(arguments, capsys):
    """As Watch wants it: the one line that the command line said is raised."""
    try:
        status = cli.main(arguments)
    except SystemExit as stop:  # what tyro says of the words themselves, in a box of several lines
        said = capsys.readouterr()
        assert stop.code == 2 and said.err + said.out and "Traceback" not in said.err, (stop.code, said)
        raise DefarError("not a command line") from None
    said = capsys.readouterr()
    assert "Traceback" not in said.err + said.out, said
    if status == 2:
        line = said.err.strip().splitlines()[-1]
        assert line.startswith("defar: error: "), said
        raise DefarError(line)
    return status


@pytest.mark.filterwarnings("ignore")
def test_command_lines_in_this_process(watch, here, capsys):
    for arguments in hostile_command_lines():
        shown = " ".join(word[:40] for word in arguments)
        watch(shown, lambda arguments=arguments: run(at(watch, arguments), capsys), lambda status: status in (0, 1))
    watch.done("command lines")


def test_command_lines_as_processes(watch, here):
    environment = {
        **os.environ,
        "PYTHONPATH": str(cli.__file__).rpartition("/defar_analysis/")[0],
        "OMP_NUM_THREADS": "1",
    }
    before = watch.files()
    some = [
        ["train", "/dev/zero"],
        ["sample", "checkpoint", "--out", os.fsdecode(b"\xff\xfe/a.png")],
        ["figure", "\x1b[2J"],
        ["measure", "checkpoint", "--data", "taken.npz"],
        CHOSEN[0],
        ["sample", "--count", "x"],
    ]
    for arguments in some:
        command = [sys.executable, "-m", "defar_analysis.cli", *arguments]
        done = subprocess.run(command, capture_output=True, env=environment, timeout=600, stdin=subprocess.DEVNULL)
        assert done.returncode == 2, (arguments, done)
        assert b"Traceback" not in done.stderr and b"\x1b[2J" not in done.stderr and not done.stdout, (arguments, done)
        watch.count += 1
    watch.unchanged(before, "processes")
    watch.done("processes")
