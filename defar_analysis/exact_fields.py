"""Exact velocity fields of the training data: what a perfect network would show, if the data's law were as each says.

They bracket what comes with flow matching itself. The Gaussian keeps the data's mean and spectrum and nothing else;
the empirical fields keep the training images and nothing else, so they memorize them. Real data lie between.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from .core.datasets import ImageDataset
from .core.gaussian_data import fitted
from .core.oracles import EmpiricalFlow, GaussianFlow
from .errors import DefarError
from .files import replaced

GAUSSIAN = "Gaussian reference"
EMPIRICAL = "Empirical, own class"  # of the training images of the label
EMPIRICAL_ALL = "Empirical, all images"  # labels ignored
MEMORIES = (EMPIRICAL, EMPIRICAL_ALL)  # they look at the training images in every call, which takes a second or so
EXACT = (GAUSSIAN, *MEMORIES)


def gaussian(train: ImageDataset, folder: Path, device: torch.device) -> GaussianFlow:
    """The Gaussian with the mean and spectrum of the training images, kept in `folder`; fitting takes a few seconds.

    Raises DefarError where the kept file is corrupt.
    """
    file = folder / f"gaussian-{train.hash[:16]}.safetensors"
    if not file.is_file():
        flow = fitted(train)
        file.parent.mkdir(parents=True, exist_ok=True)
        parts = torch.view_as_real(flow.spectrum.resolve_conj()).contiguous()
        with replaced(file) as beside:
            save_file({"mean": flow.mean.contiguous(), "spectrum": parts}, beside)
    try:
        tensors = load_file(file)
        mean, spectrum = tensors["mean"], torch.view_as_complex(tensors["spectrum"])
    except (SafetensorError, KeyError):
        raise DefarError(f"{file}: corrupt; delete it and run again, it takes seconds to make") from None
    return GaussianFlow(mean.to(device), spectrum.to(device))


def empirical(train: ImageDataset, device: torch.device, *, labelled: bool, count: int | None = None) -> EmpiricalFlow:
    """The exact minimizer of the loss over all training images, or the first `count`, with or without their labels;
    float32."""
    batch = train.batch(range(len(train))[:count], device=device)
    return EmpiricalFlow(batch.data, labels=batch.labels if labelled else None)


def identity(name: str, train: ImageDataset, count: int | None = None) -> dict[str, str | int]:
    """What tells an exact field from others, for the key under which its results are kept; `count`: see `empirical`."""
    what = {
        GAUSSIAN: "gaussian with channel covariance",
        EMPIRICAL: "empirical, by label",
        EMPIRICAL_ALL: "empirical, all images",
    }
    fewer = {"images": count} if count and name in MEMORIES else {}
    return {"reference": what[name], "fitted_on_sha256": train.hash, **fewer}
