"""What samples are held against: a data set's features, or a file of statistics as ADM, EDM or pytorch-fid write it."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..core.arrays import npz_names, read_npz
from ..core.datasets import ImageDataset, data_root, open_dataset
from ..errors import DefarError
from ..files import file_sha256
from .extractors import Extractor
from .features import FeatureStore, ImageStream, Share, StoredImages
from .protocols import ADM_REFERENCES, Protocol, balanced_indices
from .quality import FrechetReference, QualityWarning

# ADM and EDM write mu and sigma, pytorch-fid too; ADM adds its spatial statistics and the images themselves.
STATISTICS = (("mu", "sigma"), ("mu_s", "sigma_s"))
SPLITS = {
    "cifar10-train": ("cifar10", "train"),
    "cifar10-test": ("cifar10", "test"),
    "celeba64-train": ("celeba64", "train"),
}


@dataclass(frozen=True, eq=False)
class Reference:
    """One side of every comparison, fixed.

    count: images behind the statistics, None where a file does not say; pool and spatial: Gaussians fitted to the
    features, spatial None where a file has none; features (M, D): of the images that precision, recall and the kernel
    distance take, None without images; shape (C, H, W) of these.
    """

    name: str
    sha256: str
    count: int | None
    pool: FrechetReference
    spatial: FrechetReference | None
    features: np.ndarray | None
    shape: tuple[int, ...] | None = None

    def check_size(self, stream: ImageStream) -> None:
        """Warns where samples and reference differ in size: both are resized, and one of them blurs."""
        if self.shape is not None and tuple(stream.shape[1:]) != tuple(self.shape[1:]):
            own, theirs = (" x ".join(map(str, shape[1:])) for shape in (stream.shape, self.shape))
            warnings.warn(
                f"{stream.name}: images are {own}, those of the reference {self.name} {theirs}: their sharpness is "
                "compared, too; name a reference of the samples' size",
                QualityWarning,
                stacklevel=2,
            )


def open_reference(
    protocol: Protocol,
    extractor: Extractor,
    store: FeatureStore,
    source: str | Path | None = None,
    root: Path | None = None,
    share: Share | None = None,
) -> Reference | None:
    """The protocol's reference, or `source` in its place: a data set's name, a folder of images, an .npz of images, or
    an .npz of statistics (mu, sigma; perhaps mu_s, sigma_s; perhaps arr_0).

    Features are extracted once and kept in `store`; None for a process that has only done its share. Raises DefarError
    where it is absent, with where people get it, and where statistics have another size than the extractor's features.
    """
    named = str(source or protocol.reference)
    file = Path(named).expanduser()
    if source is None and file.suffix == ".npz":
        file = data_root(root) / named
        if not file.is_file():
            folder = "512" if "512" in named else "256"
            raise DefarError(
                f"{file}: not there; {protocol.name} compares with ADM's reference file: get it from "
                f"{ADM_REFERENCES}/{folder}/{named}, or name your own with --reference"
            )
    if file.suffix == ".npz" and (found := _statistics(file)) is not None:
        return _from_statistics(file, found, protocol, extractor, store, share)
    name, split = SPLITS.get(named, (named, "train"))
    return of_images(open_dataset(name, split, root), protocol, extractor, store, share)


def of_images(
    dataset: ImageDataset, protocol: Protocol, extractor: Extractor, store: FeatureStore, share: Share | None = None
) -> Reference | None:
    """`reference_count` images of a data set, all of them where the protocol says None; `manifold_count` of these are
    kept for precision and recall. Both take classes in equal shares, whatever the order of the data set."""
    count = len(dataset) if protocol.reference_count is None else protocol.reference_count
    try:
        indices = balanced_indices(dataset.labels, len(dataset), count)
    except DefarError as error:
        raise DefarError(f"reference {dataset.name}: {error}") from None
    images = StoredImages(f"reference {dataset.name}", dataset.images, dataset.hash, indices, dataset.labels)
    features = store.features(images, extractor, share)
    if features is None:
        return None
    kept = balanced_indices(images.labels, count, min(count, protocol.manifold_count or count))
    return Reference(
        dataset.name, dataset.hash, count, FrechetReference.of(features.pool),
        FrechetReference.of(features.spatial), features.pool[kept], images.shape,
    )  # fmt: skip


def _statistics(file: Path) -> dict[str, np.ndarray] | None:
    """What a file of statistics holds of STATISTICS and arr_0; None for an .npz without any."""
    if not {"mu", "sigma"} <= set(npz_names(file)):
        return None
    return read_npz(file, (*sum(STATISTICS, ()), "arr_0"))


def _from_statistics(
    file: Path, found: dict[str, np.ndarray], protocol: Protocol, extractor: Extractor, store: FeatureStore,
    share: Share | None,
) -> Reference | None:  # fmt: skip
    images, gaussians = found.get("arr_0"), []
    for (mean, covariance), size in zip(STATISTICS, (extractor.dimension, None), strict=True):
        if mean not in found or covariance not in found:
            gaussians.append(None)
            continue
        if found[mean].dtype.kind != "f" or found[covariance].dtype.kind != "f":
            kinds = f"{found[mean].dtype} and {found[covariance].dtype}"
            raise DefarError(f"{file}: {mean} and {covariance} are {kinds}, no floats; get or write it again")
        if size is not None and found[mean].shape != (size,):
            raise DefarError(
                f"{file}: {mean} has shape {found[mean].shape}, {extractor.name} has {size} features; take statistics "
                "made with that network"
            )
        if found[covariance].shape != (found[mean].size, found[mean].size):
            shapes = f"{covariance} has shape {found[covariance].shape} beside {mean} {found[mean].shape}"
            raise DefarError(f"{file}: {shapes}; get or write it again")
        try:
            gaussians.append(FrechetReference(found[mean], found[covariance]))
        except DefarError as error:
            raise DefarError(f"{file}: {mean}, {covariance}: {error}") from None
    features, shape, digest = None, None, file_sha256(file)
    if images is not None:
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3:
            raise DefarError(f"{file}: arr_0 is {images.dtype} {images.shape}; give uint8 (N, H, W, 3)")
        indices = np.arange(min(len(images), protocol.manifold_count or len(images)))
        stream = StoredImages(f"images of {file.name}", images.transpose(0, 3, 1, 2), digest, indices)
        extracted = store.features(stream, extractor, share)
        if extracted is None:
            return None
        features, shape = extracted.pool, stream.shape
    return Reference(file.name, digest, None, *gaussians, features, shape)
