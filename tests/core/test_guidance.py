"""Guidance against closed forms (Gaussians, whose log-ratio is known), SiT's recorded CFG, and counted forwards."""

import pytest
import torch
from safetensors.torch import load_file

from defar_analysis.core.guidance import CFG, Autoguidance, DiscriminatorGuidance
from defar_analysis.core.interpolants import GVP, VP, Linear
from defar_analysis.core.networks import SiT
from defar_analysis.core.oracles import GaussianFlow
from defar_analysis.core.samplers import Euler, Heun, sample
from defar_analysis.measures.spectral import radial_frequency

each_path = pytest.mark.parametrize("path", [Linear(), GVP(), VP()], ids=repr)
each_times = pytest.mark.parametrize("times", [[0.1, 0.1, 0.1], [0.1, 0.5, 0.9]], ids=["one time", "times differ"])
NULL = 9


class ByLabel:
    """A field of Gaussians, one for each label (NULL is a label); counts its forwards and samples."""

    def __init__(self, fields):
        self.fields, self.calls = fields, []

    def __call__(self, x, t, labels=None):
        self.calls.append((len(x), labels.tolist()))
        return torch.cat([self.fields[int(k)](x[i : i + 1], t[i : i + 1]) for i, k in enumerate(labels)])


class Counting:
    def __init__(self, field):
        self.field, self.calls = field, []

    def __call__(self, x, t, labels=None):
        self.calls.append(len(x))
        return self.field(x, t, labels)


def gaussian(mean=0.0, tilt=0.05, path=None, channels=2):
    spectrum = 1 / (tilt + radial_frequency(4, 4).double() ** 2)
    return GaussianFlow(torch.full((channels, 4, 4), mean, dtype=torch.float64), spectrum, path)


def states(count=3, channels=2):
    return torch.randn(count, channels, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


def times(*values):
    return torch.tensor(values, dtype=torch.float64)


def labelled(channels=2):
    return ByLabel({0: gaussian(1.0, channels=channels), 1: gaussian(-2.0, 0.3, channels=channels),
                    NULL: gaussian(0.2, 0.1, channels=channels)})  # fmt: skip


def close(actual, expected, tolerance=1e-12):
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


# Classifier-free guidance


@each_times
def test_cfg_is_the_linear_combination_of_the_two_fields(times):
    field, x, t, labels = labelled(), states(), torch.tensor(times, dtype=torch.float64), torch.tensor([0, 1, 0])
    null = field(x, t, torch.full((3,), NULL))
    close(CFG(field, 2.5, NULL)(x, t, labels), null + 2.5 * (field(x, t, labels) - null))
    close(CFG(field, 0.0, NULL)(x, t, labels), null)


def test_cfg_of_two_gaussians_of_one_spectrum_is_the_gaussian_of_the_extrapolated_mean():
    field = ByLabel({0: gaussian(1.0), NULL: gaussian(0.2)})
    noise, labels = states(), torch.zeros(3, dtype=torch.long)
    guided = sample(CFG(field, 3.0, NULL), noise, Heun(5), labels=labels, chunk=3).x
    close(guided, sample(gaussian(0.2 + 3.0 * 0.8), noise, Heun(5), chunk=3).x)


def test_cfg_makes_one_forward_of_both_halves_inside_the_interval_and_a_plain_one_outside():
    field, x, labels = labelled(), states(), torch.tensor([0, 1, 0])
    guidance = CFG(field, 2.0, NULL, interval=(0.3, 0.7))
    for t, count in ((0.29, 3), (0.3, 6), (0.5, 6), (0.7, 6), (0.71, 3)):
        field.calls.clear()
        guided = guidance(x, torch.full((3,), t), labels)
        assert field.calls == [(count, [0, 1, 0] + [NULL] * (count - 3))]
        plain = field(x, torch.full((3,), t), labels)
        assert torch.equal(guided, plain) == (count == 3)


def test_cfg_sees_each_samples_own_time():
    field, x, t, labels = labelled(), states(), times(0.1, 0.5, 0.9), torch.tensor([0, 1, 0])
    guidance = CFG(field, 2.0, NULL, interval=(0.3, 0.7))
    guided = guidance(x, t, labels)
    assert field.calls == [(4, [0, 1, 0, NULL])]
    alone = torch.cat([guidance(x[i : i + 1], t[i : i + 1], labels[i : i + 1]) for i in range(3)])
    close(guided, alone)
    assert torch.equal(guided[::2], field(x, t, labels)[::2])


def test_a_grid_time_on_the_end_of_an_interval_is_inside_in_any_dtype():
    guidance = CFG(labelled(), 2.0, NULL, interval=(0.3, 0.3))
    for dtype in (torch.float32, torch.float64):
        t = torch.linspace(0, 1, 11, dtype=dtype)[3:4]  # 0.30000000000000004 in float64
        guidance.field.calls.clear()
        guidance(states(1).to(dtype), t, torch.tensor([0]))
        assert guidance.field.calls == [(2, [0, NULL])]


def test_the_whole_interval_covers_times_beyond_its_ends():
    field = labelled()
    CFG(field, 2.0, NULL)(states(1), times(1.03), torch.tensor([0]))
    assert field.calls == [(2, [0, NULL])]


def test_cfg_at_scale_one_is_the_conditional_field_at_its_cost():
    field, x, t, labels = labelled(), states(), times(0.2, 0.2, 0.2), torch.tensor([0, 1, 0])
    guided = CFG(field, 1.0, NULL)(x, t, labels)
    assert field.calls == [(3, [0, 1, 0])]
    assert torch.equal(guided, field(x, t, labels))


@each_times
def test_first3_leaves_the_other_channels_conditional(times):
    field, x, t = labelled(channels=5), states(channels=5), torch.tensor(times, dtype=torch.float64)
    labels = torch.tensor([0, 1, 0])
    guided = CFG(field, 2.0, NULL, channels="first3")(x, t, labels)
    assert torch.equal(guided[:, :3], CFG(field, 2.0, NULL)(x, t, labels)[:, :3])
    assert torch.equal(guided[:, 3:], field(x, t, labels)[:, 3:])


def test_first3_on_three_channels_is_all():
    field, x, t, labels = labelled(channels=3), states(channels=3), times(0.1, 0.5, 0.9), torch.tensor([0, 1, 0])
    both = [CFG(field, 2.0, NULL, channels=channels)(x, t, labels) for channels in ("first3", "all")]
    assert torch.equal(*both)


@pytest.mark.parametrize(
    ("name", "network"),
    [
        ("sit_learn_sigma", {"input_size": 8, "patch_size": 2, "depth": 2, "num_heads": 4, "learn_sigma": True}),
        ("sit_plain", {"input_size": 4, "patch_size": 1, "depth": 3, "num_heads": 2}),
    ],
)
@torch.no_grad()
def test_first3_equals_sits_own_guidance(name, network, fixture_path, recorded):
    """The recorded batch holds every sample twice, conditional then null; its guided half is compared."""
    net = SiT(in_channels=4, hidden_size=32, num_classes=10, **network).eval()
    net.load_state_dict(load_file(fixture_path(f"{name}.safetensors")))
    io = {key: torch.from_numpy(value) for key, value in recorded(f"{name}_io.npz").items()}
    for scale, out in zip(io["cfg_scales"].tolist(), io["cfg_out"], strict=True):
        ours = CFG(net, scale, 10, channels="first3")(io["cfg_x"][:3], io["cfg_t"][:3], io["cfg_y"][:3])
        torch.testing.assert_close(ours, out[:3], rtol=0, atol=2e-5)


@pytest.mark.parametrize(("scale", "theirs"), [(1.0, "cfg1.0.interval0.0-1.0"), (1.8, "cfg1.8.interval0.0-0.7")])
def test_cfg_on_an_interval_equals_repas_euler_run(scale, theirs, recorded):
    """Ten Euler steps on the linear path and the samples of each forward. Their clock runs from 1, noise, to 0 and
    their velocity is noise - data: [0, 0.7] is [0.3, 1] here, and both ends count."""
    z = {key: torch.from_numpy(value) for key, value in recorded("repa_samplers.npz").items() if "cosine" not in key}
    batches = []

    def field(x, t, labels):
        batches.append(len(x))
        of_label = 0.125 * (labels == 3) - 0.0625 * (labels == 1000)
        return -(torch.tanh(x) * (2 - t)[:, None, None, None] + of_label[:, None, None, None])

    guided = CFG(field, scale, 1000, interval=(0.3, 1.0))
    close(sample(guided, z["init"], Euler(10), labels=z["y"], chunk=3).x, z[f"linear.euler.{theirs}.final"], 1e-12)
    assert batches == z[f"linear.euler.{theirs}.batch"].tolist()


def test_cfg_names_mistakes(refuses):
    field, x, t = labelled(), states(), times(0.5, 0.5, 0.5)
    refuses(lambda: CFG(field, 2.0, NULL)(x, t), "labels")
    refuses(lambda: CFG(field, 2.0, NULL)(x, t, None), "labels")
    for channels in (1, 2):
        narrow = CFG(labelled(channels=channels), 2.0, NULL, channels="first3")
        line = refuses(lambda n=narrow, c=channels: n(states(channels=c), t, torch.tensor([0, 1, 0])), channels)
        assert "three channels" in line
    for interval in ((-0.1, 0.5), (0.5, 1.1), (float("nan"), 1.0)):
        refuses(lambda interval=interval: CFG(field, 2.0, NULL, interval), "[0, 1]", interval[0], interval[1])
    refuses(lambda: CFG(field, 2.0, NULL, (0.7, 0.3)), "0.7", "0.3", "upwards")
    refuses(lambda: CFG(field, 2.0, NULL, channels="rgb"), "'rgb'", "'first3'")
    for scale in (-1.0, float("inf"), float("nan")):
        refuses(lambda scale=scale: CFG(field, scale, NULL), scale)
    refuses(lambda: CFG(field, 2.0, -1), "-1")
    refuses(lambda: CFG(field, 2.0, None), "None")


# Autoguidance


def test_autoguidance_extrapolates_away_from_the_weaker_field():
    strong, weak, x = gaussian(1.0), gaussian(0.4, 0.5), states()
    t = times(0.1, 0.5, 0.9)
    close(Autoguidance(strong, weak, 1.5)(x, t), weak(x, t) + 1.5 * (strong(x, t) - weak(x, t)))
    inside = Autoguidance(strong, weak, 1.5, interval=(0.3, 0.7))(x, t)
    close(inside[1:2], Autoguidance(strong, weak, 1.5)(x[1:2], t[1:2]))
    assert torch.equal(inside[::2], strong(x, t)[::2])


def test_autoguidance_costs_two_forwards_and_at_scale_one_or_outside_one():
    strong, weak, x = Counting(gaussian(1.0)), Counting(gaussian()), states()
    for scale, t, expected in ((1.5, 0.5, [3]), (1.0, 0.5, []), (1.5, 0.1, [])):
        strong.calls.clear(), weak.calls.clear()
        out = Autoguidance(strong, weak, scale, interval=(0.3, 0.7))(x, torch.full((3,), t))
        assert (strong.calls, weak.calls) == ([3], expected)
        assert torch.equal(out, strong.field(x, torch.full((3,), t))) == (not expected)


def test_autoguidance_passes_the_labels_to_both():
    strong, weak = labelled(), labelled()
    Autoguidance(strong, weak, 1.5, interval=(0.3, 0.7))(states(), times(0.1, 0.5, 0.6), torch.tensor([0, 1, 0]))
    assert (strong.calls, weak.calls) == ([(3, [0, 1, 0])], [(2, [1, 0])])


@torch.no_grad()
def test_autoguidance_of_two_networks_walks_on_from_the_weaker_one(network):
    """A strong and a narrower SiT, of which each step asks both at the same state, time and label, by hand."""
    weak, noise, labels = small_copy(network), states(4, 3).float(), torch.arange(4)
    x = noise
    for k in range(8):
        t = torch.full((4,), k / 8)
        strong, away = network(x, t, labels), weak(x, t, labels)
        assert (strong - away).abs().max() > 0.01
        x = x + (away + 2.0 * (strong - away) if 0.25 <= k / 8 <= 0.75 else strong) / 8
    drawn = sample(Autoguidance(network, weak, 2.0, (0.25, 0.75)), noise, Euler(8), labels=labels, chunk=4)
    close(drawn.x, x, 1e-5)
    assert (drawn.nfe, drawn.forwards) == (8, 8 + 5)
    plain = sample(network, noise, Euler(8), labels=labels, chunk=4).x
    assert (drawn.x - plain).abs().max() > 0.01
    # what it adds points away from the weaker network's image
    other = sample(weak, noise, Euler(8), labels=labels, chunk=4).x
    assert float(((drawn.x - plain) * (plain - other)).sum()) > 0


@torch.no_grad()
def test_autoguidance_of_two_networks_at_neutral_scales_is_one_of_them(network):
    weak, noise, labels = small_copy(network), states(4, 3).float(), torch.arange(4)

    def drawn(field):
        return sample(field, noise, Heun(4), labels=labels, chunk=4).x

    assert torch.equal(drawn(Autoguidance(network, weak, 1.0)), drawn(network))
    close(drawn(Autoguidance(network, weak, 0.0)), drawn(weak), 1e-5)
    assert not torch.allclose(drawn(network), drawn(weak), atol=1e-3)


def test_autoguidance_names_mistakes(refuses):
    refuses(lambda: Autoguidance(gaussian(), gaussian(), -0.5), "-0.5")
    refuses(lambda: Autoguidance(gaussian(), gaussian(), 2.0, (0.2, 1.2)), "[0, 1]", "1.2")
    refuses(lambda: Autoguidance(gaussian(), gaussian(), 2.0, (0.7, 0.3)), "0.7", "0.3")


# Discriminator guidance


def log_density(flow, x, t):
    """log p_t(x) of a Gaussian flow, up to a constant that depends on t alone."""
    offset = x - flow.interpolant.coefficients(t.reshape(-1, 1, 1, 1)).alpha * flow.mean
    power = torch.fft.fft2(offset, norm="ortho").abs().square()
    return -0.5 * (power / flow.marginal_variance(t, x)).flatten(1).sum(1)


def exact_discriminator(data, model):
    return lambda x, t, labels=None: log_density(data, x, t) - log_density(model, x, t)


INNER = torch.linspace(0.002, 0.998, 41, dtype=torch.float64)


@each_path
def test_the_exact_log_ratio_turns_the_models_field_into_the_datas(path):
    data, model, x = gaussian(0.7, 0.02, path), gaussian(-0.4, 0.3, path), states(len(INNER))
    guided = DiscriminatorGuidance(model, exact_discriminator(data, model), 1.0, t_min=1e-3, interpolant=path)
    assert (model(x, INNER) - data(x, INNER)).abs().max() > 0.1
    close(guided(x, INNER), data(x, INNER), 1e-10)


@each_path
def test_weight_goes_half_the_way_and_zero_nowhere(path):
    data, model, x = gaussian(0.7, 0.02, path), gaussian(-0.4, 0.3, path), states(len(INNER))
    logit = exact_discriminator(data, model)
    half = DiscriminatorGuidance(model, logit, 0.5, t_min=1e-3, interpolant=path)(x, INNER)
    close(half, (data(x, INNER) + model(x, INNER)) / 2, 1e-10)
    counted = Counting(logit)
    assert torch.equal(DiscriminatorGuidance(model, counted, 0.0, interpolant=path)(x, INNER), model(x, INNER))
    assert counted.calls == []


def test_discriminator_guidance_is_off_near_noise_sample_by_sample():
    data, model, x, t = gaussian(0.7), gaussian(-0.4, 0.3), states(4), times(0.0, 0.05, 0.2, 0.3)
    counted = Counting(exact_discriminator(data, model))
    guided = DiscriminatorGuidance(model, counted, 1.0, t_min=0.2)
    out = guided(x, t)
    assert counted.calls == [2]
    assert torch.equal(out[:2], model(x, t)[:2])
    close(out[2:], data(x, t)[2:], 1e-10)
    assert torch.equal(guided(x[:2], t[:2]), model(x[:2], t[:2]))
    assert counted.calls == [2]


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_the_gradient_is_taken_where_the_sampler_takes_none(mode):
    data, model = gaussian(0.7), gaussian(-0.4, 0.3)
    guided = DiscriminatorGuidance(model, exact_discriminator(data, model), 1.0)
    with mode():
        x, t = states(), times(0.3, 0.3, 0.3)
        out = guided(x, t, torch.tensor([0, 1, 2]))
        assert not out.requires_grad
        close(out, data(x, t), 1e-10)


def test_samples_under_the_exact_discriminator_are_the_datas():
    """From the first guided step on; below t_min both follow the model."""
    data, model, noise = gaussian(0.7), gaussian(-0.4, 0.3), states()
    guided = DiscriminatorGuidance(model, exact_discriminator(data, model), 1.0, t_min=0.1)
    first = noise + 0.1 * model(noise, torch.zeros(3))
    expected = first
    for k in range(1, 10):
        expected = expected + 0.1 * data(expected, torch.full((3,), k / 10, dtype=torch.float64))
    close(sample(guided, noise, Euler(10), chunk=3).x, expected, 1e-10)


def test_labels_reach_the_discriminator():
    seen = []

    def discriminator(x, t, labels=None):
        seen.append(labels.tolist())
        return x.flatten(1).sum(1) * labels

    x, t = states() * 0, times(0.01, 0.5, 0.5)
    change = DiscriminatorGuidance(gaussian(), discriminator, 1.0)(x, t, torch.tensor([5, 6, 0])) - gaussian()(x, t)
    assert seen == [[6, 0]]
    close(change, times(0, 6, 0)[:, None, None, None].expand_as(x))


def test_beyond_the_clip_there_is_no_guidance():
    def logit(x, t, labels=None):
        return torch.tensor([-12.0, 0.0, 12.0], dtype=x.dtype) + x.flatten(1).sum(1) * 1e-3

    x, t = states() * 0, times(0.5, 0.5, 0.5)
    change = DiscriminatorGuidance(gaussian(), logit, 1.0, clip=1e-5)(x, t) - gaussian()(x, t)
    assert (change.flatten(1).abs().max(1).values > 0).tolist() == [False, True, False]


def test_discriminator_guidance_names_mistakes(refuses):
    field, logit = gaussian(), exact_discriminator(gaussian(1.0), gaussian())
    for weight in (-1.0, float("nan")):
        refuses(lambda weight=weight: DiscriminatorGuidance(field, logit, weight), "weight", weight)
    for t_min in (0.0, -0.1, 1.0):
        refuses(lambda t_min=t_min: DiscriminatorGuidance(field, logit, 1.0, t_min=t_min), "t_min", t_min)
    refuses(lambda: DiscriminatorGuidance(field, logit, 1.0, clip=0.5), "clip", 0.5)
    square = DiscriminatorGuidance(field, lambda x, t, labels: x.flatten(1)[:, :1], 1.0)
    refuses(lambda: square(states(), times(0.5, 0.5, 0.5)), "(3,)", "(3, 1)")


# Together


@pytest.fixture
def network():
    torch.manual_seed(0)
    net = SiT(4, 2, 3, 32, 1, 2, num_classes=NULL).eval()
    torch.nn.init.normal_(net.final_layer.linear.weight, std=0.05)  # a fresh SiT returns 0
    return net


def test_the_sampler_counts_the_networks_behind_guidance(network):
    noise, labels = states(4, 3).float(), torch.arange(4)
    for guided, forwards in (
        (CFG(network, 2.0, NULL, interval=(0.0, 0.5)), 10),
        (Autoguidance(network, small_copy(network), 2.0), 20),
        (Autoguidance(network, small_copy(network), 2.0, interval=(0.0, 0.45)), 15),
    ):
        drawn = sample(guided, noise, Euler(10), labels=labels, chunk=4)
        assert (drawn.nfe, drawn.forwards) == (10, forwards)


def small_copy(network):
    other = SiT(4, 2, 3, 16, 1, 2, num_classes=network.num_classes).eval()
    torch.nn.init.normal_(other.final_layer.linear.weight, std=0.05)
    return other


def test_guided_images_are_the_same_bit_for_bit_whatever_is_asked_for_beside_them(network):
    def logit(x, t, labels=None):
        return torch.sin(x).flatten(1).sum(1)

    guided = DiscriminatorGuidance(
        Autoguidance(CFG(network, 2.0, NULL, interval=(0.2, 0.8)), small_copy(network), 1.5), logit, 0.5
    )
    noise, labels = states(7, 3).float(), torch.arange(7)
    whole = sample(guided, noise, Euler(4), labels=labels, chunk=4).x
    for count in (1, 4, 5):
        assert torch.equal(sample(guided, noise[:count], Euler(4), labels=labels[:count], chunk=4).x, whole[:count])


def test_a_network_in_bfloat16_is_guided_by_a_discriminator_in_float32(network):
    logit = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 1), torch.nn.Flatten(0))
    guided = DiscriminatorGuidance(CFG(network.bfloat16(), 2.0, NULL), lambda x, t, labels: logit(x), 1.0)
    noise, labels = states(2, 3).float(), torch.arange(2)
    assert sample(guided, noise, Euler(3), labels=labels, chunk=2).x.isfinite().all()


def test_guidances_compose():
    strong, weak, x = labelled(), ByLabel({k: gaussian(k / 10, 0.4) for k in (0, 1, NULL)}), states()
    t, labels = times(0.1, 0.5, 0.9), torch.tensor([0, 1, 0])

    def cfg(field):
        null = field(x, t, torch.full((3,), NULL))
        return null + 2.0 * (field(x, t, labels) - null)

    outer = Autoguidance(CFG(strong, 2.0, NULL), CFG(weak, 2.0, NULL), 1.5)(x, t, labels)
    close(outer, cfg(weak) + 1.5 * (cfg(strong) - cfg(weak)))
    inner = CFG(Autoguidance(strong, weak, 1.5), 2.0, NULL)(x, t, labels)
    close(inner, outer)
    data, model = gaussian(0.7), gaussian(-0.4, 0.3)
    ratio = exact_discriminator(data, model)
    composed = DiscriminatorGuidance(CFG(strong, 2.0, NULL), ratio, 1.0)(x, t, labels)
    close(composed - cfg(strong), data(x, t) - model(x, t), 1e-10)


def test_a_guided_field_prints_its_settings_not_its_network():
    assert repr(CFG(labelled(), 2.0, NULL)) == "CFG(scale=2.0, null_label=9, interval=(0.0, 1.0), channels='all')"
