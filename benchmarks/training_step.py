"""A DEFAR step beside a flow-matching step of the same network and batch: time (limit 2.45) and peak memory (2.3).

The arithmetic says 7/3: two forwards with backward (3 passes each) and one without, against 3 passes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch

from defar_analysis import Defar, FlowMatching, sit
from defar_analysis.core.datasets import Batch
from defar_analysis.core.devices import resolve_device

TIME_LIMIT, MEMORY_LIMIT = 2.45, 2.3
OBJECTIVES = {"flow_matching": FlowMatching, "defar": Defar}


class Stepper:
    """One network trained by one objective on one batch."""

    def __init__(self, name: str, batch: int, device: torch.device) -> None:
        torch.manual_seed(0)
        self.device = device
        self.model = sit("Ti/4").to(device).train()
        torch.nn.init.normal_(self.model.final_layer.linear.weight, std=0.02)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-4)
        self.objective = OBJECTIVES[name](label_dropout=0.1, null_label=10)
        self.batch = Batch(torch.rand(batch, 3, 32, 32, device=device), torch.arange(batch, device=device) % 10)
        self.generator = torch.Generator().manual_seed(0)

    def step(self) -> float:
        """Seconds for one optimizer step."""
        self._synchronize()
        started = time.perf_counter()
        loss = self.objective(self.model, self.objective.draw(self.batch, self.generator)).total
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 0.2)
        self.optimizer.step()
        self._synchronize()
        return time.perf_counter() - started

    def _synchronize(self) -> None:
        if self.device.type != "cpu":
            torch.accelerator.synchronize()


def peak_bytes(name: str, batch: int, device: torch.device) -> int:
    """Peak memory of three steps, weights and optimizer included, without the interpreter and libraries."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        stepper = Stepper(name, batch, device)
        for _ in range(3):
            stepper.step()
        return torch.cuda.max_memory_allocated(device)
    stepper = Stepper(name, 1, device)  # libraries warm up on a tiny batch
    stepper.step()
    before = resident_peak()
    stepper = Stepper(name, batch, device)
    for _ in range(3):
        stepper.step()
    return resident_peak() - before


def resident_peak() -> int:
    """The most memory this process has held so far, in bytes (Linux; ru_maxrss would inherit the parent's)."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--memory-of", choices=tuple(OBJECTIVES), help=argparse.SUPPRESS)
    options = parser.parse_args()
    device = resolve_device(options.device)
    if options.memory_of:
        print(json.dumps(peak_bytes(options.memory_of, options.batch, device)))
        return 0
    steppers = {name: Stepper(name, options.batch, device) for name in OBJECTIVES}
    for stepper in steppers.values():
        stepper.step()  # warm-up
    ratios = []
    for _ in range(options.repeats):
        seconds = {name: statistics.mean(s.step() for _ in range(3)) for name, s in steppers.items()}
        ratios.append(seconds["defar"] / seconds["flow_matching"])
        print(f"flow matching {seconds['flow_matching'] * 1e3:.0f} ms, DEFAR {seconds['defar'] * 1e3:.0f} ms a step")
    time_ratio = statistics.median(ratios)
    print(f"time ratio {time_ratio:.3f} (lowest {min(ratios):.3f}, highest {max(ratios):.3f}); limit {TIME_LIMIT}")
    peaks = {}
    for name in OBJECTIVES:  # a process of its own each: a peak cannot be taken back
        run = [sys.executable, __file__, "--memory-of", name, "--batch", str(options.batch), "--device", str(device)]
        peaks[name] = json.loads(subprocess.run(run, capture_output=True, text=True, check=True).stdout)
    memory_ratio = peaks["defar"] / peaks["flow_matching"]
    print(f"peak {peaks['flow_matching'] / 2**20:.0f} MiB and {peaks['defar'] / 2**20:.0f} MiB;", end=" ")
    print(f"memory ratio {memory_ratio:.2f}; limit {MEMORY_LIMIT}")
    return int(time_ratio > TIME_LIMIT or memory_ratio > MEMORY_LIMIT)


if __name__ == "__main__":
    sys.exit(main())
