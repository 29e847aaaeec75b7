"""`defar evaluate`: sample quality of checkpoints, folders and .npz files under one protocol."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .core.cards import CARD
from .core.checkpoints import load_checkpoint
from .core.datasets import open_dataset
from .core.devices import keep_heap, resolve_device
from .core.parallel import Processes
from .errors import DefarError
from .measures.evaluation import Evaluation, differences, evaluate
from .measures.extractors import Extractor, efficientnet_lite, inception
from .measures.features import FeatureStore, ImageStream, Share, StoredImages
from .measures.protocols import Protocol
from .measures.quality import QualityWarning, is_class_sorted
from .measures.references import open_reference
from .provenance import environment
from .sample_files import npz_record, row_names
from .sample_plans import Plan
from .sample_source import ImageSource


@dataclass(frozen=True, eq=False)
class GeneratedImages:
    """A checkpoint under a plan as a stream: sampled chunk by chunk, straight into the extractor."""

    source: ImageSource

    @property
    def name(self) -> str:
        return self.source.loaded.card.name

    @cached_property
    def identity(self) -> dict[str, Any]:
        return self.source.command

    @property
    def count(self) -> int:
        return self.source.plan.count

    @property
    def chunk(self) -> int:
        return self.source.plan.chunk

    @property
    def shape(self) -> tuple[int, ...]:
        return self.source.loaded.pixel_shape

    @property
    def labels(self) -> np.ndarray | None:
        return None if self.source.labels is None else self.source.labels.numpy()

    def images(self, start: int) -> np.ndarray:
        return self.source.chunk(start)[0].transpose(0, 3, 1, 2)


def extractor_for(protocol: Protocol, device: torch.device | str, weights: Path | None = None) -> Extractor:
    """The protocol's network. weights: a file for Inception, where it is not in its usual place."""
    if protocol.extractor == "inception":
        return inception(weights, device=device)
    if weights is not None:
        raise DefarError(f"--inception {weights}: {protocol.name} does not use that network; leave it out")
    variant, size = protocol.extractor.removeprefix("effnet-lite").split("-")
    return efficientnet_lite(int(variant), int(size), device=device)


def open_images(
    path: Path, plan: Plan, protocol: Protocol, device: torch.device
) -> tuple[ImageStream, dict[str, Any] | None]:
    """What a user names, a checkpoint's folder, a folder of images or an .npz, as a stream of the protocol's n images,
    and what its images share with those of another checkpoint under the same plan. Raises DefarError for too few."""
    path = Path(path)
    if path.suffix == ".safetensors" or (path / CARD).is_file():
        plan = replace(plan, count=protocol.count)
        source = ImageSource(load_checkpoint(path, device=device), plan, device)
        if source.loaded.codec.rule != protocol.rounding:
            rule = source.loaded.codec.rule
            raise DefarError(f"{path}: rounds by {rule!r}, {protocol.name} by {protocol.rounding!r}; take another")
        return GeneratedImages(source), {"seed": plan.seed, "labels": source.command["labels"]}
    dataset = open_dataset(path)
    if len(dataset) < 2:
        raise DefarError(f"{path}: 1 image; sample quality takes at least two, {protocol.name} n = {protocol.count}")
    if len(dataset) < protocol.count:
        raise DefarError(
            f"{path}: {len(dataset)} images, but {protocol.name} takes n = {protocol.count}; give more, or "
            f"--n {len(dataset)}, which compares with nothing of another n"
        )
    if dataset.labels is not None and is_class_sorted(dataset.labels):
        warnings.warn(
            f"{path}: its labels are sorted by class. The first {protocol.count} of {len(dataset)} images are taken, "
            f"and the Inception Score's splits of {protocol.split_size} are consecutive: shuffle the file",
            QualityWarning, stacklevel=2,
        )  # fmt: skip
    stream = StoredImages(path.name, dataset.images, dataset.hash, np.arange(protocol.count), dataset.labels)
    return stream, _recorded_pairing(path, protocol)


def _recorded_pairing(path: Path, protocol: Protocol) -> dict[str, Any] | None:
    """Seed and label plan of an .npz that `defar sample` wrote, so that its images are paired with another's."""
    try:
        command = npz_record(path)["command"]
    except (DefarError, OSError):  # a folder, or somebody else's file
        return None
    if command["labels"] not in (None, protocol.labels):
        warnings.warn(
            f"{path}: its labels are {command['labels']!r}, {protocol.name} takes {protocol.labels!r}; sample it again "
            f"with --labels {protocol.labels}",
            QualityWarning, stacklevel=3,
        )  # fmt: skip
    return {"seed": command["seed"], "labels": command["labels"]}


def evaluate_sources(
    sources: Sequence[Path],
    protocol: Protocol,
    plan: Plan,
    *,
    results: Path = Path("results"),
    reference: str | None = None,
    inception_weights: Path | None = None,
    extrapolate: bool = False,
    device: str = "auto",
) -> dict[str, Any] | None:
    """Evaluate every source; returns what `defar evaluate` prints as JSON, None on a process that only did its share.

    With several sources each is compared with the first, image by image where both were sampled from the same noise.
    Under torchrun the processes share the images. Raises DefarError for what cannot be evaluated.
    """
    where = resolve_device(device)
    if where.type == "cpu":
        keep_heap()  # else page faults slow a guided chunk and the extractor
    if not sources:
        raise DefarError("evaluate needs images: a checkpoint's folder, a folder of images or an .npz")
    names = row_names(sources)
    store, share = FeatureStore(Path(results) / "features"), this_share()
    extractor = extractor_for(protocol, where, inception_weights)
    if extrapolate and protocol.count <= 2 * extractor.dimension:
        least = 2 * extractor.dimension + 1
        raise DefarError(
            f"--extrapolate: n = {protocol.count} is too few for {extractor.dimension} features; --n {least}"
        )
    with quality_warnings() as said:
        opened = [open_images(path, plan, protocol, where) for path in sources]
        # first, so that one that does not fit is refused before anything is sampled
        against = open_reference(protocol, extractor, store, reference, share=share)
        for stream, _ in opened if against is not None else ():
            against.check_size(stream)
        features = [store.features(stream, extractor, share) for stream, _ in opened]
        if share.process:
            return None
        found = [
            evaluate(name, own, against, protocol, pairing, extrapolate)
            for name, own, (_, pairing) in zip(names, features, opened, strict=True)
        ]
        compared = differences(found, names[0], protocol) if len(found) > 1 else None
    report = {
        "protocol": protocol.__dict__ | {"dimension": extractor.dimension, "extractor_identity": extractor.identity},
        "reference": {"name": against.name, "sha256": against.sha256, "count": against.count},
        "n": protocol.count,
        "results": [_result(evaluation, stream) for evaluation, (stream, _) in zip(found, opened, strict=True)],
        "warnings": said,
        "environment": environment(),
    }
    if compared is not None:
        report["differences"] = compared.replace({np.nan: None}).to_dict("records")  # NaN is no JSON
    return report


@contextmanager
def quality_warnings() -> Iterator[list[str]]:
    """What the metrics doubt, each doubt once, instead of Python's own lines; other warnings come through."""
    said: list[str] = []
    caught: list[warnings.WarningMessage] = []
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", QualityWarning)
            yield said
    finally:
        for warning in caught:
            if issubclass(warning.category, QualityWarning):
                said += [text] if (text := str(warning.message)) not in said else []
            else:
                warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)


def in_words(report: dict[str, Any]) -> str:
    """The report's numbers as lines for a person."""
    lines = [f"warning: {text}" for text in report["warnings"]]
    reference = report["reference"]
    count = "" if reference["count"] is None else f"{reference['count']} images of "
    lines.append(f"{report['protocol']['name']}, n = {report['n']}, against {count}{reference['name']}:")
    for result in report["results"]:
        for metric, found in result["metrics"].items():
            ends = "" if found["low"] is None else f" [{found['low']:.4g}, {found['high']:.4g}]"
            lines.append(f"  {result['model']}: {metric} {found['value']:.4g}{ends}")
    for row in report.get("differences", ()):
        how = "paired by noise" if row["paired"] else "not paired"
        lines.append(
            f"  {row['model']} - {row['baseline']}: {row['metric']} {row['difference']:+.4g} "
            f"[{row['low']:+.4g}, {row['high']:+.4g}], {row['verdict']} ({how})"
        )
    lines.append("  brackets: 95 % bootstrap over images; the reference is held fixed")
    if report["n"] < 5 * report["protocol"]["dimension"]:
        lines.append(
            f"  n = {report['n']} is below 5 times the {report['protocol']['dimension']} features: much of every "
            "Fréchet distance is its bias at this n, which real images have too; compare at equal n only"
        )
    return "\n".join(lines)


def _result(evaluation: Evaluation, stream: ImageStream) -> dict[str, Any]:
    rows = evaluation.table.replace({np.nan: None}).to_dict("records")
    metrics = {row["metric"]: {key: row[key] for key in ("value", "low", "high")} for row in rows}
    return {"model": evaluation.model, "images": stream.identity, "metrics": metrics}


def this_share() -> Share:
    """This process among those that torchrun started; one alone otherwise."""
    processes = Processes.from_environment()
    return Share(processes.rank, processes.size)
