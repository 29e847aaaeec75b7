"""What a network is trained to minimize. An objective draws all of its randomness first, then computes its loss:

loss = objective(model, objective.draw(batch, generator)).total
"""

from .base import LossTerms, Objective
from .defar import Defar, compensation_weight
from .flow_matching import FlowMatching

OBJECTIVES = {"flow_matching": FlowMatching, "defar": Defar}

__all__ = ["OBJECTIVES", "Defar", "FlowMatching", "LossTerms", "Objective", "compensation_weight"]
