"""SDSS and MDSS: where they are flow matching, where they are each other, and where they walk."""

import itertools
from dataclasses import replace

import pytest
import torch
from tiny import SHAPE, Spy, Tiny, close, column, generator, gradient, make_draw

from defar_analysis.core.interpolants import GVP, VP, Linear
from defar_analysis.core.objectives import MDSS, SDSS, FlowMatching

FORMS = ["amplified", "exact", "constant_velocity"]
each_path = pytest.mark.parametrize("path", [Linear(), GVP(), VP()], ids=repr)
each_form = pytest.mark.parametrize("form", FORMS)


def short_draw(steps=4):
    """Steps so short that `steps` of them end before 0.9."""
    t0, end = make_draw().times
    return replace(make_draw(), times=torch.stack([t0, t0 + (end - t0) / steps]))


def standing_draw():
    """t1 = t0."""
    draw = make_draw()
    return replace(draw, times=draw.times[:1].repeat(2, 1))


def assert_same(objective, other, draw, other_draw=None, tolerance=1e-12):
    """Losses and gradients; tolerance 0 means bit for bit."""
    model = Tiny()
    a, b = objective(model, draw).total, other(model, draw if other_draw is None else other_draw).total
    g, h = gradient(a, model), gradient(b, model)
    if tolerance:
        close(a, b, tolerance)
        close(g, h, tolerance)
    else:
        assert torch.equal(a, b) and torch.equal(g, h)


@each_path
@pytest.mark.parametrize("detach_step", [False, True])
def test_a_step_of_length_zero_is_flow_matching_exactly(path, detach_step):
    fm = FlowMatching(interpolant=path)
    assert_same(SDSS(interpolant=path, detach_step=detach_step), fm, standing_draw(), tolerance=0)
    model = Tiny()
    both = SDSS(interpolant=path, detach_step=detach_step, add_fm=True)(model, standing_draw())
    close(both.total, 2 * fm(model, standing_draw()).total, 1e-15)
    assert both.terms["fm"] == both.terms["sdss"]


@each_path
@each_form
def test_steps_of_length_zero_are_flow_matching_exactly(path, form):
    assert_same(MDSS(interpolant=path, form=form), FlowMatching(interpolant=path), standing_draw(), tolerance=0)


@each_path
def test_one_step_of_mdss_is_sdss(path):
    draw = make_draw()
    sdss = SDSS(interpolant=path)
    assert_same(MDSS(interpolant=path, steps=1, form="amplified"), sdss, draw, tolerance=0)
    assert_same(MDSS(interpolant=path, steps=1, form="constant_velocity"), sdss, draw)
    assert_same(MDSS(interpolant=path, steps=1, form="exact"), replace(sdss, detach_step=True), draw)


@each_path
@pytest.mark.parametrize("steps", [2, 4])
def test_a_constant_velocity_is_sdss_with_a_longer_step(path, steps):
    draw = short_draw(steps)
    t0, t1 = draw.times
    longer = replace(draw, times=torch.stack([t0, t0 + steps * (t1 - t0)]))
    assert_same(MDSS(interpolant=path, steps=steps, form="constant_velocity"), SDSS(interpolant=path), draw, longer)


@pytest.mark.parametrize("steps", [1, 3, 4])
def test_the_exact_form_walks_equal_real_steps_and_learns_at_the_last_state(steps):
    draw, spy, model = short_draw(steps), Spy(Tiny()), Tiny()
    loss = MDSS(steps=steps, form="exact")(spy, draw)
    t0, t1 = draw.times
    close(torch.stack(spy.times), torch.stack([t0 + k * (t1 - t0) for k in range(steps + 1)]))
    assert loss.forwards == len(spy.times) == steps + 1
    x = Linear().at(draw.noise, draw.data, t0).x
    for k in range(steps):
        close(spy.xs[k], x)
        x = x + column(t1 - t0) * model(x, t0 + k * (t1 - t0)).detach()
    close(spy.xs[-1], x)


def test_no_gradient_reaches_through_the_exact_walk():
    draw, model, spy = short_draw(), Tiny(), Spy(Tiny())
    loss = MDSS(form="exact")(spy, draw)
    assert spy.grads == [False] * 4 + [True]
    error = model(spy.xs[-1], spy.times[-1]) - (draw.data - draw.noise)
    close(gradient(loss.total, spy.model), gradient(error.square().mean(), model))


@pytest.mark.parametrize("form", ["amplified", "constant_velocity"])
def test_gradients_reach_through_the_analytic_forms(form):
    spy = Spy(Tiny())
    loss = MDSS(form=form)(spy, short_draw())
    assert spy.grads == [True, True] and loss.forwards == 2
    model, draw = Tiny(), short_draw()
    error = model(spy.xs[-1], spy.times[-1]) - (draw.data - draw.noise)
    through, here = gradient(loss.total, spy.model), gradient(error.square().mean(), model)
    assert (through - here).norm() > 1e-2 * here.norm()


@each_path
@pytest.mark.parametrize("steps", [2, 4])
def test_the_amplified_state_is_drifted_several_times_as_far(path, steps):
    draw, one, many = make_draw(), Spy(Tiny()), Spy(Tiny())
    SDSS(interpolant=path)(one, draw)
    MDSS(interpolant=path, steps=steps)(many, draw)
    ideal = path.at(draw.noise, draw.data, draw.t1).x
    assert torch.equal(many.xs[0], one.xs[0])
    close(many.xs[1], ideal + steps * (one.xs[1] - ideal))
    assert torch.equal(many.times[1], draw.t1)


def test_the_forms_are_different_losses():
    losses = [MDSS(form=form)(Tiny(), short_draw()).total for form in FORMS]
    for a, b in itertools.combinations([*losses, SDSS()(Tiny(), short_draw()).total], 2):
        assert abs(a / b - 1) > 1e-3


@each_path
@each_form
def test_own_draws_reach_as_far_as_sdss_draws_and_no_further(path, form):
    """With float32's rounding; "amplified" takes one step of any length, as SDSS does."""
    steps = 4
    t0, t1 = MDSS(interpolant=path, steps=steps, form=form).draw_times(20_000, generator()).double()
    start, end = SDSS(interpolant=path).draw_times(20_000, generator()).double()
    assert torch.equal(t0, start)
    torch.testing.assert_close(t0 + (1 if form == "amplified" else steps) * (t1 - t0), end, rtol=0, atol=1e-6)
    assert end.max() <= path.interval("train")[1] + 1e-7
    assert (t0 + steps * (t1 - t0) > 1.01).any() == (form == "amplified")


@each_path
@pytest.mark.parametrize("form", FORMS[1:])
def test_steps_that_are_too_long_stop_where_the_path_does(path, form):
    last = path.interval("train")[1]
    times = torch.stack([torch.full((SHAPE[0],), t, dtype=torch.float64) for t in (0.5, 0.8)])
    spy = Spy(Tiny())
    loss = MDSS(interpolant=path, form=form)(spy, replace(make_draw(), times=times))
    assert loss.total.isfinite()
    expected = [0.5, last] if form == "constant_velocity" else [0.5, 0.8, last, last, last]
    assert [t[0].item() for t in spy.times] == pytest.approx(expected, abs=1e-12)


def test_sdss_learns_the_pairs_velocity_at_the_later_time():
    """On a curved path the two ends of a step have different velocities."""
    draw, path, model = make_draw(), GVP(), Tiny()
    start, end = (path.at(draw.noise, draw.data, t) for t in draw.times)
    v_hat = model(start.x + column(draw.t1 - draw.t0) * model(start.x, draw.t0), draw.t1)
    loss = SDSS(interpolant=path)(model, draw).total
    close(loss, (v_hat - end.velocity).square().mean())
    assert abs(loss / (v_hat - start.velocity).square().mean() - 1) > 1e-2


def test_terms_of_sdss():
    draw, model = make_draw(), Tiny()
    plain, both = SDSS()(model, draw), SDSS(add_fm=True)(model, draw)
    assert {*plain.terms} == {"sdss"} and {*both.terms} == {"sdss", "fm"}
    assert torch.equal(both.terms["sdss"], plain.terms["sdss"])
    close(both.terms["fm"], FlowMatching()(model, draw).total)
    close(both.total, both.terms["sdss"] + both.terms["fm"])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"steps": 0}, "steps must be at least 1; got 0"),
        ({"form": "approximate"}, "form = 'approximate'; choose from 'amplified', 'exact', 'constant_velocity'"),
    ],
    ids=str,
)
def test_bad_options_are_refused(options, words, refuses):
    refuses(lambda: MDSS(**options), words)


@pytest.mark.parametrize("objective", [SDSS(), MDSS()], ids=lambda o: type(o).__name__)
def test_a_single_time_is_refused(objective, refuses):
    refuses(lambda: objective(Tiny(), make_draw(rows=1)), "two times", "(1, 6)", "own draw()")


@pytest.mark.parametrize("form", ["amplified", "exact", "constant_velocity"])
def test_mdss_makes_its_own_steps_out_of_two_times(form, refuses):
    for rows in (1, 3):
        refuses(lambda n=rows: MDSS(form=form)(Tiny(), make_draw(rows=n)), "two times", f"({rows}, 6)")
