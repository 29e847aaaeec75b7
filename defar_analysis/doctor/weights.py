"""Whether a checkpoint's averaged weights are the averaged ones."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from ..core.adapters import described
from ..core.cards import WEIGHTS
from ..core.checkpoints import Checkpoint, tensors_digest
from ..core.states import saved_states
from .findings import Finding, fails, passes, untold

NAME = "weights"
# A checkpoint keeps 11 bits of each number. Averages differ from raw weights by far more, or the question is idle.
ROUNDED = 1e-3


def averaged(path: Path, checkpoint: Checkpoint) -> Finding:
    """The check "weights": what the card says (raw or ema) against its source's digests or the run's own state."""
    says, source = checkpoint.card.weights, checkpoint.card.source
    raw, ema, entry = (source.get(key) for key in ("raw_digest", "ema_digest", "entry"))
    if raw and ema:
        return _by_digest(says, raw, ema, entry, path)
    state = _state(path)
    if state is not None:
        return _by_state(says, state, checkpoint)
    return untold(NAME, f'the card says "{says}"; neither its [source] nor a run\'s state beside it can tell')


def _by_digest(says: str, raw: str, ema: str, entry: str | None, path: Path) -> Finding:
    if raw == ema:
        mend = "the average was never updated, or one was written twice: take it from another file"
        return fails(NAME, "the source's raw and averaged weights are the same tensors", mend)
    found = {raw: "raw", ema: "ema"}.get(tensors_digest(load_file(_folder(path) / WEIGHTS)))
    taken = f', from "{entry}"' if entry else ""
    if found is not None and found != says:
        return _confused(says, found, f"the source's {found} tensors{taken}")
    if found is None:
        return untold(NAME, f'the card says "{says}"{taken}; these tensors are neither of the source\'s two')
    return passes(NAME, f'"{says}"{taken}, and the source\'s two differ')


def _by_state(says: str, state: dict[str, dict[str, Tensor]], checkpoint: Checkpoint) -> Finding:
    ours = described(checkpoint.model)[1].state_dict()
    far = {"raw": _distance(ours, state["model"]), "ema": _distance(ours, state["ema"])}
    if min(far.values()) > ROUNDED:
        return untold(NAME, f'the card says "{says}"; the run\'s last state is of another step')
    found = min(far, key=far.get)
    seen = f"{far['ema']:.0e} from the run's averaged weights, {far['raw']:.0e} from its raw ones"
    if max(far.values()) <= ROUNDED:
        return untold(NAME, f"{seen}: the two are the same")
    return passes(NAME, seen) if found == says else _confused(says, found, seen)


def _confused(says: str, found: str, seen: str) -> Finding:
    mend = f'the card says weights = "{says}" and these are "{found}": import or export the {says} weights again'
    return fails(NAME, seen, mend)


def _distance(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    """Root mean square of the difference, relative; infinite for other tensors."""
    if a.keys() != b.keys() or any(a[name].shape != b[name].shape for name in a):
        return float("inf")
    difference = sum(float((a[name].cpu().float() - b[name].float()).square().sum()) for name in a)
    return (difference / max(1e-30, sum(float(part.float().square().sum()) for part in b.values()))) ** 0.5


def _state(path: Path) -> dict[str, dict[str, Tensor]] | None:
    """The state of the run whose checkpoint this is, where it lies beside and can be read as tensors."""
    try:
        file = saved_states(_folder(path).resolve().parent)[0]
        state = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
        return {key: dict(state[key]) for key in ("model", "ema")}
    except Exception:  # absent, damaged, or another program's: then it tells nothing
        return None


def _folder(path: Path) -> Path:
    return path.parent if path.suffix == ".safetensors" else path
