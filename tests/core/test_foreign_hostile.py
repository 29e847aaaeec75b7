"""More than 200 broken and hostile files: one line each, nothing of them is run, nothing is written."""

import pytest
from hostile.weights import MARKER, hostile_cards, hostile_weights, write_whole

from defar_analysis.core.cards import CARD, WEIGHTS
from defar_analysis.core.checkpoints import load_checkpoint
from defar_analysis.core.foreign.importing import import_model
from defar_analysis.core.foreign.options import ImportOptions
from defar_analysis.errors import DefarError
from defar_analysis.files import file_sha256

ASKED = ImportOptions(family="sit", settings={"num_heads": 2})


def refused(call, what):
    """The line that call was refused with."""
    try:
        call()
    except DefarError as error:
        line = str(error)
        assert line and "\n" not in line and len(line) < 600, (what, line)
        return line
    except BaseException as error:
        raise AssertionError(f"{what}: {type(error).__name__}: {error}") from error
    raise AssertionError(f"{what}: was taken")


@pytest.mark.filterwarnings("ignore")
def test_hostile_files_are_refused_in_one_line_and_nothing_is_run_or_written(tmp_path):
    count = 0
    for what, file in hostile_weights(tmp_path):
        before = sorted(path.name for path in tmp_path.iterdir())
        line = refused(lambda file=file: import_model(file, tmp_path / "out", ASKED), what)
        assert file.name[:20] in line, (what, line)
        assert sorted(path.name for path in tmp_path.iterdir()) == before, what
        assert not (tmp_path / MARKER).exists(), what
        count += 1
    assert count >= 200
    import_model(write_whole(tmp_path / "whole.safetensors"), tmp_path / "out", ASKED)  # asked for in the same way


def test_hostile_weights_behind_a_card_that_vouches_for_them(tmp_path):
    folder = tmp_path / "checkpoint"
    import_model(write_whole(tmp_path / "whole.safetensors"), folder, ASKED)
    card, before = (folder / CARD).read_text(encoding="utf-8"), file_sha256(folder / WEIGHTS)
    count = 0
    for what, file in hostile_weights(tmp_path):
        if file.suffix == ".safetensors" and file.is_file():
            (folder / WEIGHTS).write_bytes(file.read_bytes())
            (folder / CARD).write_text(card.replace(before, file_sha256(file), 1), encoding="utf-8")
            refused(lambda: load_checkpoint(folder), what)
            count += 1
    assert count >= 100


def test_hostile_cards_are_refused_in_one_line_and_nothing_is_run_or_written(tmp_path, monkeypatch):
    folder = tmp_path / "checkpoint"
    import_model(write_whole(tmp_path / "whole.safetensors"), folder, ASKED)
    planted = f"open({str(tmp_path / MARKER)!r}, 'w')\ndef build(**options): return print\n"
    for place in (folder, tmp_path):
        (place / "planted.py").write_text(planted)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DEFAR_TRUST", raising=False)
    whole = (folder / CARD).read_text(encoding="utf-8")
    before = sorted(path.name for place in (folder, tmp_path) for path in place.iterdir())
    count = 0
    for what, content in hostile_cards(whole):
        (folder / CARD).write_bytes(content)
        refused(lambda: load_checkpoint(folder), what)
        assert sorted(path.name for place in (folder, tmp_path) for path in place.iterdir()) == before, what
        count += 1
    assert count >= 60
    (folder / CARD).write_text(whole, encoding="utf-8")
    load_checkpoint(folder)
