"""Broken and hostile files of weights and cards, made systematically: what an import or a load must refuse."""

import io
import json
import pickle
import struct
import zipfile
from argparse import Namespace
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file, save, save_file
from torch import Tensor

FIXTURE = Path(__file__).parents[1] / "fixtures" / "sit_plain.safetensors"
MARKER = "code_was_run"
OPTIONS = ("--family", "sit", "--set", "num_heads=2")  # with which the whole file imports


class Runs:
    """Pickled, it asks for a function to be called with arguments when it is read."""

    def __init__(self, function: Callable, *arguments: object) -> None:
        self.asked = function, arguments

    def __reduce__(self):
        return self.asked


class Local:
    """A class that no reader of weights knows."""


def weights() -> dict[str, Tensor]:
    return load_file(FIXTURE)


def hostile_weights(folder: Path) -> Iterator[tuple[str, Path]]:
    """(what is wrong, a file), each written when it is asked for."""
    for what, suffix, content in [
        *_cut_short(),
        *_lying_headers(),
        *_lying_shapes(),
        *_pickles_with_code(folder / MARKER),
        *_no_weights(),
        *_strange_tensors(),
        *_archives(),
    ]:
        file = folder / f"hostile{suffix}"
        file.write_bytes(content)
        yield what, file
        file.unlink()
    folders = folder / "folder.safetensors"
    folders.mkdir()
    yield "a folder", folders
    yield "nothing", folder / "nothing.pt"


def _torch(content: object, **options: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


def _cut_short() -> Iterator[tuple[str, str, bytes]]:
    for suffix, whole in ((".safetensors", FIXTURE.read_bytes()), (".pt", _torch({"ema": weights()}))):
        for part in (0.0, 1e-5, 1e-4, 0.01, 0.3, 0.6, 0.9, 0.999):
            yield f"{suffix}, {part} of it", suffix, whole[: int(part * len(whole))]
    old = _torch(weights(), _use_new_zipfile_serialization=False)
    yield "legacy, half of it", ".pt", old[: len(old) // 2]


def _header(header: object, data: bytes = b"\0" * 64, length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def _lying_headers() -> Iterator[tuple[str, str, bytes]]:
    def one(**changes: object) -> dict[str, object]:
        return {"a": {"dtype": "F32", "shape": [4, 4], "data_offsets": [0, 64], **changes}}

    headers: dict[str, bytes] = {
        f"length {length}": _header(one(), length=length)
        for length in (0, 1, 10**6, 2**31, 2**32 + 5, 2**63, 2**64 - 1)
    }
    for what, changes in {
        "a larger shape": {"shape": [400, 4]},
        "a smaller shape": {"shape": [1]},
        "a negative shape": {"shape": [-4, -4]},
        "a shape that overflows": {"shape": [2**62, 2**62]},
        "no shape": {"shape": None},
        "a word as shape": {"shape": "4"},
        "an unknown type": {"dtype": "F33"},
        "no type": {"dtype": None},
        "offsets turned over": {"data_offsets": [64, 0]},
        "offsets outside": {"data_offsets": [0, 2**40]},
        "negative offsets": {"data_offsets": [-64, 0]},
        "three offsets": {"data_offsets": [0, 32, 64]},
        "a half type": {"dtype": "F16"},
        "no data": {"data_offsets": [0, 0]},
    }.items():
        headers[what] = _header(one(**changes))
    for what, text in {
        "empty": b"{}",
        "a list": b"[]",
        "null": b"null",
        "no JSON": b"{'a'}",
        "not UTF-8": b'{"\xff\xfe": 1}',
        "deep": b'{"a":' * 5000 + b"1" + b"}" * 5000,
        "bare name": b'{"a": 1}',
        "spaces": b" " * 64,
        "a name twice": json.dumps(one()).encode()[:-1] + b"," + json.dumps(one()).encode()[1:],
        "overlapping": json.dumps({**one(), "b": one()["a"]}).encode(),
        "metadata alone": b'{"__metadata__": {"a": "b"}}',
    }.items():
        headers[f"header {what}"] = _header(text)
    for what, content in headers.items():
        yield f"safetensors, {what}", ".safetensors", content


def _lying_shapes() -> Iterator[tuple[str, str, bytes]]:
    whole = weights()
    for name, tensor in whole.items():
        yield f"without {name}", ".safetensors", save({key: value for key, value in whole.items() if key != name})
        if name != "y_embedder.embedding_table.weight":  # twice as many classes are no lie
            yield f"{name} of another shape", ".safetensors", save({**whole, name: torch.cat([tensor, tensor])})
    for what, extra in {
        "an unknown weight": {"blocks.0.extra": torch.ones(2)},
        "block 10^9": {"blocks.1000000000.a": torch.ones(2)},
        "block -1": {"blocks.-1.a": torch.ones(2)},
        "two families": {"time_embed.0.weight": torch.ones(2, 2)},
        "positions that fill no square": {"pos_embed": torch.ones(1, 15, 32)},
        "flat positions": {"pos_embed": torch.ones(2)},
        "giant": {"x_embedder.proj.weight": torch.ones(2**20, 1, 1, 1), "pos_embed": torch.ones(1, 1, 2**20)},
        "a table of no classes": {"y_embedder.embedding_table.weight": torch.ones(1, 32)},
        "DDT's encoder": {"s_embedder.proj.weight": torch.ones(2, 2)},
        "RAE's times": {"t_embedder.W": torch.ones(2)},
        "rotary positions": {"feat_rope.freqs_cos": torch.ones(2, 2)},
        "projectors": {"projectors.0": torch.ones(2)},
        "a U-Net's": {"time_embed.0.weight": torch.ones(2, 2), "input_blocks.0.0.weight": torch.ones(2, 2)},
        "old layout alone": {"decoder_blocks.1": torch.ones(2)},
        "a patch of none": {"x_embedder.proj.weight": torch.ones(32)},
    }.items():
        yield what, ".safetensors", save({**whole, **extra})


def _pickles_with_code(marker: Path) -> Iterator[tuple[str, str, bytes]]:
    import os
    import subprocess

    calls = {
        "os.system": Runs(os.system, f"touch {marker}"),
        "open": Runs(open, str(marker), "w"),
        "eval": Runs(eval, f"open({str(marker)!r}, 'w')"),
        "exec": Runs(exec, f"open({str(marker)!r}, 'w')"),
        "subprocess": Runs(subprocess.Popen, ["touch", str(marker)]),
        "pathlib": Runs(Path.touch, marker),
        "getattr": Runs(getattr, marker, "touch"),
        "torch.load": Runs(torch.load, str(marker)),
    }
    for name, call in calls.items():
        for protocol in (0, 2, 4):
            yield f"pickle {protocol}, {name}", ".pt", pickle.dumps({"ema": weights(), "args": call}, protocol)
        yield f"torch.save, {name}", ".pth", _torch({"ema": weights(), "args": call})
        yield f"old torch.save, {name}", ".ckpt", _torch({"state_dict": call}, _use_new_zipfile_serialization=False)
    yield "torch.save of a class", ".pt", _torch({"ema": weights(), "args": Local()})
    yield "pickle of a class", ".bin", pickle.dumps(Local())


def _no_weights() -> Iterator[tuple[str, str, bytes]]:
    for what, content in {
        "nothing": b"",
        "one byte": b"\x80",
        "text": b"hello\n",
        "a web page": b"<!doctype html><html>404</html>",
        "a pointer of git LFS": b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 1\n",
        "a picture": b"\x89PNG\r\n\x1a\n" + b"\0" * 50,
        "noise": bytes(range(256)) * 8,
        "zeros": b"\0" * 4096,
    }.items():
        for suffix in (".safetensors", ".pt"):
            yield f"{suffix}, {what}", suffix, content
    yield "another name", ".pkl", pickle.dumps({"ema": 1})
    yield "no suffix", "", FIXTURE.read_bytes()


def _strange_tensors() -> Iterator[tuple[str, str, bytes]]:
    whole = weights()
    for what, tensor in {
        "not a number": torch.full((1, 16, 32), torch.nan),
        "infinite": torch.full((1, 16, 32), torch.inf),
        "complex": torch.ones(1, 16, 32, dtype=torch.complex64),
        "whole numbers": torch.ones(1, 16, 32, dtype=torch.int8),
        "truth values": torch.ones(1, 16, 32, dtype=torch.bool),
        "empty": torch.ones(0, 16, 32),
        "sparse": torch.ones(16, 32).to_sparse(),
        "on no device": torch.ones(1, 16, 32, device="meta"),
        "one number for 2^40": torch.ones(1).expand(2**20, 2**20),
        "a number": 1.0,
        "text": "pos",
        "nothing": None,
        "a list": [1.0],
    }.items():
        yield f"a weight that is {what}", ".pt", _torch({"ema": {**whole, "pos_embed": tensor}})
    for what, content in {
        "a list": [whole],
        "a tensor": torch.ones(3),
        "a number": 5,
        "text": "ema",
        "nothing": None,
        "a table": {},
        "no entry": {"weights": whole},
        "empty entry": {"ema": {}},
        "numbers as names": {1: torch.ones(2)},
        "a Namespace": Namespace(ema=whole),
        "entry of text": {"ema": "later"},
        "raw alone": {"model": whole},
        "one name twice": {"ema": {**whole, "_orig_mod.pos_embed": whole["pos_embed"]}},
        "empty state": {"state_dict": {}},
        "numbers inside": {"ema": {3: torch.ones(2)}},
        "table of tables": {"ema": {"ema": whole}},
    }.items():
        yield f"a file of {what}", ".pt", _torch(content)


def _archives() -> Iterator[tuple[str, str, bytes]]:
    for what, method in (("compressed", zipfile.ZIP_DEFLATED), ("stored", zipfile.ZIP_STORED)):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", method) as archive:
            archive.writestr("archive/data.pkl", b"\0" * 10**6)
        yield f"an archive of zeros, {what}", ".pt", buffer.getvalue()
    bomb, whole = io.BytesIO(), io.BytesIO(_torch({"ema": weights()}))
    with zipfile.ZipFile(whole) as from_, zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as to:
        for name in from_.namelist():
            to.writestr(name, from_.read(name))
    yield "weights, compressed", ".pt", bomb.getvalue()


def hostile_cards(card: str) -> Iterator[tuple[str, bytes]]:
    """(what is wrong, the text of a card), from that of a whole one."""
    for what, old, new in [
        *(
            (f"{line.split()[0]} = {value}", line, f"{line.split()[0]} = {value}")
            for line in card.partition("[data]")[0].splitlines()
            if " = " in line
            for value in ("[[]]", "-1", "{}")
        ),
        *(
            (f"{key} = {value}", f"{key} = {old}", f"{key} = {value}")
            for key, old in (("depth", 3), ("hidden_size", 32), ("num_classes", 10), ("input_size", 4))
            for value in ("0", "1e300", "inf", "nan", '"3"', "100000", "9223372036854775807", "10" + "0" * 40)
        ),
        ("mlp_ratio = nan", "mlp_ratio = 4.0", "mlp_ratio = nan"),
        ("mlp_ratio = 1e9", "mlp_ratio = 4.0", "mlp_ratio = 1e9"),
        *(
            (f"family {family}", 'family = "sit"', f"family = {family}")
            for family in (
                '"planted:build"',
                '"os:system"',
                '"diffusers:AutoencoderKL"',
                '"diffusers:"',
                '"toy"',
                '""',
                '":"',
                "7",
                '"a:b:c"',
            )
        ),
        *(
            (f"conventions {text}", "[network]\n", f"[network]\nconventions = {text}\n")
            for text in (
                "1",
                "{noise_at = 2}",
                "{arguments = [1, 2]}",
                "{arguments = []}",
                '{velocity = "up"}',
                "{time_scale = 0}",
                "{time_scale = nan}",
                "{surprise = 1}",
                '{output = "x"}',
            )
        ),
        ("unknown key", "[network]\n", "[surprise]\n[network]\n"),
        ("a key twice", "depth = 3", "depth = 3\ndepth = 3"),
        ("a table twice", "[network]\n", "[network]\n[network]\n"),
        ("no end", "[network]\n", "[network\n"),
        ("deep", "[network]\n", f"[network]\na = {'[' * 3000}{']' * 3000}\n"),
        ("path", 'name = "', 'codec = "../x"\nname = "'),
    ]:
        assert old in card, old
        yield what, card.replace(old, new, 1).encode()
    yield "not UTF-8", card.encode() + b"\xff\xfe"
    yield "another encoding", card.encode("utf-16")
    yield "empty", b""
    yield "a zero byte", card.encode() + b"\0"
    yield "half of its head", card.partition("[network]")[0].encode()[:-9]


def write_whole(file: Path) -> Path:
    """The file that all of these were made from, which is taken."""
    save_file(weights(), file)
    return file
