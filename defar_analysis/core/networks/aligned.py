"""A backbone in training with REPA's alignment: the tokens after one of its blocks, and the MLPs that read them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from ...errors import DefarError


class Taps:
    """The tokens of the forwards inside one :meth:`Aligned.recording`: of the first, and the first with gradients."""

    def __init__(self) -> None:
        self._first: Tensor | None = None
        self._trained: Tensor | None = None

    def see(self, module: nn.Module, inputs: Any, tokens: Tensor) -> None:
        """A forward hook of the tapped block."""
        if self._first is None:
            self._first = tokens
        if self._trained is None and tokens.requires_grad:
            self._trained = tokens

    @property
    def tokens(self) -> Tensor:
        """(B, T, d) of the first forward that autograd recorded; where none was, of the first. Raises DefarError
        where there was no forward."""
        found = self._trained if self._trained is not None else self._first
        if found is None:
            raise DefarError("the objective made no forward of this network, so there are no tokens to align")
        return found


class Aligned(nn.Module):
    """v(x, t, labels) of `network`, whose tokens after block `depth` are projected onto an encoder's features.

    network: any with .blocks (SiT, DDT, LightningDiT, DiT^DH), or one of them inside an adapter. projectors: for each
    width z of `dims` an MLP d -> width -> width -> z with SiLU between (REPA's names and layers). They are of the
    training alone: its state holds them, a checkpoint the backbone. Raises DefarError for a network without blocks,
    a depth that it does not have, or widths below 1.
    """

    def __init__(self, network: nn.Module, depth: int = 8, dims: Sequence[int] = (768,), width: int = 2048) -> None:
        super().__init__()
        self.network = network
        if self.blocks is None:
            raise DefarError(f"alignment taps a network's blocks; {type(network).__name__} has none")
        if not 1 <= depth <= len(self.blocks):
            raise DefarError(f"alignment.depth = {depth}; the network has blocks 1 to {len(self.blocks)}")
        if not dims or min(*dims, width) < 1:
            raise DefarError(f"alignment: dims = {list(dims)} and width = {width} must be numbers of at least 1")
        self.depth = depth
        # every block modulates its tokens by six vectors of their width, which may differ between blocks (DiT^DH)
        tokens = self.blocks[depth - 1].adaLN_modulation[-1].out_features // 6
        self.projectors = nn.ModuleList(_projector(tokens, width, dim) for dim in dims)

    @property
    def config(self) -> dict[str, Any]:
        """The backbone's, which is what a checkpoint of this holds."""
        return self.network.config

    @property
    def blocks(self) -> nn.ModuleList | None:
        inner = self.network if hasattr(self.network, "blocks") else getattr(self.network, "network", None)
        return getattr(inner, "blocks", None)

    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        return self.network(x, t, labels)

    @contextmanager
    def recording(self) -> Iterator[Taps]:
        """Keep the tapped tokens of the forwards inside the block; nothing stays behind."""
        taps = Taps()
        hook = self.blocks[self.depth - 1].register_forward_hook(taps.see)
        try:
            yield taps
        finally:
            hook.remove()

    def projected(self, tokens: Tensor) -> list[Tensor]:
        """Tokens (B, T, d) as every encoder's features (B, T, z)."""
        return [projector(tokens) for projector in self.projectors]


def aligned_network(model: Any) -> Aligned:
    """The Aligned network of a training, inside what makes it data-parallel. Raises DefarError where there is none."""
    inner = model
    while isinstance(inner, nn.Module) and not isinstance(inner, Aligned):
        inner = getattr(inner, "module", None)
    if inner is None or not isinstance(inner, Aligned):
        raise DefarError(f"the alignment needs an Aligned network with projectors; got {type(model).__name__}")
    return inner


def _projector(tokens: int, width: int, dim: int) -> nn.Sequential:
    layers = nn.Linear(tokens, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, dim)
    for linear in layers[::2]:
        nn.init.xavier_uniform_(linear.weight)
        nn.init.zeros_(linear.bias)
    return nn.Sequential(*layers)


def unaligned(model: nn.Module) -> nn.Module:
    """The backbone of an Aligned network; any other network itself."""
    return model.network if isinstance(model, Aligned) else model
