"""What a network is trained to minimize. An objective draws all of its randomness first, then computes its loss:

loss = objective(model, objective.draw(batch, generator)).total
"""

from .alignment import Aligning, Alignment, Encoder, projection_loss
from .base import LossTerms, Objective
from .defar import PRESETS, Defar, reflexflow, simpletuner, strong
from .flow_matching import FlowMatching
from .input_perturbation import InputPerturbation
from .mixflow import MIXFLOW_GAMMA, MixFlow
from .scheduled_sampling import MDSS, SDSS
from .weights import compensation_weight

OBJECTIVES = {
    "flow_matching": FlowMatching,
    "input_perturbation": InputPerturbation,
    "sdss": SDSS,
    "mdss": MDSS,
    "defar": Defar,
    "mixflow": MixFlow,
}

__all__ = [
    "MDSS", "MIXFLOW_GAMMA", "OBJECTIVES", "PRESETS", "SDSS", "Aligning", "Alignment", "Defar", "Encoder",
    "FlowMatching", "InputPerturbation", "LossTerms", "MixFlow", "Objective", "compensation_weight",
    "projection_loss", "reflexflow", "simpletuner", "strong",
]  # fmt: skip
