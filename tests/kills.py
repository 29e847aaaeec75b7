"""kill -9 at random moments over training, sampling, evaluation and the robustness sweep; then the same command again,
until it is done: what it leaves must be that of an uninterrupted run, bit for bit, without a file more or less.

    python tests/kills.py --n 100 --seed 0 --out FOLDER

Every attempt is a process of its own that runs `defar_analysis.cli.main` and gets SIGKILL from the system. It is forked
from this one, which has imported torch and computed nothing: the 3 s that `python -m defar_analysis.cli` needs to
import are no risk to any file and would be most of the time. Half of the kills come at a time drawn over the
uninterrupted run's duration; the other half are aimed at a change of the folder (a rename, a removal), which takes far
less time than it matters: just before it, just after it, or with the file that would be renamed only half written.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import io
import itertools
import json
import os
import random
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import PIL.Image  # noqa: F401  # once, here, not in every child
import pyarrow.parquet  # noqa: F401
import torch
import tqdm  # noqa: F401

from defar_analysis import cli, evaluating, robustness_sweep, sampling  # noqa: F401
from defar_analysis.config import dump_toml
from defar_analysis.core import recipes, training  # noqa: F401
from defar_analysis.core.checkpoints import Card, save_checkpoint
from defar_analysis.core.networks import SiT
from defar_analysis.core.states import POINTER, saved_states

sys.path.insert(0, str(Path(__file__).parent / "measures"))
from quality_inputs import MeanColours

QUALITY = ("--reference", "data.npz", "--device", "cpu", "--n")  # its chunks are of 64 images
HOW = ("before", "after", "half written")


@dataclasses.dataclass(frozen=True)
class Job:
    """A command, and what of it is kept in its folder, in a word."""

    name: str
    command: tuple[str, ...]
    kept: Callable[[Path], str]


def _state(folder: Path) -> str:
    return ", ".join(file.stem for file in saved_states(folder / "run")) or "nothing"


def _files(*patterns: str) -> Callable[[Path], str]:
    return lambda folder: f"{sum(len(list(folder.glob(pattern))) for pattern in patterns)} files"


JOBS = (
    Job("training", ("train", "recipe.toml", "--out", "run", "--device", "cpu"), _state),
    Job(
        "sampling",
        ("sample", "one", "--out", "a.npz", "--count", "42", "--chunk", "4", "--steps", "4", "--device", "cpu"),
        _files("a.npz", "a.npz.parts/*.npy"),
    ),
    Job("evaluation", ("evaluate", "one", "two", *QUALITY, "200", "--steps", "4"), _files("results/features/*/*.npz")),
    Job(
        "robustness",
        ("robustness", "one", "two", *QUALITY, "70", "--nfe", "2", "4", "--out", "table"),
        _files("results/samples/*.npz", "results/samples/*/*.npy", "results/features/*/*.npz", "results/*/*.json"),
    ),
)


@dataclasses.dataclass
class Colours(MeanColours):
    """In place of the protocol's network: cheap, and of images of 8 x 8."""

    @property
    def dimension(self) -> int:
        return 3 + 8


def prepare(folder: Path) -> int:
    """Data, two checkpoints and a recipe of a DEFAR training that saves every second step."""
    rng = np.random.default_rng(0)
    np.savez(folder / "data.npz", arr_0=rng.integers(0, 256, (220, 8, 8, 3), np.uint8), arr_1=np.arange(220) % 4)
    for seed, name in enumerate(("one", "two")):
        torch.manual_seed(seed)
        model = SiT(8, 4, 3, 32, 1, 2, num_classes=4)
        for weight in (model.final_layer.linear.weight, model.final_layer.adaLN_modulation[1].weight):
            torch.nn.init.normal_(weight, std=0.3)
        save_checkpoint(folder / name, model, Card(name, "ema", "", {}))
    network = recipes.Network(size="", options={"patch_size": 4, "hidden_size": 32, "depth": 2, "num_heads": 2})
    recipe = recipes.Recipe(
        "tiny", steps=24, global_batch=24, data=recipes.Data("data.npz"), network=network, log_every=1, save_every=2,
        objective={"name": "defar", "label_dropout": 0.2}, flow_matching_steps=6,
    )  # fmt: skip
    (folder / "recipe.toml").write_text(dump_toml(dataclasses.asdict(recipe)), encoding="utf-8")
    return 0


def run(job: Job, folder: Path, changes: Path, aimed: tuple[int, str] | None = None) -> int:
    """The command in `folder`, inside a child; how many changes of folders it made is written to `changes`. What it
    prints is a result too, kept beside them."""
    os.chdir(folder)
    count = itertools.count(1)

    def armed(change: Callable) -> Callable:
        def call(*args: Any, **options: Any) -> Any:
            if "dir_fd" not in options and not os.path.lexists(args[0]):
                return change(*args, **options)  # nothing is there to be renamed or removed
            number, (at, how) = next(count), aimed or (0, "")
            if number == at and how == "half written" and change is replace:
                os.truncate(args[0], os.path.getsize(args[0]) // 2)
            if number == at and how != "after":
                os.kill(os.getpid(), signal.SIGKILL)
            result = change(*args, **options)
            if number == at:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return call

    replace = os.replace
    os.replace, os.unlink, os.rmdir = armed(os.replace), armed(os.unlink), armed(os.rmdir)
    for module in (evaluating, robustness_sweep):
        module.extractor_for = lambda protocol, device, weights=None: Colours()
    said, told = io.StringIO(), io.StringIO()
    with redirect_stdout(said), redirect_stderr(told):
        status = cli.main(list(job.command))
    changes.write_text(str(next(count) - 1))
    changes.with_suffix(".said").write_text(said.getvalue().replace("already there, ", ""))
    changes.with_suffix(".told").write_text(told.getvalue())
    return status


def started(work: Callable[[], int]) -> int:
    """The number of a child that does `work` and exits with what it returns."""
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        try:
            os._exit(work())
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(70)
    return child


def ended(child: int) -> int:
    """Its exit status; -9 where it was killed."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def forked(work: Callable[[], int], kill_after: float | None = None) -> int:
    """Exit status of `work` in a child, which gets SIGKILL when it lives longer than so many seconds."""
    began, child = time.monotonic(), started(work)
    while kill_after is not None and (left := began + kill_after - time.monotonic()) > 0:
        if os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            return ended(child)
        time.sleep(min(left, 0.002))
    if kill_after is not None:
        os.kill(child, signal.SIGKILL)
    return ended(child)


def content(file: Path) -> Any:
    """What counts of a file: everything but how many seconds it took."""
    if file.suffix == ".pt":
        return _plain(torch.load(file, weights_only=True))
    if file.suffix in (".npz", ".npy"):
        with np.load(file, allow_pickle=False) if file.suffix == ".npz" else io.BytesIO() as arrays:
            found = {"": np.load(file)} if file.suffix == ".npy" else dict(arrays)
        return {name: (array.dtype.str, array.shape, array.tobytes()) for name, array in found.items()}
    if file.suffix == ".parquet":
        return pd.read_parquet(file).to_dict("list").__repr__()
    if file.suffix in (".json", ".said") and (text := file.read_text()).startswith(("{", "[")):
        return _plain(json.loads(text), drop="sha256" if file.name == POINTER else "seconds")
    if file.suffix == ".jsonl":
        return [_plain(json.loads(line)) for line in file.read_text().splitlines()]
    if file.suffix == ".toml":
        return [line for line in file.read_text().splitlines() if not line.startswith("seconds = ")]
    return file.read_bytes()


def _plain(value: Any, drop: str = "seconds") -> Any:
    if isinstance(value, torch.Tensor):
        return str(value.dtype), tuple(value.shape), value.numpy().tobytes()
    if isinstance(value, dict):
        return {key: _plain(part, drop) for key, part in value.items() if key != drop}
    return [_plain(part, drop) for part in value] if isinstance(value, list | tuple) else value


def differences(folder: Path, other: Path, to: Path) -> int:
    """Names of the files that only one has or that differ, written to `to`."""
    names = [{str(f.relative_to(place)) for f in place.rglob("*") if f.is_file()} for place in (folder, other)]
    found = [f"{name}: only in one" for name in sorted(names[0] ^ names[1])]
    found += [name for name in sorted(names[0] & names[1]) if content(folder / name) != content(other / name)]
    to.write_text("; ".join(found))
    return 0


def one(job: Job, place: Path, rng: random.Random, timed: bool) -> dict[str, Any]:
    """A run in a copy of the prepared folder, killed once or more and then finished, against the uninterrupted one."""
    whole, folder, changes = place / job.name, place / f"{job.name}-killed", place / "killed.changes"
    total, duration = int((place / f"{job.name}.changes").read_text()), float((place / f"{job.name}.time").read_text())
    moments, resumed = [], []
    while not moments or (resumed and rng.random() < 0.4):  # most are killed once, some more often
        if not resumed:
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(place / "prepared", folder)
        share, aimed = rng.random(), (rng.randint(1, total), rng.choice(HOW))
        if timed:
            status = forked(lambda: run(job, folder, changes), kill_after=share * duration)
        else:
            status = forked(lambda aimed=aimed: run(job, folder, changes, aimed))
        if status == -signal.SIGKILL:
            moments.append(f"{share:.3f} of its time" if timed else f"{aimed[1]} change {aimed[0]} of {total}")
            resumed.append(job.kept(folder))
        elif resumed:
            break  # nothing was left to be killed in
    status = forked(lambda: run(job, folder, changes))
    told = changes.with_suffix(".told").read_text().strip().replace("\n", " | ") if status else ""
    shutil.copy(changes.with_suffix(".said"), folder / "stdout.said")
    forked(lambda: differences(whole, folder, place / "differences"))
    found = "; ".join(filter(None, [f"status {status}: {told}" if status else "", (place / "differences").read_text()]))
    return {"killed": "; ".join(moments), "resumed_from": "; ".join(resumed), "bit_equal": not found, "differs": found}


def main(arguments: list[str] | None = None) -> int:
    """Run all kills; returns 0 where every result was bit-equal."""
    parser = argparse.ArgumentParser(prog="python tests/kills.py", description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=100, help="runs that are killed, of the four jobs in turn")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, help="kills.csv is written there")
    options = parser.parse_args(arguments)
    with torch.device("meta"):  # loads what torch loads late, and computes nothing
        SiT(8, 4, 3, 32, 1, 2)
    place = (options.out / "work").resolve()
    (place / "prepared").mkdir(parents=True)
    assert forked(lambda: prepare(place / "prepared")) == 0
    for job in JOBS[: options.n]:
        shutil.copytree(place / "prepared", place / job.name)
        began = time.monotonic()
        assert forked(lambda job=job: run(job, place / job.name, place / f"{job.name}.changes")) == 0, job.name
        (place / f"{job.name}.time").write_text(str(time.monotonic() - began))
        shutil.copy(place / f"{job.name}.said", place / job.name / "stdout.said")
    rows = []
    with open(options.out / "kills.csv", "w", newline="", encoding="utf-8") as file:
        for number in range(options.n):
            job, timed = JOBS[number % len(JOBS)], number // len(JOBS) % 2 == 0
            seed = f"{options.seed}-{number}"
            rows.append({"job": job.name, "seed": seed, **one(job, place, random.Random(seed), timed)})
            if number == 0:
                writer = csv.DictWriter(file, rows[0])
                writer.writeheader()
            writer.writerow(rows[-1])
            file.flush()
            if not rows[-1]["bit_equal"]:
                print(rows[-1], flush=True)
                shutil.copytree(place / f"{job.name}-killed", options.out / f"differs-{number}")
    for job in JOBS:
        mine = [row for row in rows if row["job"] == job.name]
        kills = sum(row["killed"].count(";") + 1 for row in mine)
        print(f"{job.name}: {len(mine)} runs, {kills} kills, {sum(row['bit_equal'] for row in mine)} ends bit-equal")
    shutil.rmtree(place)
    return int(not all(row["bit_equal"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
