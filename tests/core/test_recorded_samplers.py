"""Our solvers against recorded runs of SiT's and REPA's own samplers, their random numbers included.

SiT's times are float32, ours float64, which is what its tolerances are made of.
"""

import numpy as np
import pytest
import torch

from defar_analysis.core import fields
from defar_analysis.core.interpolants import GVP, VP, Linear
from defar_analysis.core.samplers import Dopri5, Euler, EulerMaruyama, Heun, sample
from defar_analysis.core.sde import diffusion
from defar_analysis.core.seeding import sde_generators
from defar_analysis.errors import DefarError

PATHS = {"Linear": Linear(), "GVP": GVP(), "VP": VP(), "linear": Linear(), "gvp": GVP(), "vp": VP()}


class Recorder:
    """A velocity field and the times at which it was asked."""

    def __init__(self, field):
        self.field, self.times = field, []

    def __call__(self, x, t, labels=None):
        self.times.append(float(t[0]))
        return self.field(x, t, labels)


def sit_field(x, t, labels=None):
    return torch.tanh(x) * (1 + t[:, None, None, None])


@pytest.fixture
def recorded_noise(monkeypatch):
    """Puts recorded normals (steps, B, ...) in the place of the drawn ones."""

    def put(noise):
        steps = iter(torch.from_numpy(noise))
        monkeypatch.setattr(fields, "step_noise", lambda generators, shape: next(steps))

    return put


ODE_CASES = [
    ("Linear", "euler", 10, Euler(10, grid="sit")),
    ("Linear", "euler", 50, Euler(50, grid="sit")),
    ("Linear", "heun2", 10, Heun(10, grid="sit")),
    ("VP", "euler", 10, Euler(10, grid="sit")),
    ("Linear", "dopri5", 2, Dopri5()),
    ("Linear", "dopri5", 50, Dopri5(points=50)),
    ("Linear", "dopri5", 250, Dopri5(points=250)),
    ("VP", "dopri5", 50, Dopri5(points=50, overshoot=True)),
]


@pytest.mark.parametrize("count", [10, 50])
@pytest.mark.parametrize("shift", [1.0, 6.9282, 13.8564])
def test_rae_ode(recorded, shift, count):
    """In our clock: noise at 0, the velocity turned round, the grid's end and shift too."""
    arrays, key = recorded("rae_transport.npz"), f"ode.shift{shift:.4f}.euler.{count}"
    noise = torch.from_numpy(arrays["init"])
    field = Recorder(lambda x, t, labels=None: -sit_field(x, 1 - t))
    exact = {6.9282: 6.9282032302755088, 13.8564: 13.8564064605510176}.get(shift, 1.0)
    found = sample(field, noise, Euler(count, grid="sit", shift=1 / exact, end=0.999))
    np.testing.assert_allclose(1 - np.array(field.times), arrays[f"{key}.call_times"], atol=1e-6)
    np.testing.assert_allclose(found.x, arrays[f"{key}.final"], atol=2e-6)


@pytest.mark.parametrize("options", [{"shift": 0.0}, {"shift": float("nan")}, {"end": 0.0}, {"end": 1.5}])
def test_a_senseless_grid_is_refused(options):
    with pytest.raises(DefarError, match=next(iter(options))):
        Heun(4, **options)


def test_what_kept_samples_are_known_by_does_not_change_with_new_options():
    assert repr(Euler(50)) == "Euler(steps=50, grid='uniform')"
    assert repr(Heun(2, "sit", True)) == "Heun(steps=2, grid='sit', euler_last=True)"
    assert repr(Euler(50, shift=0.3, end=0.9)) == "Euler(steps=50, grid='uniform', shift=0.3, end=0.9)"


@pytest.mark.parametrize(("path", "method", "count", "solver"), ODE_CASES)
def test_sit_ode(recorded, path, method, count, solver):
    arrays, key = recorded("sit_ode.npz"), f"ode.{path}.{method}.{count}"
    noise = torch.from_numpy(arrays["init"])
    field = Recorder(sit_field)
    drawn = sample(field, noise, solver, interpolant=PATHS[path], chunk=3, save="all" if count == 10 else None)
    assert drawn.nfe == int(arrays[f"{key}.f64.nfe"])
    assert np.allclose(field.times, arrays[f"{key}.f64.call_times"], rtol=0, atol=1e-6)
    assert np.abs(drawn.x.numpy() - arrays[f"{key}.f64.final"]).max() < 1e-7
    if f"{key}.f64.trajectory" in arrays:
        assert np.abs(drawn.states.numpy() - arrays[f"{key}.f64.trajectory"]).max() < 1e-7
    single = sample(sit_field, noise.float(), solver, interpolant=PATHS[path], chunk=3).x
    assert single.dtype == torch.float32
    limit = 2e-5 if method == "dopri5" else 2e-6  # rounding also moves the steps that dopri5 chooses
    assert np.abs(single.numpy() - arrays[f"{key}.f32.final"]).max() < limit


FORMS = {"inccreasing-decreasing": "increasing-decreasing"}  # their spelling


def sde_cases():
    for path in ("Linear", "GVP", "VP"):
        for form in ("sigma", "linear", "decreasing", "inccreasing-decreasing", *(["SBDM"] if path == "VP" else [])):
            yield f"{path}.{form}.Euler.Mean.10", path, EulerMaruyama(10, FORMS.get(form, form))
    yield "Linear.sigma.Euler.Tweedie.10", "Linear", EulerMaruyama(10, last_step="tweedie")
    yield "Linear.sigma.Euler.Euler.10", "Linear", EulerMaruyama(10, last_step="euler")
    yield "Linear.sigma.Euler.None.10", "Linear", EulerMaruyama(10, last_step=None, grid="sit")
    yield "Linear.sigma.Euler.Mean.10.norm0.5", "Linear", EulerMaruyama(10, norm=0.5)
    yield "Linear.sigma.Euler.Mean.10.last0.1", "Linear", EulerMaruyama(10, last_step_size=0.1)
    yield "Linear.sigma.Euler.Mean.250", "Linear", EulerMaruyama(250)
    yield "Linear.sigma.Euler.Mean.10.float32", "Linear", EulerMaruyama(10)


@pytest.mark.parametrize(("key", "path", "solver"), list(sde_cases()), ids=str)
def test_sit_sde_with_one_evaluation_where_sit_makes_two(recorded, recorded_noise, key, path, solver):
    arrays = recorded("sit_sde.npz")
    noise = torch.from_numpy(arrays["init_small" if "250" in key else "init"])
    noise = noise.float() if "float32" in key else noise
    recorded_noise(arrays["noise_250" if "250" in key else "noise_10"])
    field, count = Recorder(sit_field), len(noise)
    streams = sde_generators(0, range(count))
    drawn = sample(field, noise, solver, interpolant=PATHS[path], generators=streams, chunk=count, save=[-2])
    theirs = arrays[f"sde.{key}.call_times"]  # drift and score ask at the same state; a last "Euler" step once
    assert np.allclose(field.times, theirs[::2], rtol=0, atol=1e-6)
    assert drawn.nfe == drawn.forwards == -(-int(arrays[f"sde.{key}.nfe"]) // 2)
    assert np.abs(drawn.x.numpy() - arrays[f"sde.{key}.final"]).max() < 1e-6
    if solver.last_step:
        assert np.abs(drawn.states[0].numpy() - arrays[f"sde.{key}.before_last_step"]).max() < 1e-6


def test_diffusion_forms_are_sits(recorded):
    arrays = recorded("sit_transport.npz")
    t = torch.from_numpy(arrays["t"])
    keys = [key for key in arrays if ".diffusion." in key and "f32" not in key]
    assert len(keys) == 3 * 6 * 2
    for key in keys:
        path, _, form, norm = key.split(".", 3)
        ours = diffusion(FORMS.get(form, form), PATHS[path], t, float(norm))
        torch.testing.assert_close(ours, torch.from_numpy(arrays[key]), rtol=1e-9, atol=1e-9)


def repa_field(scale=1.0, low=0.0):
    """REPA's recorded model in our clock and sign; guided on our [low, 1] towards the label by `scale`."""

    def theirs(x, t, labels):
        extra = 0.125 * (labels == 3) - 0.0625 * (labels == 1000)
        return torch.tanh(x) * (1 + t)[:, None, None, None] + extra[:, None, None, None].to(x)

    def field(x, t, labels):
        conditional, null = (theirs(x, 1 - t, y) for y in (labels, torch.full_like(labels, 1000)))
        return -(null + scale * (conditional - null) if float(t[0]) > low - 1e-6 else conditional)

    return field


PLAIN, GUIDED = "cfg1.0.interval0.0-1.0", "cfg1.8.interval0.0-0.7"


# guided Heun is left out: REPA guides the corrector by the step's first time, which no field of (x, t) can do
@pytest.mark.parametrize(
    ("kind", "guidance"), [("euler", PLAIN), ("heun", PLAIN), ("em", PLAIN), ("euler", GUIDED), ("em", GUIDED)]
)
@pytest.mark.parametrize("path", ["linear", "cosine"])
def test_repa(recorded, recorded_noise, path, kind, guidance):
    arrays, key = recorded("repa_samplers.npz"), f"{path}.{kind}.{guidance}"
    recorded_noise(arrays["noise"])
    solver = {
        "euler": Euler(10),
        "heun": Heun(10, euler_last=True),
        "em": EulerMaruyama(10, diffusion="linear"),  # their noise variance is 2 t on both paths, t their noise level
    }[kind]
    field = Recorder(repa_field(1.8, 0.3) if guidance == GUIDED else repa_field())
    drawn = sample(
        field, torch.from_numpy(arrays["init"]), solver, interpolant=Linear() if path == "linear" else GVP(),
        labels=torch.from_numpy(arrays["y"]), generators=sde_generators(0, range(3)), chunk=3,
    )  # fmt: skip
    assert np.allclose(1 - np.array(field.times), arrays[f"{key}.call_times"], rtol=0, atol=1e-12)
    assert drawn.nfe == len(arrays[f"{key}.call_times"])
    assert np.abs(drawn.x.numpy() - arrays[f"{key}.final"]).max() < 1e-12
