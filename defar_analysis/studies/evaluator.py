"""The catalog's entry on the evaluators themselves: what they read on real images, whole and damaged by known amounts.

Extraction takes half an hour on a CPU, so only the profile "full" does it; "quick" draws what is committed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
import torch

from ..artefacts import Artefact, committed, figures_folder
from ..core.devices import keep_heap
from ..evaluating import extractor_for, quality_warnings
from ..experiment import CLASSES, SEED
from ..measures import evaluation as evaluations
from ..measures.base import Arrays
from ..measures.degradations import DegradedImages, GaussianBlur, GaussianNoise, without_classes
from ..measures.evaluation import Evaluation, differences, evaluate
from ..measures.features import FeatureStore, ImageStream, StoredImages
from ..measures.protocols import DEFAULT, Protocol, balanced_indices, protocol
from ..measures.references import Reference, of_images

if TYPE_CHECKING:
    from ..experiment import Experiment

ID, FLOOR, CONTROL = "evaluator", "test images", "other training images"
SECOND = "offline-effnet-lite2-224"  # another network, other pixels: what both see is not one network's whim
KINDS = ("noise", "blur", "removal")
TABLES = ("changes", "verdicts")
TAKES = "about half an hour on 2 cores; it can be stopped and resumed"
VERSION = 1  # raise it when the numbers change: kept results are then measured again
COLUMNS = ["set", "kind", "strength", "metric", "value", "low", "high", "n", "protocol"]
CHANGES = [
    "set", "kind", "strength", "baseline", "metric", "difference", "low", "high", "percent", "percent_low",
    "percent_high", "paired", "n", "protocol",
]  # fmt: skip
VERDICTS = ["protocol", "metric", "kind", "floor", "strongest", "trend", "certain_steps", "steps"]


@dataclass(frozen=True)
class Study:
    """n images in every set and in the reference. noise: sigma in grey levels; blur: sigma in pixels; removal: how
    many of the ten classes."""

    count: int
    protocols: tuple[str, ...]
    noise: tuple[float, ...]
    blur: tuple[float, ...]
    removal: tuple[int, ...]


STUDIES = {
    "tiny": Study(64, (DEFAULT,), noise=(8, 32), blur=(2,), removal=(8,)),
    "full": Study(2000, (DEFAULT, SECOND), noise=(4, 8, 16, 32), blur=(0.5, 0.75, 1, 2), removal=(2, 4, 6, 8)),
}


class ImageSet(NamedTuple):
    """One set of images. kind: "floor", "control" or one of KINDS."""

    kind: str
    strength: float
    stream: ImageStream


def build(experiment: Experiment) -> Artefact:
    """Every set under every protocol, features and metrics kept in results/."""
    if experiment.profile not in STUDIES:
        return committed(ID, TABLES, experiment.root, TAKES)
    if experiment.device.type == "cpu":
        keep_heap()  # else page faults slow the extractor
    study = STUDIES[experiment.profile]
    sets = image_sets(experiment, study)
    used = [protocol(name, study.count) for name in study.protocols]
    parts, identities = [], {}
    with quality_warnings():  # they doubt the tiny profile's n, which its note names
        for each in used:
            found, identities[each.name] = _evaluated(experiment, each, sets)
            parts.append(_tables(sets, found, each))
    table, changes, verdicts = (pd.concat(frames, ignore_index=True) for frames in zip(*parts, strict=True))
    shown = [found for found in sets if found.kind in ("floor", "noise", "blur")]
    provenance = {
        "profile": experiment.profile,
        "note": f"n = {study.count} in every set and in the reference, CIFAR-10, classes in equal shares but where "
        f"removed; profile {experiment.profile}",
        "models": identities,
        "reference": {"images": experiment.train_images.name, "sha256": experiment.train_images.hash},
        "test_data_sha256": experiment.test_images.hash,
        "study": asdict(study),
        "removed_first": list(reversed(CLASSES)),
        "seed": SEED,
        "torch": torch.__version__,
        "device": experiment.device.type,
        "command": f"defar reproduce --profile {experiment.profile} --only {ID}",
    }
    arrays = {"images": np.stack([found.stream.images(0)[0].transpose(1, 2, 0) for found in shown])}
    arrays |= {"kind": np.array([s.kind for s in shown]), "strength": np.array([float(s.strength) for s in shown])}
    folder = figures_folder(experiment.root, ID, experiment.profile)
    return Artefact(ID, table, {"changes": changes, "verdicts": verdicts}, arrays, provenance, folder)


def image_sets(experiment: Experiment, study: Study) -> list[ImageSet]:
    """The plain test images first, training images that the reference does not have, then all that is degraded."""
    test, train, count = experiment.test_images, experiment.train_images, study.count

    def stored(name: str, dataset, indices: np.ndarray) -> StoredImages:
        return StoredImages(name, dataset.images, dataset.hash, indices, dataset.labels)

    plain = stored(FLOOR, test, balanced_indices(test.labels, len(test), count))
    reference = balanced_indices(train.labels, len(train), count)
    rest = np.setdiff1d(np.arange(len(train)), reference)
    others = stored(CONTROL, train, rest[balanced_indices(train.labels[rest], len(rest), count)])
    sets = [ImageSet("floor", 0, plain), ImageSet("control", 0, others)]
    sets += [ImageSet("noise", s, DegradedImages(f"noise {s:g}", plain, GaussianNoise(s, SEED))) for s in study.noise]
    sets += [ImageSet("blur", s, DegradedImages(f"blur {s:g}", plain, GaussianBlur(s))) for s in study.blur]
    sets += [
        ImageSet("removal", k, stored(f"{k} classes removed", test, without_classes(test.labels, k, count)))
        for k in study.removal
    ]
    return sets


def _evaluated(
    experiment: Experiment, used: Protocol, sets: Sequence[ImageSet]
) -> tuple[dict[str, Evaluation], dict[str, Any]]:
    """Evaluations by name, and what the extractor is."""
    extractor = extractor_for(used, experiment.device)
    features = FeatureStore(experiment.root / "results" / "features")
    opened: list[Reference] = []  # only where something is missing: it takes a minute

    def compute(found: ImageSet) -> pd.DataFrame:
        own = features.features(found.stream, extractor)
        opened[:] = opened or [of_images(experiment.train_images, used, extractor, features)]
        made = evaluate(found.stream.name, own, opened[0], used)
        made.table.attrs["arrays"] = Arrays(made.influences)
        return made.table

    everything = {}
    for found in sets:
        key = {
            "version": [VERSION, evaluations.VERSION], "name": found.stream.name, "images": found.stream.identity,
            "protocol": asdict(used), "extractor": extractor.identity,
            "reference_sha256": experiment.train_images.hash,
        }  # fmt: skip
        table, new = experiment.store.keep(ID, key, partial(compute, found))
        experiment.measured += [f"{found.stream.name} by {used.name}"] if new else []
        influences = {m: table.attrs["arrays"][m] for m in table["metric"] if m in table.attrs["arrays"]}
        # image i of each is test image i, whole or damaged; other sets have other images
        pairing = {"images": "the plain test images"} if found.kind in ("floor", "noise", "blur") else None
        everything[found.stream.name] = Evaluation(table, influences, pairing)
    return everything, extractor.identity


def _tables(
    sets: Sequence[ImageSet], found: dict[str, Evaluation], used: Protocol
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Of one protocol: every value (COLUMNS), every change against the plain test images (CHANGES), VERDICTS."""
    places = pd.DataFrame([(s.stream.name, s.kind, s.strength) for s in sets], columns=["set", "kind", "strength"])

    def placed(rows: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
        return rows.rename(columns={"model": "set"}).merge(places, on="set").assign(protocol=used.name)[columns]

    table = placed(pd.concat([e.table for e in found.values()], ignore_index=True), COLUMNS)
    changes = placed(differences(list(found.values()), FLOOR, used), CHANGES)
    rows = []
    for kind in KINDS:
        line = [FLOOR, *(s.stream.name for s in sets if s.kind == kind)]
        steps = pd.concat([differences([found[a], found[b]], a, used) for a, b in pairwise(line)])
        for name in _judged(used):
            values = table[table["metric"] == name].set_index("set")["value"]
            own = steps[steps["metric"] == name]
            floor, strongest = values[FLOOR], values[line[-1]]
            rows.append((used.name, name, kind, floor, strongest, *_trend(own), len(own)))
    return table, changes, pd.DataFrame(rows, columns=VERDICTS)


def _judged(used: Protocol) -> list[str]:
    """What a verdict is given on: the two distances of the pooled features, and the two shares."""
    return [used.metric_names[kind] for kind in ("frechet", "kernel", "precision", "recall")]


def _trend(steps: pd.DataFrame) -> tuple[str, int]:
    """Where a line goes from strength to strength, and how many of its steps have an interval without 0."""
    moves = steps["difference"]
    trend = "rises" if (moves > 0).all() else "falls" if (moves < 0).all() else "neither"
    return trend, int(((steps["low"] > 0) | (steps["high"] < 0)).sum())


def sentences(table: pd.DataFrame, verdicts: pd.DataFrame) -> str:
    """What the tables say of each evaluator: whether its distance rises with every step of damage, what its floor is,
    and whether the two shares notice the damage."""
    said = []
    for name, rows in verdicts.groupby("protocol", sort=False):
        distances = rows[rows["metric"].str.startswith("FD-")]
        metric, floor, steps = distances["metric"].iloc[0], distances["floor"].iloc[0], distances["steps"].sum()
        still = distances.loc[distances["trend"] != "rises", "kind"]
        ends = ", ".join(f"{row.strongest / floor:.1f} times that by {row.kind}" for row in distances.itertuples())
        said.append(
            f"{metric} {'rises' if still.empty else 'does not rise'} with every step of "
            f"{_listed(KINDS if still.empty else still)} ({distances['certain_steps'].sum()} of all {steps} steps are "
            f"beyond doubt): from its floor of {floor:.1f} to {ends}."
        )
        values = table[(table["protocol"] == name) & (table["metric"] == metric)].set_index("set")["value"]
        said.append(
            f"The floor is the price of n = {table['n'].iloc[0]:,} on both sides and no fault of the test images: "
            f"{CONTROL}, which differ from the reference by chance alone, read {values[CONTROL]:.1f}."
        )
        shares = {
            share: ", ".join(f"{row.kind} {row.floor:.2f} to {row.strongest:.2f}" for row in own.itertuples())
            for share, own in rows.groupby("metric", sort=False)
            if share in ("precision", "recall")
        }
        blind = [f"{row.metric} RISES with {row.kind}" for row in rows.itertuples()
                 if row.metric in shares and row.strongest > row.floor and row.trend == "rises"]  # fmt: skip
        words = "; ".join(f"{share}: {moves}" for share, moves in shares.items())
        said.append(f"Of the shares, {words}. " + (f"So {_listed(blind)}: it tells no quality alone." if blind else ""))
    return "\n".join(line.strip() for line in said)


def _listed(words: Iterable[str]) -> str:
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last
