"""`defar sample`: what it writes, that it goes on where it was stopped, and what it refuses to overwrite."""

import dataclasses
import io
import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from contextlib import ExitStack

import numpy as np
import pytest
import torch
from disk import full_after
from PIL import Image

from defar_analysis import sample_source, sampling
from defar_analysis.core.checkpoints import Card, load_checkpoint, save_checkpoint
from defar_analysis.core.networks import SiT
from defar_analysis.core.samplers import Dopri5, Euler, EulerMaruyama, Heun, sample
from defar_analysis.core.seeding import image_noise, random_labels
from defar_analysis.errors import DefarError, Interrupted
from defar_analysis.files import HOST, alone
from defar_analysis.sample_files import named_rows, row_names
from defar_analysis.sample_source import ImageSource
from defar_analysis.sampling import Plan, compare_to_file, finished, sample_to_file, solver_named


def checkpoint(name, seed=0, channels=3, classes=4, size=8, **data):
    torch.manual_seed(seed)
    model = SiT(size, 4, channels, 32, 1, 2, num_classes=classes)
    for weight in (model.final_layer.linear.weight, model.final_layer.adaLN_modulation[1].weight):
        torch.nn.init.normal_(weight, std=0.3)
    return save_checkpoint(name, model, Card(name.name, "ema", "", {}, data=data))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder, with two tiny checkpoints, `one` and `two`."""
    checkpoint(tmp_path / "one")
    checkpoint(tmp_path / "two", seed=1)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(out, plan, name="one"):
    return sample_to_file(name, out, plan, "cpu")


def npz(path):
    with np.load(path, allow_pickle=False) as file:
        return {key: file[key] for key in file.files}


def pictures(path):
    return np.stack([np.asarray(Image.open(file)) for file in sorted(path.glob("*.png"))])


PLAN = Plan(Euler(2), count=7, chunk=3)


def test_a_grid_an_npz_and_a_folder_hold_the_same_images(folder):
    for out in ("a.npz", "a.png", "a"):
        assert run(out, PLAN).startswith(f"{out}: 7 images, Euler(steps=2")
    images = npz("a.npz")["arr_0"]
    assert images.shape == (7, 8, 8, 3) and images.dtype == np.uint8 and images.std() > 10
    np.testing.assert_array_equal(pictures(folder / "a"), images)
    grid = np.asarray(Image.open("a.png"))
    assert grid.shape == (24, 24, 3) and (grid[16:, 8:] == 255).all()
    np.testing.assert_array_equal(grid[8:16, 16:24], images[5])
    rows = (folder / "a" / "labels.csv").read_text().split()
    assert rows[:2] == ["file,label", "000000.png,0"] and rows[-1] == "000006.png,2"
    assert {path.name for path in folder.iterdir()} == {"one", "two", "a", "a.npz", "a.png"}


def test_the_npz_is_in_adms_layout(folder):
    run("a.npz", PLAN)
    with zipfile.ZipFile("a.npz") as archive, archive.open("arr_0.npy") as file:  # as ADM's evaluator streams it
        assert np.lib.format.read_magic(file) == (1, 0)
        assert np.lib.format.read_array_header_1_0(file) == ((7, 8, 8, 3), False, np.dtype("uint8"))
        assert len(file.read()) == 7 * 8 * 8 * 3
    assert list(npz("a.npz")) == ["arr_0", "arr_1", "provenance"]
    assert npz("a.npz")["arr_1"].tolist() == [0, 1, 2, 3, 0, 1, 2]


def test_every_output_says_where_it_comes_from(folder):
    plan = Plan(Heun(2), 4, seed=3, labels=2, guidance=1.5, interval=(0.2, 0.8))
    for out in ("a.npz", "a.png", "a"):
        run(out, plan)
    records = [
        json.loads(str(npz("a.npz")["provenance"])),
        json.loads(Image.open("a.png").text["provenance"]),
        json.loads((folder / "a" / "samples.json").read_text()),
    ]
    for record in records:
        command = record["command"]
        assert command["sha256"] == load_checkpoint("one").card.sha256
        assert command["solver"] == repr(Heun(2)) and command["count"] == 4
        assert (command["seed"], command["labels"]) == (3, 2)
        assert command["guidance"] == {
            "kind": "CFG", "scale": 1.5, "null_label": 4, "interval": [0.2, 0.8], "channels": "all",
        }  # fmt: skip
        assert record["nfe"] == 4 and record["forwards"] == 4 and record["environment"]["torch"] == torch.__version__


@pytest.fixture
def stopped_after(monkeypatch):
    """stopped_after(n, how): the n-th chunk's sampling calls `how` first. Returns the list of chunks sampled."""
    real = sample_source.sample

    def arrange(number, how):
        chunks = []

        def sample(*args, **kwargs):
            chunks.append(len(chunks))
            if len(chunks) == number:
                how()
            return real(*args, **kwargs)

        monkeypatch.setattr(sample_source, "sample", sample)
        return chunks

    return arrange


def interrupt():
    raise KeyboardInterrupt


@pytest.mark.parametrize("out", ["a.npz", "a"])
@pytest.mark.parametrize("solver", [Euler(2), EulerMaruyama(3), Dopri5()], ids=lambda solver: type(solver).__name__)
def test_an_interrupted_run_goes_on_bit_for_bit(solver, out, folder, stopped_after):
    plan = Plan(solver, count=10, chunk=3, labels="random", guidance=1.5)
    line = run(f"whole{out[1:]}", plan)
    stopped_after(3, interrupt)
    with pytest.raises(KeyboardInterrupt):
        run(out, plan)
    assert not (folder / "a.npz").exists()
    chunks = stopped_after(0, interrupt)
    assert run(out, plan) == line.replace("whole", "a", 1)
    assert len(chunks) == 2  # two of four were kept
    if out == "a.npz":
        assert (folder / "a.npz").read_bytes() == (folder / "whole.npz").read_bytes()
        assert not (folder / "a.npz.parts").exists()
        return
    files = {path.name: path.read_bytes() for path in (folder / "whole").iterdir()}
    assert {path.name: path.read_bytes() for path in (folder / "a").iterdir()} == files
    assert run(out, plan) and len(chunks) == 2  # nothing is left to do


@pytest.mark.parametrize("out", ["a.npz", "a"])
def test_a_full_disk_names_the_file_and_finished_chunks_are_kept(out, folder, stopped_after):
    run(f"whole{out[1:]}", PLAN)
    with ExitStack() as stack, pytest.raises(OSError, match=r"(too large|whole).*'a(\.npz\.parts)?/000003"):
        stopped_after(2, lambda: stack.enter_context(full_after(100)))
        run(out, PLAN)
    assert not list(folder.rglob(".*")) and not (folder / "a.npz").exists()
    chunks = stopped_after(0, interrupt)
    run(out, PLAN)
    assert len(chunks) == 2  # one of three was kept
    files = [(f, folder / "whole" / f.name) for f in (folder / "a").glob("*")] or [(folder / out, folder / "whole.npz")]
    assert all(ours.read_bytes() == theirs.read_bytes() for ours, theirs in files)


@pytest.mark.parametrize(("out", "file"), [("a.npz", "a.npz.parts/000000.npy"), ("a", "a/000001.png")])
def test_a_damaged_part_is_drawn_again(out, file, folder, stopped_after, capsys):
    run(f"whole{out[1:]}", PLAN)
    stopped_after(3, interrupt)
    with pytest.raises(KeyboardInterrupt):
        run(out, PLAN)
    (folder / file).write_bytes((folder / file).read_bytes()[:-7])
    chunks = stopped_after(0, interrupt)
    run(out, PLAN)
    assert len(chunks) == 2 and f"{file}: damaged" in capsys.readouterr().err
    files = [(f, folder / "whole" / f.name) for f in (folder / "a").glob("*")] or [(folder / out, folder / "whole.npz")]
    assert all(ours.read_bytes() == theirs.read_bytes() for ours, theirs in files)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_request_to_stop_waits_for_the_chunk(signum, folder, stopped_after):
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    stopped_after(2, lambda: os.kill(os.getpid(), signum))
    with pytest.raises(Interrupted, match=r"^a\.npz: stopped with 6 of 7 images kept; the same command goes on"):
        run("a.npz", PLAN)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers
    stopped_after(3, lambda: os.kill(os.getpid(), signum))
    assert "7 images" in run("b", PLAN)  # asked in the last chunk: it is finished


def half_written(name, process=2**22 + 1):
    """What a process that was killed has left; there is none of such a number."""
    return f".{name}.{HOST}-{process}.tmp"


def test_a_killed_run_goes_on(folder):
    command = [sys.executable, "-m", "defar_analysis.cli", "sample", "one", "--out", "a", "--count", "4000"]
    command += ["--chunk", "4", "--steps", "3", "--device", "cpu"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while not (folder / "a" / "000011.png").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    assert process.communicate()[1] == b""
    chunks = json.loads((folder / "a" / "samples.json").read_text())["chunks"]
    assert 2 <= len(chunks) < 1000
    (folder / "a" / half_written("000099.png")).touch()
    record = json.loads((folder / "a" / "samples.json").read_text())
    record["command"]["count"] = 16  # as if fewer had been asked for
    record["chunks"] = {start: chunks[start] for start in ("0", "4")}
    (folder / "a" / "samples.json").write_text(json.dumps(record))
    for file in (folder / "a").glob("*.png"):
        if int(file.stem) >= 12:
            file.unlink()
    run("a", Plan(Euler(3), 16, chunk=4))
    run("b.npz", Plan(Euler(3), 16, chunk=4))
    np.testing.assert_array_equal(pictures(folder / "a"), npz("b.npz")["arr_0"])
    assert not list((folder / "a").glob(".*"))


def sampled_by(processes):
    """`torchrun --nproc-per-node N`: 16 images into a.npz."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command = ["-m", "defar_analysis.cli", "sample", "one", "--out", "a.npz", "--count", "16", "--steps", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    return subprocess.run(
        [*torchrun, *command, "--chunk", "3", "--device", "cpu"], capture_output=True, text=True, env=environment
    )


def test_several_processes_do_not_wait_for_another_command(folder):
    with alone(folder / "a.npz"):
        done = sampled_by(2)
    assert done.returncode != 0 and not (folder / "a.npz").exists()
    (line,) = [line for line in done.stderr.splitlines() if "another process is writing it" in line]
    assert line == "defar: error: a.npz: another process is writing it; wait, or give another --out"


@pytest.mark.parametrize("processes", [2, 4])
def test_several_processes_write_the_same_file(folder, processes):
    done = sampled_by(processes)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith("a.npz: 16 images") and done.stdout.count("a.npz") == 1
    run("b.npz", Plan(Euler(2), 16, chunk=3))
    ours, theirs = npz("a.npz"), npz("b.npz")
    assert ours.keys() == theirs.keys() and all(np.array_equal(ours[key], theirs[key]) for key in ("arr_0", "arr_1"))
    assert json.loads(str(ours["provenance"])) == json.loads(str(theirs["provenance"]))


def test_in_bf16_only_the_network_is_rounded_and_the_command_says_so(folder):
    run("plain.npz", PLAN)
    said = run("low.npz", dataclasses.replace(PLAN, precision="bf16"))
    plain, low = npz("plain.npz"), npz("low.npz")
    assert said.split(" evaluations")[1] == " for each image, bf16, seed 0"
    commands = [json.loads(str(file["provenance"]))["command"] for file in (plain, low)]
    assert "precision" not in commands[0]  # files that earlier versions sampled stay valid
    assert commands[1] == commands[0] | {"precision": "bf16"}
    source = ImageSource(load_checkpoint("one"), PLAN, torch.device("cpu"))
    part = source.part(0)
    exact, rounded = (
        sample(source.loaded.model, image_noise(PLAN.seed, part, source.loaded.shape), PLAN.solver,
               labels=source.labels[: part.stop], chunk=PLAN.chunk, network_dtype=dtype).x
        for dtype in (None, torch.bfloat16)
    )  # fmt: skip
    assert rounded.dtype == torch.float32 and not torch.equal(exact, rounded)
    images = source.loaded.codec.decode(rounded).permute(0, 2, 3, 1).numpy()
    np.testing.assert_array_equal(low["arr_0"][: len(images)], images)


OTHERS = {
    "precision": (Plan(Euler(2), 7, chunk=3, precision="bf16"), "one", "precision None, not bf16"),
    "seed": (Plan(Euler(2), 7, seed=1, chunk=3), "one", "seed 0, not 1"),
    "steps": (Plan(Euler(4), 7, chunk=3), "one", "solver Euler(steps=2, grid='uniform'), not Euler(steps=4"),
    "count": (Plan(Euler(2), 8, chunk=3), "one", "count 7, not 8"),
    "guidance": (Plan(Euler(2), 7, chunk=3, guidance=2.0), "one", "guidance None, not {'kind': 'CFG', 'scale': 2.0"),
    "labels": (Plan(Euler(2), 7, chunk=3, labels=1), "one", "labels balanced, not 1"),
    "checkpoint": (PLAN, "two", "checkpoint one, not two; sha256 "),
}


@pytest.mark.parametrize("other", OTHERS)
def test_another_command_is_refused_and_changes_nothing(other, folder, stopped_after, refuses):
    run("a", PLAN)
    stopped_after(2, interrupt)
    with pytest.raises(KeyboardInterrupt):
        run("a.npz", PLAN)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    plan, name, difference = OTHERS[other]
    for out, place in (("a", "a: "), ("a.npz", "a.npz.parts: ")):
        message = refuses(lambda out=out: run(out, plan, name), difference, "give another --out or remove it")
        assert message.startswith(place)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_killed_between_the_npz_and_tidying_up_it_goes_on(folder, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(sampling.Kept, "remove", interrupt_method)
        with pytest.raises(KeyboardInterrupt):
            run("a.npz", PLAN)
    before = (folder / "a.npz").read_bytes()
    (folder / "a.npz.parts" / "000003.npy").unlink()
    for name in ("a.npz", "b.npz"):
        (folder / half_written(name)).touch()
    (folder / half_written("a.npz", os.getppid())).touch()  # of a process that lives
    run("a.npz", PLAN)
    assert (folder / "a.npz").read_bytes() == before and not (folder / "a.npz.parts").exists()
    left = {half_written("b.npz"), half_written("a.npz", os.getppid())}
    assert {path.name for path in folder.glob(".*")} == left


def interrupt_method(self):
    raise KeyboardInterrupt


def test_a_lost_image_is_drawn_again(folder, stopped_after):
    run("a", PLAN)
    before = (folder / "a" / "000004.png").read_bytes()
    (folder / "a" / "000004.png").unlink()
    chunks = stopped_after(0, interrupt)
    run("a", PLAN)
    assert (folder / "a" / "000004.png").read_bytes() == before and len(chunks) == 1


def test_foreign_files_are_left_alone(folder, refuses):
    (folder / "photos").mkdir()
    (folder / "photos" / "mine.png").write_text("mine")
    refuses(lambda: run("photos", PLAN), "photos: holds files that are not samples")
    (folder / "note").write_text("mine")
    refuses(lambda: run("note", PLAN), "note: is a file")
    (folder / "bad").mkdir()
    (folder / "bad" / "samples.json").write_text("{")
    refuses(lambda: run("bad", PLAN), "samples.json: cannot be read; remove bad")
    assert (folder / "photos" / "mine.png").read_text() == (folder / "note").read_text() == "mine"


@pytest.mark.parametrize("out", ["a.npz", "a"])
def test_a_finished_command_is_left_as_it_is(out, folder, stopped_after):
    line = run(out, PLAN)
    files = [folder / out, *(folder / "a").glob("*")]
    before = {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in files}
    chunks = stopped_after(0, interrupt)
    again = run(out, PLAN)
    assert again == line.replace(f"{out}: ", f"{out}: already there, ") and chunks == []
    assert {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in files} == before
    assert {path.name for path in folder.iterdir()} == {"one", "two", out}


def source(plan, name="one"):
    return sample_source.ImageSource(load_checkpoint(name), plan, torch.device("cpu"))


def test_finished_is_for_other_code_to_ask(folder, stopped_after, refuses):
    command = source(PLAN).command
    for out in ("a.npz", "a", "a.png"):
        assert not finished(out, command)
    stopped_after(2, interrupt)
    for out in ("a.npz", "b"):
        with pytest.raises(KeyboardInterrupt):
            run(out, PLAN)
        assert not finished(out, command)
        stopped_after(2, interrupt)
    stopped_after(0, interrupt)
    for out in ("a.npz", "b", "a.png"):
        run(out, PLAN)
        assert finished(folder / out, command) == (out != "a.png")  # a grid is drawn anew each time
    other = source(Plan(Euler(2), 7, seed=1, chunk=3)).command
    for out in ("a.npz", "b"):
        refuses(lambda out=out: finished(out, other), f"{out}: holds samples with seed 0, not 1: give another --out")
    (folder / "b" / "000004.png").unlink()
    assert not finished("b", command)


@pytest.mark.parametrize("other", OTHERS)
def test_a_finished_npz_of_another_command_is_refused(other, folder, stopped_after, refuses):
    run("a.npz", PLAN)
    before = (folder / "a.npz").read_bytes()
    plan, name, difference = OTHERS[other]
    chunks = stopped_after(0, interrupt)
    message = refuses(lambda: run("a.npz", plan, name), difference, "give another --out or remove it")
    assert message.startswith("a.npz: holds samples with ") and chunks == []
    assert (folder / "a.npz").read_bytes() == before and len(list(folder.iterdir())) == 3


def foreign(kind, path):
    arrays = {"arr_0": np.zeros((7, 8, 8, 3), np.uint8)}
    if kind == "text":
        path.write_text("mine")
    elif kind == "empty":
        path.touch()
    elif kind == "array":
        with open(path, "wb") as file:
            np.save(file, arrays["arr_0"])
    elif kind == "pickle":
        np.savez(path, **arrays, provenance=np.array({"command": {}}, dtype=object))
    elif kind == "compressed":
        np.savez_compressed(path, **arrays)
    elif kind == "cut":
        run("whole.npz", PLAN)
        path.write_bytes(path.with_name("whole.npz").read_bytes()[:-30])
    else:
        np.savez(path, **arrays, provenance=np.array(kind))


@pytest.mark.parametrize(
    "kind", ["text", "empty", "array", "pickle", "compressed", "cut", "{", "[]", "7", '{"command": 1, "nfe": 2}']
)
def test_a_foreign_npz_is_left_alone(kind, folder, refuses, stopped_after):
    foreign(kind, folder / "a.npz")
    before = (folder / "a.npz").read_bytes()
    chunks = stopped_after(0, interrupt)
    refuses(lambda: run("a.npz", PLAN), "a.npz: was not written by defar sample; give another --out or remove it")
    assert (folder / "a.npz").read_bytes() == before and chunks == []


def test_parts_of_another_command_beside_a_finished_npz_stay(folder, stopped_after):
    other = Plan(Euler(2), 7, seed=1, chunk=3)
    stopped_after(2, interrupt)
    with pytest.raises(KeyboardInterrupt):
        run("a.npz", other)
    stopped_after(0, interrupt)
    run("b.npz", PLAN)
    (folder / "b.npz").rename(folder / "a.npz")
    before = {path: path.read_bytes() for path in folder.rglob("a.npz*/*")}
    assert len(before) == 2 and "already there" in run("a.npz", PLAN)
    assert {path: path.read_bytes() for path in folder.rglob("a.npz*/*")} == before


def test_guidance_reaches_the_samples(folder):
    def images(name, **options):
        run(name, Plan(Euler(4), 4, **options))
        return npz(name)["arr_0"].astype(int), json.loads(str(npz(name)["provenance"]))["forwards"]

    plain, calls = images("plain.npz")
    np.testing.assert_array_equal(images("neutral.npz", guidance=1.0)[0], plain)
    guided, batched = images("guided.npz", guidance=3.0)
    assert calls == batched == 4 and np.abs(guided - plain).max() > 2
    late = images("late.npz", guidance=3.0, interval=(0.7, 1.0))[0]
    assert 0 < np.abs(late - plain).mean() < np.abs(guided - plain).mean()
    np.testing.assert_array_equal(images("first3.npz", guidance=3.0, channels="first3")[0], guided)


def test_label_plans(folder):
    def labels(plan, seed=0):
        out = f"{plan}{seed}.npz"
        run(out, Plan(Euler(1), 9, seed=seed, labels=plan))
        return npz(out)["arr_1"].tolist()

    assert labels(3) == [3] * 9
    assert labels("random", 5) == random_labels(5, range(9), 4).tolist() != labels("random", 6)


def test_a_network_without_classes_gets_no_labels(folder, refuses):
    checkpoint(folder / "free", classes=1, class_conditional=False)
    run("a", PLAN, "free")
    assert not (folder / "a" / "labels.csv").exists()
    assert json.loads((folder / "a" / "samples.json").read_text())["command"]["labels"] is None
    refuses(lambda: run("b", Plan(Euler(1), guidance=2.0), "free"), "free was trained without classes", "--guidance")
    refuses(lambda: run("b", Plan(Euler(1), labels=0), "free"), "labels = 0", "leave --labels out")


def test_grey_images(folder, refuses):
    checkpoint(folder / "grey", channels=1)
    run("a", PLAN, "grey")
    run("a.npz", PLAN, "grey")
    np.testing.assert_array_equal(pictures(folder / "a"), npz("a.npz")["arr_0"][..., 0])
    plan = Plan(Euler(1), guidance=2.0, channels="first3")
    refuses(lambda: run("b", plan, "grey"), "'first3'", "have 1; use 'all'")
    compare_to_file(["grey", "grey"], "c.png", PLAN, "cpu")
    assert Image.open("c.png").mode == "L"


def test_channels_that_are_no_picture(folder, refuses):
    checkpoint(folder / "latent", channels=4)
    for out in ("a.png", "a"):
        refuses(lambda out=out: run(out, PLAN, "latent"), f"{out}: 4 channels are no picture", ".npz")
    run("a.npz", PLAN, "latent")
    assert npz("a.npz")["arr_0"].shape == (7, 8, 8, 4)


def test_compare_shows_the_same_noise_and_label_down_each_column(folder):
    plan = Plan(Euler(2), count=5, chunk=3, labels="random", guidance=1.5)
    line = compare_to_file(["one", "two", "one"], "c.png", plan, "cpu")
    assert "from top to bottom 1 one, two, 3 one; 5 images each" in line
    picture = np.asarray(Image.open("c.png"))
    height = picture.shape[0] // 3
    for row, name in enumerate(("one", "two", "one")):
        run(f"{name}.npz", plan, name)
        strip = picture[row * height : row * height + 8, -5 * 8 :]
        np.testing.assert_array_equal(strip, np.concatenate(list(npz(f"{name}.npz")["arr_0"]), axis=1))
        assert (picture[row * height : (row + 1) * height, : -5 * 8] < 128).any()  # the name
    rows = json.loads(Image.open("c.png").text["provenance"])["rows"]
    assert [row["command"]["checkpoint"] for row in rows.values()] == ["one", "two", "one"]
    assert {path.name for path in folder.iterdir()} == {"one", "two", "one.npz", "two.npz", "c.png"}


def test_compare_refuses_what_cannot_be_compared(folder, refuses):
    def compare(*names, out="c.png"):
        return lambda: compare_to_file(names, out, PLAN, "cpu")

    checkpoint(folder / "large", size=16)
    checkpoint(folder / "more", classes=5)
    refuses(compare("one", "two", out="c.npz"), "c.npz: --compare writes one grid", ".png")
    refuses(compare("one", "two", out="c"), "c: --compare writes one grid")
    refuses(compare("one"), "give two or more")
    refuses(compare("one", "large"), "large: images are (3, 16, 16), those of one (3, 8, 8)")
    refuses(compare("one", "more"), "the checkpoints have [4, 5] classes")
    refuses(compare("one", "none"), "none: no such checkpoint")
    assert not list(folder.glob("c*"))


def test_rows_are_named_after_the_checkpoints_folders(folder):
    assert row_names(["one", "runs/two/weights.safetensors"]) == ["one", "two"]
    assert row_names(["a/checkpoint", "b/checkpoint"]) == ["a/checkpoint", "b/checkpoint"]
    assert row_names([".", "two"]) == [folder.name, "two"]
    assert named_rows(["一", "x"], [np.zeros((2, 8, 8, 3), np.uint8)] * 2).shape[-1] == 3


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_bar_with_images_per_second_on_a_terminal_only(folder, monkeypatch, capfd, stopped_after):
    run("a.npz", PLAN)
    assert capfd.readouterr() == ("", "")
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TQDM_NCOLS", "100")
    monkeypatch.setenv("TQDM_MININTERVAL", "0")
    run("b.npz", PLAN)
    said = terminal.getvalue()
    assert "b.npz: 100%" in said and "7/7" in said and " images/s" in said
    terminal.truncate(0)
    stopped_after(1, lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(Interrupted):
        run("c.npz", PLAN)
    assert terminal.getvalue().endswith("\n")  # what is said next has a line of its own
    stopped_after(0, interrupt)
    run("c.npz", PLAN)
    assert "3/7" in terminal.getvalue() and "7/7" in terminal.getvalue()  # it starts at what was kept


@pytest.mark.parametrize("out", ["a.png", "a.npz", "a"])
def test_values_that_are_not_finite_name_the_step(out, folder, monkeypatch, refuses):
    monkeypatch.setattr(SiT, "forward", lambda self, x, t, labels=None: x / (t[:, None, None, None] < 0.4))
    refuses(lambda: run(out, Plan(Euler(2), 4)), "step 2 of 2, t = 0.5: the velocity of image 0 is not finite")
    assert not (folder / out).exists() and not (folder / "a.npz.parts").exists()


def test_noise_is_the_seeds(folder, monkeypatch):
    monkeypatch.setattr(SiT, "forward", lambda self, x, t, labels=None: torch.zeros_like(x))
    run("a.npz", Plan(Euler(1), 3, seed=4))
    expected = load_checkpoint("one").codec.decode(image_noise(4, range(3), (3, 8, 8))).permute(0, 2, 3, 1)
    np.testing.assert_array_equal(npz("a.npz")["arr_0"], expected.numpy())


def test_solvers_by_name(refuses):
    assert solver_named("euler") == Euler(50) and solver_named("heun", 3) == Heun(3)
    assert solver_named("dopri5") == Dopri5() and solver_named("em") == EulerMaruyama(50)
    assert solver_named("em", 9, "linear", "noisy") == EulerMaruyama(9, "linear", None)
    refuses(lambda: solver_named("euler", -2), "steps = -2")
    refuses(lambda: solver_named("dopri5", 5), "--steps 5: dopri5 chooses")
    refuses(lambda: solver_named("heun", 5, "linear"), "--diffusion linear: goes with --solver em")
    refuses(lambda: solver_named("euler", 5, None, "mean"), "--last-step mean: goes with --solver em")


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({"count": 0}, ["count = 0"]),
        ({"chunk": -1}, ["chunk = -1"]),
        ({"interval": (0.1, 0.9)}, ["interval (0.1, 0.9)", "--guidance SCALE"]),
        ({"channels": "all"}, ["channels all", "--guidance SCALE"]),
        ({"guidance": float("nan")}, ["scale", "nan"]),
        ({"guidance": -1.0}, ["scale", "-1"]),
        ({"guidance": 2.0, "interval": (0.5, 1.5)}, ["interval", "[0.5, 1.5]"]),
        ({"guidance": 2.0, "interval": (float("nan"), 1.0)}, ["interval", "nan"]),
        ({"guidance": 2.0, "interval": (0.9, 0.1)}, ["interval", "upwards"]),
        ({"labels": 4}, ["labels = 4", "from 0 to 3"]),
        ({"labels": -1}, ["labels = -1", "from 0 to 3"]),
        ({"labels": "cats"}, ["labels = 'cats'", "balanced, random"]),
    ],
)
def test_plans_that_do_not_fit(options, parts, folder, refuses):
    refuses(lambda: run("a.npz", Plan(Euler(1), **options)), *parts)
    with pytest.raises(DefarError):
        compare_to_file(["one", "two"], "a.png", Plan(Euler(1), **options), "cpu")
    assert not list(folder.glob("a*"))
