"""The small trainings beside the velocity network's, of an autoencoder or a discriminator: stopped, they go on."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import DefarError, Interrupted
from .ema import Ema
from .runs import LOG, append_log, cut_log, progress
from .seeding import derive_seed
from .states import newest_state, restore, save_state


class SideRun:
    """A network, its average and its optimizer at one step of a recipe (steps, seed, ema_decay, optimizer, ...).

    A subclass gives `loss(step)`, that step's values by name, "loss" the one to differentiate. trained_on: the hash of
    the data, which a saved state must share; None where something else sees to it.
    """

    restart = "remove it to start again"  # what to do where no state is whole

    def __init__(self, recipe: Any, model: nn.Module, device: torch.device, trained_on: str | None = None) -> None:
        self.recipe, self.device, self.trained_on = recipe, device, trained_on
        self.model = model.to(device).train()
        self.ema = Ema(self.model, recipe.ema_decay, recipe.steps)
        o = recipe.optimizer
        self.optimizer = torch.optim.Adam(
            self.model.parameters(), lr=o.lr, betas=tuple(o.betas), weight_decay=o.weight_decay
        )
        self.step, self.seconds = 0, 0.0

    @staticmethod
    def seed_initialization(seed: int) -> None:
        """Before the network is made: its first weights depend on the recipe's seed alone."""
        torch.manual_seed(derive_seed(seed, "initialization"))

    def loss(self, step: int) -> dict[str, Tensor]:
        raise NotImplementedError

    def rate(self) -> float:
        """The learning rate of the coming step: constant, after a linear warm-up."""
        o = self.recipe.optimizer
        return o.lr * min(1.0, (self.step + 1) / max(1, o.warmup))

    def advance(self) -> dict[str, float]:
        """One optimizer step; returns its values. Raises DefarError where they are not finite."""
        started = time.perf_counter()
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate()
        values = self.loss(self.step)
        self.optimizer.zero_grad(set_to_none=True)
        values["loss"].backward()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.optimizer.clip)
        if not bool(torch.isfinite(values["loss"].detach() + norm)):
            raise DefarError(f"step {self.step + 1}: the loss is not finite; try a lower optimizer.lr in another --out")
        self.optimizer.step()
        self.ema.update(self.model, self.step)
        self.step += 1
        self.seconds += time.perf_counter() - started
        return {name: float(value.detach()) for name, value in values.items()}

    def to_the_end(self, folder: Path, stop: Any) -> None:
        """All steps that are left, logged and saved in `folder`. Raises Interrupted, saved, once `stop.requested`."""
        recipe = self.recipe
        cut_log(folder / LOG, self.step)
        with progress(recipe, self.step) as bar:
            while self.step < recipe.steps:
                values = self.advance()
                bar.update()
                if self.step % recipe.log_every == 0 or self.step == recipe.steps:
                    append_log(folder / LOG, {"step": self.step, **values, "seconds": round(self.seconds, 3)})
                    bar.set_postfix(loss=f"{values['loss']:.4f}")
                if stop.requested or self.step % recipe.save_every == 0 or self.step == recipe.steps:
                    self.save(folder)
                if stop.requested and self.step < recipe.steps:
                    raise Interrupted(f"stopped at step {self.step} of {recipe.steps}, saved; the same command goes on")

    def save(self, folder: Path) -> None:
        """Write the state. Raises DefarError where a weight is not finite."""
        parts = {"model": self.model, "ema": self.ema.model, "optimizer": self.optimizer}
        state = {"step": self.step, "seconds": self.seconds, "data_sha256": self.trained_on}
        save_state(folder, state | {key: part.state_dict() for key, part in parts.items()})

    def resume(self, folder: Path) -> None:
        """Go on from the newest whole state, if there is one. Raises DefarError as newest_state does."""
        state = newest_state(folder, self.device, self.trained_on, self.restart)
        if state is None:
            return
        restore(state, folder, model=self.model, ema=self.ema.model, optimizer=self.optimizer)
        self.step, self.seconds = state["step"], state["seconds"]
