"""Every objective and every option against its formula, written out here from the papers and from nothing of ours.

Each reference takes a batch of pairs, the step's times and a velocity field, and is float64 throughout, so values and
gradients agree to the last digits. Only the constants that keep norms from 0 are the package's own.
"""

import itertools
import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from defar_analysis.core import interpolants
from defar_analysis.core.objectives import (
    MDSS,
    SDSS,
    Defar,
    FlowMatching,
    InputPerturbation,
    MixFlow,
    reflexflow,
    simpletuner,
    strong,
)
from defar_analysis.core.rollout import Draw

BATCH, CHANNELS, HEIGHT, WIDTH = SHAPE = (6, 2, 6, 5)  # at width 5 the default cutoff of 0.2 meets a frequency
ENTRIES, PIXELS = CHANNELS * HEIGHT * WIDTH, HEIGHT * WIDTH
AGREES = 1e-11  # relative, in float64


class Field(nn.Module):
    """v(x, t) = (1 + g t) tanh(A x + B x_right + C x_below + b t): nonlinear, mixes channels and neighbours."""

    def __init__(self):
        super().__init__()
        g = torch.Generator().manual_seed(7)
        self.mixes = nn.ParameterList(0.5 * torch.randn(2, 2, dtype=torch.float64, generator=g) for _ in range(3))
        self.bias = nn.Parameter(torch.randn(2, dtype=torch.float64, generator=g))
        self.gain = nn.Parameter(torch.tensor(0.7, dtype=torch.float64))

    def forward(self, x, t, labels=None):
        neighbours = (x, x.roll(1, 3), x.roll(1, 2))
        inside = sum(torch.einsum("oc,bchw->bohw", mix, z) for mix, z in zip(self.mixes, neighbours, strict=True))
        t = col(t)
        return (1 + self.gain * t) * torch.tanh(inside + self.bias[:, None, None] * t)


def col(t):
    return t.reshape(-1, 1, 1, 1)


def per_sample(z):
    return z.reshape(len(z), -1)


# --- the paths: t -> alpha, sigma, alpha', sigma' ---


def linear(t):
    return t, 1 - t, 1.0, -1.0


def gvp(t):
    half = math.pi / 2
    return torch.sin(half * t), torch.cos(half * t), half * torch.cos(half * t), -half * torch.sin(half * t)


def vp(t):
    alpha = torch.exp(-(20 - 0.1) / 4 * (1 - t) ** 2 - 0.1 / 2 * (1 - t))
    sigma = torch.sqrt(1 - alpha**2)
    d_alpha = alpha * ((20 - 0.1) / 2 * (1 - t) + 0.1 / 2)
    return alpha, sigma, d_alpha, -alpha * d_alpha / sigma


PATHS = {"Linear": linear, "GVP": gvp, "VP": vp}
each_path = pytest.mark.parametrize("path", PATHS)


def state(path, p, t, noise=None):
    alpha, sigma, _, _ = PATHS[path](col(t))
    return alpha * p.data + sigma * (p.noise if noise is None else noise)


def pair_velocity(path, p, t):
    _, _, d_alpha, d_sigma = PATHS[path](col(t))
    return d_alpha * p.data + d_sigma * p.noise


# --- the losses ---


def flow_matching(v, path, p):
    t = p.times[0]
    return ((v(state(path, p, t), t) - pair_velocity(path, p, t)) ** 2).mean()


def input_perturbation(v, path, p, scale=0.1, space="noise"):
    t = p.times[0]
    if space == "noise":
        x = state(path, p, t, p.noise + scale * p.perturbation)
    else:
        x = state(path, p, t) + scale * p.perturbation
    return ((v(x, t) - pair_velocity(path, p, t)) ** 2).mean()


def sdss(v, path, p, detach_step=False, add_fm=False):
    t0, t1 = p.times
    x0 = state(path, p, t0)
    v0 = v(x0, t0)
    x_hat = x0 + col(t1 - t0) * v0
    x_hat = x_hat.detach() if detach_step else x_hat
    loss = ((v(x_hat, t1) - pair_velocity(path, p, t1)) ** 2).mean()
    return loss + ((v0 - pair_velocity(path, p, t0)) ** 2).mean() if add_fm else loss


def mdss(v, path, p, steps=4, form="amplified"):
    t0, t1 = p.times
    h = t1 - t0
    x0 = state(path, p, t0)
    end = t1 if form == "amplified" else t0 + steps * h
    if form == "amplified":
        x1 = state(path, p, t1)
        x = x1 + steps * (x0 + col(h) * v(x0, t0) - x1)
    elif form == "constant_velocity":
        x = x0 + steps * col(h) * v(x0, t0)
    else:
        x = x0
        with torch.no_grad():
            for i in range(steps):
                x = x + col(h) * v(x, t0 + i * h)
    return ((v(x, end) - pair_velocity(path, p, end)) ** 2).mean()


def mixflow(v, path, p, target_time="slowed", gamma=0.8):
    m, t = p.times
    return ((v(state(path, p, m), t) - pair_velocity(path, p, m if target_time == "slowed" else t)) ** 2).mean()


def unit(z):
    flat = per_sample(z)
    return flat / torch.sqrt((flat**2).sum(1, keepdim=True) + (1e-6) ** 2 * flat.shape[1])


def band(z, cutoff, low):
    rows = torch.arange(HEIGHT).double()
    columns = torch.arange(WIDTH).double()
    u, w = torch.minimum(rows, HEIGHT - rows) / HEIGHT, torch.minimum(columns, WIDTH - columns) / WIDTH
    inside = (u[:, None] ** 2 + w[None] ** 2).sqrt() < cutoff + 1e-9  # the edge belongs to the low band
    return torch.fft.ifft2(torch.fft.fft2(z) * (inside if low else ~inside)).real


def weight(source, alpha, bias_norm, bias_map):
    if bias_map == "pixel":
        m, entries = (source**2).sum(1, keepdim=True).sqrt(), PIXELS
    else:
        m, entries = source.abs() if bias_map == "element" else source, ENTRIES
    flat = per_sample(m).abs()
    size = {
        "l2": (flat**2).sum(1).sqrt() + 1e-6,
        "l1": flat.sum(1) + 1e-6,
        "mean": flat.sum(1) / entries + 1e-6 / entries,
        "max": flat.max(1).values + 1e-6 / math.sqrt(entries),
    }[bias_norm]
    return 1 + alpha * m / col(size)


def defar(
    v, path, p, *, alpha=1.0, beta1=10.0, beta2=1.0, adr=True, fc=True, detach_target=False, detach_step=False,
    direction="anti_drift", normalize="unit", weight_source="bias", cutoff=0.2, bias_norm="l2", bias_map="pixel",
    inside_square=True, weight_grad="none", steps=1, spacing="random", sampled_fraction=1.0, bias_fraction=1.0,
):  # fmt: skip
    """Everything for every sample; the subset enters in the two means at the end alone."""
    t0, t1 = p.times[0], p.times[-1]
    x0, x1 = state(path, p, t0), state(path, p, t1)
    v0 = v(x0, t0)
    x_hat, velocity = x0, v0
    for i in range(steps):
        x_hat = x_hat + col(p.times[i + 1] - p.times[i]) * velocity
        x_hat = x_hat.detach() if detach_step else x_hat
        velocity = v(x_hat, p.times[i + 1])
    v_hat = velocity

    way = (p.data if direction == "anti_drift" else x1) - (x_hat.detach() if detach_target else x_hat)
    if normalize != "unit":
        way = way / col(1 - t1) if normalize == "rescale" else way
        return ((v_hat - way) ** 2).mean()

    v_ideal = v(x1, t1)
    bias = (v_hat.detach() if weight_grad == "none" else v_hat) - (
        v_ideal if weight_grad == "both" else v_ideal.detach()
    )
    source = {
        "bias": bias,
        "low_pass": band(p.data, cutoff, low=True),
        "high_pass": band(p.data, cutoff, low=False),
        "image": p.data,
        "noise": p.noise,
    }[weight_source]
    w = weight(source, alpha, bias_norm, bias_map)
    error = v0 - pair_velocity(path, p, t0)
    plain = error**2
    reweighted = (w * error) ** 2 if inside_square else w * error**2
    part = slice(None) if p.subset is None else p.subset
    loss_fc = plain.mean() + sampled_fraction * (reweighted - plain)[part].mean()
    loss_adr = sampled_fraction * ((unit(v_hat) - unit(way)) ** 2).sum(1)[part].mean()
    return (beta2 * loss_fc if fc else plain.mean()) + (beta1 * loss_adr if adr else 0.0)


# --- the cases: objective, reference, options of both ---


def products(**choices):
    return [dict(zip(choices, values, strict=True)) for values in itertools.product(*choices.values())]


def subset_of(options):
    """As many samples as the objective would draw, in no order."""
    share = options.get("sampled_fraction", 1) * options.get("bias_fraction", 1)
    return None if share == 1 else torch.tensor([4, 1, 2, 5])[: round(share * BATCH)]


BOOLS = [False, True]
NORMS, MAPS, GRADS = ["l2", "l1", "max", "mean"], ["pixel", "element", "signed"], ["none", "v_hat", "both"]
SOURCES = ["bias", "low_pass", "high_pass", "image", "noise"]
SIGNED = {"bias_norm": "l1", "bias_map": "signed", "inside_square": False}  # what the presets stand for

CASES = [
    (FlowMatching, flow_matching, {}),
    *((InputPerturbation, input_perturbation, o) for o in products(space=["noise", "state"], scale=[0.1, 0.7])),
    *((SDSS, sdss, o) for o in products(detach_step=BOOLS, add_fm=BOOLS)),
    *((MDSS, mdss, o) for o in products(form=["amplified", "exact", "constant_velocity"], steps=[1, 2, 4])),
    *((MixFlow, mixflow, o) for o in products(target_time=["slowed", "nominal"], gamma=[0.8, 0.0])),
]
TERMS = [
    {},
    *products(alpha=[0.5], beta1=[3.0], beta2=[0.25], adr=[True], fc=BOOLS),
    {"alpha": 2.0, "beta2": 0.25, "adr": False},
    *products(direction=["anti_drift", "straight"], detach_target=BOOLS, detach_step=BOOLS),
    *products(
        normalize=["none", "rescale"], direction=["anti_drift", "straight"], detach_target=BOOLS, detach_step=BOOLS
    ),
]
WEIGHTS = products(bias_norm=NORMS, bias_map=MAPS, inside_square=BOOLS, weight_grad=GRADS)
SOURCE_OPTIONS = [
    *products(weight_source=SOURCES[1:], bias_map=MAPS, inside_square=BOOLS),
    *products(weight_source=SOURCES, adr=BOOLS, fc=[True], steps=[1, 2]),
    *products(weight_source=["low_pass", "high_pass"], cutoff=[0.1, 0.35], bias_norm=["mean"]),
]
STEPS = products(steps=[1, 2, 3], weight_grad=GRADS, detach_step=BOOLS) + products(
    steps=[2, 3], normalize=["none", "rescale"], detach_step=BOOLS
)
FRACTIONS = [
    {**fractions, **more}
    for fractions in (
        {"bias_fraction": 0.5}, {"sampled_fraction": 0.5}, {"sampled_fraction": 0.5, "bias_fraction": 1 / 3},
    )
    for more in (
        {}, {"adr": False}, {"fc": False}, {"weight_grad": "both", "bias_norm": "mean", "steps": 2},
        {"weight_source": "low_pass", "adr": False}, {"beta2": 0.25, "inside_square": False},
    )
]  # fmt: skip
PRESETS = [
    (reflexflow, SIGNED, {}),
    (reflexflow, SIGNED, {"sampled_fraction": 0.5}),
    (reflexflow, SIGNED, {"weight_grad": "both"}),
    (simpletuner, SIGNED, {}),
    (simpletuner, SIGNED, {"alpha": 0.5}),
    (strong, {"bias_norm": "mean"}, {}),
    (strong, {"bias_norm": "mean"}, {"fc": True, "adr": False}),
]


def make_pairs(reference, options, seed=0):
    """Pairs and times; MixFlow's are m <= t, and MDSS's steps are so short that all of them fit before 0.95."""
    g = torch.Generator().manual_seed(seed)
    data, noise, perturbation = (torch.randn(SHAPE, dtype=torch.float64, generator=g) for _ in range(3))
    rows = {flow_matching: 1, input_perturbation: 1, defar: options.get("steps", 1) + 1}.get(reference, 2)
    times = 0.05 + 0.9 * torch.rand(rows, BATCH, dtype=torch.float64, generator=g).sort(0).values
    if reference is mdss:
        times = torch.stack([0.5 * times[0], 0.5 * times[0] + 0.1 * times[1]])
    if options.get("gamma") == 0.0:
        times = times[1].repeat(2, 1)
    return SimpleNamespace(data=data, noise=noise, times=times, perturbation=perturbation, subset=subset_of(options))


def gradients(loss, model):
    parts = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
    return torch.cat([g.flatten() for g in parts if g is not None])


def both_agree(cls, reference, path, options, reference_options=None):
    model, p = Field(), make_pairs(reference, options)
    expected = reference(model, path, p, **(options if reference_options is None else reference_options))
    objective = cls(interpolant=getattr(interpolants, path)(), **options)
    loss = objective(model, Draw(p.data, p.noise, None, p.times, None, p.perturbation, p.subset))
    torch.testing.assert_close(loss.total, expected, rtol=AGREES, atol=0)
    ours, theirs = gradients(loss.total, model), gradients(expected, model)
    assert len(ours) == len(theirs)
    assert (ours - theirs).norm() <= AGREES * theirs.norm()
    assert ((ours - theirs).abs() <= 1e3 * AGREES * theirs.abs()).all()  # each parameter by itself
    assert theirs.abs().min() > 1e-8


def names(value):
    if isinstance(value, dict):
        return ",".join(f"{k}={v:.3g}" if isinstance(v, float) else f"{k}={v}" for k, v in value.items()) or "defaults"
    return getattr(value, "__name__", str(value))


@each_path
@pytest.mark.parametrize(("cls", "reference", "options"), CASES, ids=names)
def test_loss_and_gradient_are_the_formulas(cls, reference, options, path):
    both_agree(cls, reference, path, options)


@each_path
@pytest.mark.parametrize("options", [*TERMS, *SOURCE_OPTIONS, *STEPS, *FRACTIONS], ids=names)
def test_defars_loss_and_gradient_are_the_formulas(options, path):
    both_agree(Defar, defar, path, options)


@each_path
@pytest.mark.parametrize("options", WEIGHTS, ids=names)
def test_every_reading_of_the_weight_is_the_formula(options, path):
    both_agree(Defar, defar, path, options)


@each_path
@pytest.mark.parametrize(("preset", "meaning", "options"), PRESETS, ids=names)
def test_a_preset_is_its_formula_and_options_override_it(preset, meaning, options, path):
    both_agree(preset, defar, path, options, {**meaning, **options})


# --- could the tests above tell the options apart? ---


def value_and_gradient(reference, options, path="GVP"):
    model = Field()
    loss = reference(model, path, make_pairs(reference, options), **options)
    return torch.cat([loss.detach()[None], gradients(loss, model)])


def all_differ(results):
    for (a, x), (b, y) in itertools.combinations(results.items(), 2):
        assert (x - y).norm() > 1e-6 * x.norm(), (a, b)


DISTINCT = {
    "ip": (input_perturbation, products(space=["noise", "state"], scale=[0.1, 0.7])),
    "sdss": (sdss, products(detach_step=BOOLS, add_fm=BOOLS)),
    "mdss": (mdss, products(form=["amplified", "exact", "constant_velocity"], steps=[2, 4])),
    "mixflow": (mixflow, products(target_time=["slowed", "nominal"])),
    "terms": (defar, TERMS[:4]),
    "unit": (defar, products(direction=["anti_drift", "straight"], detach_target=BOOLS)),
    "regressed": (
        defar,
        products(normalize=["unit", "none", "rescale"], direction=["anti_drift", "straight"], detach_target=BOOLS),
    ),
    "stopped": (defar, products(normalize=["unit", "none", "rescale"], detach_step=BOOLS)),
    "weights": (defar, WEIGHTS),
    "sources": (defar, products(weight_source=SOURCES, bias_map=MAPS, inside_square=BOOLS)),
    "cutoffs": (defar, products(weight_source=["low_pass", "high_pass"], cutoff=[0.1, 0.2, 0.35])),
    "steps": (defar, STEPS),
    "fractions": (defar, FRACTIONS),
}


@pytest.mark.parametrize("group", DISTINCT)
def test_every_option_gives_another_loss_or_gradient(group):
    reference, choices = DISTINCT[group]
    all_differ({names(options): value_and_gradient(reference, options) for options in choices})


def test_paths_give_other_losses():
    all_differ({path: value_and_gradient(flow_matching, {}, path) for path in PATHS})


def test_once_the_state_is_detached_detaching_the_target_as_well_changes_nothing():
    """So the groups above leave this pair out."""
    a, b = (value_and_gradient(defar, {"detach_step": True, "detach_target": flag}) for flag in BOOLS)
    assert torch.equal(a, b)
