"""What the tests of the objectives share: a tiny batch, a tiny model, every objective by name, and shorthands."""

import torch
from torch import nn

from defar_analysis.core.objectives import (
    MDSS,
    SDSS,
    Defar,
    FlowMatching,
    InputPerturbation,
    MixFlow,
    reflexflow,
    strong,
)
from defar_analysis.core.rollout import Draw

SHAPE = (6, 2, 4, 4)
FLOAT32 = 2e-6  # objectives reduce in float32 where the data is float32

# Every objective, and every option that changes which forwards it makes: for what must hold of all of them.
EVERY = {
    "flow_matching": (FlowMatching, {}),
    "ip": (InputPerturbation, {}),
    "ip_state": (InputPerturbation, {"space": "state"}),
    "sdss": (SDSS, {}),
    "sdss_detached": (SDSS, {"detach_step": True}),
    "sdss_with_fm": (SDSS, {"add_fm": True}),
    "mdss_amplified": (MDSS, {}),
    "mdss_exact": (MDSS, {"form": "exact"}),
    "mdss_constant_velocity": (MDSS, {"form": "constant_velocity"}),
    "mixflow": (MixFlow, {}),
    "mixflow_nominal": (MixFlow, {"target_time": "nominal"}),
    "mixflow_anywhere": (MixFlow, {"nominal_law": "uniform", "slowed_law": "anywhere"}),
    "defar": (Defar, {}),
    "defar_weight_grad": (Defar, {"weight_grad": "both"}),
    "defar_weight_grad_v_hat": (Defar, {"adr": False, "weight_grad": "v_hat", "bias_norm": "max"}),
    "defar_element_mean": (Defar, {"weight_grad": "both", "bias_map": "element", "bias_norm": "mean"}),
    "defar_adr_only": (Defar, {"fc": False}),
    "defar_fc_only": (Defar, {"adr": False}),
    "defar_straight": (Defar, {"direction": "straight"}),
    "defar_not_normalized": (Defar, {"normalize": "none"}),
    "defar_rescaled": (Defar, {"normalize": "rescale"}),
    "defar_straight_rescaled": (Defar, {"direction": "straight", "normalize": "rescale"}),
    "defar_low_pass": (Defar, {"weight_source": "low_pass"}),
    "defar_high_pass_fc_only": (Defar, {"weight_source": "high_pass", "adr": False}),
    "defar_image": (Defar, {"weight_source": "image"}),
    "defar_noise": (Defar, {"weight_source": "noise"}),
    "defar_two_steps": (Defar, {"steps": 2}),
    "defar_three_equal_steps": (Defar, {"steps": 3, "spacing": "equal", "detach_step": True}),
    "defar_sampled": (Defar, {"sampled_fraction": 0.5}),
    "defar_bias_fraction": (Defar, {"bias_fraction": 0.5}),
    "reflexflow": (reflexflow, {"sampled_fraction": 0.5}),
    "strong": (strong, {}),
}


def make(name, **options):
    """The objective EVERY[name], with further options."""
    cls, own = EVERY[name]
    return cls(**{**own, **options})


def close(actual, expected, tolerance=1e-12):
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance, check_dtype=False)


def normal(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def make_draw(rows=2, seed=0):
    times = torch.rand(rows, SHAPE[0], dtype=torch.float64, generator=generator(seed)).sort(dim=0).values * 0.9
    return Draw(normal(*SHAPE, seed=1), normal(*SHAPE, seed=2), None, times, None, normal(*SHAPE, seed=3))


def column(t):
    return t[:, None, None, None]


def gradient(loss, model):
    """d loss / d parameters as one vector."""
    parts = torch.autograd.grad(loss, [p for p in model.parameters() if p.requires_grad], allow_unused=True)
    return torch.cat([g.flatten() for g in parts if g is not None])


class Tiny(nn.Module):
    """v(x, t) = tanh(mix(x)) (1 + t): not linear in x, float64, four weights; odd in x."""

    def __init__(self):
        super().__init__()
        self.mix = nn.Parameter(torch.tensor([[0.9, -0.4], [0.3, 0.7]], dtype=torch.float64))

    def forward(self, x, t, labels=None):
        return torch.einsum("oc,bchw->bohw", self.mix, x).tanh() * (1 + column(t))


class Spy:
    """v = x, or that of `model`; keeps x, t, labels and whether autograd was on, of every call."""

    def __init__(self, model=None):
        self.model, self.xs, self.times, self.labels, self.grads = model, [], [], [], []

    def __call__(self, x, t, labels=None):
        self.xs.append(x.detach().clone())
        self.times.append(t)
        self.labels.append(labels)
        self.grads.append(torch.is_grad_enabled())
        return x if self.model is None else self.model(x, t, labels)
