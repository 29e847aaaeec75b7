"""`defar robustness`: cells in order, sampled once, evaluated by any protocol, gone on with after a stop."""

import os
import signal
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from defar_analysis import evaluating, robustness_sweep, sample_source, sampling
from defar_analysis.cli import main
from defar_analysis.core.checkpoints import Card, load_checkpoint, save_checkpoint
from defar_analysis.core.datasets import ImageDataset, npz_dataset
from defar_analysis.core.discriminators import DiscriminatorCard, save_discriminator
from defar_analysis.core.networks import SiT
from defar_analysis.core.networks.discriminator import ConvDiscriminator
from defar_analysis.core.samplers import Euler
from defar_analysis.errors import Interrupted
from defar_analysis.evaluating import evaluate_sources
from defar_analysis.measures.protocols import DEFAULT, Protocol
from defar_analysis.measures.protocols import protocol as named_protocol
from defar_analysis.robustness_report import in_words, save
from defar_analysis.robustness_sweep import Grid, Sweep, run
from defar_analysis.sample_files import npz_record
from defar_analysis.sampling import Plan

sys.path.insert(0, str(Path(__file__).parent / "measures"))
from quality_inputs import MeanColours

N = 40
ONE = Protocol("one", "real.npz", N, "effnet-lite0-128", reference_count=N, labels="balanced")
TWO = replace(ONE, name="two", extractor="effnet-lite0-224")
FD = "FD-EffNet-128"
LEFT = "4 of 4 cells to sample, features of 160 images to extract: about "


@dataclass
class Colours(MeanColours):
    """Of images of 8 x 8."""

    @property
    def dimension(self):
        return 3 + 8


def checkpoint(folder, seed=0, **card):
    torch.manual_seed(seed)
    model = SiT(8, 4, 3, 32, 1, 2, num_classes=4)
    for weight in (model.final_layer.linear.weight, model.final_layer.adaLN_modulation[1].weight):
        torch.nn.init.normal_(weight, std=0.3)
    return save_checkpoint(folder, model, Card(folder.name, "ema", "", {}, **card))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder: tiny checkpoints `sit` and `defar`, and images to hold them against."""
    checkpoint(tmp_path / "sit")
    checkpoint(tmp_path / "defar", seed=1)
    images = np.random.default_rng(7).integers(0, 256, (60, 8, 8, 3), np.uint8)
    np.savez(tmp_path / "real.npz", arr_0=images, arr_1=np.arange(60) % 4)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(autouse=True)
def extractors(monkeypatch):
    """Networks that count their calls, by name, in place of the protocols'."""
    made = {}

    def extractor_for(protocol, device, weights=None):
        return made.setdefault(protocol.extractor, Colours(protocol.extractor))

    monkeypatch.setattr(robustness_sweep, "extractor_for", extractor_for)
    monkeypatch.setattr(evaluating, "extractor_for", extractor_for)
    return made


@pytest.fixture
def steps(monkeypatch):
    """The steps of every call of the sampler, in order; and what to do before the call that `at` numbers from 1."""
    real, taken = sample_source.sample, []
    taken_at = {}

    def sample(field, noise, solver, **kwargs):
        taken.append(solver.steps)
        taken_at.pop(len(taken), lambda: None)()
        return real(field, noise, solver, **kwargs)

    monkeypatch.setattr(sample_source, "sample", sample)
    return taken, taken_at


def a_sweep(nfes=(2, 4), protocol=ONE, say=lambda line: None, results="results", **grid):
    grid = Grid(grid.pop("checkpoints", {"sit": Path("sit"), "defar": Path("defar")}), nfes, **grid)
    return Sweep(grid, protocol, Path(results), "cpu", reference="real.npz", say=say)


def values(found, metric=FD):
    rows = found.table[found.table["metric"] == metric]
    return {(row.model, row.nfe): row.value for row in rows.itertuples()}


# --- cells ---


def test_cells_come_by_nfe_first(folder):
    cells = a_sweep((4, 2), solvers=("euler", "heun"), guidances=(None, 1.5)).cells
    assert [cell.nfe for cell in cells] == [2] * 8 + [4] * 8
    assert [(cell.solver, cell.guidance, cell.model) for cell in cells[:8]] == [
        (solver, scale, model) for solver in ("euler", "heun") for scale in (None, 1.5) for model in ("sit", "defar")
    ]
    assert {cell.checkpoint for cell in cells} == {"sit", "defar"}
    assert {cell.interpolant for cell in cells} == {"linear"}


def test_a_cells_steps_make_its_evaluations(folder):
    sweep = a_sweep((4,), solvers=("euler", "heun", "em"))
    found = sweep.evaluations()
    solvers = {cell.solver: sweep.source(cell).plan.solver.steps for cell in found}
    assert solvers == {"euler": 4, "heun": 2, "em": 4}
    for cell in found:
        record = npz_record(sweep.samples(cell))
        assert record["nfe"] == cell.nfe == 4 and record["command"]["count"] == N


def test_a_larger_chunk_and_bf16_reach_every_cell_and_are_other_samples(folder):
    plain, other = a_sweep((2,)), a_sweep((2,), chunk=5, precision="bf16")
    for one, two in zip(plain.cells, other.cells, strict=True):
        assert other.source(two).command == plain.source(one).command | {"chunk": 5, "precision": "bf16"}
        assert other.samples(two) != plain.samples(one)


@pytest.mark.parametrize(
    "options, parts",
    [
        ({"nfes": (4, 3), "solvers": ("euler", "heun")}, ["NFE 3", "heun's 2 evaluations"]),
        ({"nfes": (0,)}, ["NFE 0"]),
        ({"solvers": ("dopri5",)}, ["'dopri5'", "euler, heun, em"]),
        ({"nfes": ()}, ["an NFE"]),
        ({"checkpoints": {}}, ["a checkpoint"]),
        ({"discriminators": {"other": Path("judge")}}, ["'other'", "among sit"]),
    ],
)
def test_grids_that_cannot_be_are_refused(options, parts, refuses):
    refuses(lambda: Grid(**{"checkpoints": {"sit": Path("sit")}} | options), *parts)


def test_samples_of_another_number_of_evaluations_are_refused(folder, refuses):
    sweep = a_sweep((2,))
    sweep.evaluations()
    file = sweep.samples(sweep.cells[0])
    with np.load(file) as arrays:
        kept = dict(arrays)
    kept["provenance"] = np.array(str(kept["provenance"]).replace('"nfe": 2', '"nfe": 3'))
    np.savez(file, **kept)
    refuses(sweep.evaluations, file, "sampled with 3 evaluations", "its cell has 2")


# --- what is kept ---


def test_every_cell_is_sampled_and_extracted_once(folder, steps, extractors):
    taken, _ = steps
    first = run(a_sweep(), "sit")
    assert taken == [2, 2, 4, 4]
    calls = list(extractors[ONE.extractor].calls)
    before = {file: (file.read_bytes(), file.stat().st_mtime_ns) for file in folder.glob("results/samples/*.npz")}
    assert len(before) == 4
    again = run(a_sweep(), "sit")
    assert taken == [2, 2, 4, 4] and extractors[ONE.extractor].calls == calls
    after = {file: (file.read_bytes(), file.stat().st_mtime_ns) for file in folder.glob("results/samples/*.npz")}
    assert after == before
    for name in ("table", "differences", "steps"):
        pd.testing.assert_frame_equal(getattr(first, name), getattr(again, name))
    run(a_sweep((2, 6)), "sit")
    assert taken == [2, 2, 4, 4, 6, 6]  # what is new alone
    run(a_sweep(seed=1), "sit")
    assert taken[6:] == [2, 2, 4, 4]  # another seed's images are others


def test_another_extractor_samples_nothing_again(folder, steps, extractors):
    taken, _ = steps
    one, two = run(a_sweep(), "sit"), run(a_sweep(protocol=TWO), "sit")
    assert taken == [2, 2, 4, 4] and len(extractors[TWO.extractor].calls) > 0
    assert set(two.table["protocol"]) == {"two"} and "FD-EffNet-224" in set(two.table["metric"])
    assert set(values(one).values()) == set(values(two, "FD-EffNet-224").values())  # of the same images


def test_the_first_run_says_how_long_it_takes_before_it_samples(folder, steps):
    taken, _ = steps
    said = []
    run(a_sweep(say=lambda line: said.append((len(taken), line))), "sit")
    at, line = said[0]
    assert (
        at == 0
        and line.startswith("4 of 4 cells to sample, features of 160 images to extract: about ")
        and line.endswith(" on cpu")
    )
    assert sum("cells to sample" in line for _, line in said) == 1
    said.clear()
    run(a_sweep((2, 4, 6), say=lambda line: said.append((len(taken), line))), "sit")
    assert said[0][1].startswith("2 of 6 cells to sample")
    said.clear()
    run(a_sweep(say=lambda line: said.append((len(taken), line))), "sit")
    assert not any("to sample" in line for _, line in said)


@pytest.mark.parametrize("at", [2, 3, 4])
def test_a_stopped_sweep_goes_on_cell_by_cell(at, folder, steps, extractors):
    taken, before_call = steps
    expected = run(a_sweep(results="whole"), "sit")
    taken.clear()
    before_call[at] = lambda: (_ for _ in ()).throw(KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        run(a_sweep(), "sit")
    assert len(list(folder.glob("results/samples/*.npz"))) == at - 1
    assert len(list(folder.glob("results/robustness/*.json"))) == at - 1
    found = run(a_sweep(), "sit")
    assert taken == [*[2, 2, 4, 4][:at], *[2, 2, 4, 4][at - 1 :]]
    pd.testing.assert_frame_equal(found.table, expected.table)
    pd.testing.assert_frame_equal(found.differences, expected.differences)


def test_a_request_to_stop_keeps_the_chunk_in_work(folder, steps):
    taken, before_call = steps
    sweep = a_sweep((2,), replace(ONE, count=130))
    before_call[2] = lambda: os.kill(os.getpid(), signal.SIGTERM)
    with pytest.raises(Interrupted, match="stopped with 128 of 130 images kept; the same command goes on"):
        sweep.evaluations()
    sweep.evaluations()
    assert len(taken) == 6  # three chunks for each of two models


# --- numbers ---


def test_a_cells_numbers_are_those_of_defar_evaluate(folder):
    found = run(a_sweep((2,)), "sit")
    report = evaluate_sources(
        [Path("sit"), Path("defar")], ONE, Plan(Euler(2), N), reference="real.npz", results=Path("other"), device="cpu"
    )
    for result in report["results"]:
        rows = found.table[found.table["model"] == result["model"]].set_index("metric")
        for metric, expected in result["metrics"].items():
            assert rows.loc[metric, ["value", "low", "high"]].tolist() == list(expected.values())
    rows = found.differences.set_index("metric")
    assert rows["paired"].all()
    for row in report["differences"]:
        assert rows.loc[row["metric"], ["difference", "low", "high"]].tolist() == [
            row["difference"], row["low"], row["high"],
        ]  # fmt: skip


def test_guidance_reaches_the_samples(folder):
    table = run(a_sweep((2,), guidances=(None, 3.0)), "sit").table
    rows = table[(table["metric"] == FD) & (table["model"] == "sit")]
    assert rows["guidance"].isna().tolist() == [True, False] and rows["value"].nunique() == 2


def test_a_discriminator_guides_its_own_model_only(folder, capsys):
    judges = {"name": "sit", "sha256": load_checkpoint(folder / "sit").card.sha256}
    torch.manual_seed(3)
    judge = ConvDiscriminator(3, 4, 8, 8)
    torch.nn.init.normal_(judge.head.weight, std=3)
    save_discriminator(folder / "judge", judge, DiscriminatorCard("judge", "", "linear", judges, {}))
    models = {"sit": Path("sit"), "guided": Path("sit"), "defar": Path("defar")}
    alone, guided = a_sweep((4,), checkpoints=models), a_sweep((4,), checkpoints=models, discriminators={
        "guided": Path("judge")})  # fmt: skip
    first, second = ({cell.model: sweep.samples(cell) for cell in sweep.cells} for sweep in (alone, guided))
    assert {model for model in models if first[model] != second[model]} == {"guided"}
    found = values(run(guided, "sit"))
    assert found["guided", 4] != found["sit", 4] == values(run(alone, "sit"))["guided", 4]
    assert npz_record(second["guided"])["command"]["discriminator"]["weight"] == 1.0
    told = ["sit=sit", "guided=sit", "--discriminator", "guided=judge", "--nfe", "4", "--out", "t", *OPTIONS]
    assert main(["robustness", *told]) == 0
    rows = pd.read_csv("t.csv").query("metric == @FD").set_index("model")["value"]
    assert rows["guided"] == pytest.approx(found["guided", 4], rel=1e-4) != pytest.approx(rows["sit"], rel=1e-4)


def test_a_model_may_have_a_checkpoint_for_each_interpolant(folder, refuses):
    for name in ("sit", "defar"):
        checkpoint(folder / f"{name}-gvp", seed=2 + (name == "sit"), interpolant="gvp")
    models = {name: (Path(name), Path(f"{name}-gvp")) for name in ("sit", "defar")}
    sweep = a_sweep(checkpoints=models)
    found = run(sweep, "sit")
    rows = found.differences[found.differences["metric"] == FD]
    assert rows[["nfe", "interpolant"]].values.tolist() == [[2, "linear"], [2, "gvp"], [4, "linear"], [4, "gvp"]]
    words = in_words(found, ONE)
    for part in ('euler, linear: "defar is lowest', 'euler, gvp: "defar is lowest', "euler, gvp: From 2 to 4"):
        assert part in words
    same = {"sit": (Path("sit"), Path("defar"))}
    refuses(lambda: run(a_sweep(checkpoints=same), "sit"), "sit: ", "both have 'linear'")


def test_real_images_stand_beside_the_samples_but_not_the_reference_itself(folder, refuses):
    sweep = a_sweep((2,))
    images = np.random.default_rng(8).integers(0, 256, (50, 3, 8, 8), np.uint8)
    real = sweep.of_dataset("other images", ImageDataset(images, np.arange(50) % 4))
    assert real.model == "other images" and real.pairing is None
    assert dict(zip(real.table["metric"], real.table["value"], strict=True))[FD] < values(run(sweep, "sit"))["sit", 2]
    refuses(lambda: sweep.of_dataset("real", npz_dataset("real.npz")), "real: is the reference itself")


def test_doubts_are_said_once(folder):
    said = []
    sweep = a_sweep(protocol=ONE.with_count(8), say=said.append)
    run(sweep, "sit")
    doubts = [line for line in said if line.startswith("warning: ")]
    assert any("generated: n = 8 is not above the 11 features" in line for line in doubts)
    assert len(doubts) == len(set(doubts))


# --- mistakes ---


def test_a_baseline_that_is_not_in_the_grid_is_refused(folder, steps, refuses):
    refuses(lambda: run(a_sweep(), "mixflow"), "'mixflow'", "sit, defar")
    assert steps[0] == []


def test_a_reference_that_does_not_fit_is_refused_before_anything_is_sampled(folder, steps, refuses):
    rows = np.random.default_rng(0).normal(size=(60, 20))
    np.savez("statistics.npz", mu=rows.mean(axis=0), sigma=np.cov(rows.T))
    for name, part in (("statistics.npz", "mu has shape (20,)"), ("gone.npz", "gone.npz: no such file")):
        sweep = a_sweep()
        sweep._reference_name = name
        refuses(lambda sweep=sweep: run(sweep, "sit"), part)
    assert steps[0] == []


# --- words, files, command line ---

OPTIONS = ["--n", str(N), "--reference", "real.npz", "--device", "cpu"]


def test_the_command_line_prints_the_table_and_writes_it(folder, capsys, steps):
    arguments = ["robustness", "sit", "defar", "--nfe", "2", "4", *OPTIONS, "--out", "tables/mine"]
    assert main(arguments) == 0
    said = capsys.readouterr()
    assert LEFT in said.err and "to sample" not in said.out
    paths = [folder / "tables" / f"mine{suffix}.csv" for suffix in ("", "_differences", "_steps")]
    for path in paths:
        assert f"tables/{path.name}" in said.err
    table, differences, over = map(pd.read_csv, paths)
    assert len(table) == 4 * 6 and len(differences) == 2 * 6 and len(over) == 2 * 6
    for row in table[table["metric"] == FD].itertuples():
        assert f"{row.value:.4g} [{row.low:.4g}, {row.high:.4g}]" in said.out
    assert f"{FD}, n = {N}, offline-effnet-lite0-128" in said.out
    assert (
        'euler: "defar is lowest at every NFE": ' in said.out and f"From 2 to 4 evaluations, in {FD}: sit" in said.out
    )
    before = [path.read_bytes() for path in paths]
    assert main(arguments) == 0
    assert [path.read_bytes() for path in paths] == before and steps[0] == [2, 2, 4, 4]
    assert capsys.readouterr().out == said.out


def test_one_checkpoint_at_one_nfe_is_a_table_too(folder, capsys):
    assert main(["robustness", "sit", "--nfe", "2", *OPTIONS]) == 0
    said = capsys.readouterr()
    assert FD in said.out and "lowest" not in said.out and "From" not in said.out
    assert not list(folder.glob("*.csv"))


def test_words_tell_solvers_and_guidance_apart(folder, capsys):
    options = ["--solver", "euler", "heun", "--guidance", "1", "3", *OPTIONS]
    assert main(["robustness", "sit", "defar", "--nfe", "2", "4", *options]) == 0
    said = capsys.readouterr().out
    for start in ("euler, no guidance", "euler, guidance 3", "heun, no guidance", "heun, guidance 3"):
        assert said.count(f'{start}: "defar is lowest at every NFE"') == said.count(f"{start}: From 2 to 4") == 1


def test_the_same_checkpoint_twice_differs_by_nothing(folder, capsys, steps):
    assert main(["robustness", "sit", "sit", "--nfe", "2", *OPTIONS, "--out", "twice"]) == 0
    rows = pd.read_csv("twice_differences.csv")
    assert steps[0] == [2] and (rows[["difference", "low", "high"]] == 0).all(axis=None)
    assert set(rows["verdict"]) == {"undecided"} and "undecided here" in capsys.readouterr().out


def test_mistakes_end_with_status_2_and_one_line(folder, capsys, steps):
    for arguments, part in (
        (["sit", "--nfe", "3", "--solver", "heun"], "NFE 3 is no multiple of heun's 2"),
        (["gone", "--nfe", "2"], "gone: no such checkpoint"),
        (["sit", "--nfe", "2", "--protocol", "fid"], "unknown protocol 'fid'"),
        (["sit", "--nfe", "2", "--n", "1"], "n = 1: sample quality takes at least two"),
        (["sit", "--nfe", "2", "--discriminator", "judge"], "--discriminator judge: name the model"),
        (["sit", "--nfe", "2", "--discriminator", "sit=a", "sit=b"], "sit is guided by a already"),
        (["sit", "--nfe", "2", "--discriminator", "other=a"], "discriminator of 'other': no such model among sit"),
        (["sit", "--nfe", "2", "--n", "61", "--reference", "real.npz"], "61 images asked for, 60 there"),
    ):
        assert main(["robustness", *arguments, "--device", "cpu"]) == 2
        said = capsys.readouterr()
        errors = [line for line in said.err.splitlines() if line.startswith("defar: error: ")]
        assert said.out == "" and len(errors) == 1 and part in errors[0] and said.err.endswith(f"{errors[0]}\n")
    assert steps[0] == []


def test_what_a_kill_left_beside_finished_samples_is_removed(folder, monkeypatch):
    def killed(self):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(sampling.Kept, "remove", killed)  # the file is there, its parts still are
        with pytest.raises(KeyboardInterrupt):
            run(a_sweep((2,)), "sit")
    samples = folder / "results" / "samples"
    (file,) = samples.glob("*.npz")
    (samples / f".{file.name}.lock").touch()
    assert (samples / f"{file.name}.parts").is_dir()
    run(a_sweep((2,)), "sit")
    assert {path.suffix for path in samples.iterdir()} == {".npz"}


def test_files_are_whole_or_not_there(folder, monkeypatch):
    found = run(a_sweep((2,)), "sit")
    save(found, Path("t"))
    before = Path("t_steps.csv").read_bytes()
    broken = replace(found, steps=None)
    with pytest.raises(AttributeError):
        save(broken, Path("t"))
    assert Path("t_steps.csv").read_bytes() == before and not list(folder.glob(".*tmp"))


def test_features_are_shared_with_defar_evaluate(folder, extractors):
    sweep = a_sweep((2,))
    run(sweep, "sit")
    calls = len(extractors[ONE.extractor].calls)
    file = sweep.samples(sweep.cells[0])
    evaluate_sources([file], ONE, Plan(Euler(2), N), reference="real.npz", device="cpu")
    assert len(extractors[ONE.extractor].calls) == calls


def test_named_models_may_have_several_folders():
    from defar_analysis.commands.quality import _models

    assert _models(("SiT=a/sit", "SiT=a/sit-gvp", "b/defar")) == {
        "SiT": [Path("a/sit"), Path("a/sit-gvp")],
        "defar": [Path("b/defar")],
    }
    assert list(_models(("x", "x"))) == ["1 x", "2 x"]


def test_a_sweep_refuses_to_be_several_processes(folder, refuses, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    refuses(
        lambda: Sweep(Grid({"sit": folder / "sit"}), named_protocol(DEFAULT, 8), folder / "results"), "WORLD_SIZE=2"
    )
    monkeypatch.setenv("WORLD_SIZE", "two")
    refuses(
        lambda: Sweep(Grid({"sit": folder / "sit"}), named_protocol(DEFAULT, 8), folder / "results"), "two", "torchrun"
    )


def test_two_processes_give_the_table_of_one(folder):
    """The shipped extractor, since other processes have no stand-in."""
    # "--": torchrun takes an --n behind it for one of its own options
    command = ["-m", "defar_analysis.cli", "--", "robustness", "sit", "defar", "--nfe", "2", "4", "--n", "10"]
    command += ["--reference", "real.npz", "--device", "cpu"]
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    said = {}
    for name, prefix in (("one", []), ("two", torchrun)):
        parts = [
            sys.executable,
            *prefix,
            *(part for part in command if prefix or part != "--"),
            "--out",
            name,
            "--results",
            f"results-{name}",
        ]
        done = subprocess.run(parts, capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr
        said[name] = done.stdout
    assert said["one"] in said["two"]
    for suffix in ("", "_differences", "_steps"):
        assert Path(f"two{suffix}.csv").read_bytes() == Path(f"one{suffix}.csv").read_bytes()
