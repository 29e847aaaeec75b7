"""What the tests of the networks share: a small one of every family, and its weights moved off their start."""

import torch

from defar_analysis.core.networks import NETWORKS

SMALL = {
    "sit": {"patch_size": 4, "hidden_size": 16, "depth": 2, "num_heads": 2},
    "ddt": {"patch_size": 4, "hidden_size": 16, "depth": 3, "encoder_depth": 2, "num_heads": 2},
    "rae": {"patch_size": 4, "hidden_size": 16, "decoder_hidden_size": 24, "depth": 3, "encoder_depth": 2,
            "num_heads": 2, "decoder_num_heads": 3},
    "lightningdit": {"patch_size": 4, "hidden_size": 16, "depth": 2, "num_heads": 2},
    "unet": {"width": 32, "multipliers": [2, 2], "residual_blocks": 1, "attention_sizes": [4], "head_width": 16},
}  # fmt: skip


def small(family, **options):
    torch.manual_seed(0)
    shape = {"input_size": 8, "in_channels": 3, "num_classes": 4}
    return NETWORKS[family](**{**shape, **SMALL[family], **options})


def shaken(network, size=0.1):
    """Every trained weight moved off its initial value, so that nothing is gated to zero."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in network.parameters():
            if p.requires_grad:
                p += size * torch.randn(p.shape, generator=generator)
    return network


def parameters(network, trained=False):
    return sum(p.numel() for p in network.parameters() if p.requires_grad or not trained)


def largest(ours, theirs):
    """The largest difference of two tensors of one shape."""
    assert ours.shape == theirs.shape
    return float((ours - theirs).abs().max())
