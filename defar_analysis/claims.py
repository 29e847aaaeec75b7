"""The paper's claims of Secs. 5.2 and 6, each judged twice: by the paper's own tables, and by what is committed here.

Nothing is measured: verdicts follow from figures/data/*.csv, so they change with those tables and with nothing else.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from .artefacts import Artefact, figures_folder, read
from .contradictions import CLAIMS, Claim, refuted
from .core.recipes import NETWORKS
from .errors import DefarError
from .files import file_sha256
from .measures.evaluation import BETTER, WORSE
from .measures.robustness import FAILS, HOLDS
from .paper import paper_values
from .robustness_study import MARGIN

if TYPE_CHECKING:
    from .experiment import Experiment

ID = "claims"
UNDECIDED, NOT_RUN = "undecided at this scale", "not run"
VERDICTS = (HOLDS, FAILS, UNDECIDED, NOT_RUN)
HIGH_NOISE = 0.25  # t below it: the box in the paper's Fig. 5
COLUMNS = ["key", "claim", "where", "paper", "paper_holds", "paper_comparisons", "verdict", "evidence", "measurement",
           "source", "command"]  # fmt: skip
_FIVE, _HIGHER = ("FID", "sFID", "IS", "Pre.", "Rec."), ("IS", "Pre.", "Rec.")
_LIKE = ["id", "panel", "dataset", "backbone", "setting", "column", "x", "condition", "row"]

Judged = tuple[str, str]  # verdict, evidence
Share = tuple[int, int]  # comparisons that bear a claim out, all comparisons


@dataclass(frozen=True)
class Measured:
    """What claims are judged by. differences: of methods, to SiT or to one another; restoration: Fig. 5's table;
    sentences: the robustness study's verdicts; recipes: paths of the trainings that could be run."""

    differences: pd.DataFrame
    restoration: pd.DataFrame
    sentences: pd.DataFrame
    recipes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Entry:
    """A claim, shortened. measurement: what of ours judges it; source: the table behind the verdict; command: what runs
    it; own: how far the paper's `tables` bear it out."""

    key: str
    where: str
    words: str
    measurement: str
    judge: Callable[[Measured], Judged]
    source: str
    command: str
    tables: str
    own: Callable[[pd.DataFrame], Share]


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


def paired(differences: pd.DataFrame, *pairs: tuple[str, str]) -> Judged:
    """Whether the first of each pair has the lower Fréchet distance, by every seed.

    differences: as in methods_differences.csv. "not run" where a pair lacks a seed that another has. Raises DefarError
    where a pair has several rows of one seed.
    """
    distance = differences["metric"].str.startswith("FD-")
    names = zip(differences["method"], differences["baseline"], strict=True)
    rows = differences[distance & np.array([name in pairs for name in names], bool)]
    found = {(row.method, row.baseline, row.seed): row for row in rows.itertuples()}
    if len(found) < len(rows):
        raise DefarError(f"{pairs}: several differences for one seed; give those of one metric and one NFE")
    seeds = sorted(set(rows["seed"])) or [1]
    missing = [f"{m} against {b} (seed {s:g})" for m, b in pairs for s in seeds if (m, b, s) not in found]
    if missing:
        return NOT_RUN, f"Not measured yet: {', '.join(missing)}."
    clauses = [f"{m} against {b} " + ", ".join(f"{_amount(found[m, b, s])} (seed {s:g})" for s in seeds)
               for m, b in pairs]  # fmt: skip
    head = f"{rows['metric'].iloc[0]}, n = {rows['n'].iloc[0]:g}, 95 % intervals"
    verdict = rule((f"{m}/{b}", row.verdict) for (m, b, _), row in found.items())
    return verdict, f"{head}: {'; '.join(clauses)}."


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


def _own(words: str) -> Callable[[pd.DataFrame], Share]:
    claim = {claim.words: claim for claim in CLAIMS}[words]
    return lambda cells: borne_out(cells, claim)


# ---- the claims

_SIT = Claim("Sec. 5.2 (i)", "improves on SiT", "DEFAR", ("SiT",), ("tab1", "tab2"))
_DG = Claim("Sec. 5.2 (v)", "complements DG", "DEFAR-G++", ("SiT", "DEFAR", "SiT-G++"), ("tab2",))
_OT = Claim("Sec. 5.2 (v)", "complements OT", "OT-CFM + DEFAR", ("OT-FM + DEFAR", "OT-CFM"), ("tab2",))
_BIG = [Claim("Sec. 6", "superior", f"{name} + DEFAR", (name,), ("tab4",)) for name in ("REPA", "DDT")]
_LACKS = f"it takes REPA-XL/2 and DDT-XL/2 on ImageNet-512, the networks here are {', '.join(NETWORKS)}"
_TABS, _AGAIN = "reproduce/experiments/", "defar reproduce --profile full --only "
_EACH = "for recipe in {}*.toml; do defar {} $recipe; done"


def _trained(key: str, where: str, words: str, own: Callable, *pairs: tuple[str, str]) -> Entry:
    source = "methods_differences" if all(baseline == "SiT" for _, baseline in pairs) else "methods_pairs"
    return Entry(key, where, words, "paired Fréchet distance, trained on from one SiT at equal compute",
                 lambda m: paired(m.differences, *pairs), source, _AGAIN + "methods", "Tabs. 1, 2", own)  # fmt: skip


def _waits(key: str, where: str, words: str, own: Callable, tables: str, folder: str, lacks: str = "",
           command: str = "") -> Entry:  # fmt: skip
    return Entry(key, where, words, "nothing yet", lambda m: waiting(m.recipes, folder, lacks), "",
                 command or _EACH.format(folder, "train"), tables, own)  # fmt: skip


def _stepped(key: str, words: str, sentence: str, own: Callable) -> Entry:
    return Entry(key, "Sec. 6", words, f'Fréchet distance of SiT and DEFAR over NFE, one training each: "{sentence}"',
                 lambda m: of_sentence(m.sentences, sentence), "robustness_verdicts", _AGAIN + "robustness",
                 "FID of Tab. 4 right", own)  # fmt: skip


ENTRIES = (
    _trained("improves", "Sec. 5.2 (i)", "At a comparable budget, DEFAR improves on SiT",
             lambda cells: borne_out(cells, _SIT, shortest=True), ("DEFAR", "SiT")),
    _trained("adr-target", "Sec. 5.2 (ii)", "ADR outperforms MDSS and SDSS, whose targets are static",
             _own("ADR outperforms MDSS and SDSS"), ("ADR", "SDSS"), ("ADR", "MDSS")),
    _trained("adr", "Sec. 5.2 (iii)", "ADR alone yields gains", _own("ADR independently yields gains"), ("ADR", "SiT")),
    _trained("fc", "Sec. 5.2 (iii)", "FC alone yields gains", _own("FC independently yields gains"), ("FC", "SiT")),
    _trained("together", "Sec. 5.2 (iii)", "ADR and FC together do better than either",
             _own("their integration achieves better results"), ("DEFAR", "ADR"), ("DEFAR", "FC")),
    _trained("baselines", "Sec. 5.2 (iv)", "DEFAR gains consistently over IP, SDSS and MDSS",
             _own("consistent empirical gains over these approaches"),
             ("DEFAR", "IP"), ("DEFAR", "SDSS"), ("DEFAR", "MDSS")),
    _waits("guided", "Sec. 5.2 (v)", "DEFAR and discriminator guidance complement each other",
           lambda cells: borne_out(cells, _DG, metrics=("FID",)), "Tab. 2 right", "reproduce/discriminators/",
           command=_EACH.format("reproduce/discriminators/", "train-discriminator")),
    _waits("coupled", "Sec. 5.2 (v)", "DEFAR and mini-batch OT coupling complement each other",
           lambda cells: borne_out(cells, _OT, metrics=("Avg. FID",)), "Tab. 2 right", _TABS + "tab2/ot",
           "the coupling is here, the paper's U-Net is not",
           f"defar train {_TABS}tab2/cifar10-uncond-defar-250k.toml --set coupling=ot"),
    _waits("scales", "Sec. 6", "DEFAR outperforms SiT at every size: B/4, M/2, XL/2",
           _own("consistently outperforms the SiT models"), "Tab. 3", _TABS + "tab3/"),
    Entry("restores", "Sec. 6", "DEFAR recovers low frequencies at high noise",
          f"change in the prediction's PFR at t < {HIGH_NOISE:g}, one training of each",
          lambda m: restored(m.restoration), "fig5", _AGAIN + "fig5", "Fig. 5", lambda cells: (0, 0)),
    _waits("universal", "Sec. 6", "DEFAR carries over to other architectures: REPA, DDT",
           lambda cells: borne_out(cells, *_BIG), "Tab. 4 left", _TABS + "tab4/", _LACKS, "none yet"),
    _waits("superior", "Sec. 6", "On them, quality is consistently superior at a comparable budget",
           lambda cells: borne_out(cells, *_BIG, metrics=_FIVE), "Tab. 4 left, its five metrics", _TABS + "tab4/",
           _LACKS, "none yet"),
    _waits("paths", "Sec. 6", "DEFAR gains on three interpolants, by ODE and by SDE",
           _own("gains under both ODE and SDE"), "Tab. 5", _TABS + "tab5/"),
    _stepped("amplified", "More steps often amplify the bias", "more steps amplify the bias of SiT",
             lambda cells: moved(cells, "SiT", operator.gt, 0)),
    _stepped("lowest", "DEFAR has the lowest FID at nearly every number of steps", "DEFAR is lowest at every NFE",
             _own("lowest FID across nearly all settings")),
    _stepped("stable", "DEFAR stays stable as steps increase", "DEFAR stays stable as steps increase",
             lambda cells: moved(cells, "DEFAR", operator.le, MARGIN)),
)  # fmt: skip


def judged(measured: Measured, values: pd.DataFrame, entries: tuple[Entry, ...] = ENTRIES) -> pd.DataFrame:
    """COLUMNS, one row for each claim. values: the paper's (:func:`paper_values`). Raises DefarError where a table has
    nothing to judge a claim by."""
    cells, rows = values[(values["kind"] == "value") & values["id"].str.startswith("tab")], []
    for e in entries:
        holds, total = e.own(cells)
        own = f"holds in {holds} of {total} comparisons ({e.tables})" if total else f"no printed numbers ({e.tables})"
        source = f"figures/data/{e.source}.csv" if e.source else "none"
        rows.append((e.key, e.words, e.where, own, holds, total, *e.judge(measured), e.measurement, source, e.command))
    return pd.DataFrame(rows, columns=COLUMNS)


def measured_here(root: Path) -> Measured:
    """The committed tables under `root`. Raises DefarError naming the first that is missing."""
    methods = read("methods", root / "figures", ("differences", "pairs")).tables
    return Measured(
        pd.concat(methods.values(), ignore_index=True),
        read("fig5", root / "figures").table,
        read("robustness", root / "figures", ("verdicts",)).tables["verdicts"],
        tuple(path.relative_to(root).as_posix() for path in sorted((root / "reproduce").rglob("*.toml"))),
    )


def build(experiment: Experiment) -> Artefact:
    """Every claim with its verdicts, by the committed tables whatever the profile. Raises DefarError where one of them
    is missing."""
    root, profile = Path(experiment.root), experiment.profile
    table = judged(measured_here(root), paper_values(root))
    provenance = {
        "profile": profile,
        "note": f"small networks on CIFAR-10, distances that are not FID: no verdict at full scale; profile {profile}",
        "models": {},
        "device": "cpu",
        "sources": {path: file_sha256(root / path) for path in sorted(set(table["source"]) - {"none"})},
        "command": f"defar reproduce --profile {profile} --only {ID}",
    }
    return Artefact(ID, table, {}, {}, provenance, figures_folder(root, ID, profile))
