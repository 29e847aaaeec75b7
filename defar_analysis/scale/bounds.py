"""What would bound a training and an evaluation on many processes: formulas, with constants that we measured."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from ..errors import DefarError
from .hours import H200, Accelerator
from .runs import Run

UTILISATION = 0.4  # of the peak, assumed
NODE = 8  # processes that share one
INSIDE, BETWEEN = 450e9, 50e9  # bytes a second of each process, in a node and among nodes; assumed: NVLink, 400 Gbit/s
CHUNK = 64  # images that the sampler never divides


@dataclass(frozen=True)
class Bounds:
    """bounds.csv: processor seconds of one thread, of `what` at sizes n."""

    table: pd.DataFrame

    def rows(self, what: str) -> pd.DataFrame:
        """Its rows by n. Raises DefarError where it was not measured."""
        rows = self.table[self.table["what"] == what]
        if rows.empty:
            known = ", ".join(dict.fromkeys(self.table["what"]))
            raise DefarError(f"bounds.csv holds no {what!r}; it holds {known}")
        return rows.sort_values("n")

    def seconds(self, what: str) -> float:
        """At the largest n."""
        return float(self.rows(what)["seconds"].iloc[-1])

    def power(self, what: str) -> tuple[float, float]:
        """a and p of seconds = a n^p, through the two largest n."""
        n, seconds = (np.log(self.rows(what)[name].to_numpy()[-2:]) for name in ("n", "seconds"))
        p = (seconds[1] - seconds[0]) / (n[1] - n[0])
        return float(np.exp(seconds[1] - p * n[1])), float(p)

    def at(self, what: str, n: float) -> float:
        """Seconds at any n, by that power."""
        a, p = self.power(what)
        return a * n**p

    def draw(self, run: Run, batch: int) -> float:
        """Seconds in which each process draws a whole step: measured on 3 x 32 x 32, taken as linear in the numbers,
        and in the batch beyond the largest that was measured."""
        rows, data = self.rows("draw of a step"), run.recipe.data_spec()
        n, seconds = rows["n"].to_numpy(), rows["seconds"].to_numpy()
        whole = np.interp(batch, n, seconds) * max(1.0, batch / n[-1])
        return float(whole) * data.channels * data.size**2 / (3 * 32 * 32)


@dataclass(frozen=True)
class Step:
    """A step of a run on that many processes, in seconds: computing (assumed utilisation), exchanging the gradients
    (assumed links) and drawing (measured), which both overlap with computing."""

    processes: int
    batch: int
    compute: float
    exchange: float
    draw: float

    @property
    def images(self) -> float:
        """For each process."""
        return self.batch / self.processes

    @property
    def seconds(self) -> float:
        """The longest of the three, behind which the others are hidden."""
        return max(self.compute, self.exchange, self.draw)

    @property
    def efficiency(self) -> float:
        """Computing as a share of the step."""
        return self.compute / self.seconds


def step_on(run: Run, processes: int, batch: int, bounds: Bounds, device: Accelerator = H200) -> Step:
    """The run's step, with another global batch."""
    compute = run.flops_per_image * batch / processes / (UTILISATION * device.peak)
    link = INSIDE if processes <= NODE else BETWEEN
    return Step(processes, batch, compute, run.exchanged_bytes(processes) / link, bounds.draw(run, batch))


def rounds(images: int, processes: int, chunk: int = CHUNK) -> int:
    """In how many rounds of a chunk for each process they are sampled."""
    chunks = -(-images // chunk)
    return -(-chunks // processes)
