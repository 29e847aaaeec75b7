"""Our EfficientNet-Lite against numbers recorded with efficientnet-lite-pytorch and the same weights."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from defar_analysis.measures import extractors
from defar_analysis.measures.efficientnet import EfficientNetLite

RECORDED = [(0, 128), (0, 224), (2, 224)]


@pytest.fixture(scope="module")
def pretrained():
    """The network of a variant with its packaged weights, read once."""
    networks = {}

    def load(variant):
        if variant not in networks:
            networks[variant] = EfficientNetLite(variant).eval().requires_grad_(False)
            networks[variant].load_state_dict(extractors.packaged_weights(variant, "this test")[0])
        return networks[variant]

    return load


def relative_error(ours, theirs):
    return np.abs(ours.numpy() - theirs).max() / np.abs(theirs).max()


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 3e-5), (torch.float64, 1e-12)])
@pytest.mark.parametrize(("variant", "size"), RECORDED)
def test_the_network_is_the_recorded_one(recorded, pretrained, variant, size, dtype, bound):
    wanted = recorded("efficientnet_lite.npz")
    images = torch.from_numpy(wanted["images"]).to(dtype)
    x = F.interpolate(images, (size, size), mode="bicubic", align_corners=False, antialias=True).clamp(0, 255)
    last, pool, logits = pretrained(variant).to(dtype)((x - 127) / 128)
    for ours, name in ((last[:, :7], "map7"), (pool, "pool"), (logits, "logits")):
        theirs = wanted[f"lite{variant}_{size}.{name}"]
        assert ours.shape == theirs.shape and ours.dtype == dtype
        assert relative_error(ours, theirs) < bound, name


def test_zeros_are_padded_as_for_the_native_size(recorded, pretrained):
    """At 224 pixels "same" would pad 260-pixel Lite2 otherwise: the recorded numbers tell the two apart."""
    wanted = recorded("efficientnet_lite.npz")
    network = pretrained(2).float()
    images = torch.from_numpy(wanted["images"]).float()
    x = F.interpolate(images, (224, 224), mode="bicubic", align_corners=False, antialias=True).clamp(0, 255)
    conv = next(block._depthwise_conv for block in network._blocks if block._depthwise_conv.stride == (2, 2)
                and block._depthwise_conv.kernel_size == (5, 5))  # fmt: skip
    before, conv.padding, conv.uneven = conv.padding, (0, 0), (1, 2, 1, 2)
    try:
        pool = network((x - 127) / 128)[1]
    finally:
        conv.padding, conv.uneven = before, None
    assert before == (2, 2) and relative_error(pool, wanted["lite2_224.pool"]) > 1e-2


@pytest.mark.parametrize(("variant", "parameters"), [(0, 4_652_008), (2, 6_092_072)])
def test_the_networks_have_the_published_sizes(variant, parameters):
    assert sum(p.numel() for p in EfficientNetLite(variant).parameters()) == parameters


def test_an_unknown_variant_is_refused(refuses):
    refuses(lambda: EfficientNetLite(4), "4", "take 0 or 2")
