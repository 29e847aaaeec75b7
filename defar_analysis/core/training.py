"""One readable training loop, for every objective. `python -m defar_analysis.core.training recipe.toml` runs it.

Step n draws its images, flips, noise, times and labels from a generator seeded by (seed, n), so a run resumed at step n
is bit for bit the run that was never stopped. A run's folder holds recipe.toml, log.jsonl, state.pt (and the previous
one), and in the end checkpoint/.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import platform
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import torch
from torch import nn

from ..errors import DefarError, Interrupted, one_line
from ..files import replaced
from .checkpoints import Card, load_checkpoint, save_checkpoint
from .devices import keep_heap, resolve_device
from .ema import Ema
from .objectives import LossTerms, Objective
from .recipes import Recipe, TrainingData, load_recipe
from .runs import (
    CHECKPOINT,
    LOG,
    PREVIOUS,
    STATE,
    append_log,
    claim,
    cut_log,
    holds_checkpoint,
    progress,
    stop_requests,
)
from .scales import SCALES
from .seeding import derive_seed, generator_for


def train(recipe: Recipe, folder: Path, *, device: str = "cpu", data_root: Path | None = None) -> Path:
    """Train `recipe` in `folder`, going on where an earlier call stopped; returns the checkpoint's folder.

    Raises DefarError when the folder holds another recipe's run, when a loss term is not finite (the last good state
    stays), and Interrupted, after saving, on Ctrl-C or SIGTERM.
    """
    folder = Path(folder)
    dataset = recipe.open_data(data_root)
    begun = any((folder / name).exists() for name in (STATE, PREVIOUS))
    run = TrainingRun(recipe, dataset, device, begun=begun)
    if run.device.type == "cpu":
        keep_heap()
    claim(folder, recipe)
    run.resume(folder)
    if run.step == recipe.steps and holds_checkpoint(folder):
        print(f"{folder}: already trained for {run.step} steps", file=sys.stderr)
        return folder / CHECKPOINT
    cut_log(folder / LOG, run.step)
    with stop_requests() as stop, progress(recipe, run.step) as bar:
        while run.step < recipe.steps:
            run.window.append(run.advance())
            bar.update()
            if run.step % recipe.log_every == 0 or run.step == recipe.steps:
                window = [w for w in run.window if w.keys() == run.window[-1].keys()]  # no mean over two objectives
                record = {key: sum(w[key] for w in window) / len(window) for key in window[0]}
                append_log(folder / LOG, {"step": run.step, **record, "seconds": round(run.seconds, 3)})
                bar.set_postfix(loss=f"{record['loss']:.4f}")
                run.window = []
            if stop.requested or run.step % recipe.save_every == 0 or run.step == recipe.steps:
                run.save(folder)
            if stop.requested and run.step < recipe.steps:
                raise Interrupted(f"stopped at step {run.step} of {recipe.steps}, saved; the same command goes on")
    return save_checkpoint(folder / CHECKPOINT, run.ema.model, run.card())


class TrainingRun:
    """The network, its average and its optimizer at one step of a recipe.

    begun: a saved state will be loaded next, so the checkpoint that the run once started from is not needed again.
    """

    def __init__(self, recipe: Recipe, dataset: TrainingData, device: str = "cpu", *, begun: bool = False) -> None:
        self.recipe, self.dataset, self.device = recipe, dataset, resolve_device(str(device))
        torch.manual_seed(derive_seed(recipe.seed, "initialization"))
        self.started_from: dict[str, str] = {}
        data = dataset.spec
        self.model = recipe.build_network(data).to(self.device).train()
        if recipe.init_from is not None and not begun:
            self._start_from(Path(recipe.init_from))
        self.forward = torch.compile(self.model) if recipe.compile else self.model
        self.warmup: Objective = recipe.build_objective(data, step=0)
        self.objective: Objective = recipe.build_objective(data, step=recipe.steps)
        self.ema = Ema(self.model, recipe.ema_decay, recipe.steps)
        o = recipe.optimizer
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.Adam(self.parameters, lr=o.lr, betas=tuple(o.betas), weight_decay=o.weight_decay)
        self.step, self.seconds, self.forwards_per_step = 0, 0.0, 0
        self.window: list[dict[str, float]] = []  # steps that the log does not hold yet
        self._epoch, self._order = -1, torch.empty(0)

    def _start_from(self, folder: Path) -> None:
        """Post-training: begin with a checkpoint's averaged weights, of the same network on the same path.

        A training without labels may begin with a conditional one: it goes on from what that does without a label.
        """
        try:
            start = load_checkpoint(folder)
        except DefarError as error:
            raise DefarError(f"init_from: {error}") from None
        ours, theirs = self.model.config, start.model.config
        weights, unlabelled = start.model.state_dict(), {}
        if not self.recipe.data.class_conditional and start.classes is not None:
            trained = start.card.training.get("recipe")  # a card from elsewhere may have none
            if trained and not trained["objective"].get("label_dropout", 0):
                raise DefarError(
                    f"init_from = {folder}: was trained with label_dropout = 0, its null label never; start a training "
                    "without labels from one that was trained with some, such as 0.1"
                )
            weights, theirs = start.model.without_labels(ours["num_classes"])
            unlabelled = {"labels": "none: its null label for every image"}
        other = [f"{key} {theirs.get(key)} instead of {ours[key]}" for key in ours if ours[key] != theirs.get(key)]
        if start.card.interpolant != self.recipe.interpolant:
            other.append(f"interpolant {start.card.interpolant} instead of {self.recipe.interpolant}")
        if other:
            raise DefarError(f"init_from = {folder}: is another network: {', '.join(other)}")
        self.model.load_state_dict(weights)
        self.started_from = {"checkpoint": start.card.name, "sha256": start.card.sha256, **unlabelled}

    def advance(self) -> dict[str, float]:
        """One optimizer step; returns its loss, loss terms and gradient norm."""
        started = time.perf_counter()
        recipe = self.recipe
        for group in self.optimizer.param_groups:
            group["lr"] = recipe.optimizer.lr * min(1.0, (self.step + 1) / max(1, recipe.optimizer.warmup))
        generator = generator_for(recipe.seed, "step", self.step)
        objective = self.warmup if self.step < recipe.flow_matching_steps else self.objective
        draw = objective.draw(self._batch(generator), generator)
        autocast = torch.autocast(self.device.type, torch.bfloat16) if recipe.precision == "bf16" else nullcontext()
        with autocast:
            loss = objective(self.forward, draw)
        self.optimizer.zero_grad(set_to_none=True)
        loss.total.backward()
        norm = nn.utils.clip_grad_norm_(self.parameters, recipe.optimizer.clip)
        values = self._finite(loss, norm)
        self.optimizer.step()
        self.ema.update(self.model, self.step)
        self.step += 1
        self.seconds += time.perf_counter() - started
        return values

    def save(self, folder: Path) -> None:
        """Write the state beside and rename; the one before it stays as state-previous.pt."""
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
        with replaced(folder / STATE) as beside:
            torch.save(state, beside)
            if (folder / STATE).exists():
                (folder / STATE).replace(folder / PREVIOUS)

    def resume(self, folder: Path) -> None:
        """Load the newest readable state; a corrupt one is set aside, and said so.

        Raises DefarError, leaving the files alone, when there are states but none can be used, or when the images are
        not those that the state was trained on.
        """
        corrupt = []
        for file in (folder / STATE, folder / PREVIOUS):
            if not file.exists():
                continue
            try:
                state = torch.load(file, map_location=self.device, weights_only=True)
                parts = [state[key] for key in ("model", "ema", "optimizer", "step", "seconds")]
            except (OSError, MemoryError, torch.OutOfMemoryError) as error:
                raise DefarError(f"{file}: cannot be read now ({type(error).__name__}: {error}); try again") from None
            except Exception as error:  # torch raises many kinds for a damaged file
                corrupt.append((file, " ".join(str(error).split())[:100]))
                continue
            if state.get("data_sha256", self.dataset.hash) != self.dataset.hash:
                raise DefarError(f"{folder}: was trained on other images than {self.dataset.name}; give another --out")
            for damaged, reason in corrupt:
                aside = damaged.with_name(f"{damaged.stem}-before-{state['step']}.corrupt")
                damaged.replace(aside)
                print(
                    f"{damaged}: corrupt ({reason}); kept as {aside.name}, going on from {file.name}", file=sys.stderr
                )
            for target, part in zip((self.model, self.ema.model, self.optimizer), parts[:3], strict=True):
                target.load_state_dict(part)
            self.step, self.seconds = parts[3:]
            self.forwards_per_step, self.window = state.get("forwards_per_step", 0), state.get("window", [])
            self.started_from = state.get("started_from", {})
            return
        if corrupt:
            raise DefarError(
                f"{corrupt[0][0]}: corrupt, and there is no older state; give another --out to start again"
            )

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
        return Card(self.recipe.name, "ema", "", {}, self.recipe.interpolant, "pixel", data, training)

    def _batch(self, generator: torch.Generator):
        """Batch n of an endless stream of epochs, each a permutation of the data set of its own."""
        recipe, size = self.recipe, len(self.dataset)
        places = torch.arange(self.step * recipe.global_batch, (self.step + 1) * recipe.global_batch)
        epochs, offsets = places // size, places % size
        indices = torch.cat([self._permutation(int(e))[offsets[epochs == e]] for e in epochs.unique()])
        flip = torch.rand(recipe.global_batch, generator=generator) < 0.5 if recipe.data.horizontal_flip else None
        batch = self.dataset.batch(indices, device=self.device, flip=flip)
        return batch if recipe.data.class_conditional else dataclasses.replace(batch, labels=None)

    def _permutation(self, epoch: int) -> torch.Tensor:
        if self._epoch != epoch:
            generator = generator_for(self.recipe.seed, "epoch", epoch)
            self._epoch, self._order = epoch, torch.randperm(len(self.dataset), generator=generator)
        return self._order

    def _finite(self, loss: LossTerms, gradient_norm: torch.Tensor) -> dict[str, float]:
        self.forwards_per_step = loss.forwards
        named = {"loss": loss.total.detach(), **loss.terms, "gradient_norm": gradient_norm}
        values = dict(zip(named, torch.stack([v.float() for v in named.values()]).tolist(), strict=True))
        for name in (*loss.terms, "loss", "gradient_norm"):
            if not math.isfinite(values[name]):
                raise DefarError(
                    f"step {self.step + 1}: {name} is {values[name]}; the last good state is kept: "
                    "try a lower optimizer.lr or float32, in another --out"
                )
        return values


def hardware(device: torch.device) -> str:
    """The device's name as a card shows it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} {device.type}"


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
