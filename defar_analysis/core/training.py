"""One readable training loop, for every objective. `python -m defar_analysis.core.training recipe.toml` runs it.

Step n draws its images, flips, noise, times and labels from a generator seeded by (seed, n), so a run resumed at step n
is bit for bit the run that was never stopped. A run's folder holds recipe.toml, log.jsonl, the newest states
(core/states.py), and in the end checkpoint/.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from contextlib import ExitStack, nullcontext
from pathlib import Path

import torch
from torch import nn

from ..errors import DefarError, Interrupted, one_line
from ..files import alone
from .checkpoints import Card, save_checkpoint
from .devices import hardware, keep_heap, resolve_device, works_apart
from .ema import Ema
from .latents import LatentDataset
from .objectives import Encoder, LossTerms, Objective
from .parallel import ALONE, Processes, joined, without_exchange
from .recipes import Recipe, TrainingData, load_recipe
from .recompute import recompute_blocks
from .rollout import Draw
from .runs import (
    CHECKPOINT,
    LOG,
    append_log,
    claim,
    cut_log,
    holds_checkpoint,
    progress,
    stop_requests,
)
from .scales import SCALES
from .seeding import derive_seed
from .starting import begin_with
from .states import newest_state, restore, save_state, saved_states
from .step_draws import DrawsAhead, StepDraws
from .step_values import StepValues


def train(
    recipe: Recipe,
    folder: Path,
    *,
    device: str = "cpu",
    data_root: Path | None = None,
    encoder: Encoder | None = None,
) -> Path:
    """Train `recipe` in `folder`, going on where an earlier call stopped; returns the checkpoint's folder.

    encoder: the frozen network that the recipe's [objective.alignment] names, where it has one; on the same device.
    Raises DefarError when the folder holds another recipe's run, when a loss term is not finite (the last good state
    stays), where another process trains in it, and Interrupted, after saving, on Ctrl-C or SIGTERM.
    """
    folder = Path(folder)
    with ExitStack() as stack:
        processes, where = stack.enter_context(joined(device))
        if processes.first:
            stack.enter_context(alone(folder, "wait, or give another --out"))
        dataset = recipe.open_data(data_root)
        begun = bool(saved_states(folder))
        run = TrainingRun(recipe, dataset, where, processes, begun=begun, encoder=encoder)
        if where.type == "cpu":
            keep_heap()
        if processes.first:
            claim(folder, recipe)
            run.resume(folder)
        processes.wait()  # until what was corrupt is set aside
        if not processes.first:
            run.resume(folder)
        if run.step == recipe.steps and holds_checkpoint(folder):
            if processes.first:
                print(f"{folder}: already trained for {run.step} steps", file=sys.stderr)
            return folder / CHECKPOINT
        run.to_the_end(folder)
        if processes.first:
            save_checkpoint(folder / CHECKPOINT, run.ema.model, run.card())
        processes.wait()
    return folder / CHECKPOINT


class TrainingRun:
    """The network, its average and its optimizer at one step of a recipe.

    Each process draws the whole batch of a step and trains on its own parts of it, so that a step is the same for any
    number of processes. begun: a saved state will be loaded next, so the checkpoint that the run once started from is
    not needed again.
    """

    def __init__(
        self,
        recipe: Recipe,
        dataset: TrainingData,
        device: torch.device | str = "cpu",
        processes: Processes = ALONE,
        *,
        begun: bool = False,
        encoder: Encoder | None = None,
    ) -> None:
        self.recipe, self.dataset, self.device = recipe, dataset, resolve_device(str(device))
        self.processes = processes
        torch.manual_seed(derive_seed(recipe.seed, "initialization"))
        self.started_from: dict[str, str] = {}
        data = dataset.spec
        self.model = recipe.build_network(data).to(self.device).train()
        if recipe.init_from is not None and not begun:
            self.started_from = begin_with(self.model, recipe, Path(recipe.init_from))
        self.warmup: Objective = recipe.build_objective(data, step=0)
        self.objective: Objective = recipe.build_objective(data, step=recipe.steps)
        if (aligning := recipe.alignment) is not None:  # last: the network begins as it would without
            self.model = aligning.network(self.model).to(self.device).train()
            self.warmup, self.objective = (aligning.objective(o, encoder) for o in (self.warmup, self.objective))
        self.ema = Ema(self.model, recipe.ema_decay, recipe.steps)
        if recipe.recompute_blocks:
            recompute_blocks(self.model)
        self.shared = processes.shared(self.model, self.device)
        self.forward = torch.compile(self.shared) if recipe.compile else self.shared
        o = recipe.optimizer
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.Adam(self.parameters, lr=o.lr, betas=tuple(o.betas), weight_decay=o.weight_decay)
        self.step, self.seconds, self.forwards_per_step = 0, 0.0, 0
        self.window: list[dict[str, float]] = []  # steps that the log does not hold yet
        draws = StepDraws(recipe, dataset, self.objective_of, pinned=self.device.type == "cuda")
        self.draws = DrawsAhead(draws, recipe.steps) if works_apart(self.device) else draws

    def objective_of(self, step: int) -> Objective:
        """What step `step` trains with, counted from 0."""
        return self.warmup if step < self.recipe.flow_matching_steps else self.objective

    def to_the_end(self, folder: Path) -> None:
        """All steps that are left, logged and saved in `folder` by the first process. Raises Interrupted, saved."""
        recipe, first = self.recipe, self.processes.first
        if first:
            cut_log(folder / LOG, self.step)
        with stop_requests() as stop, progress(recipe, self.step, shown=first) as bar:
            latest = None
            while self.step < recipe.steps:
                before, latest = latest, self.launch()
                if before is not None:  # read late: the device has the next step to compute meanwhile
                    self.window.append(self.read(before))
                bar.update()
                ends = self.step == recipe.steps
                stopping = self.processes.any(stop.requested)
                logs, saves = (ends or self.step % every == 0 for every in (recipe.log_every, recipe.save_every))
                if logs or saves or stopping:
                    self.window.append(self.read(latest))
                    latest = None
                if logs:
                    last = self.window[-1].keys()  # no mean over two objectives
                    window = [w for w in self.window if w.keys() == last]
                    record = {key: sum(w[key] for w in window) / len(window) for key in window[0]}
                    if first:
                        append_log(folder / LOG, {"step": self.step, **record, "seconds": round(self.seconds, 3)})
                    bar.set_postfix(loss=f"{record['loss']:.4f}")
                    self.window = []
                if first and (saves or stopping):
                    self.save(folder)
                if stopping and not ends:
                    raise Interrupted(f"stopped at step {self.step} of {recipe.steps}, saved; the same command goes on")

    def advance(self) -> dict[str, float]:
        """One optimizer step; returns its loss, loss terms and gradient norm."""
        return self.read(self.launch())

    def launch(self) -> StepValues:
        """One optimizer step, which an accelerator may still be computing when this returns."""
        started = time.perf_counter()
        recipe = self.recipe
        for group in self.optimizer.param_groups:
            group["lr"] = recipe.optimizer.lr * min(1.0, (self.step + 1) / max(1, recipe.optimizer.warmup))
        draw = self.draws(self.step)
        self.optimizer.zero_grad(set_to_none=True)
        losses = [self._backward(draw, part) for part in range(recipe.accumulate)]
        norm = nn.utils.clip_grad_norm_(self.parameters, recipe.optimizer.clip)
        self.optimizer.step()
        self.ema.update(self.model, self.step)
        self.step += 1
        self.forwards_per_step = losses[0].forwards
        values = StepValues.of(self.step, losses, norm, self.processes)
        self.seconds += time.perf_counter() - started
        return values

    def read(self, values: StepValues) -> dict[str, float]:
        """What launch returned, once it is there. Raises DefarError where a value is not finite."""
        started = time.perf_counter()
        found = values.read()
        self.seconds += time.perf_counter() - started
        return found

    def _backward(self, draw: Draw, part: int) -> LossTerms:
        """Loss and gradients of one of this process's parts of a step; the last one's backward pass exchanges them."""
        recipe, parts = self.recipe, self.processes.size * self.recipe.accumulate
        if parts > 1:
            draw = draw.part(self.processes.rank * recipe.accumulate + part, parts)
        autocast = torch.autocast(self.device.type, torch.bfloat16) if recipe.precision == "bf16" else nullcontext()
        with without_exchange(self.shared, part + 1 < recipe.accumulate):
            with autocast:
                loss = self.objective_of(self.step)(self.forward, draw.to(self.device))
            (loss.total / recipe.accumulate).backward()
        return loss

    def save(self, folder: Path) -> None:
        """Write the state; the newest `keep_states` stay. Raises DefarError where a weight is not finite."""
        state = {
            "step": self.step,
            "seconds": self.seconds,
            "forwards_per_step": self.forwards_per_step,
            "window": self.window,
            "data_sha256": self.dataset.hash,
            "started_from": self.started_from,
            "model": self.model.state_dict(),
            "ema": self.ema.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        save_state(folder, state, self.recipe.keep_states)

    def resume(self, folder: Path) -> None:
        """Go on from the newest whole state in `folder`, if there is one. Raises DefarError as newest_state does."""
        state = newest_state(folder, self.device, self.dataset.hash)
        if state is None:
            return
        restore(state, folder, model=self.model, ema=self.ema.model, optimizer=self.optimizer)
        self.step, self.seconds = state["step"], state["seconds"]
        self.forwards_per_step, self.window = state.get("forwards_per_step", 0), state.get("window", [])
        self.started_from = state.get("started_from", {})

    def card(self) -> Card:
        """The card of the averaged weights."""
        recipe = dataclasses.asdict(self.recipe)
        training = {
            "steps": self.step,
            "seconds": round(self.seconds, 1),
            "forwards_per_step": self.forwards_per_step,
            "hardware": hardware(self.device),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "recipe": recipe,
        }
        if self.started_from:
            training["started_from"] = self.started_from
        data = {
            "name": self.dataset.name,
            "split": self.recipe.data.split,
            "sha256": self.dataset.hash,
            "classes": self.recipe.classes(self.dataset.spec),
            "class_conditional": self.recipe.data.class_conditional,
        }
        codec = self.dataset.codec if isinstance(self.dataset, LatentDataset) else "pixel"
        return Card(self.recipe.name, "ema", "", {}, self.recipe.interpolant, codec, data, training)


def main(arguments: list[str] | None = None) -> int:
    """`python -m defar_analysis.core.training RECIPE [--out DIR] [--device D] [--scale S] [--set KEY=VALUE ...]`"""
    parser = argparse.ArgumentParser(prog="python -m defar_analysis.core.training", description=__doc__.splitlines()[0])
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--out", type=Path, help="the run's folder (default: runs/NAME)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a key of the recipe")
    parser.add_argument("--scale", choices=("paper", *SCALES), default="paper", help="a smaller version of the recipe")
    options = parser.parse_args(arguments)
    try:
        recipe = load_recipe(options.recipe, options.set, options.scale)
        print(train(recipe, options.out or Path("runs") / recipe.name, device=options.device))
    except Interrupted as error:
        print(error, file=sys.stderr)
        return 130
    except DefarError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
