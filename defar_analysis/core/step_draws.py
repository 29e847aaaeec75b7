"""All that is random in a training step: images, flips, noise, times, labels; a function of the seed and the step."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

from .datasets import Batch
from .latents import LatentDataset
from .objectives import Objective
from .recipes import Recipe, TrainingData
from .rollout import Draw
from .seeding import generator_for


class StepDraws:
    """draws(step): the draw of step `step`, for the whole batch, on the CPU; pinned: in page-locked memory.

    Its generator is seeded by (seed, step), so the draws may be asked for in any order. objective_of: what a step
    trains with.
    """

    def __init__(
        self, recipe: Recipe, dataset: TrainingData, objective_of: Callable[[int], Objective], *, pinned: bool = False
    ) -> None:
        self._recipe, self._dataset, self._objective_of, self._pinned = recipe, dataset, objective_of, pinned
        self._epoch, self._order = -1, torch.empty(0)

    def __call__(self, step: int) -> Draw:
        generator = generator_for(self._recipe.seed, "step", step)
        draw = self._objective_of(step).draw(self._batch(step, generator), generator)
        return draw.pinned() if self._pinned else draw

    def _batch(self, step: int, generator: torch.Generator) -> Batch:
        """Batch `step` of an endless stream of epochs, each a permutation of the data set of its own."""
        recipe, size = self._recipe, len(self._dataset)
        places = torch.arange(step * recipe.global_batch, (step + 1) * recipe.global_batch)
        epochs, offsets = places // size, places % size
        indices = torch.cat([self._permutation(int(e))[offsets[epochs == e]] for e in epochs.unique()])
        flip = torch.rand(recipe.global_batch, generator=generator) < 0.5 if recipe.data.horizontal_flip else None
        sampled = {"generator": generator} if isinstance(self._dataset, LatentDataset) else {}  # of their posteriors
        batch = self._dataset.batch(indices, flip=flip, **sampled)
        return batch if recipe.data.class_conditional else dataclasses.replace(batch, labels=None)

    def _permutation(self, epoch: int) -> Tensor:
        if self._epoch != epoch:
            generator = generator_for(self._recipe.seed, "epoch", epoch)
            self._epoch, self._order = epoch, torch.randperm(len(self._dataset), generator=generator)
        return self._order


class DrawsAhead:
    """The same draws for steps that follow one another: a thread makes the next while an accelerator computes this.

    draws must depend on its argument alone; it never runs twice at once. What it raises is raised where that step is
    asked for. No step from `end` on is made ahead.
    """

    def __init__(self, draws: Callable[[int], Draw], end: int) -> None:
        self._draws, self._end = draws, end
        self._thread = ThreadPoolExecutor(1, "draws")
        self._begun: tuple[int, Future[Draw]] | None = None

    def __call__(self, step: int) -> Draw:
        begun, self._begun = self._begun, None
        if begun is None or begun[0] != step:  # the first one, or a run that went on elsewhere
            begun = step, self._thread.submit(self._draws, step)
        draw = begun[1].result()
        if step + 1 < self._end:
            self._begun = step + 1, self._thread.submit(self._draws, step + 1)
        return draw
