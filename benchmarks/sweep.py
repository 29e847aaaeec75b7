"""What measuring costs beside the forwards that it needs. Limit 1.10 of each.

sweep: PFR, FEL and bias maps together, also against as many bare forwards; views: what the inspector shows; loss: the
loss and its excess, on top of the sweep; drift: three kinds of drift along Euler's and Heun's steps.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable

import torch

from defar_analysis import FEL, PFR, BiasMaps, Context, measure, sit
from defar_analysis.core.datasets import Batch
from defar_analysis.core.devices import resolve_device
from defar_analysis.core.oracles import GaussianFlow
from defar_analysis.core.seeding import image_noise
from defar_analysis.experiment import SCALES, Scale
from defar_analysis.measures.base import minimal_forwards
from defar_analysis.measures.drift_maps import fine_states, trajectory
from defar_analysis.measures.split import Loss
from defar_analysis.measures.views import BiasViews

LIMIT = 1.10


class Timed:
    """The model, and the seconds spent inside its forwards."""

    def __init__(self, model) -> None:
        self.model, self.seconds, self.calls = model, 0.0, 0

    def __call__(self, x, t, labels=None):
        started = now(x.device)
        v = self.model(x, t, labels)
        self.seconds += now(x.device) - started
        self.calls += 1
        return v


def now(device: torch.device) -> float:
    if device.type != "cpu":
        torch.accelerator.synchronize()
    return time.perf_counter()


@torch.no_grad()
def bare_forwards(model, x: torch.Tensor, labels: torch.Tensor, count: int) -> float:
    """Seconds for `count` forwards and nothing else."""
    started = now(x.device)
    for i in range(count):
        model(x, torch.full((len(x),), i / count, device=x.device), labels)
    return now(x.device) - started


def run_drift(model: Timed, batch: Batch, device: str) -> None:
    """Two numbers of steps beside one fine solution, as the entry does it."""
    noise = image_noise(0, range(len(batch.data)), batch.data.shape[1:]).to(batch.data)
    fine = fine_states(model, noise, 20, labels=batch.labels)
    for steps in (5, 10):
        trajectory(model, noise, batch.data, steps, fine, labels=batch.labels)


def work(name: str, scale: Scale, exact: GaussianFlow) -> Callable[[Timed, Batch, str], None]:
    """What is measured under that name."""
    shared = [PFR(), FEL(), BiasMaps()]
    measurements = {"sweep": shared, "views": [BiasViews()], "loss": [*shared, Loss(exact)]}
    if name == "drift":
        return run_drift
    return lambda model, batch, device: measure(measurements[name], Context(model, batch, scale.grid, device=device))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--what", default="sweep", choices=("sweep", "views", "loss", "drift"))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--profile", default="quick", choices=tuple(SCALES))
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    device, scale = resolve_device(options.device), SCALES[options.profile]
    torch.manual_seed(0)
    model = sit("Ti/4").to(device).eval()
    torch.nn.init.normal_(model.final_layer.linear.weight, std=0.02)
    data = torch.rand(scale.chunk, 3, 32, 32, device=device) * 2 - 1
    batch = Batch(data, torch.arange(scale.chunk, device=device) % 10)
    run = work(options.what, scale, GaussianFlow(data.mean(0), torch.ones(32, 32, device=device)))
    bare_forwards(model, data, batch.labels, 5)  # warm-up
    ratios, own = [], []
    for _ in range(options.repeats):
        timed = Timed(model)
        started = now(device)
        run(timed, batch, str(device))
        whole = now(device) - started
        own.append(whole / timed.seconds)
        print(f"{options.what} {whole:.2f} s, of it {timed.seconds:.2f} s in {timed.calls} forwards")
        if options.what == "sweep":
            least = minimal_forwards(scale.grid)
            assert timed.calls == least, f"{timed.calls} forwards instead of {least}"
            bare = bare_forwards(model, data, batch.labels, least)
            ratios.append(whole / bare)
            print(f"as many bare forwards {bare:.2f} s")
    found = [statistics.median(own)]
    print(f"beside its own forwards {found[0]:.3f} (lowest {min(own):.3f}, highest {max(own):.3f}); limit {LIMIT}")
    if ratios:
        found.append(statistics.median(ratios))
        print(f"beside bare forwards {found[1]:.3f} (lowest {min(ratios):.3f}, highest {max(ratios):.3f})")
    return int(max(found) > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
