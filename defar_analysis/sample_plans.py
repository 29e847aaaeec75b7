"""What to sample, as plain values, and the field and steps that they make of a checkpoint."""

from __future__ import annotations

import dataclasses
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from .core.checkpoints import Checkpoint, load_checkpoint
from .core.corrections import DCW, DCWHaar, EpsilonScaling, LabelShift, TargetShift
from .core.discriminators import load_discriminator
from .core.guidance import CFG, Autoguidance, DiscriminatorGuidance
from .core.rollout import VelocityModel
from .core.samplers import Correction, Dopri5, Euler, EulerMaruyama, Heun
from .core.solvers import StepSolver
from .errors import DefarError

# In the order in which they act: the first two wrap the field, one around the other; the others follow a step.
FIELDS = {"ts-label": LabelShift, "es": EpsilonScaling}
STEPS = {"ts-target": TargetShift, "dcw": DCW, "dcw-haar": DCWHaar}
CORRECTIONS = FIELDS | STEPS
MOST_IMAGES, LARGEST_CHUNK = 10_000_000, 65_536  # beyond both it is a slip that would fill memory with labels alone
PRECISIONS: dict[str, torch.dtype | None] = {"float32": None, "bf16": torch.bfloat16}  # None: the network's own
EXAMPLES = ("ts-label=0.02", "es=1.005", "ts-target=0.005", "dcw=0.005", "dcw-haar=0.01,0.01")


@dataclass(frozen=True)
class Plan:
    """What to sample. labels: "balanced" (classes in turn), "random" or one class for all. guidance: a scale, None for
    no guidance; it is CFG's, or, with the folder of a weaker checkpoint in `autoguidance`, that one's; interval and
    channels go with it. chunk: images a network call; part of what an image depends on (to 1e-4). discriminator: a
    folder; its weight is 1 by default. corrections: "es=1.005", "dcw-haar=0.01,0.01", ... (`parsed`). precision: of the
    network, by autocast; the state stays float32.

    Raises DefarError for settings that do not fit.
    """

    solver: StepSolver | Dopri5
    count: int = 64
    seed: int = 0
    labels: str | int = "balanced"
    guidance: float | None = None
    interval: tuple[float, float] | None = None
    channels: str | None = None
    chunk: int = 64
    autoguidance: Path | None = None
    discriminator: Path | None = None
    discriminator_weight: float | None = None
    corrections: tuple[str, ...] = ()
    precision: Literal["float32", "bf16"] = "float32"

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise DefarError(f"precision = {self.precision!r}; choose from {', '.join(PRECISIONS)}")
        for name in ("count", "chunk"):
            if getattr(self, name) < 1:
                raise DefarError(f"{name} = {getattr(self, name)} must be at least 1")
        for name, most in (("count", MOST_IMAGES), ("chunk", LARGEST_CHUNK)):
            if getattr(self, name) > most:
                raise DefarError(f"{name} = {getattr(self, name)} is more than any sampling takes; give at most {most}")
        for name in ("interval", "channels"):
            value = getattr(self, name)
            if self.guidance is None and value is not None:
                raise DefarError(f"guidance {name} {value} goes with a guidance scale: --guidance SCALE")
        if self.autoguidance is not None and self.guidance is None:
            raise DefarError(f"--autoguidance {self.autoguidance} goes with a guidance scale: --guidance SCALE")
        if self.autoguidance is not None and self.channels is not None:
            raise DefarError(
                f"guidance channels {self.channels!r} are CFG's; a weaker checkpoint guides all: leave it out"
            )
        if self.discriminator is None and self.discriminator_weight is not None:
            raise DefarError(f"discriminator weight {self.discriminator_weight:g} goes with --discriminator FOLDER")
        _check_together([parsed(text)[0] for text in self.corrections], self.solver)

    @property
    def extras(self) -> str:
        """Guidance and corrections as words for the line of costs, each after a comma."""
        said = ""
        if self.guidance is not None:
            weaker = "" if self.autoguidance is None else f" from {Path(self.autoguidance).name}"
            said += f", guidance {self.guidance:g}{weaker}"
        if self.discriminator is not None:
            weight = 1.0 if self.discriminator_weight is None else self.discriminator_weight
            said += f", discriminator {Path(self.discriminator).name} with weight {weight:g}"
        said += "".join(f", {text}" for text in self.corrections)
        return said if self.precision == "float32" else f"{said}, {self.precision}"


def solver_named(
    name: str,
    steps: int | None = None,
    diffusion: str | None = None,
    last_step: str | None = None,
    shift: float | None = None,
):
    """euler, heun, dopri5 or em; 50 steps by default. Raises DefarError for options that are not the solver's."""
    if shift is not None and name not in ("euler", "heun"):
        raise DefarError(f"--shift {shift:g}: goes with --solver euler or heun; {name} has none")
    if name == "em":
        diffusion, last_step = diffusion or "sigma", last_step or "mean"
        steps = 50 if steps is None else steps
        return EulerMaruyama(steps, diffusion, None if last_step == "noisy" else last_step)
    for option, value in (("diffusion", diffusion), ("last-step", last_step)):
        if value is not None:
            raise DefarError(f"--{option} {value}: goes with --solver em; {name} has none")
    if name == "dopri5":
        if steps is not None:
            raise DefarError(f"--steps {steps}: dopri5 chooses its own steps; leave it out")
        return Dopri5()
    return {"euler": Euler, "heun": Heun}[name](50 if steps is None else steps, shift=1.0 if shift is None else shift)


def parsed(text: str) -> tuple[str, dict[str, float]]:
    """A correction's name and settings from NAME=VALUE,VALUE,KEY=VALUE,...: values in the order of its class's own, or
    by their names. Raises DefarError for anything else."""
    name, _, rest = text.partition("=")
    if name not in CORRECTIONS:
        raise DefarError(f"--correction {text}: no such correction; give one such as {', '.join(EXAMPLES)}")
    fields = [f for f in dataclasses.fields(CORRECTIONS[name]) if f.name not in ("field", "interpolant")]
    known = [f.name for f in fields]
    settings: dict[str, float] = {}
    for place, part in enumerate(rest.split(",") if rest else ()):
        key, equals, value = part.rpartition("=")
        key = key if equals else known[place] if place < len(known) else part
        if key not in known or key in settings:
            what = f"{key} twice" if key in settings else f"no setting {key!r}"
            raise DefarError(f"--correction {text}: {what}; {name} takes {', '.join(known)}, in this order or by name")
        try:
            settings[key] = int(value) if key == "per_side" else float(value)
        except ValueError:
            raise DefarError(f"--correction {text}: {key} = {value!r} is no number it can take") from None
    if not settings or any(f.default is MISSING and f.name not in settings for f in fields):
        example = next(example for example in EXAMPLES if example.partition("=")[0] == name)
        raise DefarError(f"--correction {text}: give its setting, as in {example}")
    return name, settings


def _check_together(names: list[str], solver: StepSolver | Dopri5) -> None:
    """Raises DefarError for corrections that do not go together or not with the solver."""
    for name in names:
        if names.count(name) > 1:
            raise DefarError(f"--correction {name} is given twice; give it once")
    if {"ts-label", "ts-target"} <= set(names):
        raise DefarError("--correction ts-label and ts-target are two forms of one correction; leave one out")
    steps = [name for name in names if name in STEPS]
    if len(steps) > 1:
        raise DefarError(f"--correction {' and '.join(steps)} each take over after a step; leave all but one out")
    if steps and isinstance(solver, Dopri5):
        raise DefarError(f"--correction {steps[0]} needs the steps of a fixed grid; use --solver euler or heun")
    if steps == ["ts-target"] and solver.draws_noise:
        raise DefarError("--correction ts-target would shorten the step's noise too; use --solver euler or heun")


@dataclass(frozen=True)
class Sampler:
    """A checkpoint under a plan: the field to integrate, what follows each step, and what is recorded of both."""

    field: VelocityModel
    correction: Correction | None
    settings: dict[str, Any]


def sampler_for(plan: Plan, loaded: Checkpoint, device: torch.device | str = "cpu") -> Sampler:
    """Guidance around the network, the discriminator's around it, field corrections around both. `settings` has a key
    for guidance, and others only where they are used. Raises DefarError for what does not fit the checkpoint."""
    field, settings = _guided(plan, loaded, device)
    if plan.discriminator is not None:
        judge = load_discriminator(plan.discriminator, loaded, device)
        weight = 1.0 if plan.discriminator_weight is None else plan.discriminator_weight
        field = DiscriminatorGuidance(field, judge.model, weight, interpolant=loaded.interpolant)
        card = {"name": judge.card.name, "sha256": judge.card.sha256}
        settings["discriminator"] = card | {"weight": weight, "t_min": field.t_min, "clip": field.clip}
    correction, reprs = None, []
    given = {parsed(text)[0]: text for text in plan.corrections}
    for name in (name for name in CORRECTIONS if name in given):
        options = parsed(given[name])[1] | {"interpolant": loaded.interpolant}
        try:
            if name in FIELDS:
                field = acting = FIELDS[name](field=field, **options)
            else:
                correction = acting = STEPS[name](**options)
        except DefarError as error:
            raise DefarError(f"--correction {given[name]}: {error}") from None
        reprs.append(repr(acting))
    if reprs:
        settings["corrections"] = reprs
    return Sampler(field, correction, settings)


def _guided(plan: Plan, loaded: Checkpoint, device: torch.device | str) -> tuple[VelocityModel, dict[str, Any]]:
    """The network under the plan's guidance scale, and {"guidance": its settings, None without}."""
    if plan.guidance is None:
        return loaded.model, {"guidance": None}
    interval = plan.interval or (0.0, 1.0)
    if plan.autoguidance is not None:
        weaker = _weaker(Path(plan.autoguidance), loaded, device)
        guided = Autoguidance(loaded.model, weaker.model, plan.guidance, interval)
        told = {"weaker": weaker.card.name, "sha256": weaker.card.sha256, "interval": interval}
        return guided, {"guidance": {"kind": "Autoguidance", "scale": plan.guidance} | told}
    name, classes, channels = loaded.card.name, loaded.classes, plan.channels or "all"
    if classes is None:
        raise DefarError(f"guidance {plan.guidance}: {name} was trained without classes; leave --guidance out")
    if channels == "first3" and loaded.shape[0] < 3:
        raise DefarError(f"guidance channels 'first3': images of {name} have {loaded.shape[0]}; use 'all'")
    guided = CFG(loaded.model, plan.guidance, classes, interval, channels)
    told = {"null_label": classes, "interval": interval, "channels": channels}
    return guided, {"guidance": {"kind": "CFG", "scale": plan.guidance} | told}


def _weaker(folder: Path, loaded: Checkpoint, device: torch.device | str) -> Checkpoint:
    """The checkpoint to guide away from; DefarError where it is none for `loaded`: both must tell the same velocity."""
    weaker, name = load_checkpoint(folder, device=device), loaded.card.name
    for what, theirs, ours in (
        ("images", weaker.shape, loaded.shape),
        ("classes", weaker.classes, loaded.classes),
        ("interpolant", weaker.card.interpolant, loaded.card.interpolant),
        ("codec", weaker.codec.identity, loaded.codec.identity),
    ):
        if theirs != ours:
            raise DefarError(f"--autoguidance {folder}: its {what}: {theirs}; those of {name}: {ours}; give one alike")
    if weaker.card.sha256 == loaded.card.sha256:
        raise DefarError(f"--autoguidance {folder}: is {name} itself and guides nowhere; give a weaker checkpoint")
    return weaker
