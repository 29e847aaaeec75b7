"""From images to features, once: chunk by chunk from a generator or from memory, kept on disk as they are finished.

Chunks are files of their own, named by their first image, so an interrupted extraction goes on where it was, several
processes can share one without talking to each other, and a second metric or protocol computes nothing again.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ..core.arrays import read_npz
from ..core.runs import stop_requests
from ..errors import DefarError, Interrupted
from ..files import alone, replaced
from ..inputs import read_json
from ..provenance import digest, environment
from .extractors import Extractor, Features, extracted

RECORD = "features.json"
VERSION = 1  # raise it when extractors or samplers make other numbers of the same images: kept ones are then dropped


class ImageStream(Protocol):
    """Images in chunks. identity: all they depend on, as plain values; shape (C, H, W); labels (count,) or None."""

    name: str
    identity: dict[str, Any]
    count: int
    chunk: int
    shape: tuple[int, ...]
    labels: np.ndarray | None

    def images(self, start: int) -> np.ndarray:
        """uint8 (n, C, H, W): the chunk whose first image is `start`, a multiple of `chunk`."""
        ...


@dataclass(frozen=True, eq=False)
class StoredImages:
    """Images in memory or mapped into it, (N, C, H, W) uint8, or some of them; sha256 is that of all N."""

    name: str
    everything: np.ndarray
    sha256: str
    indices: np.ndarray
    every_label: np.ndarray | None = None
    chunk: int = 64

    @property
    def count(self) -> int:
        return len(self.indices)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.everything.shape[1:]

    @property
    def labels(self) -> np.ndarray | None:
        return None if self.every_label is None else self.every_label[self.indices]

    @property
    def identity(self) -> dict[str, Any]:
        return {"images_sha256": self.sha256, "indices": digest(self.indices.tolist()), "count": self.count}

    def images(self, start: int) -> np.ndarray:
        return np.asarray(self.everything[self.indices[start : start + self.chunk]])


@dataclass(frozen=True)
class Share:
    """Which of several processes this is. All of them see the same folder."""

    process: int = 0
    processes: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.process < self.processes:
            raise DefarError(f"process {self.process} of {self.processes}: count from 0, below their number")


@dataclass(frozen=True)
class FeatureStore:
    """A folder of features, results/features: one subfolder for each set of images and extractor."""

    folder: Path

    def place(self, stream: ImageStream, extractor: Extractor) -> Path:
        return self.folder / digest([stream.identity, extractor.identity])

    def missing(self, stream: ImageStream, extractor: Extractor) -> list[int]:
        """First images of the chunks that are not there yet."""
        place = self.place(stream, extractor)
        return [start for start in _starts(stream) if not _part(place, start).is_file()]

    def features(self, stream: ImageStream, extractor: Extractor, share: Share | None = None) -> Features | None:
        """Features of all images (numpy, N rows each), extracting what is not there yet; None for a process that has
        done its share and leaves the rest to process 0.

        Process p takes every P-th chunk; process 0 then takes what the others have not finished, from the end, so it
        waits for nobody. Raises Interrupted after Ctrl-C or SIGTERM, which wait for the chunk in work; what is finished
        stays. A damaged chunk is extracted again, and said so.
        """
        share = share or Share()
        place = self.place(stream, extractor)
        self._open(place, stream, extractor)
        starts = _starts(stream)
        self._extract(place, stream, extractor, starts[share.process :: share.processes])
        if share.process:
            return None
        self._extract(place, stream, extractor, list(reversed(starts)))
        parts = []
        for start in starts:
            count = min(stream.chunk, stream.count - start)
            part = _read(_part(place, start), count)
            if part is None:
                self._extract(place, stream, extractor, [start])
                part = _read(_part(place, start), count)
            if part is None:
                raise DefarError(f"{_part(place, start)}: damaged again at once; check the disk")
            parts.append(part)
        return Features(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))

    @staticmethod
    def _open(place: Path, stream: ImageStream, extractor: Extractor) -> None:
        with alone(place):  # two runs that begin together: the second one's look comes after the first one's record
            try:
                known = read_json(place / RECORD).get("version", VERSION)
            except (OSError, ValueError, AttributeError):
                known = None
            if known == VERSION:
                return
            for part in place.glob("*.npz"):  # of another version, or of a record that was lost
                part.unlink(missing_ok=True)
            record = {"version": VERSION, "images": stream.identity, "extractor": extractor.identity}
            record["environment"] = environment()
            with replaced(place / RECORD) as beside:
                beside.write_text(json.dumps(record, indent=1), encoding="utf-8")

    @staticmethod
    def _extract(place: Path, stream: ImageStream, extractor: Extractor, starts: list[int]) -> None:
        from tqdm import tqdm

        left = [start for start in starts if not _part(place, start).is_file()]
        if not left:
            return
        done = stream.count - sum(min(stream.chunk, stream.count - start) for start in left)
        # disable=None: no bar unless stderr is a terminal
        bar = tqdm(total=stream.count, initial=done, desc=stream.name, unit=" images", disable=None)
        with stop_requests() as stop, bar:
            for place_in_line, start in enumerate(left):
                if not _part(place, start).is_file():  # another process may have been faster
                    images = stream.images(start)
                    found = extracted(extractor, images, batch=stream.chunk)
                    if not all(_fits(np.asarray(values), len(images)) for values in found):
                        last = start + len(images) - 1
                        raise DefarError(f"{stream.name}: features of images {start} to {last} are no finite numbers")
                    with replaced(_part(place, start)) as beside, open(beside, "wb") as file:
                        np.savez(file, **found._asdict())
                bar.update(min(stream.chunk, stream.count - start))
                if stop.requested and place_in_line + 1 < len(left):
                    raise Interrupted(f"{stream.name}: stopped; finished chunks are kept, the same command goes on")


def _starts(stream: ImageStream) -> list[int]:
    return list(range(0, stream.count, stream.chunk))


def _part(place: Path, start: int) -> Path:
    return place / f"{start:06d}.npz"


def _read(file: Path, count: int) -> Features | None:
    """The features of a chunk of `count` images; None, the file removed, where it is not whole."""
    try:
        arrays = read_npz(file, Features._fields)
        if len(arrays) < len(Features._fields) or any(not _fits(values, count) for values in arrays.values()):
            raise DefarError(f"no features of {count} images")
        return Features(**arrays)
    except DefarError as error:
        why = str(error).removeprefix(f"{file}: ")[:100]
        print(f"{file}: cannot be read ({why}); extracting again", file=sys.stderr)
        file.unlink(missing_ok=True)
        return None


def _fits(values: np.ndarray, count: int) -> bool:
    return values.ndim == 2 and len(values) == count and values.dtype.kind == "f" and bool(np.isfinite(values).all())
