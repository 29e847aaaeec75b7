"""`defar evaluate` and `defar robustness`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from ..errors import DefarError
from .options import Chunk, Count, Device, Inception, Precision, ProtocolName, Reference


def evaluate(
    sources: Annotated[
        Positional[tuple[Path, ...]],
        arg(
            help="checkpoints' folders, folders of images or .npz files; the others are compared with the first",
            metavar="SOURCE [SOURCE ...]",
            help_behavior_hint="",
        ),
    ],
    protocol: ProtocolName = "offline-effnet-lite0-128",
    n: Count = None,
    reference: Reference = None,
    inception: Inception = None,
    solver: Annotated[Literal["euler", "heun", "dopri5", "em"], arg(help="for checkpoints; em: the SDE")] = "euler",
    steps: Annotated[
        int | None, arg(help="for checkpoints: solver steps", metavar="INT", help_behavior_hint="(default: 50)")
    ] = None,
    guidance: Annotated[
        float | None,
        arg(
            help="for checkpoints: classifier-free guidance's scale",
            metavar="SCALE",
            help_behavior_hint="(default: none)",
        ),
    ] = None,
    seed: Annotated[int, arg(help="for checkpoints: image i depends on this and i alone")] = 0,
    chunk: Chunk = 64,
    precision: Precision = "float32",
    extrapolate: Annotated[bool, arg(help="also the Fréchet distance at infinite n of samples")] = False,
    results: Annotated[Path, arg(help="where features are kept; none is extracted twice")] = Path("results"),
    device: Device = "auto",
) -> None:
    """Measure sample quality under a named protocol: JSON on stdout, words on stderr. Checkpoints are sampled straight
    into the extractor. Stopped or killed, the same command goes on; under torchrun the processes share the images."""
    import json

    from .. import sampling
    from ..evaluating import evaluate_sources, in_words
    from ..measures.protocols import protocol as named

    chosen = named(protocol, n)
    plan = sampling.Plan(sampling.solver_named(solver, steps), chosen.count, seed, chosen.labels, guidance,
                         chunk=chunk, precision=precision)  # fmt: skip
    report = evaluate_sources(
        sources, chosen, plan, results=results, reference=reference, inception_weights=inception,
        extrapolate=extrapolate, device=device,
    )  # fmt: skip
    if report is not None:
        _say(in_words(report))
        print(json.dumps(report, indent=1, ensure_ascii=False, allow_nan=False))


def robustness(
    checkpoints: Annotated[
        Positional[tuple[str, ...]],
        arg(
            help="checkpoints' folders; the others are compared with the first. As NAME=FOLDER a model has a name, and "
            "may have several folders, one for each interpolant",
            metavar="CHECKPOINT [CHECKPOINT ...]",
            help_behavior_hint="",
        ),
    ],
    nfe: Annotated[tuple[int, ...], arg(help="numbers of velocity evaluations")] = (30, 50, 100, 250, 500),
    solver: Annotated[tuple[Literal["euler", "heun", "em"], ...], arg(help="solvers; em: the SDE")] = ("euler",),
    guidance: Annotated[
        tuple[float, ...],
        arg(
            help="scales of classifier-free guidance; 1 is none",
            metavar="SCALE [SCALE ...]",
            help_behavior_hint="(default: none)",
        ),
    ] = (),
    discriminator: Annotated[
        tuple[str, ...],
        arg(
            help="folders of discriminators, each by the NAME of the model that it guides with weight 1",
            metavar="NAME=FOLDER [NAME=FOLDER ...]",
            help_behavior_hint="(default: none)",
        ),
    ] = (),
    protocol: ProtocolName = "offline-effnet-lite0-128",
    n: Count = None,
    reference: Reference = None,
    inception: Inception = None,
    seed: Annotated[int, arg(help="image i depends on this and i alone, in every cell")] = 0,
    chunk: Chunk = 64,
    precision: Precision = "float32",
    out: Annotated[
        Path | None,
        arg(
            help="write NAME.csv (values), NAME_differences.csv (to the first) and NAME_steps.csv (over steps)",
            metavar="NAME",
            help_behavior_hint="(default: print only)",
        ),
    ] = None,
    results: Annotated[Path, arg(help="where samples and features are kept; no cell is sampled twice")] = Path(
        "results"
    ),
    device: Device = "auto",
) -> None:
    """Sample quality over the number of steps, for checkpoints, solvers and guidance, on shared noise. Says first how
    long it takes; stopped or killed, the same command goes on cell by cell. Under torchrun the processes share the
    work."""
    from ..core.parallel import joined
    from ..measures.protocols import protocol as named
    from ..robustness_report import in_words, save
    from ..robustness_sweep import Grid, Sweep, run

    models = _models(checkpoints)
    # scale 1 is no guidance, and costs half as much so
    scales = tuple(None if scale == 1 else scale for scale in guidance) or (None,)
    grid = Grid(models, nfe, solver, scales, seed, _judges(discriminator), chunk, precision)
    with joined(device) as (processes, where):
        sweep = Sweep(
            grid, named(protocol, n), results, str(where), reference=reference, inception_weights=inception, say=_say,
            processes=processes,
        )  # fmt: skip
        if processes.size > 1:
            sweep.share()
    if not processes.first:
        return
    found = run(sweep, next(iter(models)))
    print(in_words(found, sweep.protocol))
    for path in save(found, out) if out is not None else ():
        _say(str(path))


def _models(given: tuple[str, ...]) -> dict[str, list[Path]]:
    """Folders by model: those named NAME=FOLDER together, the others each by its own name."""
    from ..sample_files import row_names

    named = {text: text.partition("=")[::2] for text in given if "=" in text and not Path(text).exists()}
    plain = iter(row_names([Path(text) for text in given if text not in named]))
    models: dict[str, list[Path]] = {}
    for text in given:
        name, folder = named[text] if text in named else (next(plain), text)
        models.setdefault(name, []).append(Path(folder))
    return models


def _judges(given: tuple[str, ...]) -> dict[str, Path]:
    """Discriminators' folders by model."""
    judges = {}
    for text in given:
        name, _, folder = text.partition("=")
        if not folder:
            raise DefarError(f"--discriminator {text}: name the model that it guides: NAME=FOLDER")
        if name in judges:
            raise DefarError(f"--discriminator {text}: {name} is guided by {judges[name]} already; name one for it")
        judges[name] = Path(folder)
    return judges


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
