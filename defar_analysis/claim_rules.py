"""Rules by which tables decide a claim: ours, with intervals and training seeds, and the paper's own, cell by cell."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import pandas as pd

from .contradictions import Claim, refuted
from .errors import DefarError
from .measures.evaluation import BETTER, WORSE
from .measures.robustness import FAILS, HOLDS
from .our_rows import EQUAL_STEPS, FROM_NOTHING, GUIDED, JUDGED, LABELS, NO_LABELS, PATHS, STEPS

UNDECIDED, NOT_RUN = "undecided at this scale", "not run"
VERDICTS = (HOLDS, FAILS, UNDECIDED, NOT_RUN)
HIGH_NOISE = 0.25  # t below it: the box in the paper's Fig. 5
_AT_50 = ("linear", "euler", 50)
# The runs that a claim about a group rests on: (group, path, solver, NFE, training seed).
EXPECTED = {
    LABELS: [(LABELS, *_AT_50, 1), (LABELS, *_AT_50, 2)],
    EQUAL_STEPS: [(EQUAL_STEPS, *_AT_50, 1), (EQUAL_STEPS, *_AT_50, 2)],
    FROM_NOTHING: [(FROM_NOTHING, *_AT_50, 0)],
    NO_LABELS: [(NO_LABELS, *_AT_50, 1)],
    PATHS: [(PATHS, path, solver, 50, 1) for path in ("linear", "vp", "gvp") for solver in ("euler", "em")],
    STEPS: [(STEPS, "linear", "euler", nfe, 1) for nfe in (30, 50, 100, 250, 500)],
    GUIDED: [(GUIDED, *_AT_50, 1)],
    JUDGED: [(JUDGED, *_AT_50, 0)],
}
_HIGHER = ("IS", "Pre.", "Rec.")
_LIKE = ["id", "panel", "dataset", "backbone", "setting", "column", "x", "condition", "row"]

Judged = tuple[str, str]  # verdict, evidence
Share = tuple[int, int]  # comparisons that bear a claim out, all comparisons


# ---- by the committed tables


def rule(outcomes: Iterable[tuple[str, str]]) -> str:
    """The verdict on a claim from (comparison, outcome) of every run: a seed, an evaluator or a reading.

    "holds" where all are better, "does not hold" where every run of some comparison is worse beyond doubt, else
    "undecided at this scale". Raises DefarError for no outcomes.
    """
    runs: dict[str, set[str]] = {}
    for comparison, outcome in outcomes:
        runs.setdefault(comparison, set()).add(outcome)
    if not runs:
        raise DefarError("no comparisons: nothing to judge a claim by")
    if all(found == {BETTER} for found in runs.values()):
        return HOLDS
    return FAILS if {WORSE} in runs.values() else UNDECIDED


def paired(differences: pd.DataFrame, *pairs: tuple[str, str], groups: tuple[str, ...] = (LABELS,)) -> Judged:
    """Whether the first of each pair has the lower Fréchet distance, in every run of the groups.

    differences: as in methods_differences.csv. "not run" where a run of EXPECTED is missing, or a pair in a run that
    another has, unless what is there refutes the claim already. Raises DefarError where a pair has several rows of one
    run.
    """
    distance = differences["metric"].str.startswith("FD-") & differences["group"].isin(groups)
    names = zip(differences["method"], differences["baseline"], strict=True)
    rows = differences[distance & np.array([name in pairs for name in names], bool)]
    runs = list(rows[["group", "interpolant", "solver", "nfe", "seed"]].itertuples(index=False, name=None))
    found = {(row.method, row.baseline, *run): row for row, run in zip(rows.itertuples(), runs, strict=True)}
    if len(found) < len(rows):
        raise DefarError(f"{pairs}: several differences for one run; give those of one metric")
    wanted = list(dict.fromkeys([*(run for group in groups for run in EXPECTED[group]), *runs]))
    missing = [f"{m} against {b} ({_run(run)})" for m, b in pairs for run in wanted if (m, b, *run) not in found]
    absent = f"Not measured yet: {', '.join(missing)}." * bool(missing)
    if not found:
        return NOT_RUN, absent
    amounts = {(m, b): [f"{_amount(found[m, b, *run])} ({_run(run)})" for run in wanted if (m, b, *run) in found]
               for m, b in pairs}  # fmt: skip
    clauses = [f"{m} against {b} {', '.join(told)}" for (m, b), told in amounts.items() if told]
    head = f"{rows['metric'].iloc[0]}, n = {rows['n'].iloc[0]:g}, 95 % intervals"
    # with labels and without are runs of one comparison; budgets, paths, solvers and numbers of steps are apart
    apart = {group: group for group in (EQUAL_STEPS, FROM_NOTHING)}
    verdict = rule((f"{m}/{b}/{apart.get(run[0])}/{run[1:4]}", row.verdict) for (m, b, *run), row in found.items())
    verdict = verdict if verdict == FAILS or not missing else NOT_RUN
    return verdict, f"{head}: {'; '.join(clauses)}. {absent}".strip()


def _run(run: tuple[str, str, str, int, int]) -> str:
    group, path, solver, nfe, seed = run
    return {PATHS: f"{path}, {solver}", STEPS: f"{nfe:g} NFE"}.get(group, f"{group}, seed {seed:g}")


def restored(restoration: pd.DataFrame) -> Judged:
    """Whether DEFAR's PFR is above SiT's at every t below HIGH_NOISE, read with and without the zero frequency (dc).

    Raises DefarError where the table has no change in PFR there.
    """
    rows = restoration[(restoration["quantity"] == "pfr_change_percent") & (restoration["t"] < HIGH_NOISE)]
    verdict = rule((row.t, BETTER if row.low > 0 else WORSE if row.high < 0 else "") for row in rows.itertuples())
    rows = rows.rename(columns={"value": "percent", "low": "percent_low", "high": "percent_high"})
    clauses = [f"{dc} the zero frequency " + ", ".join(f"{_amount(row)} at t = {row.t:g}" for row in own.itertuples())
               for dc, own in rows.groupby("dc", sort=False)]  # fmt: skip
    head = f"PFR of DEFAR against SiT, {rows['n'].iloc[0]} images, 95 % intervals"
    return verdict, f"{head}: {'; '.join(clauses)}."


def of_sentence(sentences: pd.DataFrame, claim: str) -> Judged:
    """The robustness study's verdict on one of its sentences over its evaluators, and its evidence as it stands."""
    rows = sentences[sentences["claim"] == claim]
    words = {HOLDS: BETTER, FAILS: WORSE}
    return rule((claim, words.get(verdict, "")) for verdict in rows["verdict"]), " ".join(rows["evidence"])


def both(*judged: Judged) -> Judged:
    """One verdict of several measurements of a claim: all must hold, one that does not decides; the evidence of all."""
    verdicts = {verdict for verdict, _ in judged}
    one = next((v for v in (FAILS, NOT_RUN) if v in verdicts), HOLDS if verdicts == {HOLDS} else UNDECIDED)
    return one, " ".join(evidence for _, evidence in judged)


def waiting(recipes: Iterable[str], folder: str, lacks: str = "") -> Judged:
    """Not run, and how many recipes wait for it in the folder, or what is lacking."""
    count = sum(path.rpartition("/")[0] == folder.rstrip("/") for path in recipes)  # deeper lie cards, not recipes
    here = f"{count} recipes wait in {folder}" if count else f"No recipe in {folder}"
    return NOT_RUN, f"{here}; {lacks}." if lacks else f"{here}; none has a result here."


def _amount(row) -> str:
    return f"{row.percent:+.1f} % [{row.percent_low:+.1f}, {row.percent_high:+.1f}]"


# ---- by the paper's own tables


def borne_out(cells: pd.DataFrame, *claims: Claim, shortest: bool = False, metrics: tuple[str, ...] = ()) -> Share:
    """How many comparisons of the paper's values (cells) bear the claims out, and how many there are.

    shortest: of several trainings of the claim's row, only the shortest. metrics: by these, not FID, in rows that no
    setting tells apart. Raises DefarError where there is nothing to compare.
    """
    if metrics:  # each with lower better, under the name by which claims are compared
        cells = cells[cells["column"].isin(metrics)]
        sign = np.where(cells["column"].isin(_HIGHER), -1, 1)
        cells = cells.assign(value=sign * cells["value"], setting=cells["column"], column="FID")
    against = total = 0
    for claim in claims:
        own, used = cells["row"] == claim.row, cells
        if shortest:
            used = cells[~own | (cells["iters"] == cells.groupby(_LIKE, dropna=False)["iters"].transform("min"))]
        against += len(list(refuted(claim, used)))
        worst = used["value"].mask(own, np.inf)  # which refutes every comparison, and so counts them
        total += len(list(refuted(claim, used.assign(value=worst))))
    return total - against, total


def moved(cells: pd.DataFrame, row: str, compared: Callable, percent: float) -> Share:
    """Of a row's FIDs in Tab. 4, right, how many lie more (or not more) than percent above that at the fewest steps."""
    own = cells[(cells["id"] == "tab4") & (cells["column"] == "FID") & (cells["row"] == row)]
    wide = own.pivot(index="iters", columns="x", values="value")
    found = compared(100 * (wide.iloc[:, 1:].div(wide.iloc[:, 0], axis=0) - 1), percent)
    return int(found.sum(axis=None)), found.size
