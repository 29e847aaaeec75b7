"""The families of networks whose published files load: told apart by keys, their sizes read from shapes.

What keys and shapes do not show is never guessed: the error names the option that says it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ...errors import DefarError

Tensors = dict[str, Tensor]
HEADS = {384: 6, 768: 12, 1024: 16, 1152: 16}  # by width, in every published SiT, REPA and DDT
TURNED = {"noise_at": 1, "velocity": "noise-data"}  # REPA's and RAE's clock and sign
NO_VELOCITY = {
    "dit": "DiT predicts noise at times 0 ... 999, no velocity; there is nothing here to measure it by",
    "adm": "ADM's U-Nets predict noise, no velocity; there is nothing here to measure them by",
    "rae-lightningdit": "RAE's own LightningDiT is not among the networks here; bring its code: defar import my:code",
}


@dataclass(frozen=True)
class Family:
    """network: the class here that has its parameters. read: its constructor's arguments from tensors and from what
    the user said. conventions: what differs from ours. paths: interpolants of ours that are also theirs. assumed:
    arguments that no weight shows, taken as in the published network of these shapes where the user does not say."""

    network: str
    read: Callable[[Tensors, dict[str, Any]], dict[str, Any]]
    conventions: dict[str, Any] = field(default_factory=dict)
    paths: tuple[str, ...] = ("linear", "gvp", "vp")
    assumed: tuple[str, ...] = ()


def families_by_keys(tensors: Tensors, entry: str) -> tuple[str, ...]:
    """Every family whose files have these keys; more than one where keys cannot tell. entry: where they were found."""
    keys = tensors.keys()
    if {"time_embed.0.weight", "input_blocks.0.0.weight"} <= keys:
        rows, channels = size(tensors, "out.2.weight", 4)[0], size(tensors, "input_blocks.0.0.weight", 4)[1]
        if "label_emb.weight" in keys or rows != channels:
            return ("adm",)
        return ("unet",) if entry in ("ema_model", "net_model") else ("unet", "adm")
    if "s_embedder.proj.weight" in keys:
        return ("rae",) if "t_embedder.W" in keys else ("ddt",)
    if "t_embedder.W" in keys:
        return ("rae-lightningdit",)
    if "feat_rope.freqs_cos" in keys:
        return ("lightningdit",)
    if any(key.startswith(("projectors.", "decoder_blocks.")) or key.endswith("attn.q_norm.bias") for key in keys):
        return ("repa",)
    if {"pos_embed", "blocks.0.mlp.fc1.weight"} <= keys:
        doubled = _rows_in_patch(tensors) == 2
        return ("sit", "dit") if doubled else ("sit", "repa", "dit")
    return ()


def family_named(tensors: Tensors, entry: str, said: str | None) -> str:
    """The family, as the keys show it or as the user said. Raises DefarError where they differ or neither tells."""
    possible = families_by_keys(tensors, entry)
    if not possible:
        some = ", ".join(sorted(tensors)[:3])
        raise DefarError(
            f"its keys ({some}, ...) are those of no family known here ({', '.join(FAMILIES)}); bring the network's "
            "own code: defar import my_model:build FILE"
        )
    if said is not None and said not in possible:
        raise DefarError(f"--family {said}: its keys are {' or '.join(possible)}'s")
    if said is None and len(possible) > 1:
        choices = " or ".join(f"--family {name}" for name in possible if name in FAMILIES)
        raise DefarError(
            f"its keys and shapes are {', '.join(possible)}'s alike, which have other clocks; say {choices}"
        )
    family = said or possible[0]
    if family in NO_VELOCITY:
        raise DefarError(NO_VELOCITY[family])
    return family


def size(tensors: Tensors, name: str, dimensions: int | None = None) -> tuple[int, ...]:
    if name not in tensors:
        raise DefarError(f"{name} is missing; the file is not whole, or of another network")
    shape = tuple(tensors[name].shape)
    if dimensions is not None and len(shape) != dimensions:
        raise DefarError(f"{name} has the shape {shape}; {dimensions} dimensions belong there")
    return shape


def blocks(tensors: Tensors, prefix: str = "blocks") -> int:
    """How many there are. Raises DefarError where one is left out: a lone block.999999 is no network."""
    found = {key.split(".")[1] for key in tensors if key.startswith(f"{prefix}.")}
    if not found or found != {str(index) for index in range(len(found))}:
        raise DefarError(f"{prefix}.* are not numbered from 0 without gaps; the file is not whole")
    return len(found)


def _told(given: dict[str, Any], name: str, why: str, example: int) -> Any:
    if name not in given:
        option = f"--input-size {example}" if name == "input_size" else f"--set {name}={example}"
        raise DefarError(f"{why}; say it with {option}")
    return given[name]


def _heads(width: int, given: dict[str, Any], head_width: int | None = None) -> int:
    if head_width is not None:
        return width // head_width
    if "num_heads" not in given and width in HEADS:
        return HEADS[width]
    return _told(given, "num_heads", f"how many heads share the width {width} does not show in the weights", 4)


def _rows_in_patch(tensors: Tensors) -> float:
    """How often the output's rows hold the input's channels: 2 with learn_sigma."""
    _, channels, patch, _ = size(tensors, "x_embedder.proj.weight", 4)
    return size(tensors, "final_layer.linear.weight", 2)[0] / (channels * patch**2)


def _patches(tensors: Tensors, width: str = "pos_embed") -> dict[str, Any]:
    """What convolution and position table show of any of these transformers."""
    _, channels, patch, _ = size(tensors, "x_embedder.proj.weight", 4)
    _, tokens, hidden = size(tensors, width, 3)
    grid = math.isqrt(tokens)
    if grid**2 != tokens:
        raise DefarError(f"{width} has {tokens} positions, no square; only square inputs are taken")
    return {"input_size": grid * patch, "patch_size": patch, "in_channels": channels, "hidden_size": hidden,
            "depth": blocks(tensors), "num_classes": _classes(tensors)}  # fmt: skip


def _classes(tensors: Tensors) -> int:
    """A row of the table of labels for each, and a last one for "no label"."""
    rows = size(tensors, "y_embedder.embedding_table.weight", 2)[0]
    if rows < 2:
        raise DefarError("y_embedder.embedding_table.weight has one row; a class and 'no label' need two")
    return rows - 1


def _sit(tensors: Tensors, given: dict[str, Any]) -> dict[str, Any]:
    shape = _patches(tensors)
    normed = "blocks.0.attn.q_norm.weight"
    head_width = size(tensors, normed, 1)[0] if normed in tensors else None
    hidden = shape["hidden_size"]
    return {
        **shape, "num_heads": _heads(hidden, given, head_width), "learn_sigma": _rows_in_patch(tensors) == 2,
        "mlp_ratio": size(tensors, "blocks.0.mlp.fc1.weight", 2)[0] / hidden, "qk_norm": head_width is not None,
    }  # fmt: skip


def _ddt(tensors: Tensors, given: dict[str, Any]) -> dict[str, Any]:
    hidden, numbers = size(tensors, "x_embedder.proj.weight", 2)
    depth = blocks(tensors)
    if (hidden, depth, numbers) == (1152, 28, 16):  # the published XL/2, on four latent channels
        given = {"encoder_depth": 22, "patch_size": 2, **given}
    elif "in_channels" in given and "patch_size" not in given:
        given = {"patch_size": math.isqrt(max(numbers // max(given["in_channels"], 1), 1)), **given}
    patch = _told(
        given, "patch_size", f"whether a patch's {numbers} numbers are many channels or many places is open", 2
    )
    head_width = size(tensors, "blocks.0.attn.q_norm.weight", 1)[0]
    return {
        "input_size": _told(given, "input_size", "files for 256 and 512 pixels (32 and 64 latents) look alike", 32),
        "patch_size": patch, "in_channels": numbers // patch**2, "hidden_size": hidden, "depth": depth,
        "encoder_depth": _told(given, "encoder_depth", f"how many of the {depth} blocks encode shows nowhere", 22),
        "num_heads": _heads(hidden, given, head_width),
        "num_classes": _classes(tensors),
    }  # fmt: skip


def _lightningdit(tensors: Tensors, given: dict[str, Any]) -> dict[str, Any]:
    shape = _patches(tensors)
    head_width = size(tensors, "feat_rope.freqs_cos", 2)[1]
    return {**shape, "num_heads": _heads(shape["hidden_size"], given, head_width)}


def _rae(tensors: Tensors, given: dict[str, Any]) -> dict[str, Any]:
    shape = _patches(tensors)
    wide = size(tensors, "x_embedder.proj.weight", 4)[0]
    narrow = shape["hidden_size"]
    widths = [size(tensors, f"blocks.{index}.norm1.weight", 1)[0] for index in range(shape["depth"])]
    if narrow == wide:
        encoding = _told(given, "encoder_depth", "encoder and decoder are equally wide, so the split shows nowhere", 28)
    else:
        encoding = widths.count(narrow)
    return {
        **shape, "decoder_hidden_size": wide, "encoder_depth": encoding,
        "num_heads": _heads(narrow, given, size(tensors, "enc_feat_rope.freqs_cos", 2)[1]),
        "decoder_num_heads": _heads(wide, given, size(tensors, "dec_feat_rope.freqs_cos", 2)[1]),
    }  # fmt: skip


def _unet(tensors: Tensors, given: dict[str, Any]) -> dict[str, Any]:
    width, channels = size(tensors, "time_embed.0.weight", 2)[1], size(tensors, "input_blocks.0.0.weight", 4)[1]
    widths: list[list[int]] = [[]]  # of the residual blocks, by level
    attended = []
    for index in range(1, blocks(tensors, "input_blocks")):
        if f"input_blocks.{index}.0.op.weight" in tensors:
            widths.append([])
            continue
        widths[-1].append(size(tensors, f"input_blocks.{index}.0.out_layers.3.weight", 4)[0])
        if f"input_blocks.{index}.1.qkv.weight" in tensors:
            attended.append(len(widths) - 1)
    if not all(widths):
        raise DefarError("input_blocks.* have a level without residual blocks; the file is not whole")
    multipliers = [level[0] // width for level in widths]
    if (width, multipliers, sorted(set(attended))) == (128, [1, 2, 2, 2], [1]):  # the published CIFAR-10 network
        given = {"input_size": 32, "head_width": 64, **given}
    side = _told(given, "input_size", "a convolutional network's input size does not show in its weights", 32)
    return {
        "input_size": side, "in_channels": channels, "width": width, "multipliers": multipliers,
        "residual_blocks": len(widths[0]), "attention_sizes": sorted({side >> level for level in attended}),
        "head_width": _told(given, "head_width", "the width of its attention's heads does not show in the weights", 64),
    }  # fmt: skip


FAMILIES = {
    "sit": Family("sit", _sit, assumed=("num_heads",)),
    # REPA's other path is "cosine", GVP run backwards. RAE's VP exchanges the roles of alpha and sigma without
    # reversing the schedule (0.96 where SiT has 0.28 at t = 0.5): no turn of the clock makes it ours, so it is refused.
    "repa": Family("sit", _sit, TURNED, ("linear", "gvp"), ("num_heads",)),
    # DDT's class of that name runs GVP the other way and leaves out the factor pi / 2: another path, refused.
    "ddt": Family("ddt", _ddt, paths=("linear",), assumed=("encoder_depth", "patch_size")),
    "rae": Family("rae", _rae, TURNED, ("linear", "gvp")),
    "lightningdit": Family("lightningdit", _lightningdit),
    "unet": Family("unet", _unet, assumed=("input_size", "head_width")),
}
