"""Which reading of Eq. 15 carries the paper's claim? FC alone in each of them, beside the SiT of its own seed.

Nothing is measured here. reproduce/gpu/eq15.py trains, reproduce/gpu/tables.py samples and compares, and what they say
lies in reproduce/records/<date>-eq15: the newest of these records is drawn.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ..artefacts import Artefact
from ..errors import DefarError
from ..measures.evaluation import BETTER, WORSE
from ..measures.verdicts import t_interval
from ..paper import paper_values
from . import records
from .records import COLUMNS, RUNS

if TYPE_CHECKING:
    from ..experiment import Experiment

ID = "readings"
KIND = "eq15"  # of record
NAME = r"(?P<place>inside|outside|max)-(?P<norm>\w+)-(?P<gradient>detached|gradient)-s(?P<seed>\d+)"  # eq15.py's runs
NEEDED = {"differences.csv": COLUMNS, "drift.csv": COLUMNS, "runs.csv": RUNS}
MEANS = ["metric", "place", "norm", "gradient", "percent", "low", "high", "seeds", "better", "worse", "share_of_claim"]


def build(experiment: Experiment) -> Artefact:
    """Every reading's change of every metric against SiT, by seed and in the mean, from the newest record whatever the
    profile. Raises DefarError where there is none or a file of it is missing."""
    root = Path(experiment.root)
    record = records.read(root, KIND, NEEDED)
    table = pd.concat([by_reading(record.tables[name]) for name in ("differences.csv", "drift.csv")])
    table = table.sort_values(["metric", "place", "norm", "gradient", "seed"], ignore_index=True)
    claim = claimed(root)
    artefact = record.artefact(root, experiment.profile, ID, table, means=means(table, claim))
    artefact.provenance["claimed_percent"] = claim
    return artefact


def by_reading(differences: pd.DataFrame) -> pd.DataFrame:
    """The rows of readings, with place (of the weight: inside or outside the square), norm, gradient and seed told
    apart, before the rest of COLUMNS. Raises DefarError for a run that is neither a reading nor a SiT."""
    rows = differences[~differences["model"].str.startswith("sit-")].reset_index(drop=True)
    parts = []
    for model in rows["model"]:
        if (told := re.fullmatch(NAME, model)) is None:
            raise DefarError(f"run {model!r} names no reading of Eq. 15, as inside-l2-detached-s1")
        # the maximum has one place, inside the square, and is named for itself
        place = "inside" if told["place"] == "max" else told["place"]
        parts.append((place, told["norm"], told["gradient"], int(told["seed"])))
    told_apart = pd.DataFrame(parts, columns=["place", "norm", "gradient", "seed"])
    return pd.concat([told_apart, rows[COLUMNS[1:]]], axis=1)


def means(table: pd.DataFrame, claim: float) -> pd.DataFrame:
    """MEANS, of by_reading's table: by how many percent each reading's metric differs from SiT's of the same seed, the
    mean over seeds with its 95 % t interval; in how many seeds it is better and worse beyond doubt over images; and,
    of Fréchet distances, the share of the `claim` percent."""
    rows = []
    for key, own in table.groupby(MEANS[:4], sort=False):
        percents = own["percent"].to_numpy()
        mean, low, high = t_interval(percents) if len(own) > 1 else (percents[0], np.nan, np.nan)
        verdicts = [int((own["verdict"] == word).sum()) for word in (BETTER, WORSE)]
        share = mean / claim if key[0].startswith("FD-") else np.nan
        rows.append((*key, mean, low, high, len(own), *verdicts, share))
    return pd.DataFrame(rows, columns=MEANS)


def claimed(root: Path) -> float:
    """Percent by which the paper's FID of FC alone ("DEFAR w/o ADR") differs from SiT's, Tab. 1, CIFAR-10, no cfg."""
    tab1 = paper_values(root, "tab1")
    chosen = {"dataset": "cifar10", "column": "FID", "condition": "no cfg", "kind": "value"}
    own = tab1[(tab1[list(chosen)] == pd.Series(chosen)).all(axis=1)].drop_duplicates("row").set_index("row")["value"]
    return 100 * (own["DEFAR w/o ADR"] / own["SiT"] - 1)
