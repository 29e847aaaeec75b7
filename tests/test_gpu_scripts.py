"""The scripts for a machine with a GPU, rehearsed on the CPU: the queue, recipes, packing, and every script once."""

import errno
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import tarfile
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from defar_analysis.core.checkpoints import load_checkpoint
from defar_analysis.core.datasets import KNOWN_DATA, Batch
from defar_analysis.core.recipes import Data, load_recipe
from defar_analysis.errors import DefarError
from defar_analysis.measures.spectral import predicted_frequency_ratio

ROOT = Path(__file__).parents[1]
GPU = ROOT / "reproduce" / "gpu"
sys.path.insert(0, str(GPU))
import drift  # noqa: E402
import eq15  # noqa: E402
import jobs  # noqa: E402
import pack  # noqa: E402
import tables  # noqa: E402
import trainings  # noqa: E402
import zoo  # noqa: E402

SAYS_NOTHING = {"say": lambda line: None}


@pytest.fixture(autouse=True)
def own_folders(tmp_path, monkeypatch):
    """The scripts' folders, so that none of them touches runs/."""
    monkeypatch.setattr(jobs, "WORK", tmp_path / "work")
    monkeypatch.setattr(jobs, "OUT", tmp_path / "out")


# --- the queue ---


def python(name: str, done: Path, code: str, after: str | None = None) -> jobs.Job:
    return jobs.Job(name, (sys.executable, "-S", "-c", code), done, after)


def test_jobs_run_in_order_and_what_a_job_needs_comes_first(tmp_path):
    order = tmp_path / "order"

    def job(name, after=None):
        code = f"open({str(order)!r}, 'a').write({name!r}); open({str(tmp_path / name)!r}, 'w')"
        return python(name, tmp_path / name, code, after)

    queue = [job("b", after="a"), job("a"), job("c", after="b")]
    assert jobs.work(queue, 3, 60, **SAYS_NOTHING) == dict.fromkeys("bac", jobs.DONE)
    assert order.read_text() == "abc"
    jobs.work(queue, 3, 60, **SAYS_NOTHING)
    assert order.read_text() == "abc", "what is done is not done again"


def test_a_job_that_fails_is_told_and_leaves_the_others_alone(tmp_path):
    good = python("good", tmp_path / "good", f"open({str(tmp_path / 'good')!r}, 'w')")
    bad = python("bad", tmp_path / "bad", "print('error: too hot'); raise SystemExit(2)")
    waits = python("waits", tmp_path / "waits", "", after="bad")
    said = []
    states = jobs.work([bad, waits, good], 2, 60, said.append)
    assert states == {"bad": jobs.FAILED, "waits": jobs.WAITING, "good": jobs.DONE}
    assert any(line.endswith("bad failed: error: too hot") for line in said)
    assert jobs.tell(states, said.append) == 1
    assert json.loads((jobs.OUT / "states.json").read_text()) == states


def test_a_job_that_somebody_else_kills_has_failed(tmp_path):
    """As the system does where memory ends; it is no matter of the deadline, and the next call would run into it."""
    for number in (signal.SIGKILL, signal.SIGTERM):
        code = f"import os; print('step 7', flush=True); os.kill(os.getpid(), {number:d})"
        said = []
        states = jobs.work([python("greedy", tmp_path / "greedy", code)], 1, 60, said.append)
        assert states == {"greedy": jobs.FAILED} and jobs.tell(states, said.append) == 1
        assert said[0].endswith(f"greedy failed by signal {number:d}: step 7")


def test_at_the_deadline_jobs_may_save_and_go_on_in_the_next_call(tmp_path, monkeypatch):
    """The first call's deadline is the moment at which both jobs have begun; one of them will not listen."""
    monkeypatch.setattr(jobs, "GRACE", 5)  # far longer than the polite one needs; the deaf one costs it
    polite, deaf, saved = tmp_path / "polite", tmp_path / "deaf", tmp_path / "saved"
    begin = "import os, signal, sys, time; "
    stopping = f"signal.signal(15, lambda *_: (open({str(saved)!r}, 'w'), sys.exit(130))); "
    wait = "open({0!r}, 'w'); time.sleep(600)"
    queue = [
        python("polite", polite, f"{begin}os.path.exists({str(saved)!r}) and (open({str(polite)!r}, 'w'), sys.exit()); "
               f"{stopping}{wait.format(str(tmp_path / 'begun-0'))}"),
        python("deaf", deaf, f"{begin}signal.signal(15, signal.SIG_IGN); {wait.format(str(tmp_path / 'begun-1'))}"),
    ]  # fmt: skip
    with asked_to_stop(lambda: all((tmp_path / f"begun-{i}").exists() for i in (0, 1))):
        states = jobs.work(queue, 2, 600, **SAYS_NOTHING)
    assert states == {"polite": jobs.STOPPED, "deaf": jobs.STOPPED}
    assert saved.exists(), "the polite one was killed before it could save"
    assert jobs.work(queue[:1], 2, 60, **SAYS_NOTHING) == {"polite": jobs.DONE}
    assert jobs.work(queue, 2, 0, **SAYS_NOTHING)["deaf"] == jobs.WAITING


class asked_to_stop:
    """SIGTERM to this process once a condition holds, as whoever ends a call sends it."""

    def __init__(self, condition):
        self.condition, self.over = condition, threading.Event()

    def __enter__(self):
        def watch():
            while not self.over.is_set():
                if self.condition():
                    os.kill(os.getpid(), signal.SIGTERM)
                    return
                time.sleep(0.02)

        self.thread = threading.Thread(target=watch)
        self.thread.start()

    def __exit__(self, *_):
        self.over.set()
        self.thread.join()


def test_what_comes_back_fits_into_the_files_that_may_and_nothing_comes_twice(tmp_path, monkeypatch):
    monkeypatch.setattr(jobs, "TAR_LIMIT", 30_000)
    monkeypatch.setattr(jobs, "TARS", 2)
    runs = [tmp_path / name for name in "abc"]
    for run in runs:
        (run / "checkpoint").mkdir(parents=True)
        (run / "checkpoint" / "weights.safetensors").write_bytes(bytes(12_000))
        (run / "log.jsonl").write_text("{}")
        (run / "state-0000001.pt").write_bytes(bytes(50_000))  # stays there
        (run / "last-good.json").write_text("{}")  # and so does what names it
    assert [len(tar_names(tar)) for tar in jobs.bring_back(runs, "zoo")] == [2, 2]
    assert [tar_names(tar) for tar in jobs.bring_back(runs, "zoo")] == [
        {"c/log.jsonl", "c/checkpoint/weights.safetensors"}
    ]
    assert jobs.bring_back(runs, "zoo") == []
    (alone,) = jobs.bring_back(runs, "zoo", weights=False, again=True)
    assert tar_names(alone) == {f"{name}/log.jsonl" for name in "abc"}
    assert all(tar.stat().st_size <= jobs.TAR_LIMIT for tar in jobs.OUT.glob("*.tar"))


def test_a_folder_that_no_tar_can_hold_stays_out_and_is_told_in_every_call(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(jobs, "TAR_LIMIT", 30_000)
    monkeypatch.setattr(jobs, "TARS", 1)
    for name, size in {"a": 5_000, "huge": 30_000, "z": 5_000}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "log.jsonl").write_bytes(bytes(size))
    runs = [tmp_path / name for name in ("a", "huge", "z")]
    told = "huge: 32,048 bytes do not fit into a tar of 30,000, so it stays out; copy its files to $OUT in parts\n"
    (tar,) = jobs.bring_back(runs, "zoo")
    assert tar_names(tar) == {"a/log.jsonl", "z/log.jsonl"} and capsys.readouterr().err == told
    assert jobs.bring_back(runs, "zoo") == [] and capsys.readouterr().err == told
    monkeypatch.setattr(jobs, "TAR_LIMIT", 60_000)
    assert [tar_names(tar) for tar in jobs.bring_back(runs, "zoo")] == [{"huge/log.jsonl"}]


def test_a_tar_of_many_small_files_keeps_the_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(jobs, "TAR_LIMIT", 61_440)
    runs = [tmp_path / f"{number}" for number in range(12)]
    for run in runs:
        run.mkdir()
        for name in "abcde":  # the headers of a file take more than the file
            (run / f"{name}.json").write_bytes(bytes(513))
    tars = jobs.bring_back(runs, "zoo")
    assert sum(len(tar_names(tar)) for tar in tars) == 60
    assert all(tar.stat().st_size <= jobs.TAR_LIMIT for tar in tars)


def test_nothing_counts_as_brought_back_whose_tar_was_not_finished(tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "log.jsonl").write_text("{}")

    def full(tar):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch, pytest.raises(OSError):
        patch.setattr(tarfile.TarFile, "close", full)
        jobs.bring_back([tmp_path / "a"], "zoo")
    assert [tar_names(tar) for tar in jobs.bring_back([tmp_path / "a"], "zoo")] == [{"a/log.jsonl"}]


def tar_names(file: Path) -> set[str]:
    with tarfile.open(file) as tar:
        return set(tar.getnames())


# --- what came along ---

FINDS = """
import os, sys
sys.path.insert(0, {gpu!r})
import jobs
site = str(jobs.WORK / "site")
assert "DEFAR_DATA" not in os.environ and site not in sys.path, "importing must change nothing"

def main():
    import came_along
    there = jobs.surroundings(1)
    assert os.environ["DEFAR_DATA"] == there["DEFAR_DATA"] == str(jobs.WORK / "data")
    assert there["PYTHONPATH"].endswith(site)
    return 7

jobs.run_script(main)
"""


def test_a_script_finds_what_came_along_and_an_import_alone_changes_nothing(tmp_path):
    (tmp_path / "data" / "cifar10").mkdir(parents=True)
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "came_along.py").touch()
    surroundings = {name: value for name, value in os.environ.items() if name != "DEFAR_DATA"}
    done = subprocess.run(
        [sys.executable, "-c", FINDS.format(gpu=str(GPU))],
        capture_output=True, text=True, env={**surroundings, "DEFAR_GPU_WORK": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 7, done.stderr


# --- the recipes ---


def test_the_zoo_is_of_equal_compute_and_of_equal_steps_as_the_package_counts_it(tmp_path):
    setting = trainings.Setting()
    groups = trainings.runs(setting, tmp_path)
    budget = 3 * setting.steps
    compute = {run.name: trainings.spent(run.recipe) for run in groups["compute"]}
    compute["mixflow"] += compute.pop("mixflow-start")
    assert set(compute) == set(trainings.OBJECTIVES)
    assert all(abs(passes / budget - 1) < 1e-3 for passes in compute.values()), compute
    assert all(run.recipe.steps == setting.steps for run in groups["steps"])
    assert {run.name: round(trainings.spent(run.recipe) / budget, 1) for run in groups["steps"]} == {
        "defar-steps": 2.2, "sdss-steps": 2.0, "mdss-steps": 2.0, "adr-steps": 1.9, "fc-steps": 1.7,
    }  # fmt: skip
    ablations = {run.name: trainings.spent(run.recipe) / budget for run in groups["ablations"]}
    assert all(abs(share - trainings.SHARE) < 1e-3 for share in ablations.values()), ablations


def test_every_recipe_builds_and_names_what_it_needs(tmp_path):
    every = trainings.runs(trainings.Setting(), tmp_path)
    named = {run.name for group in every.values() for run in group}
    assert len(named) == sum(map(len, every.values())), "two runs of one name would share a folder"
    for run in [run for group in every.values() for run in group]:
        assert run.recipe.build_objective(KNOWN_DATA["cifar10"], run.recipe.steps)
        assert run.after in {None, *named} and run.against in named
        start = None if run.after is None else str(tmp_path / run.after / "checkpoint")
        assert run.recipe.init_from == start
        assert run.recipe.precision == "bf16" and run.recipe.compile


def test_runs_are_named_by_group_or_by_themselves(tmp_path):
    groups = trainings.runs(trainings.Setting(), tmp_path)
    chosen = [run.name for run in zoo.named(groups, ["defar-steps", "ot", "sit", "ot-sit"])]
    assert chosen == ["defar-steps", "ot-sit", "ot-defar", "sit"]
    with pytest.raises(DefarError, match=r"no group or run 'fc-step'; choose from compute, steps, .*fc-steps"):
        zoo.named(groups, ["sit", "fc-step"])


def test_a_training_with_flow_matching_first_spends_less_there():
    objective = trainings.OBJECTIVES["defar"]
    assert [trainings.spent_until(step, objective, 10) for step in (0, 4, 10, 12)] == [0, 12, 30, 44]


def test_a_short_run_keeps_a_curve_and_does_not_only_warm_up(monkeypatch):
    seen = []
    monkeypatch.setattr(zoo, "run_queue", lambda chosen, work, options: seen.append(chosen) or 0)
    of_cpu = ["--steps", "200", "--batch", "64", "--precision", "float32", "--eager", "--device", "cpu"]
    assert zoo.main(["fc", "sit", *of_cpu]) == 0
    recipes = [run.recipe for run in seen[0]]
    assert [r.steps for r in recipes] == [120, 200]
    assert {(r.optimizer.warmup, r.log_every, r.save_every, r.global_batch) for r in recipes} == {(10, 10, 10, 64)}


def test_only_the_cells_that_are_asked_for_are_sampled():
    chosen = tables.in_cells(tables.wanted(["zoo", "steps"]), ["euler-50-cfg1.5", "euler-30"])
    cells = {samples.name: samples.cells for samples in chosen}
    assert cells["sit"] == ("euler-50-cfg1.5", "euler-30") and cells["fc"] == ("euler-50-cfg1.5",)
    assert "fc-steps" not in cells, "it has none of these"
    with pytest.raises(DefarError, match="no cell 'euler-51'; choose from euler-100, "):
        tables.in_cells(tables.wanted(["zoo"]), ["euler-51"])


def test_the_readings_of_eq_15_differ_in_nothing_but_the_reading():
    found = eq15.all_runs(eq15.SETTING, ["inside"])
    assert len(found) == 3 * (1 + 3 * 2)
    of_seed = [run.recipe for run in found if run.recipe.seed == 2]
    assert len({repr(replace(r, name="any", objective={"name": "flow_matching"})) for r in of_seed}) == 1
    passes = {run.name: trainings.passes(run.recipe.objective) for run in found}
    assert passes["inside-l2-detached-s1"] == 5 and passes["inside-mean-gradient-s3"] == 9
    assert {run.against for run in found} == {"sit-s1", "sit-s2", "sit-s3"}
    with pytest.raises(DefarError, match="no group 'sideways'; choose from inside, outside, max"):
        eq15.all_runs(eq15.SETTING, ["sideways"])


def test_the_readings_of_eq_15_are_post_trained_from_a_checkpoint_where_there_is_no_gpu(capsys):
    """As the record of 2026-11-22 did: the command writes the recipes, and with no time it trains none."""
    of_cpu = ["--start", "some/checkpoint", "--steps", "240", "--batch", "64", "--precision", "float32", "--eager"]
    assert eq15.main([*of_cpu, "--device", "cpu", "--minutes", "0"]) == 3
    assert "21 waiting" in capsys.readouterr().out
    recipes = [load_recipe(file) for file in (jobs.WORK / "eq15").glob("*.toml")]
    assert len(recipes) == 21 and {r.init_from for r in recipes} == {"some/checkpoint"}
    found = {(r.steps, r.global_batch, r.precision, r.compile, r.optimizer.lr, r.log_every) for r in recipes}
    assert found == {(240, 64, "float32", False, eq15.SETTING.lr / 3, 12)}


def test_the_report_on_eq_15_holds_the_readings_against_the_papers_claim(tmp_path, capsys):
    columns = ["model", "metric", "percent", "percent_low", "percent_high", "verdict"]
    rows = [(f"inside-l2-detached-s{seed}", "FD-EffNet-128", -2.02, -3, -1, "better") for seed in eq15.SEEDS]
    pd.DataFrame(rows, columns=columns).to_csv(tmp_path / "differences.csv")
    assert eq15.main(["--report", str(tmp_path / "differences.csv")]) == 0
    said = capsys.readouterr().out
    assert re.search(r"inside +l2 +detached +-2.02 .* 3 +3 +0 +0.10\n", said)
    assert said.endswith("the paper claims -20.2 % for FC alone (Tab. 1, CIFAR-10, no cfg)\n")


def test_the_drift_of_the_readings_is_paired_with_the_sit_of_their_seed():
    images = np.linspace(1, 2, 20)
    plain = {name: images for name in drift.LOWER_IS_BETTER}
    twice = {name: 2 * images for name in plain}
    noisy = {name: images + np.random.default_rng(0).normal(size=20) for name in plain}
    runs = {"sit-s1": plain, "sit-s2": twice, "inside-l2-detached-s1": twice, "inside-l2-detached-s2": twice}
    against = {samples.name: samples.against for samples in tables.wanted(["eq15"])}
    found = drift.changes(runs | {"inside-l1-detached-s1": noisy, "inside-l2-detached-s3": plain}, against)
    found = found.set_index(["model", "metric"])
    assert len(found) == 9, "without its SiT a run is not compared"
    assert np.allclose(found.loc["inside-l2-detached-s1", ["percent", "percent_low", "percent_high"]], 100)
    assert list(found.loc["inside-l2-detached-s1", "verdict"]) == ["worse", "worse", "better"]
    assert np.allclose(found.loc["inside-l2-detached-s2", "percent"], 0)
    assert set(found.loc["inside-l1-detached-s1", "verdict"]) == {"undecided"}


def test_a_curve_is_of_logs_that_have_the_loss_at_true_states(tmp_path, monkeypatch):
    lines = [{"step": step, "fm": 1 / step, "ip": 2 / step} for step in (5, 20)]
    (tmp_path / "log.jsonl").write_text("\n".join(json.dumps(line) for line in lines), encoding="utf-8")
    recipe = {"objective": trainings.OBJECTIVES["fc"], "flow_matching_steps": 10}
    card = SimpleNamespace(card=SimpleNamespace(training={"recipe": recipe}))
    monkeypatch.setattr(drift, "load_checkpoint", lambda folder: card)
    found = drift.curve("fc", tmp_path / "checkpoint")
    assert found.to_numpy().tolist() == [["fc", 5, 15, 0.2], ["fc", 20, 80, 0.05]]
    recipe["objective"] = trainings.OBJECTIVES["ip"]
    (tmp_path / "log.jsonl").write_text('{"step": 5, "ip": 1.0}', encoding="utf-8")
    assert drift.curve("ip", tmp_path / "checkpoint").empty
    assert list(pd.concat([found, drift.curve("ip", tmp_path / "checkpoint")])["passes"]) == [15, 80]


def test_the_drift_of_an_exact_field_is_that_of_its_closed_form():
    """Data and noise are both a point: v = x_* - eps everywhere leaves no loss; v = 0 leaves the whole target."""
    noise, data = (torch.full((2, 3, 8, 8), value) for value in (0.5, -1.0))
    data[:, :, 0, 0] = 2.0  # or there would be no frequency but zero
    batch = Batch(data, None)
    still = drift.of_images(lambda x, t, labels: data - noise, batch, noise)
    assert np.allclose(still["loss"], 0) and np.allclose(still["bias"], 0)
    assert np.allclose(still["PFR"], predicted_frequency_ratio(data - noise, drop_dc=True))
    # v = t x: the bias after a step is t1 (x_hat - x_t1), and x_hat - x_t1 = (t1 - t0) (t0 x_t0 - v_gt)
    moving = drift.of_images(lambda x, t, labels: t.reshape(-1, 1, 1, 1) * x, batch, noise)
    expected = [
        (t1 * (t1 - t0) * (t0 * (t0 * data + (1 - t0) * noise) - (data - noise))).square().mean()
        for t0, t1 in drift.PAIRS
    ]
    assert np.allclose(moving["bias"], np.mean(expected), rtol=1e-5)


def test_a_training_of_the_queue_stops_goes_on_and_can_be_cut_short(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (16, 32, 32, 3), dtype=np.uint8)
    np.savez(tmp_path / "images.npz", arr_0=images, arr_1=np.arange(16) % 10)
    setting, work = replace(trainings.TINY, steps=10**6), tmp_path / "zoo"
    run = trainings.runs(setting, work)["compute"][1]
    run = replace(run, recipe=replace(run.recipe, data=Data(name=str(tmp_path / "images.npz"))))
    log = work / run.name / "log.jsonl"

    def steps() -> int:
        lines = log.read_text().split("\n")[:-1] if log.exists() else []
        return json.loads(lines[-1])["step"] if lines else 0

    reached = 0
    for _ in range(2):
        with asked_to_stop(lambda beyond=reached: steps() > beyond):
            states = jobs.work([zoo.as_job(run, work, "cpu")], 1, 600, **SAYS_NOTHING)
        assert states == {run.name: jobs.STOPPED}, jobs.last_line(jobs.WORK / "logs" / f"{run.name}.log")
        assert steps() > reached, "the second call went on from the first's state"
        reached = steps()
    zoo.cut_short([run], work)
    checkpoint = load_checkpoint(work / run.name / "checkpoint")
    assert reached <= checkpoint.card.training["steps"] < setting.steps
    assert jobs.work([zoo.as_job(run, work, "cpu")], 1, 600, **SAYS_NOTHING) == {run.name: jobs.DONE}


# --- packing ---


def pictures(count: int, shape=(3, 32, 32)) -> np.ndarray:
    """Smooth pictures with every value, jumps at the ends of the range and some noise."""
    generator = np.random.default_rng(1)
    waves = generator.normal(size=(count, *shape)).cumsum(-1).cumsum(-2)
    return (waves * 3 + generator.normal(size=waves.shape)).astype(np.int64).astype(np.uint8)


@pytest.mark.parametrize("shape", [(3, 32, 32), (3, 1, 5), (3, 4, 1)])
def test_packing_loses_nothing(shape):
    for images in (pictures(7, shape), np.random.default_rng(0).integers(0, 256, (5, *shape), dtype=np.uint8)):
        data = pack.packed(images)
        assert np.array_equal(pack.unpacked(data, images.shape), images)
    assert len(pack.packed(pictures(200))) < 0.8 * pictures(200).nbytes


@pytest.fixture
def sent(tmp_path, monkeypatch):
    """A small data set and a file of weights in pieces, and the images."""
    images, labels = pictures(50), np.arange(50) % 10
    (tmp_path / "cifar10").mkdir()
    np.save(tmp_path / "cifar10" / "train_images.npy", images)
    np.save(tmp_path / "cifar10" / "train_labels.npy", labels)
    (tmp_path / "weights.pth").write_bytes(b"weights")
    monkeypatch.setattr(pack, "PART", 3)
    monkeypatch.setattr(pack, "BLOCK", 20)
    monkeypatch.setattr(pack, "weights_file", lambda: tmp_path / "weights.pth")
    pieces = pack.pack(tmp_path / "pack", ["train"], 44_000, tmp_path)
    return tmp_path / "pack", pieces, images, labels


def test_pieces_arrive_in_any_order_and_are_unpacked_with_the_last(sent, tmp_path):
    folder, count, images, labels = sent
    assert count >= 3
    assert all(sum(f.stat().st_size for f in (folder / str(i)).iterdir()) <= 44_000 for i in range(count))
    for piece in reversed(range(count)):
        came = tmp_path / "came" / str(piece)
        came.parent.mkdir(exist_ok=True)
        (folder / str(piece)).rename(came)
        ready = pack.receive(tmp_path / "came", tmp_path / "pieces", tmp_path / "there")
        assert ready == (piece == 0)
        came.rename(folder / str(piece))
    target = tmp_path / "there" / "data" / "cifar10"
    assert np.array_equal(np.load(target / "train_images.npy"), images)
    found = np.load(target / "train_labels.npy")
    assert found.dtype == np.int64 and np.array_equal(found, labels)
    assert (tmp_path / "there" / "site" / pack.WEIGHTS / "models" / "weights.pth").read_bytes() == b"weights"
    source = tmp_path / "cifar10" / "train_images.npy"
    assert hashlib.sha256((target / source.name).read_bytes()).digest() == hashlib.sha256(source.read_bytes()).digest()


def test_a_damaged_piece_is_refused(sent, tmp_path):
    folder, _, _, _ = sent
    file = next(folder.rglob("train-00000.xz"))
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    with pytest.raises(DefarError, match="damaged on the way; remove it and send its piece again"):
        pack.receive(folder, tmp_path / "pieces", tmp_path / "there")


def test_a_piece_too_small_for_a_file_is_refused(sent, tmp_path):
    with pytest.raises(DefarError, match="give --room a larger number"):
        pack.pack(tmp_path / "pack", ["train"], 1000, tmp_path)


def test_a_piece_has_the_room_that_the_tree_leaves(tmp_path, monkeypatch):
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    (tmp_path / ".gitignore").write_text("/runs/\n")
    (tmp_path / "runs").mkdir()
    for name in ("weights.bin", "runs/state.pt"):  # the second one does not travel
        (tmp_path / name).write_bytes(bytes(2 * pack.MIB))
    monkeypatch.setattr(jobs, "ROOT", tmp_path)
    assert pack.room() == pack.MOST
    monkeypatch.setattr(pack, "TRAVELS", 10)
    assert pack.room() == pytest.approx(10 - pack.SPARE - 2, abs=1e-3)
    monkeypatch.setattr(pack, "TRAVELS", 5)
    with pytest.raises(DefarError, match=r"the tree has 2.0 MiB, which leaves no room; move large folders aside"):
        pack.room()


# --- every script once, where the packages that a lent machine lacks cannot be imported ---

REHEARSAL = """
import sys
from pathlib import Path
for name in ("tyro", "ot", "torch_fidelity", "papermill", "diffusers"):
    sys.modules[name] = None
sys.path[:0] = [{gpu!r}]
import drift, eq15, jobs, pack, sit_b4, speed, tables, trainings, zoo
from argparse import Namespace
from dataclasses import replace
from defar_analysis.core.training import train
from defar_analysis.measures.protocols import DEFAULT, protocol
import pandas as pd, torch

torch.set_num_threads(1)
tiny = replace(trainings.TINY, steps=4)
for run in trainings.runs(tiny, jobs.WORK / "zoo")["compute"]:
    if run.name in ("sit", "fc"):
        train(run.recipe, jobs.WORK / "zoo" / run.name)
options = Namespace(n=16, bf16=True, every_metric=False)
chosen = [replace(s, cells=("euler-2",)) for s in tables.wanted(["zoo"]) if s.name in ("sit", "fc")]
for samples in chosen:
    tables.measure_run(samples, protocol(DEFAULT, 16), torch.device("cpu"), options)
found, compared, influences = tables.collect(chosen, protocol(DEFAULT, 16), options)
(jobs.WORK / "eq15").mkdir()
for run, name in (("sit", "sit-s1"), ("fc", "inside-l2-detached-s1")):
    (jobs.WORK / "eq15" / name).symlink_to(jobs.WORK / "zoo" / run)
for name in ("eq15", "zoo"):
    assert drift.main([name, "--device", "cpu", "--n", "4"]) == 0
    changed, runs, curves = (pd.read_csv(jobs.OUT / f"{{file}}.csv") for file in ("drift", "runs", "curves"))
    print(name, list(changed["metric"]), list(runs["passes"]), list(curves["passes"]))
print("table", len(found), sorted(influences), list(compared["model"].unique()), bool(compared["paired"].all()))
assert speed.main(["train", "sample", "--tiny", "--device", "cpu", "--repeats", "1"]) == 0
assert sit_b4.main(["sit", "--tiny", "--device", "cpu", "--n", "16", "--every", "20"]) == 0
print("curve", list(pd.read_csv(jobs.WORK / "b4" / "sit" / "curve.csv")["step"]))
"""


@pytest.mark.real_data
def test_every_script_runs_without_the_packages_that_a_lent_machine_lacks(tmp_path):
    where = {"DEFAR_GPU_WORK": str(tmp_path / "work"), "OUT": str(tmp_path / "out")}
    done = subprocess.run(
        [sys.executable, "-c", REHEARSAL.format(gpu=str(GPU))],
        capture_output=True, text=True, env={**os.environ, **where}, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    lines = done.stdout.splitlines()
    assert "table 6 ['fc/euler-2', 'sit/euler-2'] ['fc'] True" in lines, lines
    assert "curve [20]" in lines, lines
    for name in ("eq15", "zoo"):  # FC: 2 steps of 5 passes; SiT: 4 of 3, logged twice
        assert f"{name} ['loss', 'bias', 'PFR'] [10, 12] [10, 6, 12]" in lines, lines
    train, sample = ((tmp_path / "out" / f"speed-{part}.csv").read_text() for part in ("train", "sample"))
    assert train.count("\n") == 3 and sample.count("\n") == 7, "a row each, and the head"
