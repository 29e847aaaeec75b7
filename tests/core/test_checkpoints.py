"""Checkpoints: what is written is read back; every broken one says so on one line; nothing is half written."""

import dataclasses

import pytest
import torch
from safetensors.torch import load_file

from defar_analysis.config import dump_toml
from defar_analysis.core import cards
from defar_analysis.core.cards import CARD, WEIGHTS
from defar_analysis.core.checkpoints import Card, load_checkpoint, save_checkpoint
from defar_analysis.core.codecs import PixelCodec
from defar_analysis.core.interpolants import GVP
from defar_analysis.core.networks import SiT
from defar_analysis.files import file_sha256, replaced

CARD_OF_A_TEST = Card(
    name='tiny "quoted"', weights="ema", sha256="", network={}, interpolant="gvp",
    data={"name": "unit", "classes": 3, "sha256": "ab"},
    training={"steps": 7, "seconds": 0.5, "recipe": {"optimizer": {"lr": 1e-4, "betas": [0.9, 0.999]}}},
)  # fmt: skip


def make_network(seed=0):
    network = SiT(
        input_size=8, patch_size=4, in_channels=2, hidden_size=16, depth=1, num_heads=2, num_classes=3
    )  # fmt: skip
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in network.parameters():
            p.copy_(0.3 * torch.randn(p.shape, generator=generator))
    return network


@pytest.fixture
def saved(tmp_path):
    return save_checkpoint(tmp_path / "tiny", make_network(), CARD_OF_A_TEST)


def edit_card(folder, old, new):
    text = (folder / CARD).read_text(encoding="utf-8")
    assert old in text
    (folder / CARD).write_text(text.replace(old, new), encoding="utf-8")


def test_weights_come_back_rounded_to_half_and_ready_to_evaluate(saved):
    network, loaded = make_network(), load_checkpoint(saved).model
    for (name, ours), (same, read) in zip(network.state_dict().items(), loaded.state_dict().items(), strict=True):
        assert name == same and read.dtype == torch.float32
        assert torch.equal(read, ours.half().float())
    assert all(tensor.dtype == torch.float16 for tensor in load_file(saved / WEIGHTS).values())
    assert not loaded.training and not any(p.requires_grad for p in loaded.parameters())
    x, t, labels = torch.randn(2, 2, 8, 8), torch.rand(2), torch.tensor([0, 3])
    network.load_state_dict(loaded.state_dict())
    assert torch.equal(loaded(x, t, labels), network(x, t, labels))


def test_float32_weights_come_back_exactly(tmp_path):
    network = make_network()
    loaded = load_checkpoint(save_checkpoint(tmp_path / "c", network, CARD_OF_A_TEST, torch.float32)).model
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), loaded.parameters(), strict=True))


def test_the_card_comes_back_with_checksum_and_network_filled_in(saved):
    checkpoint = load_checkpoint(saved)
    network = {"family": "sit", **make_network().config}
    expected = dataclasses.replace(CARD_OF_A_TEST, sha256=file_sha256(saved / WEIGHTS), network=network)
    assert checkpoint.card == expected
    assert checkpoint.interpolant == GVP() and checkpoint.codec == PixelCodec() and checkpoint.shape == (2, 8, 8)


def test_a_folder_holds_two_files_and_either_path_loads(saved):
    assert sorted(file.name for file in saved.iterdir()) == [CARD, WEIGHTS]
    by_folder, by_file = load_checkpoint(saved), load_checkpoint(saved / WEIGHTS)
    assert by_folder.card == by_file.card == load_checkpoint(str(saved)).card
    for a, b in zip(by_folder.model.parameters(), by_file.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_saving_the_same_network_again_gives_the_same_bytes(tmp_path, saved):
    again = save_checkpoint(tmp_path / "again", make_network(), CARD_OF_A_TEST)
    for name in (WEIGHTS, CARD):
        assert (saved / name).read_bytes() == (again / name).read_bytes()


def test_damaged_weights_are_refused(saved, refuses):
    whole = (saved / WEIGHTS).read_bytes()
    one_bit = bytearray(whole)
    one_bit[-5] ^= 1
    for broken in (bytes(one_bit), whole[:-10], whole[: len(whole) // 2], b"", whole + b"\0"):
        (saved / WEIGHTS).write_bytes(broken)
        refuses(lambda: load_checkpoint(saved), saved / WEIGHTS, "corrupt")


def test_a_file_that_is_no_safetensors_is_refused_even_with_the_right_checksum(saved, refuses):
    before = file_sha256(saved / WEIGHTS)
    (saved / WEIGHTS).write_bytes(b"\x93NUMPY, perhaps")
    edit_card(saved, before, file_sha256(saved / WEIGHTS))
    refuses(lambda: load_checkpoint(saved), saved / WEIGHTS, "cannot be read")


def test_missing_files_are_refused(saved, tmp_path, refuses):
    refuses(lambda: load_checkpoint(tmp_path / "nowhere"), tmp_path / "nowhere", "no such checkpoint")
    refuses(lambda: load_checkpoint(saved / "other.safetensors"), "other.safetensors")
    (saved / CARD).rename(tmp_path / CARD)
    refuses(lambda: load_checkpoint(saved), saved / CARD, "no such file")
    (tmp_path / CARD).rename(saved / CARD)
    (saved / WEIGHTS).unlink()
    refuses(lambda: load_checkpoint(saved), saved / WEIGHTS, "no such file")


def test_the_other_kind_of_weights_is_refused(saved, refuses):
    refuses(lambda: load_checkpoint(saved, weights="raw"), saved, "'ema'", "'raw'")


@pytest.mark.parametrize(
    ("old", "new"),
    [("depth = 1", "depth = 2"), ("hidden_size = 16", "hidden_size = 32"), ("num_classes = 3", "num_classes = 4")],
)
def test_the_card_of_another_network_is_refused(saved, refuses, old, new):
    edit_card(saved, old, new)
    refuses(lambda: load_checkpoint(saved), saved / WEIGHTS, "does not fit")


@pytest.mark.parametrize(
    ("old", "new", "part"),
    [
        ('family = "sit"', 'family = "unknown"', "unknown"),
        ('family = "sit"', 'relatives = "sit"', "family"),
        ("depth = 1", "dept = 1", "dept"),
        ("depth = 1", 'depth = "one"', "network"),
        ("num_heads = 2", "num_heads = 0", "num_heads"),
        ('interpolant = "gvp"', 'interpolant = "cubic"', "cubic"),
        ('codec = "pixel"', 'codec = "voxel"', "voxel"),
        ("name = ", "nmae = ", "nmae"),
        ("name = ", "name = = ", "TOML"),
    ],
)
def test_a_broken_card_is_refused_by_its_name(saved, refuses, old, new, part):
    edit_card(saved, old, new)
    refuses(lambda: load_checkpoint(saved), saved / CARD, part)


def test_an_unknown_network_is_not_saved(tmp_path, refuses):
    refuses(lambda: save_checkpoint(tmp_path / "c", torch.nn.Linear(2, 2), CARD_OF_A_TEST), "Linear", "sit")
    assert not (tmp_path / "c").exists()


def disk_full(*args, **kwargs):
    raise OSError("disk full")


def half_then_full(tensors, path):
    path.write_bytes(b"half a file")
    raise OSError("disk full")


@pytest.mark.parametrize(
    ("name", "failing"), [("save_file", disk_full), ("save_file", half_then_full), ("dump_toml", disk_full)]
)
def test_an_error_while_writing_leaves_the_old_checkpoint_and_no_stray_file(saved, monkeypatch, name, failing):
    before = {file.name: file.read_bytes() for file in saved.iterdir()}
    monkeypatch.setattr(cards, name, failing)
    with pytest.raises(OSError, match="disk full"):
        save_checkpoint(saved, make_network(seed=1), CARD_OF_A_TEST)
    assert {file.name: file.read_bytes() for file in saved.iterdir()} == before
    load_checkpoint(saved)


def test_replaced_takes_the_place_of_a_file_only_without_an_error(tmp_path):
    file = tmp_path / "a.txt"
    with replaced(file) as beside:
        beside.write_text("one")
        assert not file.exists() and beside.parent == tmp_path
    assert file.read_text() == "one"
    with pytest.raises(KeyboardInterrupt), replaced(file) as beside:
        beside.write_text("two")
        raise KeyboardInterrupt
    assert file.read_text() == "one" and [f.name for f in tmp_path.iterdir()] == ["a.txt"]


def test_a_card_without_a_needed_key_is_refused(saved, refuses):
    (saved / CARD).write_text(dump_toml({"name": "n", "weights": "ema"}), encoding="utf-8")
    refuses(lambda: load_checkpoint(saved), saved / CARD, "missing")
