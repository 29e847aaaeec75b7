"""What does an objective change that trains from nothing? Every run of the zoo, at equal compute or steps, beside SiT.

Nothing is measured here. reproduce/gpu/zoo.py trains, reproduce/gpu/tables.py and drift.py measure, and what they say
lies in reproduce/records/<date>-zoo: the newest of these records is drawn.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from ..artefacts import Artefact
from ..errors import DefarError
from ..our_rows import FROM_NOTHING
from . import records
from .records import COLUMNS, RUNS

if TYPE_CHECKING:
    from ..experiment import Experiment

ID = KIND = "zoo"
BASELINE = "SiT"
METHODS = {
    "sit": BASELINE, "ip": "IP", "sdss": "SDSS", "mdss": "MDSS", "adr": "ADR", "fc": "FC", "defar": "DEFAR",
    "mixflow": "MixFlow",
}  # fmt: skip
STEPS_TOO = "-steps"  # ends the names of runs that make as many steps; the others spend as much compute
COMPUTE, STEPS, BOTH = "compute", "steps", "both"
STEPS_COST_ALIKE = ("SiT", "IP", "MixFlow")  # at equal compute they make as many steps, too
PLAIN = r"\w+-\d+"  # cells without guidance: solver, evaluations
SEED = 0  # of all trainings
NEEDED = {
    "differences.csv": [*COLUMNS, "n", "cell"],
    "drift.csv": COLUMNS,
    "table.csv": ["model", "metric", "value", "low", "high", "n", "protocol", "cell"],
    "curves.csv": ["name", "step", "passes", "fm"],
    "runs.csv": RUNS,
}


def build(experiment: Experiment) -> Artefact:
    """Every run's change of every metric against SiT, with their values and curves, from the newest record whatever the
    profile. Raises DefarError where there is none, a file of it is missing, or a run of it is none of the zoo's."""
    root = Path(experiment.root)
    record = records.read(root, KIND, NEEDED)
    found = {name: told_apart(table) for name, table in record.tables.items()}
    changes = pd.concat([found["differences.csv"], found["drift.csv"].assign(cell="")])
    table = changes[["method", "equal", "metric", "cell", *COLUMNS[2:], "n"]].reset_index(drop=True)
    values = found["table.csv"][["method", "equal", *NEEDED["table.csv"][1:]]]
    curves = found["curves.csv"][["method", "equal", *NEEDED["curves.csv"][1:]]]
    return record.artefact(root, experiment.profile, ID, table, values=values, curves=curves)


def told_apart(table: pd.DataFrame) -> pd.DataFrame:
    """The table with each run's method, and what it has as much of as SiT: "compute", "steps" or "both".

    Its runs stand in the column model or name. Raises DefarError for a name that is no run's of the zoo.
    """
    names = table[next(column for column in ("model", "name") if column in table)]
    methods = []
    for name in names:
        if (method := METHODS.get(name.removesuffix(STEPS_TOO))) is None:
            raise DefarError(f"run {name!r} is none of the zoo's: {', '.join(METHODS)}, or with {STEPS_TOO}")
        budget = STEPS if name.endswith(STEPS_TOO) else COMPUTE
        methods.append((method, BOTH if method in STEPS_COST_ALIKE else budget))
    told = pd.DataFrame(methods, columns=["method", "equal"], index=table.index)
    return pd.concat([told, table], axis=1)


def of_equal_steps(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of build's table at as many steps as SiT and without guidance, with the columns that claims take."""
    steps = table[table["equal"].isin((STEPS, BOTH)) & table["cell"].fillna("").str.fullmatch(PLAIN)]
    sampled = steps["cell"].str.partition("-")
    place = {"group": FROM_NOTHING, "seed": SEED, "interpolant": "linear", "baseline": BASELINE}
    return steps.drop(columns=["equal", "cell"]).assign(**place, solver=sampled[0], nfe=sampled[2].astype(int))
