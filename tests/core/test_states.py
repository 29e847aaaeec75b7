"""Saved states: the newest few, the last good one pointed at, and nothing believed that is not as it was written."""

import json
from contextlib import contextmanager

import pytest
import torch

from defar_analysis.core import states
from defar_analysis.core.states import OLDER, POINTER, newest_state, restore, save_state, saved_states
from defar_analysis.files import file_sha256

CPU = torch.device("cpu")


def state(step, **changes):
    weights = {"weight": torch.full((300,), float(step))}
    whole = {"step": step, "seconds": 0.5 * step, "model": weights, "ema": weights, "optimizer": {}, "data_sha256": "d"}
    return whole | changes


def names(folder):
    return sorted(file.name for file in folder.iterdir())


def step_of(folder):
    return newest_state(folder, CPU, "d")["step"]


@pytest.fixture
def four(tmp_path):
    """Saved after steps 5, 10, 15 and 20, three kept."""
    for step in (5, 10, 15, 20):
        save_state(tmp_path, state(step), keep=3)
    return tmp_path


def test_the_newest_few_are_kept_and_the_last_good_one_is_pointed_at(four):
    kept = ["state-0000020.pt", "state-0000015.pt", "state-0000010.pt"]
    assert names(four) == [POINTER, *reversed(kept)]
    told = json.loads((four / POINTER).read_text())
    assert [entry["file"] for entry in told["kept"]] == kept == [file.name for file in saved_states(four)]
    assert [entry["sha256"] for entry in told["kept"]] == [file_sha256(four / name) for name in kept]
    assert step_of(four) == 20
    save_state(four, state(25), keep=1)
    assert names(four) == [POINTER, "state-0000025.pt"]


def test_who_removes_the_newer_ones_goes_on_from_an_older_one(four):
    (four / "state-0000020.pt").unlink()
    (four / "state-0000015.pt").unlink()
    assert step_of(four) == 10
    save_state(four, state(12), keep=3)
    assert [file.name for file in saved_states(four)] == ["state-0000012.pt", "state-0000010.pt"]


@pytest.mark.parametrize("place", [0.1, 0.5, 0.9])
def test_a_flipped_bit_is_noticed_wherever_it_is(four, place, capsys):
    newest = four / "state-0000020.pt"
    content = bytearray(newest.read_bytes())
    content[int(place * len(content))] ^= 1
    newest.write_bytes(content)
    assert step_of(four) == 15
    assert "checksum" in capsys.readouterr().err and (four / "state-0000020-before-15.corrupt").exists()


@pytest.mark.parametrize(
    "pointer", [b"", b"{", b"[]", b'{"kept": 3}', b'{"kept": [], "dropped": ["../data.pt"]}', b"\xff"]
)
def test_without_a_readable_pointer_the_newest_readable_state_counts(four, pointer, refuses):
    (four / POINTER).write_bytes(pointer)
    other = four.parent / "data.pt"
    other.touch()
    assert step_of(four) == 20 and other.exists()
    (four / "state-0000020.pt").write_bytes(b"half")
    assert step_of(four) == 15
    for file in saved_states(four):
        file.write_bytes(b"half")
    refuses(lambda: newest_state(four, CPU, "d"), "state-0000015.pt: corrupt", "no older state; give another --out")


def test_a_state_that_nothing_points_at_yet_does_not_count(four):
    pointer = (four / POINTER).read_bytes()
    save_state(four, state(25), keep=3)
    (four / POINTER).write_bytes(pointer)  # killed in between
    assert step_of(four) == 20


def test_what_is_kept_no_longer_is_removed_even_after_a_kill(four):
    save_state(four, state(25), keep=3)
    torch.save(state(10), four / "state-0000010.pt")  # as if killed before it was removed
    torch.save(state(7), four / "state-0000007.pt")  # as if it was killed before anything named it
    assert step_of(four) == 25
    assert names(four) == [POINTER, *(f"state-{step:07d}.pt" for step in (7, 15, 20, 25))]
    save_state(four, state(30), keep=3)
    assert names(four) == [POINTER, *(f"state-{step:07d}.pt" for step in (20, 25, 30))]


def test_a_state_that_was_kept_elsewhere_can_be_put_back(four, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("kept") / "state-0000010.pt"
    (four / elsewhere.name).rename(elsewhere)
    save_state(four, state(25), keep=2)
    for newer in saved_states(four):
        newer.unlink()
    elsewhere.rename(four / elsewhere.name)
    assert step_of(four) == 10
    save_state(four, state(15), keep=2)
    assert [file.name for file in saved_states(four)] == ["state-0000015.pt", "state-0000010.pt"]
    assert step_of(four) == 15


def test_states_that_are_gone_are_no_new_run(four, refuses):
    for file in saved_states(four):
        file.unlink()
    refuses(lambda: newest_state(four, CPU, "d"), four / POINTER, "state-0000020.pt", "gone", "another --out")


def test_after_a_damaged_pointer_no_more_are_kept_than_before_it(four):
    (four / POINTER).write_bytes(b"{")
    save_state(four, state(25), keep=3)
    assert names(four) == [POINTER, *(f"state-{step:07d}.pt" for step in (15, 20, 25))]
    told = json.loads((four / POINTER).read_text())["kept"]
    assert [entry["sha256"] for entry in told] == [file_sha256(four / entry["file"]) for entry in told]


def test_a_step_that_is_saved_again_is_never_taken_for_damaged(four, capsys, monkeypatch):
    """Killed after the new state took the old one's place and before anything vouched for it."""
    plain, written = states.replaced, []

    class Killed(BaseException):
        pass

    @contextmanager
    def killed_at_the_pointer(path):
        if written and written[-1].suffix == ".pt":
            raise Killed
        with plain(path) as beside:
            yield beside
        written.append(path)

    monkeypatch.setattr(states, "replaced", killed_at_the_pointer)
    with pytest.raises(Killed):
        save_state(four, state(20, seconds=1.0), keep=3)
    monkeypatch.undo()
    assert newest_state(four, CPU, "d")["step"] == 15 and "corrupt" not in capsys.readouterr().err
    save_state(four, state(20, seconds=2.0), keep=3)
    assert newest_state(four, CPU, "d")["seconds"] == 2.0


@pytest.mark.parametrize("older", OLDER)
def test_the_states_of_an_older_version_are_gone_on_from(tmp_path, older):
    torch.save(state(40), tmp_path / older)
    assert step_of(tmp_path) == 40
    save_state(tmp_path, state(45))
    assert names(tmp_path) == [POINTER, "state-0000045.pt", older] and step_of(tmp_path) == 45
    save_state(tmp_path, state(50))
    assert names(tmp_path) == [POINTER, "state-0000045.pt", "state-0000050.pt"]


@pytest.mark.parametrize("where", ["model", "ema", "optimizer"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_what_is_not_finite_never_becomes_the_last_good(four, where, value, refuses):
    before = {file: file.read_bytes() for file in four.iterdir()}
    broken = {"state": {0: {"exp_avg": torch.tensor([0.0, value])}}}
    refuses(lambda: save_state(four, state(25, **{where: broken})), f"step 25: {where}.state.0.exp_avg is not finite")
    assert {file: file.read_bytes() for file in four.iterdir()} == before


def test_a_state_of_another_network_or_of_other_data_is_refused(four, refuses):
    refuses(lambda: newest_state(four, CPU, "other"), "trained on other images")
    found = newest_state(four, CPU, "d")
    refuses(lambda: restore(found, four, model=torch.nn.Linear(2, 2)), four, "another network", "--out")
