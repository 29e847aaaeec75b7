"""Features against a reference under a protocol: rows with intervals, and paired differences between methods."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from ..errors import DefarError
from .extractors import Features
from .influence import (
    bootstrap_interval,
    inception_score_influence,
    kernel_distance_influence,
    recall_influence,
)
from .neighbours import coverage
from .protocols import LOWER_IS_BETTER, METRICS, Protocol, comparable
from .quality import Moments, QualityWarning, frechet_at_infinity, frechet_jackknife, inception_score
from .references import Reference
from .statistics import resampling_weights

COLUMNS = ["model", "metric", "value", "low", "high", "n", "protocol", "reference", "reference_n", "reference_sha256"]
DIFFERENCES = [
    "model", "baseline", "metric", "difference", "low", "high", "percent", "percent_low", "percent_high", "verdict",
    "paired", "n",
]  # fmt: skip
BETTER, WORSE, UNDECIDED = "better", "worse", "undecided"
VERSION = 2  # raise it when the numbers change: kept results are then measured again


@dataclass(frozen=True, eq=False)
class Evaluation:
    """One model under one protocol. influences: (N,) by metric name; pairing: what its images share with those of
    another model where image i of both had the same noise and label (seed, label plan), None for images without."""

    table: pd.DataFrame
    influences: Mapping[str, np.ndarray]
    pairing: Mapping[str, Any] | None = field(default=None)

    @property
    def model(self) -> str:
        return str(self.table["model"].iloc[0])


def evaluate(
    model: str,
    features: Features,
    reference: Reference,
    protocol: Protocol,
    pairing: Mapping[str, Any] | None = None,
    extrapolate: bool = False,
) -> Evaluation:
    """Every metric that the reference allows, with its 95 % interval: a bootstrap over the samples' influences.

    What needs reference images (precision, recall, kernel distance) or spatial statistics is left out where the
    reference has none. extrapolate: one more row, the Fréchet distance at infinite n of samples. Raises DefarError for
    another number of images than the protocol's n.
    """
    n = len(features.pool)
    if n != protocol.count:
        raise DefarError(f"{model}: {n} images, but {protocol.name} takes {protocol.count}; give as many or change n")
    names = protocol.metric_names
    weights = resampling_weights(n)
    found: dict[str, tuple[float, np.ndarray]] = {}
    for kind, own, against in (
        ("frechet", features.pool, reference.pool),
        ("spatial_frechet", features.spatial, reference.spatial),
    ):
        if against is not None:
            found[kind] = against.distance_to(Moments.of(own)), frechet_jackknife(own, against)
    score = inception_score(features.logits, protocol.split_size)
    found["inception_score"] = score, inception_score_influence(features.logits, protocol.split_size)
    if reference.features is not None:
        covered = coverage(reference.features, features.pool, protocol.neighbours)
        inside = covered.generated_inside.astype(float)
        found["precision"] = float(inside.mean()), inside - inside.mean()
        recall = float(covered.real_inside.mean())
        found["recall"] = recall, recall_influence(covered.lost, len(reference.features))
        found["kernel"] = kernel_distance_influence(reference.features, features.pool)
        if covered.copies.any():
            warnings.warn(
                f"{model}: {int(covered.copies.sum())} of {n} images are images of the reference itself: distances and "
                "shares are too good; a model that makes them has memorized, a file that holds them is no sample",
                QualityWarning,
                stacklevel=2,
            )
    ends = {kind: bootstrap_interval(*own, weights) for kind, own in found.items()}
    for share, count in (("precision", n), ("recall", len(reference.features if "recall" in found else ()))):
        if share in ends:
            ends[share] = _of_share(found[share][0], ends[share], count)
    rows = [(names[kind], found[kind][0], *ends[kind]) for kind in METRICS if kind in found]
    if extrapolate:
        limit = frechet_at_infinity(features.pool, reference.pool)
        # an extrapolation is noisier than any of its points; no interval is claimed
        rows.append((f"{names['frechet']} at infinite n", limit.intercept, np.nan, np.nan))
    table = pd.DataFrame(rows, columns=["metric", "value", "low", "high"])
    table = table.assign(
        model=model, n=n, protocol=protocol.name, reference=reference.name, reference_n=reference.count,
        reference_sha256=reference.sha256,
    )  # fmt: skip
    return Evaluation(table[COLUMNS], {names[kind]: found[kind][1] for kind in found}, pairing)


def _of_share(value: float, ends: tuple[float, float], count: int) -> tuple[float, float]:
    """A share's interval within [0, 1]; at 0 or 1, where nothing varies, the far end is Wilson's for `count` images."""
    if value in (0, 1):
        far = 1.96**2 / (count + 1.96**2)
        return (0.0, far) if value == 0 else (1 - far, 1.0)
    return max(0.0, ends[0]), min(1.0, ends[1])


def differences(evaluations: Sequence[Evaluation], baseline: str, protocol: Protocol) -> pd.DataFrame:
    """DIFFERENCES: each model minus `baseline` in every metric both have, with a 95 % bootstrap interval over images.

    paired: both had the same noise and labels image by image, and their influences are subtracted; else the two are
    resampled apart. verdict: "better" or "worse" where the whole interval lies on one side of 0. Each row stands alone:
    no correction for many comparisons. percent is of the baseline's value as it is; of a Fréchet distance at small n
    much is bias, which makes percentages small. Raises DefarError for rows of different protocols, n or references.
    """
    comparable(pd.concat([evaluation.table for evaluation in evaluations]))
    base = next((evaluation for evaluation in evaluations if evaluation.model == baseline), None)
    if base is None:
        raise DefarError(f"no baseline {baseline!r} among {', '.join(e.model for e in evaluations)}")
    lower = {protocol.metric_names[kind] for kind in LOWER_IS_BETTER}
    values = base.table.set_index("metric")["value"]
    count = protocol.count
    weights, others = resampling_weights(count), resampling_weights(count, seed=1)
    rows = []
    for evaluation in evaluations:
        if evaluation is base:
            continue
        paired = evaluation.pairing is not None and evaluation.pairing == base.pairing
        for metric, value in evaluation.table.set_index("metric")["value"].items():
            if metric not in evaluation.influences or metric not in base.influences:
                continue
            moved = weights @ evaluation.influences[metric] - (weights if paired else others) @ base.influences[metric]
            difference = value - values[metric]
            low, high = difference + np.percentile(moved, [2.5, 97.5])
            verdict = UNDECIDED
            if low > 0 or high < 0:
                verdict = BETTER if (difference < 0) == (metric in lower) else WORSE
            # of a baseline of 0, as recall can be, or below, as the kernel distance can, there is no percentage
            percents = 100 * np.array([difference, low, high]) / (values[metric] if values[metric] > 0 else np.nan)
            rows.append((evaluation.model, baseline, metric, difference, low, high, *percents, verdict, paired, count))
    return pd.DataFrame(rows, columns=DIFFERENCES)
