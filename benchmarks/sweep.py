"""What measuring costs beside the forwards that it needs. Limit 1.10 of each.

sweep: PFR, FEL and bias maps together, also against as many bare forwards; views: what the inspector shows; loss: the
loss and its excess, on top of the sweep; drift: three kinds of drift along Euler's and Heun's steps; sensitivity:
spectra and emphases, of which every reading of PFR and FEL is taken; terms: losses, biases and weights in bins of t0;
gradients: of the loss's terms and their inner products, beside forwards and backwards.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import torch

from defar_analysis import FEL, PFR, BiasMaps, Context, measure, sit
from defar_analysis.core.datasets import Batch
from defar_analysis.core.devices import resolve_device
from defar_analysis.core.interpolants import Linear
from defar_analysis.core.oracles import GaussianFlow
from defar_analysis.core.seeding import image_noise
from defar_analysis.experiment import SCALES, Scale
from defar_analysis.measures.base import minimal_forwards
from defar_analysis.measures.drift_maps import fine_states, trajectory
from defar_analysis.measures.gradients import gram, terms
from defar_analysis.measures.sensitivity_sweep import Emphases, Spectra
from defar_analysis.measures.split import Loss
from defar_analysis.measures.views import BiasViews
from defar_analysis.studies.terms import Study, draw_for, from_forwards

LIMIT = 1.10
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
clock = CLOCKS["wall"]  # main's option
WHATS = ("sweep", "views", "loss", "drift", "sensitivity", "terms", "gradients")


class Timed:
    """The model, and the seconds spent inside its forwards, and inside backwards where they are counted."""

    def __init__(self, model) -> None:
        self.model, self.seconds, self.calls = model, 0.0, 0

    def __call__(self, x, t, labels=None):
        started = now(x.device)
        v = self.model(x, t, labels)
        self.seconds += now(x.device) - started
        self.calls += 1
        return v

    def parameters(self):
        return self.model.parameters()

    @contextmanager
    def backwards_counted(self) -> Iterator[None]:
        plain = torch.autograd.grad

        def grad(*args, **given):
            device = next(self.parameters()).device
            started = now(device)
            found = plain(*args, **given)
            self.seconds += now(device) - started
            return found

        torch.autograd.grad = grad
        try:
            yield
        finally:
            torch.autograd.grad = plain


def now(device: torch.device) -> float:
    if device.type != "cpu":
        torch.accelerator.synchronize()
    return clock()


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


def run_terms(model: Timed, batch: Batch, device: str) -> None:
    """Two bins of t0, as the entry does them."""
    images = SimpleNamespace(batch=lambda indices, device: part(batch, indices))
    from_forwards(
        SimpleNamespace(test_images=images, device=device), model, Linear(), Study(bins=2, images=len(batch.data))
    )


def run_gradients(model: Timed, batch: Batch, device: str) -> None:
    """One bin of t0, as the entry does it."""
    study, path = Study(), Linear()
    starts = [k * study.batch % len(batch.data) for k in range(study.batches)]
    draws = [draw_for(part(batch, range(i, i + study.batch)), i, 0.2, 0.4, path) for i in starts]
    with model.backwards_counted():
        gram(model, terms(path), draws)


def part(batch: Batch, indices: range) -> Batch:
    return Batch(batch.data[indices.start : indices.stop], batch.labels[indices.start : indices.stop])


def work(name: str, scale: Scale, exact: GaussianFlow) -> Callable[[Timed, Batch, str], None]:
    """What is measured under that name."""
    shared = [PFR(), FEL(), BiasMaps()]
    measurements = {"sweep": shared, "views": [BiasViews()], "loss": [*shared, Loss(exact)],
                    "sensitivity": [Spectra(), Emphases()]}  # fmt: skip
    others = {"drift": run_drift, "terms": run_terms, "gradients": run_gradients}
    if name in others:
        return others[name]
    return lambda model, batch, device: measure(measurements[name], Context(model, batch, scale.grid, device=device))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--what", default="sweep", choices=WHATS)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--profile", default="quick", choices=tuple(SCALES))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--clock", choices=tuple(CLOCKS), default="wall", help="cpu: processor time, for busy machines")
    options = parser.parse_args()
    global clock
    clock = CLOCKS[options.clock]
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
