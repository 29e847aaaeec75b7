"""One view of the exposure bias: a method, an image, a step t0 -> t1 and a cutoff. A few forwards each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from ..core.checkpoints import Checkpoint
from ..core.datasets import Batch, ImageDataset
from ..core.latents import seen_batch
from ..errors import DefarError
from ..measures.base import Context, TimeGrid
from ..measures.radial import frequency_ratio
from ..measures.views import BiasViews

QUANTITIES = ("bias", "prediction", "target")


@dataclass(frozen=True)
class View:
    """What is seen at one place of the sliders, as numpy and pandas.

    picture (H, W, C) uint8; map (H, W), the bias's L2 norm over channels, with its rms over pixels and channels.
    spectra: columns frequency (cycles per pixel), coefficients, and the energies bias, prediction, target.
    pfr: one row for each of these, columns quantity, with_dc, without_dc (Eq. 12). Prediction and target are at t0.
    forwards: network calls that it took.
    """

    method: str
    image: int
    class_name: str
    t0: float
    t1: float
    cutoff: float
    picture: np.ndarray
    map: np.ndarray
    rms: float
    spectra: pd.DataFrame
    forwards: int

    @property
    def pfr(self) -> pd.DataFrame:
        frequency = self.spectra["frequency"].to_numpy()
        rows = []
        for quantity in QUANTITIES:
            energy = self.spectra[quantity].to_numpy()
            ratios = (float(frequency_ratio(frequency, energy, self.cutoff, drop)) for drop in (False, True))
            rows.append((quantity, *ratios))
        return pd.DataFrame(rows, columns=["quantity", "with_dc", "without_dc"])


@dataclass(frozen=True, eq=False)
class Inspector:
    """Checkpoints by name and the images that they are looked at on; image i's noise depends on seed and i alone.

    images: which of the data set's are offered. class_names: by label; an image without one is of class "none".
    """

    checkpoints: Mapping[str, Checkpoint]
    dataset: ImageDataset
    images: tuple[int, ...]
    class_names: tuple[str, ...] = ()
    seed: int = 0
    device: torch.device | str = "cpu"

    @property
    def methods(self) -> list[str]:
        return list(self.checkpoints)

    def class_name(self, image: int) -> str:
        if self.dataset.labels is None:
            return "none"
        label = int(self.dataset.labels[image])
        return self.class_names[label] if label < len(self.class_names) else f"class {label}"

    def classes(self) -> dict[str, list[int]]:
        """The offered images by the name of their class, classes in the order of their labels."""
        labels = self.dataset.labels
        found: dict[str, list[int]] = {}
        for image in sorted(self.images, key=lambda i: 0 if labels is None else int(labels[i])):
            found.setdefault(self.class_name(image), []).append(image)
        return found

    def picture(self, image: int) -> np.ndarray:
        """(H, W, C) uint8."""
        return np.asarray(self.dataset.images[image]).transpose(1, 2, 0)

    def sweep(self, method: str, images: Sequence[int], grid: TimeGrid, chunk: int = 64) -> pd.DataFrame:
        """measures.views.BiasViews of one method on these images: one sweep over the grid."""
        checkpoint = self.checkpoints[method]
        batch = seen_batch(checkpoint.codec, self.dataset, images, device=self.device)
        if checkpoint.classes is None:
            batch = Batch(batch.data, None)
        context = Context(
            checkpoint.model, batch, grid, method, checkpoint.interpolant,
            indices=tuple(images), seed=self.seed, chunk=chunk, device=str(self.device),
        )  # fmt: skip
        table = BiasViews().run(context)
        arrays, factor = table.attrs["arrays"], self.dataset.images.shape[2] // checkpoint.shape[1]
        if factor > 1:  # latents: a place of the map covers a square of the picture
            arrays["map"] = arrays["map"].repeat(factor, axis=-2).repeat(factor, axis=-1)
        return table

    def view(self, method: str, image: int, t0: float, t1: float, cutoff: float) -> View:
        """One view, by three forwards: at x_t0, at x_hat and at x_t1. Raises DefarError for an unknown method or image,
        for times that are not 0 <= t0 < t1 <= 1 (shares of the path's interval) and a cutoff outside (0, 0.707)."""
        if method not in self.checkpoints:
            raise DefarError(f"method {method!r} is not open; there are {', '.join(self.methods)}")
        if not 0 <= image < len(self.dataset):
            raise DefarError(f"image {image} is not there; {self.dataset.name} has 0 to {len(self.dataset) - 1}")
        if not 0 <= t0 < t1 <= 1:
            raise DefarError(f"t0 = {t0}, t1 = {t1}; give 0 <= t0 < t1 <= 1")
        if not 0 < cutoff < 0.5**0.5:
            raise DefarError(f"cutoff must lie between 0 and 0.707 cycles per pixel; got {cutoff}")
        # its last time is t1, which the pair needs anyway
        table = self.sweep(method, [image], TimeGrid("view", (t0,), ((t1,),), last=t1))
        arrays = table.attrs["arrays"]
        spectra = pd.DataFrame(
            {"frequency": arrays["radii"], "coefficients": arrays["counts"]} | {q: arrays[q][0, 0] for q in QUANTITIES}
        )
        return View(
            method, image, self.class_name(image), t0, t1, cutoff, self.picture(image), arrays["map"][0, 0],
            float(table["bias_rms"][0]), spectra, table.attrs["forwards"],
        )  # fmt: skip
