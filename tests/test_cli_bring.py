"""`defar import`: the README's own example in a fresh folder, and hostile files, from the command line."""

import os
import re
import subprocess
import sys
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from hostile.weights import MARKER, OPTIONS, hostile_cards, hostile_weights, write_whole
from PIL import Image

from defar_analysis.cli import main
from defar_analysis.core.cards import CARD
from defar_analysis.core.checkpoints import load_checkpoint

ROOT = Path(__file__).parents[1]


def run(command: str, folder: Path, **environment: str) -> subprocess.CompletedProcess:
    """A shell's answer in `folder`, with `defar` this repository's."""
    defar = f'defar() {{ "{sys.executable}" -m defar_analysis.cli "$@"; }}; set -e; '
    variables = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run(["bash", "-c", defar + command], cwd=folder, env=variables, capture_output=True, text=True)


def test_the_readmes_model_is_imported_and_measured_in_a_fresh_folder(tmp_path):
    section = (ROOT / "README.md").read_text(encoding="utf-8").partition("## Bring your own model\n")[2]
    model = re.search(r"```python\n(# my_model.py\n.*?)```", section, flags=re.DOTALL)[1]
    commands = re.search(r"^    defar import my_model.*?(?=\n\n)", section, flags=re.DOTALL | re.MULTILINE)[0]
    assert len([line for line in model.splitlines() if line.strip()]) <= 12
    (tmp_path / "my_model.py").write_text(model, encoding="utf-8")
    pixels = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), np.uint8)
    (tmp_path / "my_images").mkdir()
    for index, image in enumerate(pixels):
        Image.fromarray(image).save(tmp_path / "my_images" / f"{index}.png")
    done = run(commands, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "my_model on 8 images of my_images" in done.stdout and "pfr_prediction" in done.stdout
    assert "DEFAR_TRUST=my_model:build" in done.stdout
    model = load_checkpoint(tmp_path / "mine", trust=("my_model:build",))  # beside the tests, not in the folder
    assert model.shape == (3, 32, 32)


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DEFAR_TRUST", raising=False)


def everything(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.mark.filterwarnings("ignore")
def test_thirty_hostile_files_get_one_line_and_status_2(tmp_path, capsys):
    assert main(["import", str(write_whole(tmp_path / "whole.safetensors")), "--out", "ours", *OPTIONS]) == 0
    assert "69,284 parameters" in capsys.readouterr().out
    count = 0

    def refused(command: list[str], what: str) -> None:
        nonlocal count
        before = everything(tmp_path)
        assert main(command) == 2, what
        said = capsys.readouterr()
        assert said.err.startswith("defar: error: ") and said.err.count("\n") == 1 and not said.out, (what, said)
        assert everything(tmp_path) == before and not (tmp_path / MARKER).exists(), what
        count += 1

    for what, file in islice(hostile_weights(tmp_path), 0, None, 12):
        refused(["import", file.name, "--out", "new", *OPTIONS], what)
    whole = (tmp_path / "ours" / CARD).read_text()
    for what, content in islice(hostile_cards(whole), 0, None, 9):
        (tmp_path / "ours" / CARD).write_bytes(content)
        refused(["sample", "ours", "--out", "s.npz", "--count", "1", "--steps", "1", "--device", "cpu"], what)
    assert count >= 30


def test_hostile_files_in_processes_of_their_own(tmp_path):
    wanted = ("torch.save, os.system", "safetensors, length 9223372036854775808")
    found = 0
    for what, file in hostile_weights(tmp_path):
        if what not in wanted:
            continue
        done = run(f"defar import {file.name} --out new {' '.join(OPTIONS)}", tmp_path)
        assert done.returncode == 2 and not done.stdout, (what, done)
        assert done.stderr.startswith("defar: error: ") and done.stderr.count("\n") == 1, (what, done.stderr)
        assert everything(tmp_path) == [file.name], what
        found += 1
    assert found == 2


OWN = "open('mark', 'w')\nfrom torch import nn\ndef build(width=3): return nn.Conv2d(3, 3, width, padding=width // 2)\n"
CARD_TEXT = """
name = "handmade"
interpolant = "gvp"
[network]
family = "own_code:build"
input_size = 8
in_channels = 3
[network.options]
width = 5
[network.conventions]
arguments = ["x"]
"""


def test_a_card_of_ones_own_needs_trust_and_the_command_line_gives_it(tmp_path, capsys, monkeypatch):
    (tmp_path / "own_code.py").write_text(OWN.replace("nn.Conv2d(3", "Net(3") + "class Net(nn.Conv2d):\n"
                                          "    def forward(self, x, t): return super().forward(x)\n")  # fmt: skip
    text = CARD_TEXT.replace('["x"]', '["x", "t"]')
    (tmp_path / "mine.toml").write_text(text)
    assert main(["import", "mine.toml", "--out", "ours"]) == 2
    assert "DEFAR_TRUST=own_code:build" in capsys.readouterr().err and not (tmp_path / "mark").exists()
    monkeypatch.setenv("DEFAR_TRUST", "own_code:build")
    assert main(["import", "mine.toml", "--out", "ours"]) == 0
    checkpoint = load_checkpoint(tmp_path / "ours")
    assert (checkpoint.card.name, checkpoint.card.interpolant) == ("handmade", "gvp")
    assert checkpoint.model.network.kernel_size == (5, 5)
    monkeypatch.delenv("DEFAR_TRUST")
    command = ["import", "own_code:build", "--out", "again", "--input-size", "8", "--channels", "3", "--set", "width=7"]
    assert main(command) == 0
    assert main([*command[:4], "--channels", "3"]) == 2
    assert "--input-size" in capsys.readouterr().err
    weights = str(tmp_path / "again" / "weights.safetensors")
    assert main(["import", "own_code:build", weights, *command[2:]]) == 0
    again = load_checkpoint(tmp_path / "again", trust=("own_code:build",)).card
    assert again.source["entry"] == "bare" and again.source["family"] == "own_code:build"
    assert main(["import", "own_code:build", weights, *command[2:-1], "width=3"]) == 2
    assert "does not fit" in capsys.readouterr().err
    assert main(["import", "mine.toml", weights, "--out", "no", "--family", "sit"]) == 2
    for old, new in (("[network.options]", "[network.option]"), ("own_code:build", "sit"), ("= 8", '= "8"')):
        (tmp_path / "wrong.toml").write_text(text.replace(old, new))
        capsys.readouterr()
        assert main(["import", "wrong.toml", "--out", "no"]) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1 and not (tmp_path / "no").exists(), said


def test_a_codec_that_does_not_open_is_refused_before_anything_is_written(tmp_path, capsys):
    write_whole(tmp_path / "whole.safetensors")
    (tmp_path / "codec.toml").write_text('kind = "vae"\npath = "nowhere"\n')
    assert main(["import", "whole.safetensors", "--out", "ours", *OPTIONS, "--codec", "codec.toml"]) == 2
    said = capsys.readouterr().err
    assert "codec.toml" in said and said.count("\n") == 1 and not (tmp_path / "ours").exists()
