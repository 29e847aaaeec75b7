"""What the shared sweep costs beside the bare forwards it needs: PFR, FEL and bias maps together. Limit 1.10."""

from __future__ import annotations

import argparse
import statistics
import sys
import time

import torch

from defar_analysis import FEL, PFR, BiasMaps, Context, measure, sit
from defar_analysis.core.datasets import Batch
from defar_analysis.core.devices import resolve_device
from defar_analysis.experiment import SCALES
from defar_analysis.measures.base import minimal_forwards

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


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--profile", default="quick", choices=tuple(SCALES))
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    device, scale = resolve_device(options.device), SCALES[options.profile]
    torch.manual_seed(0)
    model = sit("Ti/4").to(device).eval()
    torch.nn.init.normal_(model.final_layer.linear.weight, std=0.02)
    data = torch.rand(scale.chunk, 3, 32, 32, device=device) * 2 - 1
    labels = torch.arange(scale.chunk, device=device) % 10
    forwards = minimal_forwards(scale.grid)
    bare_forwards(model, data, labels, 5)  # warm-up
    ratios, own = [], []
    for _ in range(options.repeats):
        bare = bare_forwards(model, data, labels, forwards)
        timed = Timed(model)
        started = now(device)
        measure([PFR(), FEL(), BiasMaps()], Context(timed, Batch(data, labels), scale.grid, device=str(device)))
        whole = now(device) - started
        assert timed.calls == forwards, f"{timed.calls} forwards instead of {forwards}"
        ratios.append(whole / bare)
        own.append(whole / timed.seconds)
        print(f"sweep {whole:.2f} s, of it {timed.seconds:.2f} s in forwards; {forwards} bare forwards {bare:.2f} s")
    median = statistics.median(ratios)
    print(f"ratio {median:.3f} (lowest {min(ratios):.3f}, highest {max(ratios):.3f}); limit {LIMIT}")
    print(f"beside its own forwards {statistics.median(own):.3f} (less noise: both in the same seconds)")
    return int(max(median, statistics.median(own)) > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
