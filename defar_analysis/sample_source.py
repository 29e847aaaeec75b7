"""Images of a checkpoint under a plan, chunk by chunk: what sampling writes to files and an evaluation looks at."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from .core.checkpoints import Checkpoint
from .core.samplers import sample
from .core.seeding import balanced_labels, image_noise, random_labels, sde_generators
from .errors import DefarError
from .sample_plans import PRECISIONS, Plan, Sampler, sampler_for


@dataclass(frozen=True)
class ImageSource:
    """A checkpoint under a plan: chunk(start) are the images from `start` on, uint8 (n, H, W, C), and their cost."""

    loaded: Checkpoint
    plan: Plan
    device: torch.device

    @cached_property
    def sampler(self) -> Sampler:
        return sampler_for(self.plan, self.loaded, self.device)

    @cached_property
    def labels(self) -> torch.Tensor | None:
        plan, classes, indices = self.plan.labels, self.loaded.classes, range(self.plan.count)
        choices = "balanced, random" if classes is None else f"balanced, random or a class from 0 to {classes - 1}"
        if isinstance(plan, str) and plan not in ("balanced", "random"):
            raise DefarError(f"labels = {plan!r}; choose from {choices}")
        if isinstance(plan, int) and classes is None:
            raise DefarError(
                f"labels = {plan}: {self.loaded.card.name} was trained without classes; leave --labels out"
            )
        if classes is None:
            return None
        if isinstance(plan, int):
            if not 0 <= plan < classes:
                raise DefarError(f"labels = {plan}; choose from {choices}")
            return torch.full((self.plan.count,), plan)
        return (
            balanced_labels(indices, classes) if plan == "balanced" else random_labels(self.plan.seed, indices, classes)
        )

    @property
    def command(self) -> dict[str, Any]:
        """All that the images depend on, as plain values."""
        plan, card, settings = self.plan, self.loaded.card, dict(self.sampler.settings)
        return {
            "checkpoint": card.name, "sha256": card.sha256, "interpolant": repr(self.loaded.interpolant),
            "codec": self.loaded.codec.identity, "solver": repr(plan.solver), "guidance": settings.pop("guidance"),
            "seed": plan.seed, "labels": None if self.labels is None else plan.labels, "count": plan.count,
            "chunk": plan.chunk, "device": self.device.type,
        } | settings | ({} if plan.precision == "float32" else {"precision": plan.precision})  # fmt: skip

    @property
    def starts(self) -> range:
        return range(0, self.plan.count, self.plan.chunk)

    def part(self, start: int) -> range:
        return range(start, min(start + self.plan.chunk, self.plan.count))

    def chunk(self, start: int) -> tuple[np.ndarray, int, int]:
        part, plan = self.part(start), self.plan
        labels = None if self.labels is None else self.labels[start : part.stop].to(self.device)
        generators = sde_generators(plan.seed, part) if plan.solver.draws_noise else None
        try:
            drawn = sample(
                self.sampler.field, image_noise(plan.seed, part, self.loaded.shape).to(self.device), plan.solver,
                interpolant=self.loaded.interpolant, labels=labels, generators=generators, chunk=plan.chunk,
                correction=self.sampler.correction, network_dtype=PRECISIONS[plan.precision],
            )  # fmt: skip
        except DefarError as error:
            raise DefarError(f"in the chunk from image {start}: {error}" if start else str(error)) from None
        return self.loaded.codec.decode(drawn.x).permute(0, 2, 3, 1).cpu().numpy(), drawn.nfe, drawn.forwards
