"""How the terms of a loss pull at a network: norms of their gradients and the cosines between them.

All of it is read off inner products of gradients, one for each term and minibatch: (K, M, K, M) for K terms on M
batches, the Gram matrix. Three estimators of a cosine, each with its interval over the batches:

* "same batch": the mean over batches of the cosine of two terms on the same images, noise and times, which a training
  step meets. Two terms may agree there in nothing but the noise that they share.
* "other batch": the same with each term on images of its own; what has no noise in common. Of a term with itself it is
  the noise floor: how much of a minibatch's gradient another minibatch has too.
* "expected": of the gradients' expectations, E<a_m, b_n> / sqrt(E<a_m, a_n> E<b_m, b_n>), m != n. It leaves the noise
  out, but exists only where neither expectation is lost in it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from scipy import stats
from torch import Tensor, nn

from ..core.interpolants import Interpolant
from ..core.objectives import Defar, FlowMatching, Objective, strong
from ..core.rollout import Draw
from ..errors import DefarError
from .statistics import LEVEL

BLOCK = 2**15  # gradients' entries whose products are taken at once, in float64


def terms(interpolant: Interpolant) -> dict[str, Objective]:
    """The loss's terms, each alone: FM (Eq. 2), ADR (Eq. 9) with and without gradients through x_hat, FC (Eq. 16).

    beta2 = 0 leaves ADR alone, adr = False leaves FC; fc_strong takes the mean of the bias's map as its normalizer.
    """
    return {
        "fm": FlowMatching(interpolant=interpolant),
        "adr_stopped": Defar(beta1=1.0, beta2=0.0, detach_step=True, interpolant=interpolant),
        "adr": Defar(beta1=1.0, beta2=0.0, interpolant=interpolant),
        "fc": Defar(adr=False, interpolant=interpolant),
        "fc_strong": strong(adr=False, interpolant=interpolant),
    }


class Shared:
    """A model that remembers the forwards of one draw, so that terms which need the same one share it.

    An output is given again where x and t are the same and no gradient of x is asked for; the labels of a draw do not
    change. Losses of one draw then share a graph: differentiate with retain_graph.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.seen: list[tuple[Tensor, Tensor, Tensor]] = []

    def __call__(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        wanted = torch.is_grad_enabled()
        for known, time, velocity in self.seen:
            fits = not wanted or (velocity.requires_grad and not x.requires_grad and not known.requires_grad)
            if fits and torch.equal(known, x) and torch.equal(time, t):
                return velocity if wanted else velocity.detach()
        velocity = self.model(x, t, labels)
        self.seen.append((x, t, velocity))
        return velocity


@contextmanager
def differentiable(model: nn.Module) -> Iterator[list[nn.Parameter]]:
    """The model's parameters with gradients switched on inside the block, and as they were after it."""
    parameters = list(model.parameters())
    before = [p.requires_grad for p in parameters]
    try:
        for p in parameters:
            p.requires_grad_(True)
        yield parameters
    finally:
        for p, flag in zip(parameters, before, strict=True):
            p.requires_grad_(flag)


def gradients(model: nn.Module, objectives: Mapping[str, Objective], draw: Draw, out: Tensor | None = None) -> Tensor:
    """The gradient of each objective's loss with respect to all parameters, flat, (K, P); written into `out`, if given.

    Gradients of a million parameters are slow to copy: for many draws give a place for each.
    """
    shared = Shared(model)
    with differentiable(model) as parameters, torch.enable_grad():
        if out is None:
            out = parameters[0].new_empty(len(objectives), sum(p.numel() for p in parameters), requires_grad=False)
        for place, objective in zip(out, objectives.values(), strict=True):
            total = objective(shared, draw).total
            parts = torch.autograd.grad(total, parameters, retain_graph=True, materialize_grads=True, allow_unused=True)
            with torch.no_grad():
                torch.cat([part.flatten() for part in parts], out=place)
    return out


def inner_products(vectors: Tensor) -> np.ndarray:
    """The Gram matrix (K, M, K, M), float64, of vectors (K, M, P)."""
    k, m, _ = vectors.shape
    total = torch.zeros(k * m, k * m, dtype=torch.float64)
    room = torch.empty(k * m, BLOCK, dtype=torch.float64)  # one for all blocks: new memory is slow to touch
    for block in vectors.reshape(k * m, -1).split(BLOCK, dim=1):
        wide = room[:, : block.shape[1]].copy_(block)
        total += wide @ wide.T
    return total.reshape(k, m, k, m).numpy()


def gram(model: nn.Module, objectives: Mapping[str, Objective], draws: Sequence[Draw]) -> np.ndarray:
    """Inner products (K, M, K, M) of the gradients of K objectives on M draws. Raises DefarError for fewer than 2."""
    if len(draws) < 2:
        raise DefarError(f"gradients of {len(draws)} batch have no interval; give at least 2 batches")
    first = next(model.parameters())
    vectors = first.new_empty(len(objectives), len(draws), sum(p.numel() for p in model.parameters()))
    for m, draw in enumerate(draws):
        gradients(model, objectives, draw, out=vectors[:, m])
    return inner_products(vectors)


def products(gram: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Inner products (M, M) of two linear combinations of the terms, (K,) each, on every pair of batches."""
    return np.einsum("k,kmln,l->mn", first, gram, second)


def cosine(gram: np.ndarray, first: np.ndarray, second: np.ndarray) -> float:
    """Mean over batches of cos(first, second) on the same batch; NaN where one of them is 0."""
    ab, aa, bb = (np.diag(products(gram, *pair)) for pair in ((first, second), (first, first), (second, second)))
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(np.mean(ab / np.sqrt(aa * bb)))


def expected_cosine(gram: np.ndarray, first: np.ndarray, second: np.ndarray) -> float:
    """cos(E first, E second), from products of different batches; NaN where the noise hides one of the two."""
    ab, aa, bb = (_apart(products(gram, *pair)) for pair in ((first, second), (first, first), (second, second)))
    return float(ab / np.sqrt(aa * bb)) if aa > 0 and bb > 0 else float("nan")


def other_cosine(gram: np.ndarray, first: np.ndarray, second: np.ndarray) -> float:
    """Mean cosine of first on one batch and second on another. With second = first: the noise floor."""
    sizes = [np.sqrt(np.diag(products(gram, own, own))) for own in (first, second)]
    with np.errstate(divide="ignore", invalid="ignore"):
        return _apart(products(gram, first, second) / np.outer(*sizes))


def norm(gram: np.ndarray, first: np.ndarray) -> float:
    """Mean norm of a batch's gradient."""
    return float(np.mean(np.sqrt(np.diag(products(gram, first, first)))))


def interval(statistic: Callable[..., float], gram: np.ndarray, *given: np.ndarray) -> tuple[float, float, float]:
    """The statistic and its 95 % jackknife interval over batches, with Student's t of M - 1 degrees of freedom.

    For a mean over batches this is the usual t-interval. NaN ends where a batch cannot be left out.
    """
    count = gram.shape[1]
    value = statistic(gram, *given)
    if count < 3:
        return value, float("nan"), float("nan")
    kept = [np.delete(np.arange(count), m) for m in range(count)]
    left_out = np.array([statistic(gram[:, rest][..., rest], *given) for rest in kept])
    error = np.sqrt((count - 1) / count * np.square(left_out - left_out.mean()).sum())
    width = float(stats.t.ppf(0.5 + LEVEL / 2, count - 1) * error)
    return value, value - width, value + width


def _apart(square: np.ndarray) -> float:
    """Mean of the entries off the diagonal."""
    count = len(square)
    return float((square.sum() - np.trace(square)) / (count * (count - 1)))
