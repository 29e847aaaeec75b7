"""The command line: help for everyone, one line for every mistake, files whole or not at all."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from defar_analysis.cli import COMMANDS, main
from defar_analysis.core.checkpoints import Card, load_checkpoint, save_checkpoint
from defar_analysis.core.networks import SiT

RECIPE = """
name = "small"
steps = 3
global_batch = 4
save_every = 2
log_every = 1
[data]
name = "{data}"
[network]
size = ""
[network.options]
hidden_size = 32
depth = 1
num_heads = 2
[objective]
name = "defar"
label_dropout = 0.1
"""


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A data set, a recipe and a checkpoint, all tiny, in the current folder."""
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "data.npz", images=rng.integers(0, 256, (16, 8, 8, 3), np.uint8), labels=np.arange(16) % 4)
    (tmp_path / "recipe.toml").write_text(RECIPE.format(data=tmp_path / "data.npz"))
    torch.manual_seed(0)
    model = SiT(8, 4, 3, 32, 1, 2, num_classes=4)
    torch.nn.init.normal_(model.final_layer.linear.weight, std=0.1)
    save_checkpoint(tmp_path / "checkpoint", model, Card("small", "ema", "", {}))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    said = " ".join(capsys.readouterr().out.split())
    assert COMMANDS[command].__doc__.split(".")[0][:40] in said


def test_train_then_sample_then_measure(small, capsys):
    assert main(["train", "recipe.toml", "--out", "run", "--device", "cpu"]) == 0
    assert capsys.readouterr().out.strip() == "run/checkpoint"
    assert load_checkpoint(small / "run" / "checkpoint").card.training["steps"] == 3
    assert (
        main(["sample", "run/checkpoint", "--out", "grid.png", "--count", "5", "--steps", "2", "--device", "cpu"]) == 0
    )
    assert "2 evaluations" in capsys.readouterr().out
    command = ["measure", "run/checkpoint", "--data", "data.npz", "--profile", "tiny", "--device", "cpu"]
    assert main(command) == 0
    assert "measured pfr, fel, maps" in capsys.readouterr().out
    assert main(command) == 0
    assert "still valid" in capsys.readouterr().out


def test_samples_do_not_depend_on_how_many_are_drawn(small):
    for count in ("3", "9"):
        options = ["--count", count, "--steps", "2", "--solver", "heun", "--device", "cpu"]
        assert main(["sample", "checkpoint", "--out", f"{count}.npz", *options]) == 0
    three, nine = np.load("3.npz"), np.load("9.npz")
    assert nine["arr_0"].shape == (9, 8, 8, 3) and nine["arr_0"].dtype == np.uint8
    np.testing.assert_array_equal(three["arr_0"], nine["arr_0"][:3])
    assert nine["arr_1"].tolist() == [0, 1, 2, 3, 0, 1, 2, 3, 0]


def test_sample_takes_every_solver_guidance_and_label_plan(small, capsys):
    common = ["--count", "3", "--device", "cpu"]
    for out, options in {
        "a.png": ["--solver", "em", "--steps", "3", "--diffusion", "linear", "--last-step", "noisy"],
        "b.npz": ["--solver", "dopri5", "--labels", "random", "--seed", "2"],
        "c": ["--guidance", "2", "--guidance-interval", "0.2", "0.8", "--guidance-channels", "first3", "--steps", "3"],
    }.items():
        assert main(["sample", "checkpoint", "--out", out, *common, *options]) == 0
        captured = capsys.readouterr()
        assert captured.err == "" and captured.out.startswith(f"{out}: 3 images, ") and captured.out.count("\n") == 1
    assert main(["sample", "checkpoint", "--out", "c", *common, "--steps", "4"]) == 2
    assert "give another --out or remove it" in capsys.readouterr().err
    assert main(["sample", "checkpoint", "--compare", "checkpoint", "--out", "d.png", "--steps", "2"]) == 0
    assert "from top to bottom 1 checkpoint, 2 checkpoint; 8 images each" in capsys.readouterr().out


def test_an_unconditional_network_is_never_given_a_label(small, monkeypatch):
    seen = []

    def forward(self, x, t, labels=None):
        seen.append(labels)
        return x * 0.1 + t[:, None, None, None]

    card = Card("free", "ema", "", {}, data={"class_conditional": False})
    save_checkpoint(small / "free", SiT(8, 4, 3, 32, 1, 2, num_classes=1), card)
    monkeypatch.setattr(SiT, "forward", forward)
    assert main(["sample", "free", "--out", "a.npz", "--count", "2", "--steps", "1", "--device", "cpu"]) == 0
    assert main(["measure", "free", "--data", "data.npz", "--profile", "tiny", "--device", "cpu"]) == 0
    assert len(seen) > 3 and all(labels is None for labels in seen)
    assert "arr_1" not in np.load("a.npz")


MISTAKES = {
    "recipe missing": (["train", "none.toml"], "none.toml: no such file"),
    "unknown key": (["train", "recipe.toml", "--set", "step=3"], "did you mean 'steps'?"),
    "wrong type": (["train", "recipe.toml", "--set", "steps=many"], "steps = 'many'; int is needed"),
    "not an assignment": (["train", "recipe.toml", "--set", "steps"], "write KEY=VALUE"),
    "unknown objective": (["train", "recipe.toml", "--set", "objective.name=gan"], "choose from flow_matching, input"),
    "unknown option of the objective": (["train", "recipe.toml", "--set", "objective.beta=2"], "unknown key 'beta'"),
    "bad device": (["train", "recipe.toml", "--device", "gpu9"], "device 'gpu9' cannot be used here"),
    "no checkpoint": (["sample", "nowhere", "--out", "a.png"], "nowhere: no such checkpoint"),
    "bad suffix": (["sample", "checkpoint", "--out", "a.gif"], "a.gif: give a name ending in .png or .npz"),
    "no folder": (["sample", "checkpoint", "--out", "no/a.png"], "no: no such folder"),
    "no images": (["sample", "checkpoint", "--out", "a.png", "--count", "0"], "count = 0"),
    "no steps": (["sample", "checkpoint", "--out", "a.png", "--steps", "0"], "steps = 0"),
    "negative steps": (["sample", "checkpoint", "--out", "a.png", "--steps", "-5"], "steps = -5"),
    "steps of dopri5": (["sample", "checkpoint", "--out", "a", "--solver", "dopri5", "--steps", "5"], "--steps 5"),
    "shift of em": (["sample", "checkpoint", "--out", "a", "--solver", "em", "--shift", "0.3"], "--shift 0.3"),
    "no shift": (["sample", "checkpoint", "--out", "a.png", "--shift", "0"], "shift = 0.0"),
    "diffusion without em": (["sample", "checkpoint", "--out", "a", "--diffusion", "linear"], "goes with --solver em"),
    "no chunk": (["sample", "checkpoint", "--out", "a.png", "--chunk", "0"], "chunk = 0"),
    "label out of range": (["sample", "checkpoint", "--out", "a", "--labels", "4"], "labels = 4; choose from balanced"),
    "negative label": (["sample", "checkpoint", "--out", "a", "--labels", "-1"], "labels = -1"),
    "unknown labels": (["sample", "checkpoint", "--out", "a", "--labels", "+-3"], "labels = '+-3'"),
    "guidance not a number": (["sample", "checkpoint", "--out", "a.png", "--guidance", "nan"], "got nan"),
    "interval outside [0, 1]": (
        ["sample", "checkpoint", "--out", "a.npz", "--guidance", "2", "--guidance-interval", "-0.1", "0.9"],
        "interval must lie in [0, 1]",
    ),
    "interval without guidance": (
        ["sample", "checkpoint", "--out", "a.npz", "--guidance-interval", "0", "0.9"],
        "goes with a guidance scale",
    ),
    "compare into an .npz": (["sample", "--compare", "checkpoint", "checkpoint", "--out", "a.npz"], "ending in .png"),
    "compare one": (["sample", "--compare", "checkpoint", "--out", "a.png"], "give two or more"),
    "sample nothing": (["sample", "--out", "a.png"], "sample needs a checkpoint"),
    "no data": (["measure", "checkpoint", "--data", "none.npz"], "none.npz"),
    "no source": (["data", "cifar10", "--root", "cache", "--source", "none.tar.gz"], "none.tar.gz"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_that_says_how_to_mend_it(mistake, small, capsys):
    arguments, expected = MISTAKES[mistake]
    before = sorted(small.iterdir())
    assert main(arguments) == 2
    captured = capsys.readouterr()
    lines = captured.err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("defar: error: ") and expected in lines[0]
    assert captured.out == ""
    assert [f for f in small.iterdir() if f.is_file()] == [f for f in before if f.is_file()]


@pytest.mark.parametrize(
    "arguments",
    [
        ["sample", "checkpoint", "--out", "taken.png", "--count", "1", "--steps", "1", "--device", "cpu"],
        ["measure", "checkpoint", "--data", "data.npz", "--profile", "tiny", "--results", "file", "--device", "cpu"],
        ["train", "recipe.toml", "--out", "file", "--device", "cpu"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_what_the_system_refuses_is_one_line(arguments, small, capsys):
    (small / "taken.png").mkdir()
    (small / "file").write_text("mine")
    assert main(arguments) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("defar: error: ") and ("taken.png" in line or "file" in line)
    assert (small / "file").read_text() == "mine" and not list(small.glob(".*tmp"))


def test_several_processes_measure_as_one_does(small, capsys):
    command = ["measure", "checkpoint", "--data", "data.npz", "--profile", "tiny", "--device", "cpu"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    parts = [*torchrun, "defar_analysis.cli", "--", *command, "--results", "two"]
    done = subprocess.run(parts, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert main([*command, "--results", "one"]) == 0
    assert capsys.readouterr().out in done.stdout and done.stdout.count("measured") == 1
    for file in (small / "one").rglob("*.parquet"):
        assert file.read_bytes() == (small / "two" / file.relative_to(small / "one")).read_bytes()


def test_a_measurement_without_labels_says_so(small, capsys):
    np.savez("bare.npz", images=np.random.default_rng(0).integers(0, 256, (8, 8, 8, 3), np.uint8))
    assert main(["measure", "checkpoint", "--data", "bare.npz", "--profile", "tiny", "--device", "cpu"]) == 0
    assert "bare.npz, without labels" in capsys.readouterr().out


def test_images_of_another_shape_are_refused(small, capsys):
    np.savez("large.npz", images=np.zeros((8, 16, 16, 3), np.uint8))
    assert main(["measure", "checkpoint", "--data", "large.npz", "--profile", "tiny", "--device", "cpu"]) == 2
    assert "was trained on (3, 8, 8)" in capsys.readouterr().err


def test_an_interrupted_command_says_so_and_exits_130(monkeypatch, small, capsys):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("defar_analysis.sample_source.sample", interrupted)
    assert main(["sample", "checkpoint", "--out", "a.png", "--device", "cpu"]) == 130
    assert "the same command goes on" in capsys.readouterr().err
    assert not list(small.glob("*a.png*"))
