"""Cosines of known vectors, and gradients against closed forms."""

import numpy as np
import pytest
import torch

from defar_analysis.core.interpolants import Linear
from defar_analysis.core.objectives import Defar, FlowMatching
from defar_analysis.core.rollout import Draw
from defar_analysis.measures import gradients
from defar_analysis.measures.gradients import cosine, expected_cosine, inner_products, interval, other_cosine

A, B = np.array([1.0, 0.0]), np.array([0.0, 1.0])
SHAPE = (6, 1, 2, 2)


def normal(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Scale(torch.nn.Module):
    """v(x, t) = a x + b: the simplest field with a gradient."""

    def __init__(self, a: float = 0.3, b: float = -0.2) -> None:
        super().__init__()
        self.a, self.b = (torch.nn.Parameter(torch.tensor(z, dtype=torch.float64)) for z in (a, b))
        self.calls = 0

    def forward(self, x, t, labels=None):
        self.calls += 1
        return self.a * x + self.b


class Blind(Scale):
    """A field that ignores x, so that its bias is 0."""

    def forward(self, x, t, labels=None):
        return self.a * t.reshape(-1, 1, 1, 1).expand_as(x) + self.b


def draw(seed: int = 0) -> Draw:
    uniform = torch.rand(2, SHAPE[0], generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    times = torch.stack([uniform[0], uniform[0] + (1 - uniform[0]) * uniform[1]])
    return Draw(normal(seed + 1, *SHAPE), normal(seed + 2, *SHAPE), None, times)


def gram_of(first, second) -> np.ndarray:
    """Of two terms with one vector each on every batch; (M, P) each."""
    return inner_products(torch.stack([torch.as_tensor(first), torch.as_tensor(second)]).double())


def test_cosines_of_known_vectors():
    v = normal(0, 4, 1000)
    across = torch.linalg.qr(normal(1, 1000, 8)).Q.T
    assert cosine(gram_of(v, 3.7 * v), A, B) == pytest.approx(1, abs=1e-12)
    assert cosine(gram_of(v, -0.01 * v), A, B) == pytest.approx(-1, abs=1e-12)
    assert cosine(gram_of(across[:4], across[4:]), A, B) == pytest.approx(0, abs=1e-12)
    slanted = across[:4] + 3**0.5 * across[4:]  # at 60 degrees
    assert cosine(gram_of(across[:4], slanted), A, B) == pytest.approx(0.5, abs=1e-12)
    other = normal(2, 4, 1000)
    plain = cosine(gram_of(v, other), A, B)
    scales = torch.tensor([[1e-3], [1.0], [20.0], [1e4]], dtype=torch.float64)
    assert cosine(gram_of(scales * v, 5 * other), A, B) == pytest.approx(plain, abs=1e-12)  # batch by batch
    expected = torch.nn.functional.cosine_similarity(v, other, dim=1).mean()
    assert plain == pytest.approx(float(expected), abs=1e-12)
    assert np.isnan(cosine(gram_of(v, 0 * v), A, B))


def test_products_of_other_batches_leave_the_shared_noise_out():
    """Two terms that share nothing but their noise agree on the same batch, and on no other."""
    signal, batches = torch.linalg.qr(normal(0, 4000, 2)).Q.T, 40
    noise = 0.5 * normal(1, batches, 4000) / 4000**0.5
    gram = gram_of(signal[0] + noise, signal[1] + noise)
    assert cosine(gram, A, B) == pytest.approx(0.25 / 1.25, abs=0.02)
    assert other_cosine(gram, A, B) == pytest.approx(0, abs=0.02)
    assert other_cosine(gram, A, A) == pytest.approx(1 / 1.25, abs=0.02)  # the noise floor
    slanted = gram_of(signal[0] + noise, (signal[0] + signal[1]) / 2**0.5 + noise)
    assert expected_cosine(slanted, A, B) == pytest.approx(0.5**0.5, abs=0.02)
    assert other_cosine(slanted, A, B) == pytest.approx(0.5**0.5 / 1.25, abs=0.02)
    alone = gram_of(signal[0].expand(4, -1), signal[1].expand(4, -1))
    assert expected_cosine(alone, A, A + B) == pytest.approx(0.5**0.5, abs=1e-12)  # a combination of terms
    apart = torch.eye(4, dtype=torch.float64)  # no two batches agree: no expectation is to be seen
    assert np.isnan(expected_cosine(gram_of(apart, apart), A, B))


def test_the_interval_of_a_mean_is_students():
    lengths = torch.tensor([1.0, 2.0, 4.0, 9.0], dtype=torch.float64)[:, None]
    value, low, high = interval(gradients.norm, gram_of(lengths, lengths), A)
    assert value == pytest.approx(4)
    width = 3.182446 * float(lengths.std()) / 2  # t of 3 degrees of freedom
    assert (value - low, high - value) == (pytest.approx(width, rel=1e-6), pytest.approx(width, rel=1e-6))
    two = interval(gradients.norm, gram_of(lengths[:2], lengths[:2]), A)
    assert two[0] == pytest.approx(1.5) and np.isnan(two[1:]).all()


def test_the_gradient_of_a_linear_field_is_the_closed_form():
    """d mean(a x + b - v)^2 / da = 2 mean(x e), / db = 2 mean(e)."""
    model, own = Scale(), draw()
    point = Linear().at(own.noise, own.data, own.t0)
    error = model(point.x, own.t0) - point.velocity
    expected = torch.stack([2 * (error * point.x).mean(), 2 * error.mean()]).detach()
    found = gradients.gradients(model, {"fm": FlowMatching()}, own)
    torch.testing.assert_close(found, expected[None], atol=1e-14, rtol=0)


def test_terms_that_share_forwards_have_the_gradients_that_they_have_alone():
    model, own = Scale(), draw()
    terms = gradients.terms(Linear())
    found = gradients.gradients(model, terms, own)
    assert model.calls == 4  # at x_{t0}, at x_{t1}, and at x_hat with and without its gradient
    for row, (name, objective) in zip(found, terms.items(), strict=True):
        alone = torch.autograd.grad(objective(model, own).total, list(model.parameters()))
        torch.testing.assert_close(row, torch.stack(alone), atol=1e-14, rtol=0, msg=name)
    adr = {name: part for name, part in zip(terms, found, strict=True) if name.startswith("adr")}
    assert float((adr["adr"] - adr["adr_stopped"]).norm()) > 0.01  # two different terms
    # ADR alone is what the whole loss has beyond FC
    whole = torch.stack(torch.autograd.grad(Defar()(model, own).total, list(model.parameters())))
    rest = (whole - found[list(terms).index("fc")]) / 10
    torch.testing.assert_close(adr["adr"], rest, atol=1e-13, rtol=0)


def test_without_bias_fc_is_flow_matching():
    terms = gradients.terms(Linear())
    gram = gradients.gram(Blind(), terms, [draw(seed) for seed in (0, 10, 20)])
    of = dict(zip(terms, np.eye(len(terms)), strict=True))
    for name in ("fc", "fc_strong"):
        assert cosine(gram, of["fm"], of[name]) == pytest.approx(1, abs=1e-12)
        assert gradients.norm(gram, of[name]) == pytest.approx(gradients.norm(gram, of["fm"]), rel=1e-12)
        difference = of[name] - of["fm"]
        assert gradients.norm(gram, difference) == pytest.approx(0, abs=1e-9)
    assert abs(cosine(gram, of["fm"], of["adr"])) < 1 - 1e-3


def test_parameters_are_left_as_they_were(refuses):
    model = Scale()
    model.b.requires_grad_(False)
    found = gradients.gram(model, {"fm": FlowMatching()}, [draw(0), draw(5)])
    assert found.shape == (1, 2, 1, 2) and not model.b.requires_grad and model.a.requires_grad
    assert model.a.grad is None
    refuses(lambda: gradients.gram(model, {"fm": FlowMatching()}, [draw()]), "1 batch", "at least 2")
