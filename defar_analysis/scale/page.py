"""docs/scale.md: its tables are made here, between marks in the text.

python -m defar_analysis.scale.page    # in a clone: writes them anew
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import pandas as pd

from ..errors import DefarError
from ..paper import SAMPLES, paper_values
from ..planning import EXPERIMENTS
from .bounds import CHUNK, Bounds, rounds, step_on
from .hours import A100, CORES, H200, UTILISATION, cpu_hours, paper_hours
from .runs import Run, runs_in

PAGE = Path("docs/scale.md")
RECORD = Path("reproduce/records/2026-11-22-scale")
EVALUATIONS = 50
DRAWN = ("tab1/imagenet256-defar-500k", "tab3/xl2-defar-700k")  # runs of the table of steps
PROCESSES = ((1, 256), (8, 256), (64, 256), (256, 256), (64, 2048), (1000, 32_000))  # and global batches


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    return "\n".join("| " + " | ".join(row) + " |" for row in (header, ["---"] * len(header), *rows))


def short(value: float) -> str:
    """Three digits, with a comma for thousands and without an exponent."""
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:#.3g}".rstrip(".")


def between(low: float, high: float) -> str:
    return f"{short(low)} to {short(high)}"


def work(runs: list[Run], values: pd.DataFrame, throughput: pd.DataFrame) -> str:
    """Forwards, operations and hours of every run."""
    header = ("runs", "network, data", "steps x batch", "calls, passes a step", "passes, M", "PFLOP", "paper, h",
              "at TFLOP/s", f"{CORES} CPU cores, days", "H200, h (estimate)", "A100, h (estimate)")  # fmt: skip
    rows = []
    for run in runs:
        recipe, cost, printed = run.recipe, run.cost, paper_hours(run, values)
        estimates = (
            between(*(device.hours(cost.flops, share) for share in reversed(UTILISATION))) for device in (H200, A100)
        )
        rows.append((
            run.name,
            run.network,
            f"{recipe.steps:,} x {recipe.global_batch}",
            f"{cost.forwards}, {cost.passes:g}",
            short(cost.passes * recipe.steps / 1e6),
            short(cost.flops / 1e15),
            ", ".join(f"{hours:g}" for hours in printed) or "-",
            ", ".join(short(cost.flops / hours / 3600 / 1e12) for hours in printed) or "-",
            short(cpu_hours(run, throughput) / 24),
            *estimates,
        ))  # fmt: skip
    return table(header, rows)


def memory(runs: list[Run]) -> str:
    """Bytes of every network on its data, by what its objectives keep."""
    header = ("network, data", "parameters, M", "training state, GB", "DDP's buckets, GB", "activations, MB an image",
              "of a batch, GB", "saved state, GB", "checkpoint, GB", "all-reduce a step, GB (8 / 1,000)",
              "data set, GB")  # fmt: skip
    found: dict[str, list[Run]] = {}
    for run in runs:
        found.setdefault(run.network, []).append(run)
    rows = []
    for name, same in found.items():
        run, kept = same[0], sorted({run.kept_per_image for run in same})
        ends = [kept[0], kept[-1]] if len(kept) > 1 else kept
        size = run.recipe.global_batch
        rows.append((
            name,
            f"{run.cost.parameters / 1e6:.1f}",
            short(run.training_bytes / 1e9),
            short(4 * run.cost.parameters / 1e9),
            " to ".join(short(each / 1e6) for each in ends),
            " to ".join(short(each * size / 1e9) for each in ends),
            short(run.state_bytes / 1e9),
            short(run.checkpoint_bytes / 1e9),
            " / ".join(short(run.exchanged_bytes(n) / 1e9) for n in (8, 1000)),
            short(run.data_bytes / 1e9),
        ))  # fmt: skip
    return table(header, rows)


def peaks(memory: pd.DataFrame) -> str:
    """memory.csv: activations as counted, beside the most that a real step held."""
    header = ("network", "objective", "batch", "activations, MB", "gradients, MB", "measured peak, MB")
    return table(header, (
        (row["network"], row["objective"], f"{row['batch']}",
         *(f"{row[name] / 1e6:.1f}" for name in ("kept_bytes", "gradient_bytes", "peak_bytes")))
        for row in memory.to_dict("records")
    ))  # fmt: skip


def sampling(runs: list[Run], throughput: pd.DataFrame) -> str:
    """50,000 images at 50 evaluations, by every network."""
    header = ("network, data", "GFLOP a forward", "PFLOP", f"{CORES} CPU cores, days", "H200, h (estimate)")
    rows = []
    for run in {run.network: run for run in runs}.values():
        forward = run.flops_per_image / run.cost.passes
        flops = forward * SAMPLES * EVALUATIONS
        rows.append((run.network, short(forward / 1e9), short(flops / 1e15),
                     short(cpu_hours(run, throughput, flops) / 24),
                     between(*(H200.hours(flops, share) for share in reversed(UTILISATION)))))  # fmt: skip
    return table(header, rows)


def measured(throughput: pd.DataFrame) -> str:
    """throughput.csv."""
    header = ("recipe", "network", "pixels", "objective", "batch", "seconds a step [least, most]", "n", "GFLOP/s")
    return table(header, (
        (row["recipe"], row["network"], f"{row['channels']} x {row['side']} x {row['side']}", row["objective"],
         f"{row['batch']}", f"{row['seconds']:.2f} [{row['seconds_low']:.2f}, {row['seconds_high']:.2f}]",
         f"{row['repeats']}", f"{row['gflop_per_second']:.0f}")
        for row in throughput.to_dict("records")
    ))  # fmt: skip


def constants(bounds: Bounds) -> str:
    """bounds.csv."""
    header = ("what", "n", "seconds [least, most]", "repeats", "GB held")
    return table(header, (
        (row["what"], f"{row['n']:,}",
         f"{row['seconds']:.3g} [{row['seconds_low']:.3g}, {row['seconds_high']:.3g}]", f"{row['repeats']}",
         short(row["bytes"] / 1e9) if row["bytes"] else "-")
        for row in bounds.table.to_dict("records")
    ))  # fmt: skip


def steps(runs: list[Run], bounds: Bounds) -> str:
    """A step on more and more processes."""
    header = ("run", "processes", "global batch", "images each", "compute, ms", "exchange, ms", "draw, ms",
              "compute's share")  # fmt: skip
    rows = []
    for name, run in drawn(runs):
        for processes, batch in PROCESSES:
            step = step_on(run, processes, batch, bounds)
            seconds = (short(1e3 * s) for s in (step.compute, step.exchange, step.draw))
            rows.append((name, f"{processes:,}", f"{batch:,}", short(step.images), *seconds, f"{step.efficiency:.1%}"))
    return table(header, rows)


def saving(runs: list[Run], bounds: Bounds) -> str:
    """What the first process's saving costs all others, and a restart the disk, at 32 images for each process."""
    header = ("run", "state, GB", "processor, s", "every, steps", "share of the time", "read at a restart, TB")
    written, (processes, batch) = bounds.rows("state of n bytes saved").iloc[-1], PROCESSES[-1]
    rows = []
    for name, run in drawn(runs):
        step, every = step_on(run, processes, batch, bounds), run.recipe.save_every
        seconds = run.state_bytes * written["seconds"] / written["n"]
        share = seconds / (seconds + every * step.seconds)
        rows.append((name, short(run.state_bytes / 1e9), short(seconds), f"{every:,}", f"{share:.1%}",
                     short(processes * run.state_bytes / 1e12)))  # fmt: skip
    return table(header, rows)


def drawn(runs: list[Run]) -> list[tuple[str, Run]]:
    """The runs named in DRAWN."""
    return [(name, run) for run in runs for name in DRAWN if name in run.recipes]


def evaluation(bounds: Bounds) -> str:
    """What an evaluation of 50,000 images takes, and in how many parts it can be cut."""
    sampled = bounds.seconds("chunk of n images, Ti/4, 50 steps")
    features = bounds.seconds("features of n images, EfficientNet-Lite0")
    chunks = rounds(SAMPLES, 1)
    interval = bounds.rows("its interval, n x 2,048")
    rows = [
        ("sampling, Ti/4", f"{chunks} chunks of {CHUNK}", short(chunks * sampled), short(sampled)),
        ("features, EfficientNet-Lite0", f"{chunks} chunks of {CHUNK}", short(chunks * features), short(features)),
    ]
    alone = {
        "Fréchet distance, 2,048 features": bounds.seconds("Fréchet distance of d features"),
        "its interval": float((interval["seconds"] / interval["n"]).iloc[-1]) * SAMPLES,
        "precision and recall, 1,280 features": bounds.at("precision and recall of n x 1,280", SAMPLES),
    }
    rows += [(name, "the first process alone", short(seconds), short(seconds)) for name, seconds in alone.items()]
    return table(("part", "can be cut into", "s on one thread", "s on 1,000 processes"), rows)


def tables(root: Path) -> dict[str, str]:
    """Every table of the page, by its name."""
    runs, values = runs_in(root / EXPERIMENTS), paper_values(root)
    throughput, held, rest = (pd.read_csv(root / RECORD / f"{name}.csv") for name in ("throughput", "memory", "bounds"))
    bounds = Bounds(rest)
    return {
        "work": work(runs, values, throughput),
        "memory": memory(runs),
        "peaks": peaks(held),
        "sampling": sampling(runs, throughput),
        "measured": measured(throughput),
        "steps": steps(runs, bounds),
        "saving": saving(runs, bounds),
        "evaluation": evaluation(bounds),
        "constants": constants(bounds),
    }


def filled(text: str, made: dict[str, str]) -> str:
    """The text with each table between <!-- table NAME --> and <!-- end -->. Raises DefarError for a name that only
    one side knows."""
    names = re.findall(r"<!-- table (\w+) -->", text)
    if odd := set(names) ^ made.keys():
        raise DefarError(f"{PAGE}: table {min(odd)!r} is only {'asked for' if min(odd) in names else 'made'}; mend one")
    replace: Callable[[re.Match], str] = lambda found: f"{found[1]}\n{made[found[2]]}\n{found[3]}"  # noqa: E731
    return re.sub(r"(<!-- table (\w+) -->).*?(<!-- end -->)", replace, text, flags=re.DOTALL)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m defar_analysis.scale.page", description=f"Fill {PAGE}'s tables.")
    parser.parse_args()
    try:
        page = Path.cwd() / PAGE
        page.write_text(filled(page.read_text(encoding="utf-8"), tables(Path.cwd())), encoding="utf-8")
    except (DefarError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(PAGE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
