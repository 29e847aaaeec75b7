"""Named protocols of sample quality: everything that two numbers must share before they may be compared.

FID without its protocol means little: how many images, against which, through which network, resized and rounded how,
with labels drawn how. A row of a quality table carries its protocol's name and n; rows of different ones refuse to be
compared.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pandas as pd

from ..errors import DefarError

METRICS = ("frechet", "spatial_frechet", "kernel", "inception_score", "precision", "recall")
LOWER_IS_BETTER = {"frechet": True, "spatial_frechet": True, "kernel": True}  # the others: higher is better
ADM_REFERENCES = "https://openaipublic.blob.core.windows.net/diffusion/jul-2021/ref_batches/imagenet"


@dataclass(frozen=True)
class Protocol:
    """How sample quality is measured.

    Args:
        reference: the data set that samples are held against, or the name of a file of statistics and images.
        count: n, how many samples.
        reference_count: how many reference images, classes in equal shares; None for all there are. The offline
            protocols take n: a Fréchet distance has a bias of about 1/n from each side, so unequal n mislead.
        extractor: the network behind the features ("inception", "effnet-lite0-128", ...), its resizing included.
        labels: the samples' label plan. rounding: the codec's rule from floats to uint8.
        split_size: images in a split of the Inception Score; consecutive, never shuffled (ADM).
        neighbours: k of precision and recall. manifold_count: how many reference images these take; None for all.
    """

    name: str
    reference: str
    count: int
    extractor: str
    reference_count: int | None = None
    labels: Literal["balanced", "random"] = "random"
    rounding: str = "round_half_up"
    split_size: int = 5000
    neighbours: int = 3
    manifold_count: int | None = None

    def __post_init__(self) -> None:
        if self.count < 2:
            raise DefarError(f"n = {self.count}: sample quality takes at least two images")

    @property
    def metric_names(self) -> dict[str, str]:
        """What each metric is called: FID and its kin only through the Inception network that they are defined by."""
        if self.extractor == "inception":
            names = ("FID", "sFID", "KID", "IS", "precision", "recall")
        else:
            variant, size = self.extractor.removeprefix("effnet-").split("-")
            net = f"EffNet-{size}" if variant == "lite0" else f"EffNet-{variant.capitalize()}-{size}"
            names = (f"FD-{net}", f"sFD-{net}", f"KD-{net}", f"IS-{net}", "precision", "recall")
        return dict(zip(METRICS, names, strict=True))

    def with_count(self, count: int | None) -> Protocol:
        """The same protocol at another n, the reference's too where that is tied to n."""
        if count is None or count == self.count:
            return self
        tied = self.reference_count == self.count
        return replace(self, count=count, reference_count=count if tied else self.reference_count)


def _offline(variant: str, size: int) -> Protocol:
    return Protocol(
        f"offline-effnet-{variant}-{size}", "cifar10-train", 2000, f"effnet-{variant}-{size}", reference_count=2000,
        labels="balanced",
    )  # fmt: skip


DEFAULT = "offline-effnet-lite0-128"
PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol("cifar10-train", "cifar10-train", 50_000, "inception", manifold_count=10_000),
        Protocol("celeba64-train", "celeba64-train", 50_000, "inception", manifold_count=10_000),
        # ADM's own reference files: statistics of the training set, images for precision and recall (10,000 at 256
        # pixels, 1,000 at 512)
        Protocol("adm-imagenet256", "VIRTUAL_imagenet256_labeled.npz", 50_000, "inception"),
        Protocol("adm-imagenet512", "VIRTUAL_imagenet512.npz", 50_000, "inception"),
        _offline("lite0", 128),
        _offline("lite0", 224),
        _offline("lite2", 224),
    )
}


def protocol(name: str, count: int | None = None) -> Protocol:
    """The protocol of that name, at its own n or another. Raises DefarError naming those there are."""
    if name not in PROTOCOLS:
        raise DefarError(f"unknown protocol {name!r}; choose from {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name].with_count(count)


def comparable(rows: pd.DataFrame) -> pd.DataFrame:
    """`rows` itself, if all come from one protocol, one n and one reference. Raises DefarError naming what differs."""
    for column in ("protocol", "n", "reference_sha256"):
        found = rows[column].unique()
        if len(found) > 1:
            shown = ", ".join(str(value)[:40] for value in found)
            raise DefarError(f"rows of different {column} cannot be compared: {shown}; evaluate all by one protocol")
    return rows


def balanced_indices(labels: np.ndarray | None, available: int, count: int) -> np.ndarray:
    """Places of `count` of `available` images, in order: the first of every class in equal shares (the first classes
    take one more where that does not divide); without labels the first `count`. Raises DefarError for too few."""
    if count > available:
        raise DefarError(f"{count} images asked for, {available} there; take a smaller n or more images")
    if labels is None or count == available:
        return np.arange(count)
    classes = np.unique(labels)
    shares = np.full(len(classes), count // len(classes)) + (np.arange(len(classes)) < count % len(classes))
    chosen = [np.flatnonzero(labels == label)[:share] for label, share in zip(classes, shares, strict=True)]
    found = np.sort(np.concatenate(chosen))
    if len(found) < count:
        raise DefarError(f"{count} images in equal shares of {len(classes)} classes asked for; a class has too few")
    return found
