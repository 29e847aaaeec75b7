"""What is drawn in one step, which batches are refused, and plain flow matching."""

from dataclasses import replace

import pytest
import torch
from tiny import EVERY, FLOAT32, SHAPE, Spy, Tiny, close, column, generator, make, make_draw, normal

from defar_analysis.core.couplings import MinibatchOT
from defar_analysis.core.datasets import Batch
from defar_analysis.core.interpolants import GVP, VP, Linear
from defar_analysis.core.objectives import MDSS, OBJECTIVES, Defar, FlowMatching, InputPerturbation, MixFlow

each_path = pytest.mark.parametrize("path", [Linear(), GVP(), VP()], ids=repr)
each_objective = pytest.mark.parametrize("name", EVERY)


# --- flow matching, and what is drawn ---


@each_path
def test_flow_matching_loss_is_the_mean_squared_error_to_the_pairs_velocity(path):
    draw = make_draw(rows=1)
    point = path.at(draw.noise, draw.data, draw.t0)
    loss = FlowMatching(interpolant=path)(lambda x, t, labels: 0.3 * x + column(t), draw)
    expected = (0.3 * point.x + column(draw.t0) - point.velocity).square().mean()
    close(loss.total, expected, FLOAT32)
    close(loss.terms["fm"], expected, FLOAT32)
    assert loss.forwards == 1 and list(loss.terms) == ["fm"] and not loss.terms["fm"].requires_grad


def test_flow_matching_of_the_pairs_own_velocity_is_zero():
    draw = make_draw(rows=1)
    assert FlowMatching()(lambda x, t, labels: draw.data - draw.noise, draw).total == 0


@pytest.mark.parametrize("objective", [FlowMatching, Defar])
@pytest.mark.parametrize("share", [0.0, 0.1, 1.0])
def test_label_dropout_replaces_its_share_of_the_labels_by_the_null_label(objective, share):
    count = 20_000
    batch = Batch(torch.zeros(count, 1, 1, 1), torch.arange(count) % 10)
    labels = objective(label_dropout=share, null_label=10).draw(batch, generator()).labels
    dropped = labels == 10
    assert abs(dropped.double().mean() - share) <= 5 * (share * (1 - share) / count) ** 0.5
    assert torch.equal(labels[~dropped], batch.labels[~dropped])
    assert labels.dtype == torch.long


def test_dropped_labels_are_the_same_in_every_forward_of_a_step():
    batch = Batch(torch.zeros(64, 1, 2, 2), torch.arange(64) % 4)
    objective = Defar(label_dropout=0.5, null_label=4, steps=3)
    draw, spy = objective.draw(batch, generator()), Spy()
    objective(spy, draw)
    assert len(spy.labels) == 5
    assert all(torch.equal(labels, draw.labels) for labels in spy.labels)
    assert 0 < (draw.labels == 4).sum() < 64


def test_a_batch_without_labels_stays_without():
    draw = Defar(label_dropout=0.5, null_label=4).draw(Batch(torch.zeros(3, 1, 2, 2)), generator())
    assert draw.labels is None


@pytest.mark.parametrize("objective", [FlowMatching(label_dropout=0.3, null_label=4), Defar(steps=2)])
def test_a_draw_is_a_function_of_the_generators_state_alone(objective):
    batch = Batch(torch.zeros(*SHAPE), torch.arange(6) % 4)
    torch.manual_seed(1)
    first = objective.draw(batch, generator(5))
    torch.manual_seed(2)
    before = torch.get_rng_state()
    again = objective.draw(Batch(torch.ones(*SHAPE), batch.labels), generator(5))
    assert torch.equal(before, torch.get_rng_state())
    other = objective.draw(batch, generator(6))
    for name in ("noise", "labels", "times"):
        assert torch.equal(getattr(first, name), getattr(again, name))
    assert first.seed == again.seed != other.seed
    assert not torch.equal(first.noise, other.noise) and not torch.equal(first.times, other.times)


def test_two_draws_from_one_generator_differ():
    batch, source = Batch(torch.zeros(*SHAPE)), generator()
    assert not torch.equal(Defar().draw(batch, source).noise, Defar().draw(batch, source).noise)


def test_a_draw_has_the_shapes_that_the_objective_needs():
    batch = Batch(torch.zeros(*SHAPE, dtype=torch.float64))
    assert FlowMatching().draw(batch, generator()).times.shape == (1, 6)
    draw = Defar(steps=3).draw(batch, generator())
    assert draw.times.shape == (4, 6) and draw.noise.shape == SHAPE and draw.noise.dtype == torch.float64
    assert draw.data is batch.data


@each_objective
def test_every_number_of_a_step_comes_from_the_generator(name):
    """The two batches differ; the global generator is in two states and is not moved."""
    objective = make(name, label_dropout=0.3, null_label=4)
    labels = torch.arange(6) % 4
    torch.manual_seed(1)
    first = objective.draw(Batch(torch.zeros(SHAPE), labels), generator(5))
    torch.manual_seed(2)
    before = torch.get_rng_state()
    again = objective.draw(Batch(normal(*SHAPE).float(), labels), generator(5))
    other = objective.draw(Batch(torch.zeros(SHAPE), labels), generator(6))
    assert torch.equal(before, torch.get_rng_state())
    for field in ("noise", "labels", "times", "perturbation", "subset"):
        a, b, c = (getattr(draw, field) for draw in (first, again, other))
        assert (a is None) == (b is None) == (c is None), field
        if a is not None:
            assert torch.equal(a, b), field
            assert field in ("labels", "subset") or not torch.equal(a, c), field
    assert first.seed == again.seed != other.seed


@each_objective
def test_all_objectives_draw_the_same_noise_and_times_before_anything_of_their_own(name):
    """So that methods can be compared on the same pairs."""
    batch = Batch(torch.zeros(SHAPE))
    plain, draw = FlowMatching().draw(batch, generator()), make(name).draw(batch, generator())
    assert torch.equal(draw.noise, plain.noise)
    if not name.startswith("mixflow"):  # there t0 is the slowed time
        assert torch.equal(draw.t0, plain.t0)
    assert ("ip" in name) == (draw.perturbation is not None)
    assert draw.labels is None


# --- batches that are refused ---


BAD_DATA = [torch.zeros(4, 1, 2, 2, dtype=torch.long), torch.zeros(4), torch.zeros(0, 1, 2, 2)]


@pytest.mark.parametrize("data", BAD_DATA, ids=["integers", "no sample axis", "no samples"])
def test_data_that_is_none_is_refused(data, refuses):
    refuses(lambda: FlowMatching().draw(Batch(data), generator()), "batch.data", data.dtype, tuple(data.shape))


BAD_LABELS = [
    torch.zeros(3, dtype=torch.long),
    torch.zeros(4, 1, dtype=torch.long),
    torch.tensor(0),
    torch.zeros(4),
    torch.zeros(4, dtype=torch.bool),
]


@pytest.mark.parametrize("labels", BAD_LABELS, ids=["too few", "a column", "one for all", "floats", "booleans"])
def test_labels_of_another_shape_or_kind_are_refused(labels, refuses):
    batch = Batch(torch.zeros(4, 1, 2, 2), labels)
    for objective in (FlowMatching(), Defar(null_label=3)):
        refuses(
            lambda objective=objective: objective.draw(batch, generator()),
            "batch.labels", labels.dtype, tuple(labels.shape), "one for each of 4",
        )  # fmt: skip


@each_objective
def test_labels_that_no_class_has_are_refused(name, refuses):
    def draw(labels, **options):
        return make(name, **options).draw(Batch(torch.zeros(3, 1, 2, 2), torch.tensor(labels)), generator())

    refuses(lambda: draw([0, -1, 2]), "-1", "from 0")
    refuses(lambda: draw([0, -2, 2], null_label=3), "-2", "from 0 to 3")
    refuses(lambda: draw([0, 4, 2], null_label=3), "holds 4", "from 0 to 3", "null_label")
    assert draw([0, 400, 2]).labels.tolist() == [0, 400, 2]  # without null_label nobody knows the last class
    assert draw([0, 3, 2], null_label=3).labels.tolist() == [0, 3, 2]  # null itself: a batch may hold it


@pytest.mark.parametrize("dtype", [torch.int32, torch.uint8])
def test_labels_may_be_any_integers(dtype):
    labels = torch.tensor([0, 1, 2], dtype=dtype)
    objective = FlowMatching(label_dropout=1.0, null_label=5)
    assert objective.draw(Batch(torch.zeros(3, 1, 2, 2), labels), generator()).labels.tolist() == [5, 5, 5]


@each_objective
def test_noise_and_data_of_different_shapes_are_refused(name, refuses):
    """As a coupling of one's own might return them."""
    objective = make(name, coupling=lambda noise, data, labels=None: noise[..., :-1])
    refuses(
        lambda: objective(Spy(), objective.draw(Batch(torch.zeros(SHAPE)), generator())),
        "2, 4, 3) and data (", "2, 4, 4) must have one shape",
    )  # fmt: skip


@pytest.mark.parametrize("name", [*OBJECTIVES])
@pytest.mark.parametrize(
    ("wrong", "part"),
    [
        (lambda x: (x, x), "tuple"),
        (lambda x: x[:, :1], "(6, 1, 4, 4)"),
        (lambda x: x.mean(), "()"),
        (lambda x: None, "NoneType"),
    ],
    ids=["tuple", "fewer channels", "scalar", "nothing"],
)
def test_a_model_that_returns_no_velocity_is_refused(name, wrong, part, refuses):
    """Broadcasting would otherwise turn it into a loss."""
    objective = OBJECTIVES[name]()
    draw = objective.draw(Batch(torch.zeros(SHAPE)), generator())
    refuses(lambda: objective(lambda x, t, labels: wrong(x), draw), "the model returned", part, "velocity")


BAD_DROPOUT = [
    ({"label_dropout": 1.5, "null_label": 3}, "label_dropout"),
    ({"label_dropout": -0.1, "null_label": 3}, "label_dropout"),
    ({"label_dropout": float("nan"), "null_label": 3}, "label_dropout"),
    ({"label_dropout": 0.1}, "null_label"),
]


@pytest.mark.parametrize("name", [*OBJECTIVES])
@pytest.mark.parametrize(("options", "word"), BAD_DROPOUT, ids=str)
def test_every_objective_refuses_a_label_dropout_that_is_none(name, options, word, refuses):
    refuses(lambda: OBJECTIVES[name](**options), word)


# --- types ---

WRONG_TYPES = [
    ({"label_dropout": "0.1"}, "label_dropout = '0.1'; float is needed"),
    ({"null_label": 2.5}, "null_label = 2.5; int is needed"),
    ({"null_label": -1}, "null_label must not be negative; got -1"),
    ({"interpolant": "gvp"}, "interpolant = 'gvp'; give one such as Linear()"),
    ({"interpolant": GVP}, "give one such as Linear()"),
    ({"coupling": "ot"}, "coupling = 'ot'; give one such as Independent()"),
    ({"coupling": MinibatchOT}, "give one such as Independent()"),
]


@pytest.mark.parametrize(("options", "message"), WRONG_TYPES, ids=str)
def test_a_value_of_another_type_is_refused_when_the_objective_is_made(options, message, refuses):
    refuses(lambda: FlowMatching(**options), message)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Defar(steps="2"), "steps = '2'; int is needed"),
        (lambda: Defar(adr="yes"), "adr = 'yes'; bool is needed"),
        (lambda: Defar(alpha=None), "alpha = None; float is needed"),
        (lambda: MDSS(2.5), "steps = 2.5; int is needed"),
    ],
)
def test_so_are_an_objectives_own_options(make, message, refuses):
    refuses(make, message)


def test_own_options_may_be_positional():
    assert MixFlow(0.4) == MixFlow(gamma=0.4)
    assert MDSS(3, "exact") == MDSS(steps=3, form="exact")
    assert InputPerturbation(0.2, "state", null_label=3) == InputPerturbation(scale=0.2, space="state", null_label=3)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64])
def test_integer_labels_of_any_width_are_drawn_as_long(dtype):
    labels = torch.tensor([0, 1, 2], dtype=dtype)
    for objective in (FlowMatching(), FlowMatching(label_dropout=1.0, null_label=1000)):
        assert objective.draw(Batch(normal(3, 1, 2, 2), labels), generator()).labels.dtype == torch.long


def test_a_batch_is_a_batch_of_tensors(refuses):
    refuses(lambda: FlowMatching().draw(normal(3, 1, 2, 2), generator()), "Batch(data, labels)", "Tensor")
    refuses(lambda: FlowMatching().draw(Batch(normal(3, 1, 2, 2), [0, 1, 2]), generator()), "batch.labels is a list")


def test_labels_that_do_not_fit_a_hand_made_draw_are_refused(refuses):
    draw = make_draw(rows=1)
    short = replace(draw, labels=torch.tensor([0, 1]))
    refuses(lambda: FlowMatching()(Tiny(), short), "labels (2,)", "(6,)")
