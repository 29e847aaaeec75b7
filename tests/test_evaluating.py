"""`defar evaluate`: the same numbers from a checkpoint, a folder and an .npz; JSON for programs, words for people."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from defar_analysis import evaluating, sample_source
from defar_analysis.cli import main
from defar_analysis.core.checkpoints import Card, save_checkpoint
from defar_analysis.core.networks import SiT
from defar_analysis.core.samplers import Euler
from defar_analysis.measures.extractors import INCEPTION_FILE
from defar_analysis.sampling import Plan, sample_to_file

sys.path.insert(0, str(Path(__file__).parent / "measures"))
from quality_inputs import MeanColours

N = 70  # a chunk of 64 and another
OPTIONS = ["--n", str(N), "--reference", "real.npz", "--device", "cpu"]
PLAN = Plan(Euler(2), N)
FD = "FD-EffNet-128"


@dataclass
class Colours(MeanColours):
    """Of images of 8 x 8."""

    @property
    def dimension(self):
        return 3 + 8


def checkpoint(folder, seed=0):
    torch.manual_seed(seed)
    model = SiT(8, 4, 3, 32, 1, 2, num_classes=4)
    for weight in (model.final_layer.linear.weight, model.final_layer.adaLN_modulation[1].weight):
        torch.nn.init.normal_(weight, std=0.3)
    return save_checkpoint(folder, model, Card(folder.name, "ema", "", {}))


def pictures(count=90, size=8, seed=7):
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), np.uint8)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder, with two tiny checkpoints, `one` and `two`, and images to hold them against."""
    checkpoint(tmp_path / "one")
    checkpoint(tmp_path / "two", seed=1)
    np.savez(tmp_path / "real.npz", arr_0=pictures(), arr_1=np.arange(90) % 4)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def extractor(monkeypatch):
    """A network that counts its calls, in place of the protocol's."""
    colours = Colours()
    monkeypatch.setattr(evaluating, "extractor_for", lambda protocol, device, weights=None: colours)
    return colours


@pytest.fixture
def sampled(monkeypatch):
    """How many images each call of the sampler made."""
    counts, real = [], sample_source.sample

    def sample(field, noise, *args, **kwargs):
        counts.append(len(noise))
        return real(field, noise, *args, **kwargs)

    monkeypatch.setattr(sample_source, "sample", sample)
    return counts


@pytest.fixture
def evaluated(folder, capsys):
    """evaluated("one", ...): the JSON on stdout of `defar evaluate one ... --n 70 --reference real.npz --steps 2`, and
    what stderr says."""

    def run(*arguments, options=OPTIONS):
        assert main(["evaluate", *arguments, *options, "--steps", "2"]) == 0
        said = capsys.readouterr()
        return json.loads(said.out, parse_constant=lambda name: pytest.fail(f"{name} is no JSON")), said.err

    return run


def metrics(report, place=0):
    return {name: found["value"] for name, found in report["results"][place]["metrics"].items()}


# --- what it says ---


def test_json_on_stdout_and_words_on_stderr(evaluated, extractor):
    report, words = evaluated("one")
    assert set(report) == {"protocol", "reference", "n", "results", "warnings", "environment"}
    assert report["protocol"]["name"] == "offline-effnet-lite0-128" and report["n"] == N
    assert report["protocol"]["extractor_identity"] == {"name": "mean-colours"}
    assert report["reference"]["count"] == N and report["warnings"] == []
    (result,) = report["results"]
    assert result["model"] == "one" and result["images"]["solver"] == repr(Euler(2))
    for name in (FD, "sFD-EffNet-128", "KD-EffNet-128", "IS-EffNet-128", "precision", "recall"):
        found = result["metrics"][name]
        assert found["low"] <= found["value"] <= found["high"]
        assert f"one: {name} {found['value']:.4g} [{found['low']:.4g}, {found['high']:.4g}]" in words
    assert f"n = {N}, against {N} images of " in words and "95 % bootstrap" in words


def test_a_checkpoint_an_npz_and_a_folder_of_the_same_images_give_the_same_numbers(evaluated, extractor, folder):
    for out in ("npz.npz", "png"):
        sample_to_file("one", Path(out), PLAN, "cpu")
    report, _ = evaluated("one", "npz.npz", "png")
    assert metrics(report, 0) == metrics(report, 1) == metrics(report, 2)
    # straight from the generator: bit for bit the features of the images on disk
    kept = {}
    for record in (folder / "results" / "features").glob("*/features.json"):
        parts = sorted(record.parent.glob("*.npz"))
        kept[str(json.loads(record.read_text())["images"])] = [dict(np.load(part)) for part in parts]
    mine, *others = [kept[str(result["images"])] for result in report["results"]]
    assert len(kept) == 4 and len(mine) == 2 and mine[0]["pool"].shape == (64, 11)
    for other in others:
        for part, theirs in zip(mine, other, strict=True):
            for name in ("pool", "spatial", "logits"):
                np.testing.assert_array_equal(part[name], theirs[name])
    paired = {row["model"]: row["paired"] for row in report["differences"]}
    assert paired == {"npz.npz": True, "png": False}  # our .npz says what noise it had, a folder of pictures does not


def test_nothing_is_sampled_or_extracted_twice(evaluated, extractor, sampled):
    first, _ = evaluated("one")
    calls = list(extractor.calls)
    assert sampled == [64, 6] and calls == [64] * 4  # 70 samples, 70 of the reference
    again, _ = evaluated("one")
    assert sampled == [64, 6] and extractor.calls == calls and again["results"] == first["results"]
    evaluated("one", "two")
    assert sampled == [64, 6] * 2 and extractor.calls == calls + [64] * 2
    evaluated("one", options=[*OPTIONS, "--seed", "1"])
    assert sampled == [64, 6] * 3


def test_an_interrupted_evaluation_goes_on_where_it_was(evaluated, extractor, sampled, monkeypatch, capsys):
    real = Colours.__call__

    def stops(self, images):
        if len(self.calls) == 3:
            self.calls.append("stopped")
            raise KeyboardInterrupt
        return real(self, images)

    monkeypatch.setattr(Colours, "__call__", stops)
    assert main(["evaluate", "one", *OPTIONS, "--steps", "2"]) == 130
    said = capsys.readouterr()
    assert said.out == "" and "the same command goes on" in said.err
    before = len(sampled)
    report, _ = evaluated("one")
    assert [call for call in extractor.calls if call != "stopped"] == [64] * 4
    assert sum(sampled) == N + sampled[before - 1]  # the chunk in work alone was sampled again
    assert report == evaluated("one", options=[*OPTIONS, "--results", "fresh"])[0]


CHILD = """
import sys
sys.path[:0] = {paths!r}
from test_evaluating import Colours
from defar_analysis import evaluating
from defar_analysis.cli import main
evaluating.extractor_for = lambda protocol, device, weights=None: Colours()
sys.exit(main(sys.argv[1:]))
"""


def test_two_processes_share_the_images_and_give_the_numbers_of_one(evaluated, extractor, folder):
    expected, _ = evaluated("one", "two")
    here = Path(__file__).parent
    command = [sys.executable, "-c", CHILD.format(paths=[str(here), str(here / "measures")]), "evaluate", "one", "two"]
    command += [*OPTIONS, "--steps", "2", "--results", "shared"]
    processes = [
        subprocess.Popen(
            command, env=os.environ | {"RANK": str(rank), "WORLD_SIZE": "2"}, text=True, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for rank in (1, 0)
    ]  # fmt: skip
    (silent, said), (printed, words) = (process.communicate(timeout=300) for process in processes)
    assert [process.returncode for process in processes] == [0, 0], said + words
    assert silent == "" and said == "" and "process" not in words
    assert json.loads(printed)["results"] == expected["results"]
    assert json.loads(printed)["differences"] == expected["differences"]


def test_several_sources_are_compared_with_the_first_on_the_same_noise(evaluated, extractor):
    report, words = evaluated("one", "two")
    rows = {row["metric"]: row for row in report["differences"]}
    assert len(rows) == 6 and rows.keys() == metrics(report).keys()
    for metric, row in rows.items():
        assert (row["model"], row["baseline"], row["paired"], row["n"]) == ("two", "one", True, N)
        assert row["difference"] == metrics(report, 1)[metric] - metrics(report, 0)[metric]
        assert row["low"] <= row["difference"] <= row["high"]
    assert rows[FD]["difference"] != 0 and f"two - one: {FD} {rows[FD]['difference']:+.4g}" in words
    assert "(paired by noise)" in words


def test_a_percentage_that_does_not_exist_is_null(evaluated, extractor, folder):
    np.savez("black.npz", arr_0=np.zeros((N, 8, 8, 3), np.uint8))
    report, _ = evaluated("black.npz", "one")  # parse_constant refuses NaN
    assert metrics(report)["recall"] == 0
    (row,) = (row for row in report["differences"] if row["metric"] == "recall")
    assert row["percent"] is row["percent_low"] is row["percent_high"] is None and row["difference"] is not None


def test_the_same_source_twice_differs_by_nothing(evaluated, extractor, sampled):
    report, _ = evaluated("one", "one")
    assert [result["model"] for result in report["results"]] == ["1 one", "2 one"] and sampled == [64, 6]
    for row in report["differences"]:
        assert row["difference"] == row["low"] == row["high"] == 0 and row["verdict"] == "undecided"


def test_seed_guidance_and_solver_reach_the_samples(evaluated, extractor):
    plain = metrics(evaluated("one")[0])
    for more in (["--seed", "3"], ["--guidance", "3"], ["--solver", "heun"]):
        report, _ = evaluated("one", options=[*OPTIONS, *more])
        assert metrics(report)[FD] != plain[FD], more


def test_an_extrapolation_is_one_more_metric_without_an_interval(evaluated, extractor):
    report, words = evaluated("one", options=[*OPTIONS, "--extrapolate"])
    found = report["results"][0]["metrics"][f"{FD} at infinite n"]
    assert found["low"] is found["high"] is None and found["value"] < metrics(report)[FD]
    assert f"{FD} at infinite n {found['value']:.4g}\n" in words
    assert any("FD is not yet linear in 1/n" in text for text in report["warnings"])


def test_the_default_network_warns_of_too_few_images(evaluated):
    report, words = evaluated("one", options=["--n", "8", "--reference", "real.npz", "--device", "cpu"])
    assert report["protocol"]["extractor_identity"]["name"] == "effnet-lite0-128"
    doubts = [text for text in report["warnings"] if "is not above the 1,280 features" in text]
    assert any(text.startswith("generated: n = 8 ") for text in doubts) and len(doubts) == len(set(doubts))
    assert all(words.count(f"warning: {text}\n") == 1 for text in doubts)


# --- statistics as a reference ---


def statistics(size):
    rows = np.random.default_rng(3).normal(size=(60, size))
    return {"mu": rows.mean(axis=0), "sigma": np.cov(rows.T)}


def test_a_file_of_statistics_leaves_out_what_needs_images(evaluated, extractor, folder):
    np.savez("edm.npz", **statistics(11))
    report, words = evaluated("one", options=["--n", str(N), "--reference", "edm.npz", "--device", "cpu"])
    assert set(metrics(report)) == {FD, "IS-EffNet-128"} and report["reference"]["count"] is None
    assert f"n = {N}, against edm.npz:" in words


# --- mistakes ---


@pytest.fixture
def refused(folder, capsys):
    """refused(arguments, *parts): `defar evaluate` ends with status 2 and one line on stderr that has all parts."""

    def check(arguments, *parts):
        assert main(["evaluate", *map(str, arguments)]) == 2
        said = capsys.readouterr()
        assert said.out == "" and said.err.startswith("defar: error: ") and said.err.count("\n") == 1, said.err
        for part in parts:
            assert str(part) in said.err, said.err

    return check


def save_pngs(place, images):
    place.mkdir()
    for index, image in enumerate(images):
        Image.fromarray(image).save(place / f"{index:03d}.png")


def test_an_unknown_protocol_is_refused(refused):
    refused(["one", "--protocol", "fid"], "unknown protocol 'fid'", "offline-effnet-lite0-128")


def test_no_source_is_refused(refused):
    refused(OPTIONS, "evaluate needs images: a checkpoint's folder, a folder of images or an .npz")


def test_sources_that_are_no_images_are_refused(refused, extractor, folder):
    (folder / "empty").mkdir()
    refused(["empty", *OPTIONS], "empty: no pictures")
    refused(["gone", *OPTIONS], "gone", "give")
    refused(["gone.npz", *OPTIONS], "gone.npz: no such file")
    save_pngs(folder / "mixed", [*pictures(40), *pictures(40, size=16)])
    refused(["mixed", *OPTIONS], "mixed/040.png: 16x16, the others 8x8")
    np.savez("float.npz", arr_0=pictures() / 255)
    refused(["float.npz", *OPTIONS], "float.npz: arr_0 is float64 (90, 8, 8, 3)", "uint8")
    (folder / "text.npz").write_text("no archive")
    refused(["text.npz", *OPTIONS], "text.npz: not a readable .npz")
    assert extractor.calls == []


def test_too_few_images_name_the_n_that_they_allow(refused, extractor, folder):
    save_pngs(folder / "few", pictures(5))
    refused(["few", *OPTIONS], "few: 5 images, but offline-effnet-lite0-128 takes n = 70", "--n 5")
    refused(["few", "--device", "cpu"], "takes n = 2000", "--n 5")


def test_one_image_is_refused(refused, extractor, folder):
    save_pngs(folder / "single", pictures(1))
    refused(["single", *OPTIONS], "single: 1 image; sample quality takes at least two")
    refused(["single", "--n", "1", "--device", "cpu"], "n = 1: sample quality takes at least two images")


def test_a_class_sorted_file_is_warned_of(evaluated, extractor, folder):
    images = pictures(N)
    np.savez("sorted.npz", arr_0=images, arr_1=np.repeat(np.arange(7), 10))
    np.savez("mixed.npz", arr_0=images, arr_1=np.arange(N) % 7)
    report, words = evaluated("sorted.npz")
    (doubt,) = (text for text in report["warnings"] if "sorted by class" in text)
    assert doubt.startswith("sorted.npz:") and f"warning: {doubt}" in words
    assert not any("sorted by class" in text for text in evaluated("mixed.npz")[0]["warnings"])


def test_a_folder_of_classes_is_sorted_too(evaluated, extractor, folder):
    (folder / "classes").mkdir()
    for name in ("cat", "dog"):
        save_pngs(folder / "classes" / name, pictures(40))
    assert any("sorted by class" in text for text in evaluated("classes")[0]["warnings"])


def test_inception_goes_with_its_own_protocols(refused):
    refused(["one", *OPTIONS, "--inception", "some.pth"], "--inception some.pth", "does not use that network")


def test_an_absent_inception_says_which_file_where_and_what_to_use_meanwhile(refused, folder, monkeypatch):
    monkeypatch.setenv("DEFAR_DATA", str(folder / "data"))
    monkeypatch.delenv("DEFAR_INCEPTION", raising=False)
    source = "https://github.com/toshas/torch-fidelity/releases"
    meanwhile = "--protocol offline-effnet-lite0-128"
    refused(["one", "--protocol", "cifar10-train"], folder / "data" / INCEPTION_FILE, source, meanwhile)
    refused(["one", "--protocol", "cifar10-train", "--inception", "gone.pth"], "gone.pth: no such file", meanwhile)


def test_a_wrong_weights_file_is_refused(refused, folder):
    (folder / "half.pth").write_bytes(b"half a download")
    arguments = ["one", "--protocol", "cifar10-train", "--inception", "half.pth"]
    refused(arguments, "half.pth: sha256 ", "does not begin with '6726825d'", INCEPTION_FILE)


@pytest.mark.parametrize("kind", ["size", "absent", "few"])
def test_a_reference_that_does_not_fit_is_refused_before_anything_is_sampled(kind, refused, extractor, sampled, folder):
    np.savez("size.npz", **statistics(2048))
    np.savez("few.npz", arr_0=pictures(20))
    parts = {
        "size": ["size.npz: mu has shape (2048,)", "mean-colours has 11 features"],
        "absent": ["absent.npz: no such file"],
        "few": ["few.npz: 70 images asked for, 20 there"],
    }[kind]
    refused(["one", "--n", N, "--reference", f"{kind}.npz", "--device", "cpu", "--steps", "2"], *parts)
    assert sampled == [] and extractor.calls == []


def test_a_checkpoint_of_another_rounding_rule_is_refused(refused, extractor, monkeypatch):
    from defar_analysis.core.codecs import PixelCodec

    monkeypatch.setattr(PixelCodec, "rule", "floor")
    refused(["one", *OPTIONS], "one: rounds by 'floor'", "'round_half_up'")


def test_images_of_another_size_than_the_references_are_warned_of(evaluated, extractor, folder, monkeypatch):
    np.savez("large.npz", arr_0=pictures(90, size=16))
    real = Colours.__call__
    monkeypatch.setattr(Colours, "__call__", lambda self, images: real(self, images[..., :8, :8]))
    report, _ = evaluated("large.npz")
    assert any("16 x 16" in text and "8 x 8" in text for text in report["warnings"])
