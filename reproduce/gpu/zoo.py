"""The checkpoint zoo: every objective on CIFAR-10, at equal compute and at equal steps, several runs on one GPU.

python reproduce/gpu/zoo.py [GROUP ...] --minutes 9     called again, it goes on; when all is done it says so
python reproduce/gpu/zoo.py --probe 50                  how many steps fit into --minutes: measured, nothing is kept
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import jobs
from trainings import TINY, Run, Setting, passes, runs, spent

from defar_analysis.config import dump_toml
from defar_analysis.core.checkpoints import save_checkpoint
from defar_analysis.core.recipes import as_table
from defar_analysis.core.training import TrainingRun
from defar_analysis.errors import DefarError


def as_job(run: Run, work: Path, device: str) -> jobs.Job:
    """The training of a run's recipe by the package itself."""
    file = work / f"{run.name}.toml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(dump_toml(as_table(run.recipe)), encoding="utf-8")
    where = ("--out", str(work / run.name), "--device", device)
    command = (sys.executable, "-m", "defar_analysis.core.training", str(file), *where)
    return jobs.Job(run.name, command, work / run.name / "checkpoint" / "weights.safetensors", run.after)


def cut_short(chosen: list[Run], work: Path) -> None:
    """Write the averaged weights of runs that have begun and not ended as checkpoints: their cards say the step."""
    for run in chosen:
        folder = work / run.name
        if (folder / "log.jsonl").exists() and not (folder / "checkpoint").exists():
            trained = TrainingRun(run.recipe, run.recipe.open_data(), "cpu", begun=True)
            trained.resume(folder)
            if trained.step:
                save_checkpoint(folder / "checkpoint", trained.ema.model, trained.card())
                print(f"{run.name}: cut short at step {trained.step} of {run.recipe.steps}")


def probed(chosen: list[Run], work: Path, device: str, at_once: int, seconds: float) -> float:
    """Steps of flow matching that `chosen`, together, make in a second of this device; says each run's own.

    Twice `seconds`: first a few runs alone, which compile all forms of the network for the others.
    """
    probe = work.parent / "probe"
    shutil.rmtree(probe, ignore_errors=True)
    short = [
        replace(run, recipe=replace(run.recipe, log_every=10, flow_matching_steps=0), after=None)
        for run in chosen
        if not run.after
    ][:at_once]
    forms = {run.recipe.objective["name"]: run for run in short}
    jobs.work([as_job(run, probe / "first", device) for run in forms.values()], len(forms), seconds)
    jobs.work([as_job(run, probe, device) for run in short], at_once, seconds)
    total = 0.0
    for run in short:
        log = probe / run.name / "log.jsonl"
        lines = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
        if len(lines) < 3:
            print(f"{run.name}: too few steps in {seconds:g} s to tell; probe for longer")
            continue
        later = lines[len(lines) // 2 :]  # without the first steps
        speed = (later[-1]["step"] - later[0]["step"]) / max(1e-9, later[-1]["seconds"] - later[0]["seconds"])
        total += speed * passes(run.recipe.objective) / 3
        print(f"{run.name}: {speed:.1f} steps/s, {speed * run.recipe.global_batch:.0f} images/s")
    shutil.rmtree(probe, ignore_errors=True)
    return total


def queue_options(parser: argparse.ArgumentParser, at_once: int = 13) -> None:
    """What every script that queues trainings is told."""
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--at-once", type=int, default=at_once)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--steps", type=int, help="of flow matching; the other recipes follow")
    parser.add_argument("--batch", type=int, help="images a step")
    parser.add_argument("--precision", choices=("float32", "bf16"))
    parser.add_argument("--eager", action="store_true", help="without the compiler, where that does not work")
    parser.add_argument("--tiny", action="store_true", help="a rehearsal: twenty steps of a tiny network")
    parser.add_argument("--again", action="store_true", help="bring back what was brought back before, too")
    parser.add_argument("--cut-short", action="store_true", help="end the runs that have begun where they are")


def setting_of(options: argparse.Namespace, default: Setting) -> Setting:
    """`default`, or a rehearsal's, as the options change it; of a short run, too, a curve is kept."""
    setting = TINY if options.tiny else default
    given = {name: getattr(options, name) for name in ("steps", "batch", "precision") if getattr(options, name, None)}
    setting = replace(setting, **given, compile=setting.compile and not options.eager)
    often = {name: min(getattr(setting, name), max(1, setting.steps // 20)) for name in ("log_every", "save_every")}
    return replace(setting, **often)


def run_queue(chosen: list[Run], work: Path, options: argparse.Namespace, weights: bool = True) -> int:
    """Train what is left of `chosen` until the deadline and put what is new into OUT; the exit status of `tell`."""
    if options.cut_short:
        cut_short(chosen, work)
    queued = [as_job(run, work, options.device) for run in chosen]
    states = jobs.work(queued, options.at_once, 0 if options.cut_short else 60 * options.minutes)
    done = [work / name for name, state in states.items() if state == jobs.DONE]
    jobs.bring_back(done, work.name, weights=weights, again=options.again)
    return jobs.tell(states)


def named(groups: dict[str, list[Run]], names: list[str]) -> list[Run]:
    """The runs of the groups and the single runs of these names, each once; raises DefarError for another name."""
    known = groups | {run.name: [run] for group in groups.values() for run in group}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise DefarError(f"no group or run {unknown[0]!r}; choose from {', '.join(known)}")
    return list({run.name: run for name in names for run in known[name]}.values())


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    help = "groups, of compute, steps, uncond, paths, ot, ablations (default: the first), or names of runs"
    parser.add_argument("names", nargs="*", help=help)
    parser.add_argument("--probe", type=float, metavar="SECONDS", help="measure for twice as long how fast they go")
    queue_options(parser)
    options = parser.parse_args(arguments)
    work, setting = jobs.WORK / "zoo", setting_of(options, Setting())
    # at equal compute a costly objective makes few steps: it must not spend them all on warming up
    setting = replace(setting, warmup=min(setting.warmup, max(1, setting.steps // 20)))
    chosen = named(runs(setting, work), options.names or ["compute"])
    if not options.probe:
        return run_queue(chosen, work, options)
    speed = probed(chosen, work, options.device, options.at_once, options.probe)
    each = sum(spent(run.recipe) for run in chosen) / (3 * setting.steps)
    print(f"{speed:.0f} flow-matching steps/s together; --steps {60 * options.minutes * speed / each:.0f} fill "
          f"{options.minutes:g} minutes with {len(chosen)} runs")  # fmt: skip
    return 0


if __name__ == "__main__":
    jobs.run_script(main)
