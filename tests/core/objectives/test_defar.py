"""DEFAR against closed forms and hand-written computations; where gradients stop; what a part of a batch estimates."""

import itertools
from dataclasses import replace

import pytest
import torch
from tiny import FLOAT32, SHAPE, Spy, Tiny, close, column, generator, gradient, make_draw, normal

from defar_analysis.core.datasets import Batch
from defar_analysis.core.interpolants import GVP, VP, Linear
from defar_analysis.core.objectives import Defar, FlowMatching, compensation_weight, reflexflow, simpletuner, strong
from defar_analysis.core.objectives.defar import anti_drift_loss
from defar_analysis.core.rollout import rollout

GRADS = ["none", "v_hat", "both"]

each_path = pytest.mark.parametrize("path", [Linear(), GVP(), VP()], ids=repr)


# --- anti-drift rectification ---


def test_anti_drift_loss_is_twice_one_minus_the_cosine():
    v, target = normal(*SHAPE, seed=3), normal(*SHAPE, seed=4)
    cosine = torch.cosine_similarity(v.flatten(1), target.flatten(1), dim=1)
    close(anti_drift_loss(v, target), 2 * (1 - cosine), 1e-9)
    close(anti_drift_loss(v, 7 * v), torch.zeros(6), 1e-9)
    close(anti_drift_loss(v, -0.1 * v), torch.full((6,), 4.0), 1e-9)


def test_the_way_home_is_parallel_to_the_velocity_where_the_step_was_ideal():
    draw = make_draw()
    r = rollout(lambda x, t, labels: (draw.data - x) / (1 - column(t)), Linear(), draw)
    home = draw.data - r.x_hat
    close(home, column(1 - draw.t1) * r.target0)
    close(anti_drift_loss(r.target0, home), torch.zeros(6), 1e-9)
    loss = Defar()(lambda x, t, labels: (draw.data - x) / (1 - column(t)), draw)
    assert loss.total < 1e-10


@each_path
def test_adr_compares_the_velocity_at_the_drifted_state_with_the_way_home(path):
    draw, model = make_draw(), Tiny()
    start = path.at(draw.noise, draw.data, draw.t0).x
    x_hat = start + column(draw.t1 - draw.t0) * model(start, draw.t0)
    v_hat = model(x_hat, draw.t1)
    cosine = torch.cosine_similarity(v_hat.flatten(1), (draw.data - x_hat).flatten(1), dim=1)
    close(Defar(interpolant=path)(model, draw).terms["adr"], (2 * (1 - cosine)).mean(), FLOAT32)


# --- the whole ---


def test_total_and_forwards_of_the_three_forms():
    draw, model = make_draw(), Tiny()
    both = Defar(beta1=3.0, beta2=0.25)(model, draw)
    close(both.total, 3 * both.terms["adr"] + 0.25 * both.terms["fc"], FLOAT32)
    no_fc = Defar(beta1=3.0, beta2=0.25, fc=False)(model, draw)
    close(no_fc.total, no_fc.terms["fm"] + 3 * no_fc.terms["adr"], FLOAT32)
    no_adr = Defar(beta1=3.0, beta2=0.25, adr=False)(model, draw)
    close(no_adr.total, 0.25 * no_adr.terms["fc"], FLOAT32)
    assert (both.forwards, no_fc.forwards, no_adr.forwards) == (3, 2, 3)
    assert {*both.terms} == {"fm", "adr", "fc"} and {*no_fc.terms} == {"fm", "adr"} and {*no_adr.terms} == {"fm", "fc"}
    assert not any(term.requires_grad for term in both.terms.values())
    for name in no_fc.terms:
        assert torch.equal(no_fc.terms[name], both.terms[name])


def test_forwards_are_the_calls_that_the_model_gets():
    draw = make_draw(rows=4)
    for options, count in ({"steps": 3}, 5), ({"steps": 3, "fc": False}, 4):
        spy = Spy()
        assert Defar(**options)(spy, draw).forwards == len(spy.labels) == count


def test_defaults_are_the_papers():
    objective = Defar()
    assert (objective.alpha, objective.beta1, objective.beta2) == (1.0, 10.0, 1.0)
    assert (objective.bias_norm, objective.bias_map, objective.inside_square) == ("l2", "pixel", True)
    assert (objective.weight_grad, objective.detach_target, objective.detach_step) == ("none", False, False)
    assert (objective.steps, objective.spacing) == (1, "random")


@pytest.mark.parametrize("map", ["pixel", "element"])
def test_turning_data_and_noise_around_leaves_the_loss_of_an_odd_model_unchanged(map):
    draw, model = make_draw(), Tiny()
    turned = replace(draw, data=-draw.data, noise=-draw.noise)
    for objective in (FlowMatching(), Defar(bias_map=map)):
        close(objective(model, turned).total, objective(model, draw).total, FLOAT32)


def test_turning_data_and_noise_around_changes_a_signed_weight():
    draw, model = make_draw(), Tiny()
    turned = replace(draw, data=-draw.data, noise=-draw.noise)
    signed = Defar(bias_map="signed", adr=False)
    assert abs(signed(model, turned).total / signed(model, draw).total - 1) > 1e-4


# --- where gradients stop ---


def by_hand(model, draw, weight_grad, detach_target, detach_step):
    """The loss of Defar(beta1=2, beta2=0.5, alpha=1, mean) written out, in float64."""

    def stopped_if(stop, z):
        return z.detach() if stop else z

    t0, t1 = draw.t0, draw.t1
    x0 = column(1 - t0) * draw.noise + column(t0) * draw.data
    x1 = column(1 - t1) * draw.noise + column(t1) * draw.data
    v0 = model(x0, t0)
    x_hat = stopped_if(detach_step, x0 + column(t1 - t0) * v0)
    v_hat = model(x_hat, t1)
    home = draw.data - stopped_if(detach_target, x_hat)
    bias = stopped_if(weight_grad == "none", v_hat) - stopped_if(weight_grad != "both", model(x1, t1))
    m = bias.square().sum(dim=1, keepdim=True).sqrt()
    w = 1 + m / m.mean(dim=(1, 2, 3), keepdim=True)
    adr = 2 * (1 - torch.cosine_similarity(v_hat.flatten(1), home.flatten(1), dim=1)).mean()
    return 2 * adr + 0.5 * (w * (v0 - draw.data + draw.noise)).square().mean()


FLAGS = [(grad, *flags) for grad in GRADS for flags in [(False, False), (True, False), (False, True)]]


@pytest.mark.parametrize(("weight_grad", "detach_target", "detach_step"), FLAGS)
def test_gradients_stop_exactly_where_the_options_say(weight_grad, detach_target, detach_step):
    draw, model = make_draw(), Tiny()
    objective = Defar(
        beta1=2.0, beta2=0.5, bias_norm="mean",
        weight_grad=weight_grad, detach_target=detach_target, detach_step=detach_step,
    )  # fmt: skip
    loss = objective(model, draw)
    close(loss.total, by_hand(model, draw, weight_grad, detach_target, detach_step), 1e-5)
    expected = gradient(by_hand(model, draw, weight_grad, detach_target, detach_step), model)
    close(gradient(loss.total, model) / expected.norm(), expected / expected.norm(), 2e-5)


def test_every_combination_of_stops_gives_another_gradient():
    """Without this the test above could not tell them apart."""
    draw, model = make_draw(), Tiny()
    gradients = [gradient(by_hand(model, draw, *flags), model) for flags in FLAGS]
    for a, b in itertools.combinations(gradients, 2):
        assert (a - b).norm() > 1e-3 * a.norm()


def test_a_detached_weight_carries_no_gradient():
    draw, model = make_draw(), Tiny()
    r = rollout(model, Linear(), draw)
    w = compensation_weight(r.bias, 1.0, "mean").detach()
    expected = gradient((w * (r.v0 - r.target0)).square().mean(), model)
    close(gradient(Defar(adr=False, bias_norm="mean")(model, draw).total, model), expected, 1e-5)


def test_without_autograd_nothing_is_differentiated():
    with torch.no_grad():
        assert not Defar(weight_grad="both")(Tiny(), make_draw()).total.requires_grad


# --- what the options mean, in special cases ---


@each_path
def test_with_no_weight_on_either_term_it_is_flow_matching_exactly(path):
    draw, model = make_draw(), Tiny()
    loss = Defar(interpolant=path, beta1=0.0, alpha=0.0, beta2=1.0)(model, draw).total
    plain = FlowMatching(interpolant=path)(model, draw).total
    assert torch.equal(loss, plain)
    close(gradient(loss, model), gradient(plain, model), 1e-14)
    assert not torch.equal(Defar(interpolant=path, beta1=0.0)(model, draw).total, plain)


class Scripted:
    """Returns the given velocities one after the other."""

    def __init__(self, *velocities):
        self.velocities = list(velocities)

    def __call__(self, x, t, labels=None):
        return self.velocities.pop(0)


def test_the_straight_target_of_a_perfect_step_is_zero():
    """So regressing it asks for velocity 0, and its direction is that of a rounding error."""
    draw = make_draw()
    u, v_hat = draw.data - draw.noise, normal(*SHAPE, seed=9)
    for normalize in ("none", "rescale"):
        loss = Defar(direction="straight", normalize=normalize)(Scripted(u, v_hat), draw)
        close(loss.total, v_hat.square().mean())
    short = replace(draw, data=2 * draw.data)  # the same model is not perfect for other data
    assert (
        abs(Defar(direction="straight", normalize="none")(Scripted(u, v_hat), short).total - v_hat.square().mean())
        > 0.1
    )


def test_the_anti_drift_target_of_a_perfect_step_is_the_rest_of_the_way_and_rescaled_the_pairs_velocity():
    draw = make_draw()
    u, v_hat = draw.data - draw.noise, normal(*SHAPE, seed=9)
    none = Defar(normalize="none")(Scripted(u, v_hat), draw)
    close(none.total, (v_hat - column(1 - draw.t1) * u).square().mean())
    rescaled = Defar(normalize="rescale")(Scripted(u, v_hat), draw)
    close(rescaled.total, (v_hat - u).square().mean(), 1e-11)
    assert Defar(normalize="rescale")(Scripted(u, u), draw).total < 1e-24


@pytest.mark.parametrize("normalize", ["none", "rescale"])
def test_a_regressed_target_is_the_whole_loss(normalize):
    """No FM, no FC, no beta1, two forwards."""
    draw, model = make_draw(), Tiny()
    loss = Defar(normalize=normalize)(model, draw)
    assert [*loss.terms] == ["adr"] and torch.equal(loss.terms["adr"], loss.total.detach()) and loss.forwards == 2
    for options in ({"beta1": 1.0}, {"beta2": 3.0}, {"alpha": 7.0}, {"fc": False}, {"weight_source": "noise"}):
        assert torch.equal(Defar(normalize=normalize, **options)(model, draw).total, loss.total)


def images(*frequencies):
    """Waves of 8 x 8 pixels of the given numbers of periods down and across."""
    place = torch.arange(8, dtype=torch.float64) / 8
    waves = [torch.cos(2 * torch.pi * (u * place[:, None] + v * place + 0.1)) for u, v in frequencies]
    return torch.stack(waves).sum(0).expand(6, 2, 8, 8) * torch.tensor([1.0, 0.5]).double()[:, None, None]


def weighted(source, data, noise, **options):
    draw = replace(make_draw(), data=data, noise=noise)
    return Defar(weight_source=source, adr=False, bias_norm="mean", **options)(Tiny(), draw)


def test_a_band_weighs_by_that_band_of_the_image_alone():
    """Frequencies of 1/8 and 4/8 a pixel lie on the two sides of 0.2 and of 0.3."""
    noise, low, high = normal(6, 2, 8, 8), images((1, 0), (0, 1), (0, 0)), images((4, 0), (4, 4))
    for band, own, other in (("low_pass", low, high), ("high_pass", high, low)):
        for cutoff in (0.2, 0.3):
            alone = weighted(band, own, noise, cutoff=cutoff)
            close(alone.total, weighted("image", own, noise).total, 1e-9)
            assert alone.terms["fc"] > 1.5 * alone.terms["fm"]
            nothing = weighted(band, other, noise, cutoff=cutoff)
            close(nothing.terms["fc"], nothing.terms["fm"], 1e-7)
    moved = {cutoff: weighted("low_pass", images((2, 0), (4, 0)), noise, cutoff=cutoff).total for cutoff in (0.2, 0.3)}
    assert abs(moved[0.2] / moved[0.3] - 1) > 1e-3  # 2/8 lies between the two


def test_a_weight_from_image_or_noise_does_not_look_at_the_other():
    data, noise, other = (normal(6, 2, 8, 8, seed=i) for i in range(3))
    for source in ("image", "noise"):
        expected = data if source == "image" else noise
        error = Tiny()(Linear().at(noise, data, make_draw().t0).x, make_draw().t0) - (data - noise)
        w = compensation_weight(expected, 1.0, "mean")
        close(weighted(source, data, noise).total, (w * error).square().mean())
        wrong = compensation_weight(other, 1.0, "mean")
        assert abs((wrong * error).square().mean() / (w * error).square().mean() - 1) > 1e-3


FORWARDS = [
    ({}, 3), ({"fc": False}, 2), ({"adr": False}, 3), ({"weight_grad": "both"}, 3),
    ({"normalize": "none"}, 2), ({"normalize": "rescale", "steps": 3}, 4),
    ({"weight_source": "low_pass"}, 2), ({"weight_source": "image"}, 2), ({"weight_source": "noise", "adr": False}, 1),
    ({"steps": 3}, 5), ({"steps": 3, "weight_source": "high_pass"}, 4), ({"steps": 3, "adr": False}, 5),
]  # fmt: skip


@pytest.mark.parametrize(("options", "count"), FORWARDS, ids=str)
@pytest.mark.parametrize("part", [False, True])
def test_no_forward_is_made_that_the_loss_does_not_need(options, count, part):
    """One more for the rest of the batch, where the costly terms see only a part of it."""
    if part and "normalize" in options:
        part = False  # refused: the rest would have no loss
    objective = Defar(**options, bias_fraction=0.5 if part else 1.0)
    spy = Spy(Tiny())
    draw = replace(make_draw(rows=objective.steps + 1), subset=torch.tensor([1, 4, 5]) if part else None)
    assert objective(spy, draw).forwards == len(spy.xs) == count + part
    assert {len(x) for x in spy.xs} == ({3} if part else {6})


GRADIENTS = [  # for each forward, in order, whether autograd records it
    ({}, [True, True, False]), ({"weight_grad": "both"}, [True, True, True]), ({"adr": False}, [True, False, False]),
    ({"adr": False, "weight_grad": "v_hat"}, [True, True, False]), ({"fc": False}, [True, True]),
    ({"normalize": "none"}, [True, True]), ({"normalize": "rescale", "detach_step": True}, [False, True]),
    ({"steps": 2, "detach_step": True}, [True, False, True, False]),
]  # fmt: skip


@pytest.mark.parametrize(("options", "recorded"), GRADIENTS, ids=str)
def test_a_forward_whose_gradient_nobody_needs_is_not_recorded(options, recorded):
    spy = Spy(Tiny())
    Defar(**options)(spy, make_draw(rows=options.get("steps", 1) + 1))
    assert spy.grads == recorded


def test_presets_are_readings_of_the_weight():
    signed = {"bias_norm": "l1", "bias_map": "signed", "inside_square": False, "weight_grad": "none"}
    assert simpletuner() == reflexflow() == Defar(**signed)
    assert reflexflow(0.5) == Defar(sampled_fraction=0.5, **signed)
    assert strong() == Defar(bias_norm="mean")
    assert simpletuner(bias_norm="max", beta1=2.0) == Defar(**{**signed, "bias_norm": "max", "beta1": 2.0})
    assert strong(bias_norm="l2") == Defar()


def test_the_strong_preset_weighs_twice_on_average():
    bias = normal(*SHAPE)
    weight = {o.bias_norm: compensation_weight(bias, o.alpha, o.bias_norm, o.bias_map) for o in (strong(), Defar())}
    close(weight["mean"].mean(dim=(1, 2, 3)), torch.full((6,), 2.0), 1e-6)
    assert (weight["l2"].mean(dim=(1, 2, 3)) < 1.26).all()  # at most 1 + 1/sqrt(16)


# --- what a part of the batch estimates ---


def results(objective, draw):
    """Loss, terms and gradient in one vector."""
    model = Tiny()
    loss = objective(model, draw)
    return torch.cat([loss.total.detach()[None], *(loss.terms[k][None] for k in sorted(loss.terms)),
                      gradient(loss.total, model)])  # fmt: skip


def over_all_subsets(objective, draw, size):
    subsets = itertools.combinations(range(len(draw.data)), size)
    return torch.stack([results(objective, replace(draw, subset=torch.tensor(s))) for s in subsets])


PARTIAL = [{}, {"weight_grad": "both", "bias_norm": "mean"}, {"adr": False}, {"fc": False}, {"steps": 2},
           {"weight_source": "low_pass", "adr": False}, {"beta1": 2.0, "beta2": 0.25},
           {"bias_norm": "l1", "bias_map": "signed", "inside_square": False}]  # fmt: skip


@pytest.mark.parametrize("options", PARTIAL, ids=str)
@pytest.mark.parametrize("size", [1, 3])
def test_the_mean_over_all_subsets_is_the_loss_of_the_whole_batch(options, size):
    draw = make_draw(rows=options.get("steps", 1) + 1)
    estimates = over_all_subsets(Defar(bias_fraction=size / 6, **options), draw, size)
    close(estimates.mean(0), results(Defar(**options), draw))
    assert estimates[:, 0].std() > 1e-4 * estimates[:, 0].mean()  # one by one they are not


@pytest.mark.parametrize("options", PARTIAL, ids=str)
@pytest.mark.parametrize(("share", "fraction"), [(0.5, 1.0), (0.5, 1 / 3), (2 / 3, 0.5)])
def test_under_scheduled_sampling_a_share_of_the_loss_is_plain(options, share, fraction):
    """Every sample gets ADR and the weight with probability `share`: L = plain + share (full - plain)."""
    draw, model = make_draw(rows=options.get("steps", 1) + 1), Tiny()
    size = round(share * fraction * 6)
    mean = over_all_subsets(Defar(sampled_fraction=share, bias_fraction=fraction, **options), draw, size).mean(0)
    plain, full = FlowMatching()(model, draw).total, Defar(**options)(model, draw).total
    plain = plain * (options.get("beta2", 1.0) if options.get("fc", True) else 1.0)
    close(mean[0], (plain + share * (full - plain)).detach())


def test_the_gradient_under_scheduled_sampling_is_the_same_mixture():
    draw, model = make_draw(), Tiny()
    mean = over_all_subsets(Defar(sampled_fraction=0.5), draw, 3).mean(0)[-4:]
    plain = gradient(FlowMatching()(model, draw).total, model)
    full = gradient(Defar()(model, draw).total, model)
    close(mean, plain + 0.5 * (full - plain))


@pytest.mark.parametrize("subset", [[2], [0, 5], [1, 2, 3, 4, 5]])
def test_the_plain_loss_is_that_of_the_whole_batch_whatever_the_subset(subset):
    draw, model = make_draw(), Tiny()
    loss = Defar(bias_fraction=0.5)(model, replace(draw, subset=torch.tensor(subset)))
    close(loss.terms["fm"], FlowMatching()(model, draw).total)


def test_random_subsets_estimate_the_whole_batch():
    draw, objective, source = make_draw(), Defar(bias_fraction=0.5), generator(4)
    batch = Batch(draw.data)
    subsets = [objective.draw(batch, source).subset for _ in range(400)]
    known = {s: results(objective, replace(draw, subset=torch.tensor(s))) for s in itertools.combinations(range(6), 3)}
    estimates = torch.stack([known[tuple(sorted(s.tolist()))] for s in subsets])
    error = (estimates.mean(0) - results(Defar(), draw)).abs()
    assert (error < 5 * estimates.std(0) / 20 + 1e-12).all()
    counts = torch.stack(subsets).flatten().bincount(minlength=6)
    assert (counts - 200).abs().max() < 5 * 10  # each sample in half of the subsets


def test_a_subset_of_the_whole_batch_changes_nothing_but_the_order():
    draw = make_draw()
    close(results(Defar(), replace(draw, subset=torch.tensor([3, 0, 5, 1, 2, 4]))), results(Defar(), draw))


@pytest.mark.parametrize(
    ("options", "batch", "size"),
    [
        ({"bias_fraction": 0.5}, 8, 4),
        ({"bias_fraction": 0.25}, 7, 2),
        ({"bias_fraction": 0.01}, 8, 1),
        ({"sampled_fraction": 0.5}, 8, 4),
        ({"sampled_fraction": 0.5, "bias_fraction": 0.5}, 8, 2),
        ({"bias_fraction": 0.9}, 2, 2),
    ],
)
def test_a_subset_has_its_share_of_the_batch_and_changes_nothing_else_that_is_drawn(options, batch, size):
    images = Batch(torch.zeros(batch, 1, 2, 2), torch.arange(batch) % 3)
    common = {"label_dropout": 0.5, "null_label": 3, "steps": 2}
    whole, part = (Defar(**common, **o).draw(images, generator(2)) for o in ({}, options))
    assert whole.subset is None
    assert part.subset.shape == (size,) and len(set(part.subset.tolist())) == size
    assert part.subset.min() >= 0 and part.subset.max() < batch
    for field in ("noise", "times", "labels"):
        assert torch.equal(getattr(part, field), getattr(whole, field))
    assert part.seed == whole.seed


# --- what is refused ---


BAD = [
    ({"adr": False, "fc": False}, "flow_matching"),
    ({"weight_grad": "all"}, "weight_grad = 'all'; choose from 'none', 'v_hat', 'both'"),
    ({"bias_norm": "l3"}, "bias_norm = 'l3'; choose from 'l2', 'l1', 'max', 'mean'"),
    ({"bias_map": "channel"}, "bias_map = 'channel'; choose from 'pixel', 'element', 'signed'"),
    ({"direction": "up"}, "direction = 'up'; choose from 'anti_drift', 'straight'"),
    ({"normalize": "mean"}, "normalize = 'mean'; choose from 'unit', 'none', 'rescale'"),
    ({"normalize": None}, "normalize = None"),
    (
        {"weight_source": "data"},
        "weight_source = 'data'; choose from 'bias', 'low_pass', 'high_pass', 'image', 'noise'",
    ),
    ({"steps": 0}, "steps must be at least 1; got 0"),
    ({"spacing": "even"}, "spacing = 'even'; choose from 'random', 'equal'"),
    ({"cutoff": 0.0}, "cutoff must lie between 0 and 0.707 cycles per pixel; got 0.0"),
    ({"cutoff": 0.8}, "got 0.8"),
    ({"sampled_fraction": 0.0}, "sampled_fraction must lie in (0, 1]; got 0.0"),
    ({"sampled_fraction": 1.5}, "sampled_fraction must lie in (0, 1]; got 1.5"),
    ({"bias_fraction": -0.5}, "bias_fraction must lie in (0, 1]; got -0.5"),
    ({"bias_fraction": float("nan")}, "bias_fraction must lie in (0, 1]; got nan"),
    ({"normalize": "none", "adr": False}, "normalize = 'none' is a form of ADR; it needs adr = true"),
    ({"normalize": "rescale", "bias_fraction": 0.5}, "bias_fraction = 0.5 needs normalize = 'unit'"),
    ({"normalize": "none", "sampled_fraction": 0.5}, "sampled_fraction = 0.5 needs normalize = 'unit'"),
]


@pytest.mark.parametrize(("options", "words"), BAD, ids=lambda value: str(value))
def test_bad_options_are_refused_by_name_when_the_objective_is_made(options, words, refuses):
    refuses(lambda: Defar(**options), words)


def test_a_draw_with_a_single_time_is_refused(refuses):
    refuses(lambda: Defar()(Tiny(), make_draw(rows=1)), "at least two times", "(1, 6)")


@pytest.mark.parametrize("preset", [reflexflow, simpletuner, strong])
def test_presets_refuse_what_defar_refuses(preset, refuses):
    refuses(lambda: preset(bias_norm="l3"), "bias_norm = 'l3'")
    with pytest.raises(TypeError, match="beta9"):
        preset(beta9=1.0)
