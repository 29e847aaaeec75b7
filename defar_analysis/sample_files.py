"""What sampling writes: finished chunks of an interrupted run, ADM's .npz, grids, a folder's labels; all whole or not
there, all with their provenance."""

from __future__ import annotations

import csv
import io
import json
import shutil
import sys
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .core.arrays import npz_names, read_npy, read_npz
from .errors import DefarError
from .files import replaced
from .inputs import parse_json, read_json

RECORD, LABELS = "samples.json", "labels.csv"


def output_place(out: Path) -> Path:
    """`out`, if it can be written: a .png, an .npz or a folder. Raises DefarError."""
    out = Path(out)
    if out.suffix not in (".png", ".npz", ""):
        raise DefarError(f"{out}: give a name ending in .png or .npz, or without an ending for a folder")
    if not out.parent.is_dir():
        raise DefarError(f"{out.parent}: no such folder; make it first")
    if out.suffix and out.is_dir():
        raise DefarError(f"{out}: is a folder; give another --out")
    return out


def check_command(place: Path, theirs: dict[str, Any], mine: dict[str, Any]) -> None:
    """Raises DefarError that names the differences if the samples at `place` are those of another command."""
    mine = json.loads(json.dumps(mine))
    keys = dict.fromkeys([*mine, *theirs])  # each may have options that the other has not
    other = [f"{key} {theirs.get(key)}, not {mine.get(key)}" for key in keys if theirs.get(key) != mine.get(key)]
    if other:
        raise DefarError(f"{place}: holds samples with {'; '.join(other)}: give another --out or remove it")


def npz_record(file: Path) -> dict[str, Any]:
    """What :func:`save_npz` recorded in a file, without reading its images. Raises DefarError for a foreign file."""
    try:
        record = parse_json(str(read_npz(file, ["provenance"])["provenance"]), str(file))
        known = "arr_0" in npz_names(file) and {"command", "nfe"} <= set(record)
        if known and isinstance(record["command"], dict) and isinstance(record["nfe"], int):
            return record
    except (DefarError, KeyError, TypeError):
        pass  # no .npz, or one of something else
    raise DefarError(f"{file}: was not written by defar sample; give another --out or remove it")


class Kept:
    """The finished chunks of one command in a folder of its own. `samples.json` there holds the command and, by the
    chunk's first image, its cost (nfe, forwards); it is written after the chunk's files.

    Raises DefarError where the folder holds another command's samples or anything else.
    """

    def __init__(self, folder: Path, command: dict[str, Any]) -> None:
        self.folder, self.command = folder, json.loads(json.dumps(command))
        self.costs: dict[int, tuple[int, int]] = {}
        self.whole = False
        file = folder / RECORD
        if not folder.is_dir():
            if folder.exists():
                raise DefarError(f"{folder}: is a file, not a folder; give another --out")
        elif file.exists():
            self._take_up(file)
        elif any(not path.name.startswith(".") for path in folder.iterdir()):
            raise DefarError(f"{folder}: holds files that are not samples; give another --out or an empty folder")

    def _take_up(self, file: Path) -> None:
        try:
            record = read_json(file)
            theirs = dict(record["command"])
            self.costs = {int(start): (int(nfe), int(calls)) for start, (nfe, calls) in record["chunks"].items()}
            self.whole = "nfe" in record
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
            raise DefarError(f"{file}: cannot be read; remove {self.folder} or give another --out") from None
        check_command(self.folder, theirs, self.command)

    def has(self, start: int, names: Sequence[str]) -> bool:
        """Whether the chunk from image `start` is finished and its files are still there, and whole."""
        return start in self.costs and all(_is_whole(self.folder / name) for name in names)

    def add(self, start: int, files: dict[str, np.ndarray], cost: tuple[int, int]) -> None:
        """Keep a finished chunk: its files, .png or .npy, then its cost."""
        if not (self.folder / RECORD).exists():
            self._write({})  # first of all, so that the folder is known as this command's
        for name, array in files.items():
            if name.endswith(".png"):
                save_png(self.folder / name, array)
                continue
            with replaced(self.folder / name) as beside, open(beside, "wb") as file:
                np.save(file, array, allow_pickle=False)
        self.costs[start] = cost
        self._write({})

    def finish(self, provenance: dict[str, Any]) -> None:
        """All chunks are there: write the whole record."""
        self._write(provenance)

    def remove(self) -> None:
        """Take the folder away, samples.json last: killed in between, it is still this command's."""
        for file in self.folder.iterdir():
            if file.name != RECORD:
                file.unlink()
        shutil.rmtree(self.folder)

    def _write(self, more: dict[str, Any]) -> None:
        record = {"command": self.command} | more
        self.whole = bool(more)
        record["chunks"] = {str(start): cost for start, cost in sorted(self.costs.items())}
        with replaced(self.folder / RECORD) as beside:
            beside.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def _is_whole(file: Path) -> bool:
    """Whether a chunk's file is there and as long as it says (.npy), or passes its own checksums (.png)."""
    from PIL import Image

    try:
        if file.suffix == ".npy":
            read_npy(file, mapped=True)
        else:
            with Image.open(file, formats=("PNG",)) as picture:
                picture.verify()
    except (OSError, ValueError, EOFError, SyntaxError) as error:
        if file.exists():
            print(f"{file}: damaged ({' '.join(str(error).split())[:80]}); drawn again", file=sys.stderr)
        return False
    return True


def save_npz(
    out: Path,
    parts: Iterable[np.ndarray],
    shape: tuple[int, ...],
    labels: np.ndarray | None,
    provenance: dict[str, Any],
) -> None:
    """ADM's layout: arr_0 (N, H, W, C) uint8 and, where there are labels, arr_1 (N,). ADM's evaluator reads arr_0 by
    name; `provenance` is one more array, JSON text. Parts are copied one by one: memory holds one, not all."""
    with replaced(out) as beside, zipfile.ZipFile(beside, "w", zipfile.ZIP_STORED) as archive:
        with archive.open(zipfile.ZipInfo("arr_0.npy"), "w", force_zip64=True) as file:
            header = {"descr": "|u1", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            for part in parts:
                file.write(np.ascontiguousarray(part))
        for name, array in (("arr_1", labels), ("provenance", np.array(json.dumps(provenance)))):
            if array is not None:
                content = io.BytesIO()
                np.save(content, array, allow_pickle=False)
                archive.writestr(zipfile.ZipInfo(f"{name}.npy"), content.getvalue())


def save_png(out: Path, image: np.ndarray, provenance: dict[str, Any] | None = None) -> None:
    """(H, W) or (H, W, 3) uint8; the provenance is the PNG's text `provenance`."""
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    text = PngInfo()
    if provenance is not None:
        text.add_text("provenance", json.dumps(provenance))
    with replaced(out) as beside:
        Image.fromarray(image).save(beside, format="PNG", pnginfo=text)


def save_labels(folder: Path, names: Sequence[str], labels: np.ndarray) -> None:
    """labels.csv: file, label."""
    with replaced(folder / LABELS) as beside, open(beside, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("file", "label"), *zip(names, labels.tolist(), strict=True)])


def image_grid(images: np.ndarray, columns: int | None = None) -> np.ndarray:
    """(N, H, W, C) uint8 -> one picture in reading order, about square, empty places white; (H, W) where C is 1."""
    count, height, width, channels = images.shape
    columns = columns or int(np.ceil(np.sqrt(count)))
    rows = -(-count // columns)
    padded = np.full((rows * columns, height, width, channels), 255, np.uint8)
    padded[:count] = images
    grid = padded.reshape(rows, columns, height, width, channels).transpose(0, 2, 1, 3, 4)
    grid = grid.reshape(rows * height, columns * width, channels)
    return grid[..., 0] if channels == 1 else grid


def row_names(checkpoints: Sequence[Path]) -> list[str]:
    """The folders' names; whole paths where names repeat, numbered where paths do."""
    folders = [path.parent if path.suffix == ".safetensors" else path for path in map(Path, checkpoints)]
    names = [folder.resolve().name for folder in folders]
    names = names if len(set(names)) == len(names) else [str(path) for path in checkpoints]
    return [name if names.count(name) == 1 else f"{index} {name}" for index, name in enumerate(names, start=1)]


def named_rows(names: Sequence[str], rows: Sequence[np.ndarray]) -> np.ndarray:
    """A row of images (N, H, W, C) for each name, the name written to its left."""
    from PIL import Image, ImageDraw, ImageFont

    drawable = [name.encode("latin-1", "replace").decode("latin-1") for name in names]  # what Pillow's own font has
    font, mode = ImageFont.load_default(), "L" if rows[0].shape[-1] == 1 else "RGB"
    boxes = [font.getbbox(name) for name in drawable]
    margin = int(max(box[2] for box in boxes)) + 8
    height = max(rows[0].shape[1], int(max(box[3] for box in boxes)) + 2)
    picture = Image.new(mode, (margin + rows[0].shape[0] * rows[0].shape[2], height * len(rows)), "white")
    for index, (name, row, box) in enumerate(zip(drawable, rows, boxes, strict=True)):
        top = index * height
        ImageDraw.Draw(picture).text((4, top + (height - int(box[3])) // 2), name, fill="black", font=font)
        picture.paste(Image.fromarray(image_grid(row, len(row))), (margin, top))
    return np.asarray(picture)
