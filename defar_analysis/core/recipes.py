"""A training recipe: one TOML file that fixes everything a training depends on."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from torch import nn

from ..config import from_table, override, read_layers
from ..errors import DefarError
from .adapters import build_model
from .couplings import COUPLINGS
from .datasets import KNOWN_DATA, DataSpec, ImageDataset, open_dataset
from .gaussian_data import PREFIX, GaussianImages, gaussian_images
from .interpolants import INTERPOLANTS
from .latents import LatentDataset
from .networks import NETWORKS
from .objectives import MIXFLOW_GAMMA, OBJECTIVES, PRESETS, Aligning, Defar, FlowMatching, Objective
from .scales import scaled

MOST_BLOCKS, WIDEST = 1000, 65_536  # of a network; the paper's largest has 28 blocks of width 2048

TrainingData = ImageDataset | LatentDataset | GaussianImages


@dataclass(frozen=True)
class Data:
    """name: "cifar10", "celeba64", a folder of images or of latents (`defar data latents`), or an .npz;
    "gaussian:NAME" for draws of the Gaussian with that data set's mean and spectrum. horizontal_flip: mirror with
    probability 1/2."""

    name: str = "cifar10"
    split: Literal["train", "test"] = "train"
    image_size: int | None = None
    class_conditional: bool = True
    horizontal_flip: bool = True


@dataclass(frozen=True)
class Network:
    """family and size name the architecture; options go to its constructor."""

    family: str = "sit"
    size: str = "Ti/4"
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Optimizer:
    """Adam with a constant rate after a linear warm-up over `warmup` steps, gradients clipped to norm `clip`."""

    lr: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    clip: float = 0.2
    warmup: int = 0

    def __post_init__(self) -> None:
        if not (self.lr > 0 and self.clip > 0 and self.weight_decay >= 0 and self.warmup >= 0):
            raise DefarError(
                f"optimizer: lr = {self.lr}, clip = {self.clip} must be positive, "
                f"weight_decay = {self.weight_decay}, warmup = {self.warmup} not negative"
            )
        if not all(0 <= beta < 1 for beta in self.betas):
            raise DefarError(f"optimizer: betas = {self.betas}; both must lie in [0, 1)")


@dataclass(frozen=True)
class Recipe:
    """A whole training. global_batch counts images per step over all processes. save_every, log_every are in steps.

    accumulate: in how many backward passes a process makes its share of a step. recompute_blocks: forget what happens
    inside the blocks and compute it again in the backward pass (activation checkpointing): less memory, one forward
    more. Neither changes a step but by rounding, so a run may go on with others. keep_states: how many of the newest
    saved states stay (core/states.py).

    flow_matching_steps: the first steps train plain flow matching before the objective takes over. ADR sees only the
    direction of the velocity, and the official initialization starts from velocity 0: a short run first needs a length.
    objective: its name (core.objectives: OBJECTIVES or PRESETS) and its options; its table `alignment` (Aligning) puts
    REPA's representation alignment around it, in the first steps too. coupling: "independent" or "ot".
    init_from: a checkpoint of the same network to start from (post-training), by its folder.
    """

    name: str
    steps: int
    global_batch: int = 128
    seed: int = 0
    flow_matching_steps: int = 0
    interpolant: str = "linear"
    coupling: str = "independent"
    init_from: str | None = None
    data: Data = field(default_factory=Data)
    network: Network = field(default_factory=Network)
    objective: dict[str, Any] = field(default_factory=lambda: {"name": "flow_matching"})
    optimizer: Optimizer = field(default_factory=Optimizer)
    ema_decay: float = 0.9999
    precision: Literal["float32", "bf16"] = "float32"
    compile: bool = False
    accumulate: int = 1
    recompute_blocks: bool = False
    log_every: int = 50
    save_every: int = 500
    keep_states: int = 2

    def __post_init__(self) -> None:
        for name in ("steps", "global_batch", "accumulate", "log_every", "save_every", "keep_states"):
            if getattr(self, name) < 1:
                raise DefarError(f"{name} = {getattr(self, name)}; it must be at least 1")
        if not 0 <= self.ema_decay < 1:
            raise DefarError(f"ema_decay = {self.ema_decay}; it must lie in [0, 1)")
        if not 0 <= self.flow_matching_steps <= self.steps:
            raise DefarError(
                f"flow_matching_steps = {self.flow_matching_steps}; it must lie in 0 ... {self.steps} (steps)"
            )
        if self.interpolant not in INTERPOLANTS:
            raise DefarError(f"interpolant = {self.interpolant!r}; choose from {', '.join(INTERPOLANTS)}")
        if self.coupling not in COUPLINGS:
            raise DefarError(f"coupling = {self.coupling!r}; choose from {', '.join(COUPLINGS)}")
        if self.coupling == "ot" and self.global_batch < 2:
            raise DefarError(
                f"coupling = 'ot' has nothing to pair in global_batch = {self.global_batch}; give 2 or more"
            )
        check_run_name(self.name)
        name = self.objective.get("name", "flow_matching")
        if not isinstance(name, str) or name not in {**OBJECTIVES, **PRESETS}:
            raise DefarError(f"objective.name = {name!r}; choose from {', '.join([*OBJECTIVES, *PRESETS])}")
        for key in ("interpolant", "coupling"):
            if key in self.objective:
                raise DefarError(f"objective.{key}: {key} is a key of the recipe itself, outside of [objective]")
        if "null_label" in self.objective:
            raise DefarError("objective.null_label: follows from the data (its number of classes); leave it out")
        if self.alignment is not None and self.compile:
            raise DefarError("objective.alignment watches a block, which compile = true hides: leave one of them out")
        if self.network.family not in NETWORKS:
            raise DefarError(f"network.family = {self.network.family!r}; choose from {', '.join(NETWORKS)}")

    @property
    def alignment(self) -> Aligning | None:
        """REPA's alignment around the objective, where the recipe has one."""
        table = self.objective.get("alignment")
        if table is None:
            return None
        if not isinstance(table, dict):
            raise DefarError(f"objective.alignment must be a table; got {table!r}")
        return from_table(Aligning, table, f"{self.name}: objective.alignment")

    def open_data(self, root: Path | None = None) -> TrainingData:
        if self.data.name.startswith(PREFIX):
            dataset = gaussian_images(self.data.name, self.data.split, root)
        else:
            size = self.data.image_size
            dataset = open_dataset(self.data.name, self.data.split, root=root, size=size, latents=True)
        if self.data.class_conditional and dataset.labels is None:
            raise DefarError(f"{self.data.name}: has no labels; give some, or set data.class_conditional = false")
        return dataset

    def data_spec(self) -> DataSpec:
        """Channels, size and classes of the data; the paper's data sets are known without being opened."""
        return KNOWN_DATA.get(self.data.name) or self.open_data().spec

    def classes(self, data: DataSpec) -> int:
        """How many labels the network knows besides "none": the data set's, or 1 when labels are not used."""
        return (data.classes or 1) if self.data.class_conditional else 1

    def build_network(self, data: DataSpec) -> nn.Module:
        shape = {"input_size": data.size, "in_channels": data.channels, "num_classes": self.classes(data)}
        for key in shape.keys() & self.network.options.keys():
            raise DefarError(f"network.options.{key}: follows from the data ({shape[key]}); leave it out")
        _refuse_giants(self.network.options)
        return build_model(self.network.family, self.network.size, {**shape, **self.network.options})

    def build_objective(self, data: DataSpec, step: int) -> Objective:
        """The objective of that step, without the alignment around it."""
        options = {key: value for key, value in self.objective.items() if key not in ("name", "alignment")}
        name = self.objective.get("name", "flow_matching")
        cls = Defar if name in PRESETS else OBJECTIVES[name]
        if name == "mixflow":
            options.setdefault("gamma", MIXFLOW_GAMMA.get(self.network.family, MIXFLOW_GAMMA["sit"]))
        if step < self.flow_matching_steps:
            cls, options = FlowMatching, {key: options[key] for key in ("label_dropout",) if key in options}
        else:
            options = {**PRESETS.get(name, {}), **options}
        objective = from_table(cls, {**options, "null_label": self.classes(data)}, f"{self.name}: objective")
        path, coupling = INTERPOLANTS[self.interpolant](), COUPLINGS[self.coupling]()
        return dataclasses.replace(objective, interpolant=path, coupling=coupling)


def _refuse_giants(options: dict[str, Any]) -> None:
    """Raise DefarError for a size that is a slip: building such a network would take hours or all memory."""
    for key, value in options.items():
        most = MOST_BLOCKS if any(word in key for word in ("depth", "blocks", "layers")) else WIDEST
        if isinstance(value, int | float) and not abs(value) <= most:
            raise DefarError(f"network.options.{key} = {value}; no network is that large: give at most {most}")


def check_run_name(name: str) -> None:
    """Raise DefarError for a name that is no folder of its own below runs/, or none that can be typed."""
    if name in ("", ".", "..") or set(name) & set("/\\") or not name.isprintable() or len(name.encode()) > 200:
        raise DefarError(f"name = {name!r}; it names the run's folder: give a word without / or \\")


def load_recipe(path: Path, assignments: Sequence[str] = (), scale: str = "paper") -> Recipe:
    """The recipe in a TOML file, made smaller by `scale` ("paper" leaves it), with "KEY=VALUE" assignments on top.

    A file may name another in `extends` (relative to itself) and give only what differs. Raises DefarError naming the
    file and key.
    """
    table = read_layers(path)
    if scale != "paper":
        table = as_table(scaled(from_table(Recipe, table, str(path)), scale))
    return from_table(Recipe, override(table, assignments), str(path))


def as_table(recipe: Recipe) -> dict[str, Any]:
    """The recipe as nested tables, as a TOML file holds them."""
    return dataclasses.asdict(recipe, dict_factory=lambda pairs: {k: v for k, v in pairs if v is not None})
