"""Training steps beside a flow-matching step of the same network and batch: time and memory, with limits.

The arithmetic counts a forward pass as 1 and a backward pass as 2. Limits hold for the median of the measured ratios.
As in training, glibc is told to keep freed memory; --trim-heap leaves it its default, which hands large blocks back to
the system, so that a step with several forwards faults their pages in again and again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import torch

from defar_analysis import MDSS, SDSS, Defar, FlowMatching, InputPerturbation, MixFlow, sit
from defar_analysis.core.datasets import Batch
from defar_analysis.core.devices import keep_heap, resolve_device
from defar_analysis.measures.cost import PARTS, Stepper, measure_steps

COMMON = {"label_dropout": 0.1, "null_label": 10}
OBJECTIVES = {
    "flow_matching": FlowMatching(**COMMON),
    "input_perturbation": InputPerturbation(**COMMON),
    "mixflow": MixFlow(**COMMON),
    "sdss": SDSS(**COMMON),
    "sdss_detached": SDSS(detach_step=True, **COMMON),
    "mdss_amplified": MDSS(**COMMON),
    "mdss_exact": MDSS(form="exact", **COMMON),
    "adr": Defar(fc=False, **COMMON),
    "fc": Defar(adr=False, **COMMON),  # the weight carries no gradient
    "defar": Defar(**COMMON),
    "defar_half": Defar(bias_fraction=0.5, **COMMON),
}
TIME_LIMITS = {"sdss": 2.1, "adr": 2.1, "fc": 1.8, "defar": 2.45, "defar_half": 1.85}
MEMORY_LIMIT = 2.3  # DEFAR's peak over flow matching's


def network() -> torch.nn.Module:
    torch.manual_seed(0)
    model = sit("Ti/4")
    torch.nn.init.normal_(model.final_layer.linear.weight, std=0.02)
    return model


def images(count: int, device: torch.device) -> Batch:
    return Batch(torch.rand(count, 3, 32, 32, device=device), torch.arange(count, device=device) % 10)


def process_peak(name: str, batch: int, device: torch.device) -> int:
    """Peak memory in bytes of three steps, weights and optimizer included, without the interpreter and libraries."""

    def steps(count: int) -> None:
        stepper, generator = Stepper(network(), device), torch.Generator().manual_seed(0)
        for _ in range(3):
            stepper.step(OBJECTIVES[name], images(count, device), generator)

    if device.type == "cuda":
        steps(batch)
        return torch.cuda.max_memory_allocated(device)
    steps(1)  # libraries warm up on a tiny batch
    before = resident_peak()
    steps(batch)
    return resident_peak() - before


def resident_peak() -> int:
    """The most memory this process has held so far, in bytes (Linux; ru_maxrss would inherit the parent's)."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))


def memory_ratio(batch: int, device: torch.device) -> float:
    """DEFAR's peak over flow matching's, each in a process of its own: a peak cannot be taken back."""
    peaks = {}
    for name in ("flow_matching", "defar"):
        run = [sys.executable, __file__, "--memory-of", name, "--batch", str(batch), "--device", str(device)]
        peaks[name] = json.loads(subprocess.run(run, capture_output=True, text=True, check=True).stdout)
    ratio = peaks["defar"] / peaks["flow_matching"]
    print(f"\npeak memory of a process: flow matching {peaks['flow_matching'] / 2**20:.0f} MiB, ", end="")
    print(f"DEFAR {peaks['defar'] / 2**20:.0f} MiB; ratio {ratio:.2f}; limit {MEMORY_LIMIT}")
    return ratio


def print_ratios(table) -> list[str]:
    """The ratios beside what counting says; returns the methods above their limit."""
    unit, above = table.loc["flow_matching"], []
    heads = ("forwards", "passes", "arithmetic", "FLOPs", "measured", "lowest", "highest", "limit", "ms", "memory")
    print(f"\n{'ratio to flow matching':<22}" + "".join(f"{head:>11}" for head in heads))
    for row in table.reset_index().to_dict("records"):
        name, ratio, limit = row["method"], row["ratio_to_flow_matching"], TIME_LIMITS.get(row["method"])
        if limit is not None and ratio > limit:
            above.append(f"{name} at {ratio:.3f} is above {limit}")
        ratios = (row["passes"] / unit.passes, row["gflops"] / unit.gflops, ratio, row["ratio_low"], row["ratio_high"])
        print(f"{name:<22}{row['forwards']:>11}{row['passes']:>11.2f}" + "".join(f"{r:>11.3f}" for r in ratios), end="")
        memory = row["peak_memory_mib"] / unit.peak_memory_mib
        print(f"{limit or '':>11}{row['seconds'] * 1e3:>11.0f}{memory:>11.3f}")
    return above


def print_parts(table) -> None:
    """Where a step's time goes, and what sets the measured ratio apart from the arithmetic one."""
    share = table[[f"{part}_seconds" for part in PARTS]].set_axis(PARTS, axis=1)
    share = share / share.loc["flow_matching"].sum()
    gaps = {
        "forwards": share["grad_forward"] + share["plain_forward"] - table["forward_passes"] / 3,
        "backward": share["backward"] - 2 * table["backward_passes"] / 3,
        "loss": share["loss"],
        "once": share["draw"] + share["update"],
    }
    gaps["sum"] = sum(gaps.values())
    print(
        "\nparts of a step in units of one flow-matching step | measured minus arithmetic, by part (once: draw, update)"
    )
    print(f"{'':<22}" + "".join(f"{part:>14}" for part in PARTS) + " |" + "".join(f"{gap:>9}" for gap in gaps))
    for name, parts in share.iterrows():
        cells = "".join(f"{value:>14.3f}" for value in parts)
        print(f"{name:<22}{cells} |" + "".join(f"{gap[name]:>+9.3f}" for gap in gaps.values()))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's choice)")
    parser.add_argument("--trim-heap", action="store_true", help="leave the C library its default")
    parser.add_argument("--memory-of", choices=tuple(OBJECTIVES), help=argparse.SUPPRESS)
    options = parser.parse_args()
    device = resolve_device(options.device)
    if options.threads:
        torch.set_num_threads(options.threads)
    kept = not options.trim_heap and device.type == "cpu" and keep_heap()
    if options.memory_of:
        print(json.dumps(process_peak(options.memory_of, options.batch, device)))
        return 0
    batch = images(options.batch, device)
    print(
        f"SiT Ti/4, batch {options.batch}, {device}, {torch.get_num_threads()} thread(s), {options.repeats} repeats",
        end="",
    )
    print(", heap kept" if kept else "")

    def measured(split: bool):
        table = measure_steps(OBJECTIVES, network, batch, device=str(device), repeats=options.repeats, split=split)
        return table.set_index("method")

    # waiting after each part costs nothing on a CPU; elsewhere it would change the ratios
    table = measured(split=device.type == "cpu")
    above = print_ratios(table)
    print_parts(table if device.type == "cpu" else measured(split=True))
    if memory_ratio(options.batch, device) > MEMORY_LIMIT:
        above.append(f"DEFAR's memory is above {MEMORY_LIMIT}")
    print("\n".join(above) or "all limits are kept")
    return int(bool(above))


if __name__ == "__main__":
    sys.exit(main())
