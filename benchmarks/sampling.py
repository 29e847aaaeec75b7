"""Our Euler and Heun beside torchdiffeq's fixed-step solvers: same network, batch and evaluations. Limit 1.05.
CFG beside the bare network, whose batch it doubles. Limit 2.1.

Both sides call the same network as often, so the ratio of times is 1 but for what each solver adds. The two take turns
within each repeat, so a machine that slows down slows both; ratios are medians over the repeats.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time

import torch
from torchdiffeq import odeint

from defar_analysis import sit
from defar_analysis.core.devices import keep_heap, resolve_device
from defar_analysis.core.guidance import CFG
from defar_analysis.core.samplers import Euler, Heun, sample
from defar_analysis.core.seeding import balanced_labels, image_noise

LIMIT = 1.05  # "at least as fast", and what the clock cannot tell apart
CFG_LIMIT = 2.1  # one forward of twice the batch, and the extrapolation
PAIRS = {"euler": (Euler, 1), "heun2": (Heun, 2)}  # torchdiffeq's name: our solver, evaluations a step


class Counting:
    """The network, and how often it was called."""

    def __init__(self, model) -> None:
        self.model, self.calls = model, 0

    def __call__(self, x, t, labels=None):
        self.calls += 1
        return self.model(x, t, labels)


def seconds(run, device: torch.device) -> float:
    """Wall time of one call, the device's queue included."""
    if device.type != "cpu":
        torch.accelerator.synchronize()
    started = time.perf_counter()
    run()
    if device.type != "cpu":
        torch.accelerator.synchronize()
    return time.perf_counter() - started


@torch.no_grad()
def by_torchdiffeq(model, noise: torch.Tensor, labels: torch.Tensor, method: str, steps: int) -> torch.Tensor:
    def velocity(t, x):
        return model(x, t.expand(len(x)), labels)

    return odeint(velocity, noise, torch.linspace(0, 1, steps + 1, device=noise.device), method=method)[-1]


def solver_ratios(model, noise: torch.Tensor, labels: torch.Tensor, steps: int, repeats: int) -> list[str]:
    """Prints a line for each solver; returns those above the limit."""
    above, device = [], noise.device
    for method, (solver, order) in PAIRS.items():
        counting, images = Counting(model), {}

        def ours(solver=solver, counting=counting, images=images) -> None:
            images["ours"] = sample(counting, noise, solver(steps), labels=labels, chunk=len(noise)).x

        def theirs(method=method, counting=counting, images=images) -> None:
            images["theirs"] = by_torchdiffeq(counting, noise, labels, method, steps)

        pairs = []
        for repeat in range(repeats + 1):  # the first one warms up
            first, second = (ours, theirs) if repeat % 2 else (theirs, ours)  # neither always goes first
            times = {run: seconds(run, device) for run in (first, second)}
            pairs.append((times[ours], times[theirs]))
        assert counting.calls == 2 * (repeats + 1) * steps * order, "both must call the network as often"
        gap = float((images["ours"] - images["theirs"]).abs().max())
        assert gap < 1e-4, f"{method}: the two differ by {gap}"
        ratios = [mine / other for mine, other in pairs[1:]]
        median = statistics.median(ratios)
        milliseconds = [1e3 * statistics.median(column) for column in zip(*pairs[1:], strict=True)]
        print(
            f"{solver.__name__:<6} {steps * order:>4} evaluations: ours {milliseconds[0]:.0f} ms, torchdiffeq {method} "
            f"{milliseconds[1]:.0f} ms; ratio {median:.3f} (lowest {min(ratios):.3f}, highest {max(ratios):.3f}), "
            f"limit {LIMIT}; images differ by {gap:.1e}"
        )
        above += [f"{solver.__name__} at {median:.3f} is above {LIMIT}"] if median > LIMIT else []
    return above


@torch.no_grad()
def guidance_ratio(model, noise: torch.Tensor, labels: torch.Tensor, steps: int, repeats: int) -> list[str]:
    """Euler over the guided field and over the bare one, by turns. Prints a line; returns it if above the limit."""
    counting = Counting(model)
    guided = CFG(counting, 1.5, null_label=model.config["num_classes"])

    def run(field):
        return lambda: sample(field, noise, Euler(steps), labels=labels, chunk=len(noise))

    pairs = []
    for repeat in range(repeats + 1):  # the first one warms up
        order = (counting, guided) if repeat % 2 else (guided, counting)
        times = {id(field): seconds(run(field), noise.device) for field in order}
        pairs.append((times[id(guided)], times[id(counting)]))
    assert counting.calls == 2 * (repeats + 1) * steps, "CFG must make one forward, of both halves at once"
    ratios = [with_it / without for with_it, without in pairs[1:]]
    median = statistics.median(ratios)
    milliseconds = [1e3 * statistics.median(column) for column in zip(*pairs[1:], strict=True)]
    print(
        f"CFG    {steps:>4} evaluations: guided {milliseconds[0]:.0f} ms, bare {milliseconds[1]:.0f} ms; ratio "
        f"{median:.3f} (lowest {min(ratios):.3f}, highest {max(ratios):.3f}), limit {CFG_LIMIT}"
    )
    return [f"CFG at {median:.3f} is above {CFG_LIMIT}"] if median > CFG_LIMIT else []


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--network", default="Ti/4", help="a SiT, such as S/2")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's choice)")
    options = parser.parse_args()
    device = resolve_device(options.device)
    if options.threads:
        torch.set_num_threads(options.threads)
    if device.type == "cpu":
        keep_heap()  # as `defar sample` does; else page faults make a doubled batch, unguided too, cost 2.5 times one
    torch.manual_seed(0)
    model = sit(options.network).eval()
    torch.nn.init.normal_(model.final_layer.linear.weight, std=0.02)
    model = model.to(device)
    noise = image_noise(0, range(options.batch), (3, 32, 32)).to(device)
    labels = balanced_labels(range(options.batch), 10).to(device)
    print(f"SiT {options.network}, batch {options.batch}, {device}, {torch.get_num_threads()} thread(s)")
    above = solver_ratios(model, noise, labels, options.steps, options.repeats)
    above += guidance_ratio(model, noise, labels, options.steps, options.repeats)
    print("\n".join(above) or "all limits are kept")
    return int(bool(above))


if __name__ == "__main__":
    sys.exit(main())
