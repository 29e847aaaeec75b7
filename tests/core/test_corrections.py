"""Training-free corrections: neutral at neutral settings, closed forms, and the authors' recorded runs.

The authors' runs are discrete diffusions with the state x = a data + b noise. Euler on the linear path and DDIM (EDM's
Euler, too) are the same map: the state x / (a + b) at t = a / (a + b) moves on the straight line of one velocity.
"""

from dataclasses import dataclass
from itertools import pairwise

import pytest
import torch

from defar_analysis.core.corrections import (
    DCW,
    DCWHaar,
    EpsilonScaling,
    LabelShift,
    TargetShift,
    correct_bands,
    haar,
    inverse_haar,
    nearest_time,
    retarget,
)
from defar_analysis.core.guidance import CFG
from defar_analysis.core.interpolants import GVP, VP, Interpolant, Linear
from defar_analysis.core.oracles import GaussianFlow
from defar_analysis.core.samplers import Euler, Heun, sample

PATHS = [Linear(), GVP(), VP()]
each_path = pytest.mark.parametrize("path", PATHS, ids=repr)


def close(actual, expected, tolerance=1e-12):
    torch.testing.assert_close(actual.double(), expected.double(), rtol=tolerance, atol=tolerance)


def states(count=6, shape=(2, 4, 4), seed=5):
    return torch.randn(count, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def column(t):
    return t.reshape(-1, 1, 1, 1)


def gaussian(path, variance=0.25):
    """White data of one variance, so that a state's expected variance is the one that time shift assumes."""
    return GaussianFlow(torch.zeros(2, 4, 4, dtype=torch.float64), torch.full((4, 4), variance).double(), path)


def recordings(recorded, name):
    return {key: torch.from_numpy(value) for key, value in recorded(name).items()}


def remembering(field=lambda x, t, labels: -x):
    """A field that keeps the times it was asked at, in `asked`."""
    asked = []

    def velocity(x, t, labels=None):
        asked.append(t)
        return field(x, t, labels)

    return velocity, asked


# Neutral settings


NEUTRAL_FIELDS = [
    lambda field, path: EpsilonScaling(field, 1.0, interpolant=path),
    lambda field, path: LabelShift(field, window=0.0, cutoff=1.0, interpolant=path),
    lambda field, path: LabelShift(field, window=0.05, cutoff=0.0, interpolant=path),
]
NEUTRAL_STEPS = [
    lambda path: TargetShift(window=0.0, cutoff=1.0, interpolant=path),
    lambda path: TargetShift(window=0.05, cutoff=0.0, interpolant=path),
    lambda path: DCW(0.0, path),
    lambda path: DCWHaar(0.0, 0.0, path),
]


@each_path
@pytest.mark.parametrize("neutral", NEUTRAL_FIELDS)
def test_a_field_at_its_neutral_setting_is_the_plain_field_bit_for_bit(neutral, path):
    field, x, t = gaussian(path), states(), torch.linspace(0, 0.99, 6, dtype=torch.float64)
    assert torch.equal(neutral(field, path)(x, t), field(x, t))


@each_path
@pytest.mark.parametrize("neutral", NEUTRAL_STEPS)
@pytest.mark.parametrize("shape", [(2, 4, 4), (1, 3, 5)])
def test_a_step_at_its_neutral_setting_is_the_plain_step_bit_for_bit(neutral, path, shape):
    before, velocity, after = states(3, shape), states(3, shape, 6), states(3, shape, 7)
    for now, then in ((0.0, 0.1), (0.1, 0.2), (0.8, 0.99)):
        assert torch.equal(neutral(path)(before, velocity, now, then, after), after)


@each_path
@pytest.mark.parametrize("solver", [Euler(5), Heun(5)], ids=repr)
def test_samples_under_neutral_corrections_are_the_plain_samples_bit_for_bit(solver, path):
    field, noise = gaussian(path), states(3)
    plain = sample(field, noise, solver, interpolant=path, chunk=4).x
    for neutral in NEUTRAL_FIELDS:
        assert torch.equal(sample(neutral(field, path), noise, solver, interpolant=path, chunk=4).x, plain)
    for neutral in NEUTRAL_STEPS:
        corrected = sample(field, noise, solver, interpolant=path, chunk=4, correction=neutral(path)).x
        assert torch.equal(corrected, plain)


# Epsilon scaling


@each_path
def test_epsilon_scaling_divides_the_noise_and_keeps_the_state(path):
    x, t = states(), torch.linspace(0.05, 0.99, 6, dtype=torch.float64)
    field = gaussian(path)
    plain, scaled = field(x, t), EpsilonScaling(field, 1.017, interpolant=path)(x, t)
    noise, endpoint = path.noise(scaled, x, t), path.endpoint(scaled, x, t)
    close(noise, path.noise(plain, x, t) / 1.017, 1e-10)
    close(path.at(noise, endpoint, t).x, x, 1e-10)


def test_epsilon_scaling_on_the_linear_path_is_the_textbook_line():
    x, t = states(), torch.linspace(0.05, 1.0, 6, dtype=torch.float64)
    plain = gaussian(Linear())(x, t)
    for scale, slope in ((1.017, 0.0), (1.0, 0.02)):
        weight = column(scale + slope * (1 - t))
        expected = (x - (x - column(t) * plain) / weight) / column(t)
        close(EpsilonScaling(gaussian(Linear()), scale, slope)(x, t), expected)


@each_path
def test_epsilon_scaling_is_off_near_noise_sample_by_sample(path):
    x, t = states(3), torch.tensor([0.0, 0.099, 0.1], dtype=torch.float64)
    field = gaussian(path)
    changed = EpsilonScaling(field, 1.5, t_min=0.1, interpolant=path)(x, t) != field(x, t)
    assert changed.flatten(1).any(1).tolist() == [False, False, True]
    x.requires_grad_()
    (slope,) = torch.autograd.grad(EpsilonScaling(field, 1.5, t_min=0.1, interpolant=path)(x, t).sum(), x)
    assert slope.isfinite().all()


@pytest.mark.parametrize("path", [GVP(), VP()], ids=repr)
@pytest.mark.parametrize("step", [60, 5, 0])
@pytest.mark.parametrize("scale", [1.0, 1.017])
def test_epsilon_scaling_equals_adms_steps(path, step, scale, recorded):
    """One step of 100, without clipping: the end point and DDIM's next state.

    Both follow from our velocity at the time where alpha^2 is the recorded product of alphas. Of the clipped runs the
    end point is compared after clipping it; the ancestral samples only add recorded noise to it.
    """
    z = recordings(recorded, "corrections_es_adm.npz")
    x, products = z["adm.x"].double(), z["adm.alphas_cumprod"]
    label = z["adm.timestep_map"][step]
    t = time_of(path, products[step]).expand(len(x))

    def field(x, t, labels=None):
        alpha, sigma = products[step].sqrt(), (1 - products[step]).sqrt()
        noise = torch.tanh(0.8 * x) + 0.001 * label
        return path.at(noise, (x - sigma * noise) / alpha, t).velocity

    velocity = EpsilonScaling(field, scale, interpolant=path)(x, t)
    endpoint, noise = path.endpoint(velocity, x, t), path.noise(velocity, x, t)
    before = products[step - 1] if step else torch.ones(())
    close(endpoint, z[f"adm.ddim.lambda{scale}.step{step}.clipFalse.x0"], 2e-5)
    close(before.sqrt() * endpoint + (1 - before).sqrt() * noise,
          z[f"adm.ddim.lambda{scale}.step{step}.clipFalse.sample"], 2e-5)  # fmt: skip
    close(endpoint.clamp(-1, 1), z[f"adm.ddim.lambda{scale}.step{step}.clipTrue.x0"], 2e-5)
    close(endpoint, z[f"adm.ddpm.lambda{scale}.step{step}.clipFalse.x0"], 2e-5)


def time_of(path, product):
    """t where alpha^2 = product."""
    if isinstance(path, GVP):
        return torch.asin(product.sqrt()) * 2 / torch.pi
    spread = path.beta_max - path.beta_min  # a quadratic in 1 - t
    return 1 - (torch.sqrt(path.beta_min**2 / 4 - spread * product.log() / 2) - path.beta_min / 2) / (spread / 2)


def edm_denoiser(x, sigma):
    return 0.25 / (0.25 + sigma**2) * x + 0.2 * torch.tanh(x / (1 + sigma))


def edm_field(x, t, labels=None):
    """EDM's denoiser on our linear path, where its state is x / t and its noise level (1 - t) / t."""
    sigma = (1 - column(t)) / column(t)
    return (edm_denoiser(x / column(t), sigma) - x) / (1 - column(t))


@pytest.mark.parametrize("scale", [1.0, 1.0048])
def test_epsilon_scaling_equals_edms_euler_run(scale, recorded):
    """All six steps, by our Euler on the linear path."""
    z = recordings(recorded, "corrections_edm_flow.npz")
    sigmas = z["es.ablation_euler.sigmas"]
    times = [*(1 / (1 + sigmas)).tolist(), 1.0]
    field = EpsilonScaling(edm_field, scale)
    x = z["latents"] * sigmas[0] * times[0]
    for now, then in pairwise(times):
        x = Euler(1).step(lambda x, t: field(x, torch.full((3,), t, dtype=x.dtype)), x, now, then)
    close(x, z[f"es.ablation_euler.lambda{scale}"], 1e-9)


@pytest.mark.parametrize("scale", [1.0, 1.0048])
def test_epsilon_scaling_equals_edms_default_heun_run(scale, recorded):
    """Heun in EDM's noise level, both stages scaled: only the denoiser comes from our field."""
    z = recordings(recorded, "corrections_edm_flow.npz")
    sigmas = [*z["es.edm_sampler.sigmas"][[0, 1, 3, 5, 7, 9]].tolist(), 0.0]
    field = EpsilonScaling(edm_field, scale)

    def slope(x, sigma):
        t = torch.full((3,), 1 / (1 + sigma), dtype=x.dtype)
        endpoint = Linear().endpoint(field(x * column(t), t), x * column(t), t)
        return (x - endpoint) / sigma

    x = z["latents"] * sigmas[0]
    for now, then in pairwise(sigmas):
        first = slope(x, now)
        ahead = x + (then - now) * first
        x = x + (then - now) * (first + slope(ahead, then)) / 2 if then else ahead
    close(x, z[f"es.edm_sampler.lambda{scale}"], 1e-9)


def test_epsilon_scaling_survives_a_network_in_bfloat16():
    x, t = states().bfloat16(), torch.full((6,), 0.5)
    scaled = EpsilonScaling(lambda x, t, labels: torch.zeros_like(x), 1.004)(x, t)
    close(scaled, (1 - 1 / 1.004) * 2 * x.float(), 1e-6)


# Time shift


def test_label_shift_asks_at_the_time_whose_variance_the_state_has():
    """States with the exact variance of a time within the window; one beyond it, and one beyond the cutoff."""
    for path in PATHS:
        field, asked = remembering()
        shift = LabelShift(field, window=0.05, cutoff=0.5, per_side=50, interpolant=path)
        nominal = torch.tensor([0.3, 0.3, 0.3, 0.3, 0.3, 0.5], dtype=torch.float64)
        own = torch.tensor([0.3, 0.27, 0.34, 0.1, 0.48, 0.48], dtype=torch.float64)
        c = path.coefficients(own)
        x = states(6)
        x = x / column(x.flatten(1).std(1)) * column((0.25 * c.alpha**2 + c.sigma**2).sqrt())
        assert torch.equal(shift(x, nominal), -x)
        close(asked[0], torch.tensor([0.3, 0.27, 0.34, 0.25, 0.35, 0.5]), 1e-8)


def test_no_time_is_shifted_or_chosen_where_the_variance_rises():
    """Linear with data variance 0.25 turns at t = 0.8; a state of no variance asks for the time nearest to it."""
    field, asked = remembering()
    nominal = torch.tensor([0.77, 0.799, 0.801, 0.95], dtype=torch.float64)
    LabelShift(field, window=0.05, cutoff=1.0)(1e-3 * states(4), nominal)
    assert 0.795 < asked[0][0] < 0.8 and 0.797 <= asked[0][1] < 0.8
    assert torch.equal(asked[0][2:], nominal[2:])


def test_times_stay_in_the_interval_of_the_path():
    field, asked = remembering()
    for path in PATHS:
        shift = LabelShift(field, window=0.05, cutoff=1.0, data_variance=0.0, interpolant=path)
        t = torch.tensor([0.0, 0.01, 0.99, 0.99], dtype=torch.float64)
        shift(states(4) * column(torch.tensor([9.0, 9.0, 0.0, 0.0])), t)
        low, high = path.interval("train")
        assert (asked[-1][:2] == low).all() and (asked[-1] <= high).all() and (asked[-1][2:] >= 0.99).all()


def test_label_shift_keeps_dtype_labels_and_guidance():
    """A CFG inside sees the shifted time of each sample."""
    seen = []

    def field(x, t, labels):
        seen.append((t.dtype, t.tolist(), labels.tolist()))
        return -x

    x = (states(2) * column(torch.tensor([9.0, 0.0]))).float()
    guided = CFG(field, 2.0, 9, interval=(0.0, 0.15))
    LabelShift(guided, window=0.05, cutoff=1.0)(x, torch.tensor([0.18, 0.18]), torch.tensor([1, 2]))
    ((dtype, times, labels),) = seen
    assert dtype == torch.float32 and labels == [1, 2, 9]
    assert times == pytest.approx([0.13, 0.23, 0.13])


@dataclass(frozen=True)
class Table(Interpolant):
    """DDPM's discrete schedule: t = 1 - index/1000; only sigma^2 = 1 - product is asked for."""

    products: torch.Tensor

    def coefficients(self, t):
        sigma = (1 - self.products[((1 - t) * 1000).round().long().clamp(0, 999)]).sqrt()
        c = Linear().coefficients(t)
        return type(c)(c.alpha, sigma, c.d_alpha, -torch.ones_like(t))

    def __hash__(self):
        return id(self)


def test_label_shift_chooses_the_recorded_labels(recorded):
    """The authors' label function, per sample, on both sides of its cutoff."""
    z = recordings(recorded, "corrections_ts.npz")
    field, asked = remembering()
    cases = [key.split(".")[1:4] for key in z if key.endswith(".chosen")]
    assert len(cases) == 5
    for names in cases:
        index, window, cutoff = (int("".join(filter(str.isdigit, name))) for name in names)
        key = "label_variant." + ".".join(names)
        shift = LabelShift(
            field, window=window / 1000, cutoff=1 - cutoff / 1000, data_variance=0.0, per_side=window,
            interpolant=Table(z["alphas_cumprod"].double()),
        )  # fmt: skip
        shift(z[f"{key}.state"].double(), torch.full((4,), 1 - index / 1000, dtype=torch.float64))
        assert ((1 - asked[-1]) * 1000).round().tolist() == z[f"{key}.chosen"].tolist()


def test_target_shift_chooses_the_recorded_targets(recorded):
    """Every step but the first (never shifted) and the last (to index 0), from the recorded state before it."""
    z = recordings(recorded, "corrections_ts.npz")
    shift = TargetShift(
        window=0.02, cutoff=0.7, data_variance=0.0, per_side=20, interpolant=Table(z["alphas_cumprod"].double())
    )
    indices = z["sequence"].flip(0).tolist()
    moved = 0
    for k in range(1, len(indices) - 1):
        before = z["shift_window40_cut300.state"][k].double()
        now, then = (1 - index / 1000 for index in indices[k : k + 2])
        # a step over one unit of x in each entry shows the time to which it was cut
        after = shift(torch.zeros_like(before) + before, before, now, then, before + 1)
        chosen = 1000 * (1 - (now + (then - now) * (after - before).mean((1, 2, 3))))
        assert chosen.round().tolist() == z["shift_window40_cut300.target_times"][k].tolist()
        moved += chosen[0].round() != indices[k + 1]
    assert moved == 11


@pytest.mark.parametrize("name", ["plain", "es_fix_scale1.0012", "shift_window40_cut300", "shift_window5_cut550"])
def test_whole_recorded_ddim_runs_are_reproduced(name, recorded):
    """All 19 steps, by our Euler on the linear path, `EpsilonScaling`, and TargetShift's `nearest_time` and `retarget`.

    The variance is that of the state in the authors' scaling, as theirs is. Results are mapped to [0, 1] and clipped.
    """
    z = recordings(recorded, "corrections_ts.npz")
    products = z["alphas_cumprod"].double()
    alpha, sigma = products.sqrt(), (1 - products).sqrt()
    times = alpha / (alpha + sigma)
    half, cutoff = {"shift_window40_cut300": (20, 300), "shift_window5_cut550": (2, 550)}.get(name, (0, 1000))
    indices = [*z["sequence"].flip(0).tolist(), 0]
    x = z["x_T"].double() / (alpha + sigma)[indices[0]]
    for k, (index, goal) in enumerate(pairwise(indices)):

        def field(x, t, labels=None, index=index):
            noise = 0.9 * torch.tanh(x * (alpha + sigma)[index]) + 0.0002 * index
            return (x - noise) / column(t)

        scaled = EpsilonScaling(field, 1.0012 if name.startswith("es") else 1.0)
        now, then = times[index].item(), times[goal].item()
        after = Euler(1).step(lambda x, t, f=scaled: f(x, torch.full((4,), t, dtype=x.dtype)), x, now, then)
        near = torch.arange(goal - half, goal + half + 1)
        if half and k and goal > cutoff:
            target = nearest_time(x * (alpha + sigma)[index], near, 1 - products[near])
            assert target.tolist() == z[f"{name}.target_times"][k].tolist()
            after = retarget(x, after, now, then, times[target])
            after = after * (alpha + sigma)[target][:, None, None, None] / (alpha + sigma)[goal]
        x = after
    close((x * (alpha + sigma)[0] / 2 + 0.5).clamp(0, 1), z[f"{name}.result"], 1e-5)


@each_path
def test_target_shift_shortens_the_steps_of_a_gaussian_but_not_the_first(path):
    """The state before a step is the noisier one, so the earliest time of the window is taken."""
    shift = TargetShift(window=0.02, cutoff=0.6, interpolant=path)
    before, velocity = states(50), states(50, seed=6)
    x = before * (gaussian(path).marginal_variance(torch.full((50,), 0.1), before).sqrt())
    x = x / column(x.flatten(1).std(1))  # variance 1, as at t = 0
    after = x + 0.1 * velocity
    close(shift(x, velocity, 0.1, 0.2, after), x + 0.08 * velocity)
    for now, then in ((0.0, 0.1), (0.5, 0.6), (0.7, 0.8)):
        assert torch.equal(shift(x, velocity, now, then, after), after)


def test_target_shift_follows_each_samples_variance():
    shift = TargetShift(window=0.02, cutoff=1.0, data_variance=0.0)
    x = states(3)
    x = x / column(x.flatten(1).std(1)) * column(torch.tensor([0.8, 0.69, 0.5]))  # sigma at then = 0.3 is 0.7
    after = shift(x, x, 0.2, 0.3, x + 1)
    close((after - x).mean((1, 2, 3)), torch.tensor([0.8, 1.1, 1.2], dtype=torch.float64))


def test_time_shift_names_mistakes(refuses):
    def field(x, t, labels=None):
        return x

    for make in (lambda **options: LabelShift(field, **options), TargetShift):
        refuses(lambda make=make: make(window=-0.01), "window", -0.01)
        refuses(lambda make=make: make(window=float("inf")), "window")
        refuses(lambda make=make: make(window=0.1, cutoff=1.2), "cutoff", 1.2)
        refuses(lambda make=make: make(window=0.1, data_variance=-1.0), "data_variance", -1.0)
        refuses(lambda make=make: make(window=0.1, per_side=0), "per_side", 0)
        for path in (GVP(), VP()):
            for variance in (1.0, 2.0):
                refuses(lambda make=make, p=path, s=variance: make(window=0.1, data_variance=s, interpolant=p), path)
    x = states(2)
    refuses(lambda: TargetShift(window=0.05, cutoff=1.0)(x, x, 0.1, 0.15, x), 0.05, 0.1, 0.15)


# DCW


@each_path
def test_dcw_moves_away_from_the_predicted_end_point(path):
    x, velocity, after = states(3), states(3, seed=6), states(3, seed=7)
    for now, then in ((0.0, 0.1), (0.5, 0.9)):
        endpoint = path.endpoint(velocity, x, torch.full((3,), now, dtype=torch.float64))
        close(DCW(0.03, path)(x, velocity, now, then, after), after + 0.03 * (after - endpoint))
        sigma = path.coefficients(torch.tensor(now, dtype=torch.float64)).sigma.item()
        bands = correct_bands(after, endpoint, 0.05 * sigma, 0.02 * (1 - sigma))
        close(DCWHaar(0.05, 0.02, path)(x, velocity, now, then, after), bands)


def test_a_last_step_that_lands_on_the_end_point_is_left_alone():
    x, velocity = states(3), states(3, seed=6)
    after = x + 0.25 * velocity
    close(DCW(0.1)(x, velocity, 0.75, 1.0, after), after)
    close(DCWHaar(0.1, 0.1)(x, velocity, 0.75, 1.0, after), after)


def test_haar_is_orthonormal_and_inverts_itself():
    x = states(2, (3, 6, 4))
    low, details = haar(x)
    close(inverse_haar(low, details), x, 1e-14)
    close(low.square().sum() + details.square().sum(), x.square().sum(), 1e-13)
    constant = haar(torch.ones(1, 1, 4, 4))
    assert torch.equal(constant[0], torch.full((1, 1, 2, 2), 2.0)) and not constant[1].any()


def test_equal_weights_on_all_bands_are_the_pixel_form():
    x, endpoint = states(2), states(2, seed=6)
    close(correct_bands(x, endpoint, 0.3, 0.3), x + 0.3 * (x - endpoint))


def test_bands_keep_the_dtype():
    x = states(2).float()
    assert DCWHaar(0.1, 0.1)(x, x, 0.1, 0.2, x).dtype == DCW(0.1)(x, x, 0.1, 0.2, x).dtype == torch.float32


def test_haar_and_its_corrections_equal_the_recorded_ones(recorded):
    z = recordings(recorded, "corrections_edm_flow.npz")
    low, details = haar(z["haar.input"])
    close(low, z["haar.low"], 1e-5)
    close(details, z["haar.high"], 1e-5)
    x, endpoint = z["dcw.pair_x"], z["dcw.pair_endpoint"]
    for name, weights in {"low": (0.03, 0.0), "high": (0.0, 0.03), "pixel": (0.03, 0.03)}.items():
        close(correct_bands(x, endpoint, *weights), z[f"dcw.{name}.scaler0.03"], 1e-5)


@pytest.mark.parametrize("scale", [0.0, 0.03])
def test_dcw_equals_the_authors_run_on_a_flow(scale, recorded):
    """All nine states, by our Euler step and the correction after it; their sigma is our 1 - t, their velocity ours
    with the other sign."""
    z = recordings(recorded, "corrections_edm_flow.npz")
    trajectory, times = z[f"dcw.flow.trajectory.scaler{scale}"], (1 - z["dcw.flow.sigmas"].double()).tolist()
    correction = DCW(scale)
    x = trajectory[0]
    for (now, then), expected in zip(pairwise(times), trajectory[1:], strict=True):
        velocity = -torch.tanh(x) * (2 - now)
        x = correction(x, velocity, now, then, Euler(1).step(lambda x, t, v=velocity: v, x, now, then))
        close(x, expected, 1e-5)


@pytest.mark.parametrize("scale", [0.0, 0.05])
@pytest.mark.parametrize("solver", ["euler", "heun"])
def test_low_band_dcw_equals_the_authors_run_of_edm(solver, scale, recorded):
    """All six steps in EDM's noise level, where their low-band weight is scale sigma / sigma_max: only the correction
    of bands is ours. Heun corrects by the last denoised image of the step."""
    z = recordings(recorded, "corrections_edm_flow.npz")
    sigmas = [*z["es.ablation_euler.sigmas"].tolist(), 0.0]
    x = z["latents"] * sigmas[0]
    for now, then in pairwise(sigmas):
        denoised = edm_denoiser(x, now)
        slope = (x - denoised) / now
        ahead = x + (then - now) * slope
        if solver == "heun" and then:
            denoised = edm_denoiser(ahead, then)
            ahead = x + (then - now) * (slope + (ahead - denoised) / then) / 2
        x = correct_bands(ahead, denoised, scale * now / sigmas[0], 0.0)
    close(x, z[f"dcw.ablation_{solver}.scaler{scale}"], 1e-5)


def test_scaling_and_dcw_name_mistakes(refuses):
    def field(x, t, labels=None):
        return x

    for scale in (0.0, -1.0, float("nan")):
        refuses(lambda scale=scale: EpsilonScaling(field, scale), "lambda", scale)
    refuses(lambda: EpsilonScaling(field, 1.0, slope=-1.5), "lambda", -0.5)
    for t_min in (0.0, 1.0):
        refuses(lambda t_min=t_min: EpsilonScaling(field, 1.1, t_min=t_min), "t_min", t_min)
    refuses(lambda: DCW(float("nan")), "nan")
    refuses(lambda: DCWHaar(low=float("inf")), "inf")
    odd = states(1, (1, 4, 5))
    refuses(lambda: DCWHaar(0.1, 0.1)(odd, odd, 0.1, 0.2, odd), "4 x 5")


# Together


def by_hand(field, x, solver, correction):
    """What `sample` should do with a correction, in float64 on the linear path."""
    times = solver.times(Linear()).tolist()

    def velocity(x, t):
        return field(x, torch.full((len(x),), t, dtype=x.dtype))

    for now, then in pairwise(times):
        x = correction(x, velocity(x, now), now, then, solver.step(velocity, x, now, then))
    return x


ALL_STEPS = [DCW(0.02), DCWHaar(0.05, 0.01), TargetShift(window=0.03, cutoff=0.5)]


@pytest.mark.parametrize("solver", [Euler(10), Heun(10)], ids=repr)
@pytest.mark.parametrize("correction", ALL_STEPS, ids=lambda c: type(c).__name__)
def test_the_sampler_applies_corrections_after_its_steps(solver, correction):
    """To a field with both field corrections inside, too."""
    field = LabelShift(EpsilonScaling(gaussian(Linear()), 1.01), window=0.02, cutoff=0.5)
    noise = states(3)
    corrected = sample(field, noise, solver, chunk=3, correction=correction).x
    close(corrected, by_hand(field, noise, solver, correction))
    for other in (sample(field, noise, solver, chunk=3), sample(gaussian(Linear()), noise, solver, chunk=3)):
        assert (corrected - other.x).abs().max() > 1e-4


@pytest.mark.parametrize("correction", ALL_STEPS, ids=lambda c: type(c).__name__)
def test_corrected_images_are_the_same_bit_for_bit_whatever_is_asked_for_beside_them(correction):
    field = LabelShift(EpsilonScaling(gaussian(Linear()), 1.01), window=0.02, cutoff=0.5)
    noise = states(7).float()
    whole = sample(field, noise, Euler(8), chunk=4, correction=correction).x
    for count in (1, 4, 5):
        assert torch.equal(sample(field, noise[:count], Euler(8), chunk=4, correction=correction).x, whole[:count])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_grid_time_on_a_cutoff_is_not_shifted_in_any_dtype(dtype):
    """t = 0.18 is the tenth of 51 grid times."""
    field, asked = remembering()
    sample(LabelShift(field, window=0.01), states(2).to(dtype), Euler(50), chunk=2)
    nominal = torch.linspace(0, 1, 51, dtype=torch.float64)[:-1]
    shifted = [not torch.allclose(t.double(), n, rtol=0, atol=1e-6) for t, n in zip(asked, nominal, strict=True)]
    assert shifted[8] and not any(shifted[9:])
