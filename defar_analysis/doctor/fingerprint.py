"""Sixteen fixed images in a few numbers: two machines that agree on them run the same network in the same way."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch

from ..core.codecs import PixelCodec
from ..core.interpolants import Interpolant
from ..core.rollout import VelocityModel
from ..core.samplers import Euler, sample
from ..core.seeding import balanced_labels, image_noise
from ..errors import DefarError

COUNT, STEPS, SEED = 16, 10, 0


@dataclass(frozen=True)
class Fingerprint:
    """sha256: of the uint8 images. means: of their channels, in grey values. features: mean norm, by the extractor.

    Machines that add in another order round a few pixels differently: then the digests differ, the means by less than
    0.01.
    """

    sha256: str
    means: tuple[float, ...]
    features: float | None
    extractor: str | None

    def __str__(self) -> str:
        means = ", ".join(f"{mean:.6g}" for mean in self.means)
        features = f"features {self.features:.6g} ({self.extractor})" if self.extractor else "features: not installed"
        return f"fingerprint: {COUNT} images, sha256 {self.sha256[:16]}, means {means}, {features}"


def fingerprint(
    model: VelocityModel,
    shape: tuple[int, int, int],
    codec: PixelCodec,
    *,
    interpolant: Interpolant,
    classes: int | None,
    device: torch.device,
) -> Fingerprint:
    """Of 16 images by 10 steps of Euler, image i with the noise of seed 0 and label i mod `classes`.

    Raises DefarError where the network gives no finite images.
    """
    noise = image_noise(SEED, range(COUNT), shape).to(device)
    labels = None if classes is None else balanced_labels(range(COUNT), classes).to(device)
    drawn = sample(model, noise, Euler(STEPS), interpolant=interpolant, labels=labels, chunk=COUNT)
    images = codec.decode(drawn.x).cpu()
    means = tuple(float(f"{mean:.6g}") for mean in images.double().mean(dim=(0, 2, 3)).tolist())
    norm, name = _features(images)
    return Fingerprint(hashlib.sha256(images.contiguous().numpy().tobytes()).hexdigest(), means, norm, name)


def _features(images: torch.Tensor) -> tuple[float | None, str | None]:
    """Mean length of the default extractor's features, where its weights are installed."""
    from ..measures.extractors import efficientnet_lite, extracted

    try:
        extractor = efficientnet_lite()
        pool = extracted(extractor, images.numpy()).pool
    except DefarError:  # not installed, or images of other than 1 or 3 channels
        return None, None
    return float(f"{float(pool.double().norm(dim=1).mean()):.6g}"), extractor.name
