"""The claims of the paper's Secs. 5.2 and 6, and MixFlow's, each judged twice: by the papers' own tables, and by what
is committed here.

Nothing is measured: verdicts follow from figures/data/*.csv, so they change with those tables and with nothing else.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from .artefacts import Artefact, figures_folder, read
from .claim_rules import (
    HIGH_NOISE,
    Judged,
    Share,
    borne_out,
    both,
    moved,
    of_sentence,
    paired,
    restored,
    waiting,
)
from .contradictions import CLAIMS, Claim, contradictions
from .files import file_sha256
from .our_rows import EQUAL_STEPS, FROM_NOTHING, GUIDED, JUDGED, LABELS, NO_LABELS, PATHS, STEPS
from .paper import paper_values
from .studies import zoo
from .studies.robustness import MARGIN

if TYPE_CHECKING:
    from .experiment import Experiment

ID = "claims"
COLUMNS = ["key", "claim", "where", "paper", "paper_holds", "paper_comparisons", "verdict", "evidence", "measurement",
           "source", "command"]  # fmt: skip
_FIVE = ("FID", "sFID", "IS", "Pre.", "Rec.")


@dataclass(frozen=True)
class Measured:
    """What claims are judged by. differences: of methods, to SiT or to one another, the zoo's among them; restoration:
    Fig. 5's table; sentences: the robustness study's verdicts; recipes: paths of the trainings that could be run."""

    differences: pd.DataFrame
    restoration: pd.DataFrame
    sentences: pd.DataFrame
    recipes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Entry:
    """A claim, shortened. measurement: what of ours judges it; sources: the tables behind the verdict; command: what
    runs it; own: how far the paper's `tables` bear it out."""

    key: str
    where: str
    words: str
    measurement: str
    judge: Callable[[Measured], Judged]
    sources: tuple[str, ...]
    command: str
    tables: str
    own: Callable[[pd.DataFrame], Share]


def _own(words: str) -> Callable[[pd.DataFrame], Share]:
    claim = {claim.words: claim for claim in CLAIMS}[words]
    return lambda cells: borne_out(cells, claim)


# ---- the claims

_SIT = Claim("Sec. 5.2 (i)", "improves on SiT", "DEFAR", ("SiT",), ("tab1", "tab2"))
_CLAIMED_LOWER = ("SiT", "IP", "SDSS", "MDSS")
_DG = Claim("Sec. 5.2 (v)", "complements DG", "DEFAR-G++", ("SiT", "DEFAR", "SiT-G++"), ("tab2",))
_OT = Claim("Sec. 5.2 (v)", "complements OT", "OT-CFM + DEFAR", ("OT-FM + DEFAR", "OT-CFM"), ("tab2",))
_SLOWED = Claim("MixFlow", "improves", "MixFlow", ("SiT", "REPA", "RAE"), ("mixflow",))
_BIG = [Claim("Sec. 6", "superior", f"{name} + DEFAR", (name,), ("tab4",)) for name in ("REPA", "DDT")]
_LACKS = "REPA-XL/2 and DDT-XL/2 are here, ImageNet-512 and 400 to 580 GPU hours for each (Tab. 4) are not"
_COMPARABLE = (LABELS, NO_LABELS, GUIDED)  # at equal compute
_EVERY = (*_COMPARABLE, EQUAL_STEPS, FROM_NOTHING)
_TABS, _AGAIN = "reproduce/experiments/", "defar reproduce --profile full --only "
_EACH = "for recipe in {}*.toml; do defar train $recipe; done"


def _trained(key: str, where: str, words: str, own: Callable, *pairs: tuple[str, str],
             groups: tuple[str, ...] = (*_COMPARABLE, EQUAL_STEPS), tables: str = "Tabs. 1, 2",
             measurement: str = "") -> Entry:  # fmt: skip
    budget = "equal compute" + " and at equal steps" * (EQUAL_STEPS in groups)
    budget += ", and from nothing at equal steps" * (FROM_NOTHING in groups)
    sources = ("methods_differences" if all(baseline == "SiT" for _, baseline in pairs) else "methods_pairs",)
    sources += (zoo.ID,) * (FROM_NOTHING in groups)
    return Entry(
        key, where, words, measurement or f"paired Fréchet distance, trained on at {budget}",
        lambda m: paired(m.differences, *pairs, groups=groups), sources, _AGAIN + "methods", tables, own,
    )  # fmt: skip


def _waits(key: str, where: str, words: str, own: Callable, tables: str, folder: str, lacks: str = "") -> Entry:
    return Entry(key, where, words, "nothing yet", lambda m: waiting(m.recipes, folder, lacks), (),
                 _EACH.format(folder), tables, own)  # fmt: skip


def _stepped(key: str, words: str, sentence: str, own: Callable) -> Entry:
    return Entry(key, "Sec. 6", words, f'Fréchet distance of SiT and DEFAR over NFE, one training each: "{sentence}"',
                 lambda m: of_sentence(m.sentences, sentence), ("robustness_verdicts",), _AGAIN + "robustness",
                 "FID of Tab. 4 right", own)  # fmt: skip


ENTRIES = (
    _trained("improves", "Sec. 5.2 (i)", "At a comparable budget, DEFAR improves on SiT",
             lambda cells: borne_out(cells, _SIT, shortest=True), ("DEFAR", "SiT"), groups=_COMPARABLE),
    _trained("adr-target", "Sec. 5.2 (ii)", "ADR outperforms MDSS and SDSS, whose targets are static",
             _own("ADR outperforms MDSS and SDSS"), ("ADR", "SDSS"), ("ADR", "MDSS")),
    _trained("adr", "Sec. 5.2 (iii)", "ADR alone yields gains", _own("ADR independently yields gains"), ("ADR", "SiT"),
             groups=_EVERY),
    _trained("fc", "Sec. 5.2 (iii)", "FC alone yields gains", _own("FC independently yields gains"), ("FC", "SiT"),
             groups=_EVERY),
    _trained("together", "Sec. 5.2 (iii)", "ADR and FC together do better than either",
             _own("their integration achieves better results"), ("DEFAR", "ADR"), ("DEFAR", "FC")),
    _trained("baselines", "Sec. 5.2 (iv)", "DEFAR gains consistently over IP, SDSS and MDSS",
             _own("consistent empirical gains over these approaches"),
             ("DEFAR", "IP"), ("DEFAR", "SDSS"), ("DEFAR", "MDSS")),
    _trained("guided", "Sec. 5.2 (v)", "DEFAR and discriminator guidance complement each other",
             lambda cells: borne_out(cells, _DG, metrics=("FID",)),
             ("DEFAR-G++", "SiT"), ("DEFAR-G++", "DEFAR"), ("DEFAR-G++", "SiT-G++"), groups=(JUDGED,),
             tables="Tab. 2 right", measurement="paired Fréchet distance of the shipped checkpoints on CIFAR-10"),
    _trained("coupled", "Sec. 5.2 (v)", "DEFAR and mini-batch OT coupling complement each other",
             lambda cells: borne_out(cells, _OT, metrics=("Avg. FID",)), ("OT + DEFAR", "OT"), ("OT + DEFAR", "DEFAR"),
             groups=(NO_LABELS,), tables="Tab. 2 right"),
    _waits("scales", "Sec. 6", "DEFAR outperforms SiT at every size: B/4, M/2, XL/2",
           _own("consistently outperforms the SiT models"), "Tab. 3", _TABS + "tab3/"),
    Entry("restores", "Sec. 6", "DEFAR recovers low frequencies at high noise",
          f"change in the prediction's PFR at t < {HIGH_NOISE:g}, one training of each",
          lambda m: restored(m.restoration), ("fig5",), _AGAIN + "fig5", "Fig. 5", lambda cells: (0, 0)),
    _waits("universal", "Sec. 6", "DEFAR carries over to other architectures: REPA, DDT",
           lambda cells: borne_out(cells, *_BIG), "Tab. 4 left", _TABS + "tab4/", _LACKS),
    _waits("superior", "Sec. 6", "On them, quality is consistently superior at a comparable budget",
           lambda cells: borne_out(cells, *_BIG, metrics=_FIVE), "Tab. 4 left, its five metrics", _TABS + "tab4/",
           _LACKS),
    _trained("paths", "Sec. 6", "DEFAR gains on three interpolants, by ODE and by SDE",
             _own("gains under both ODE and SDE"), ("DEFAR", "SiT"), groups=(PATHS,), tables="Tab. 5"),
    _stepped("amplified", "More steps often amplify the bias", "more steps amplify the bias of SiT",
             lambda cells: moved(cells, "SiT", operator.gt, 0)),
    Entry("lowest", "Sec. 6", "DEFAR has the lowest FID at nearly every number of steps",
          "as above, one training each, at 30 to 500 NFE; and against SiT alone, one longer training each",
          lambda m: both(paired(m.differences, *(("DEFAR", other) for other in _CLAIMED_LOWER), groups=(STEPS,)),
                         of_sentence(m.sentences, "DEFAR is lowest at every NFE")),
          ("methods_differences", "methods_pairs", "robustness_verdicts"), _AGAIN + "methods --only robustness",
          "FID of Tab. 4 right",
          _own("lowest FID across nearly all settings")),
    _stepped("stable", "DEFAR stays stable as steps increase", "DEFAR stays stable as steps increase",
             lambda cells: moved(cells, "DEFAR", operator.le, MARGIN)),
    _trained("mixflow", "MixFlow", "Post-training on slowed interpolants improves on the network it starts from",
             lambda cells: borne_out(cells, _SLOWED), ("MixFlow", "SiT"), groups=(EQUAL_STEPS,),
             tables="MixFlow's tables", measurement="paired Fréchet distance against as many more steps of SiT"),
)  # fmt: skip


def judged(measured: Measured, values: pd.DataFrame, entries: tuple[Entry, ...] = ENTRIES) -> pd.DataFrame:
    """COLUMNS, one row for each claim. values: the paper's (:func:`paper_values`). Raises DefarError where a table has
    nothing to judge a claim by."""
    printed = values["id"].str.startswith("tab") | (values["id"] == "mixflow")
    cells, rows = values[(values["kind"] == "value") & printed], []
    for e in entries:
        holds, total = e.own(cells)
        own = f"holds in {holds} of {total} comparisons ({e.tables})" if total else f"no printed numbers ({e.tables})"
        source = ", ".join(f"figures/data/{name}.csv" for name in e.sources) or "none"
        rows.append((e.key, e.words, e.where, own, holds, total, *e.judge(measured), e.measurement, source, e.command))
    return pd.DataFrame(rows, columns=COLUMNS)


def measured_here(root: Path) -> Measured:
    """The committed tables under `root`. Raises DefarError naming the first that is missing."""
    methods = read("methods", root / "figures", ("differences", "pairs")).tables
    return Measured(
        pd.concat([*methods.values(), zoo.of_equal_steps(read(zoo.ID, root / "figures").table)], ignore_index=True),
        read("fig5", root / "figures").table,
        read("robustness", root / "figures", ("verdicts",)).tables["verdicts"],
        tuple(path.relative_to(root).as_posix() for path in sorted((root / "reproduce").rglob("*.toml"))),
    )


def build(experiment: Experiment) -> Artefact:
    """Every claim with its verdicts, by the committed tables whatever the profile; and where the paper's numbers
    contradict each other or its words. Raises DefarError where a table is missing."""
    root, profile = Path(experiment.root), experiment.profile
    values = paper_values(root)
    table = judged(measured_here(root), values)
    sources = {f"figures/data/{name}.csv" for entry in ENTRIES for name in entry.sources}
    provenance = {
        "profile": profile,
        "note": f"small networks on CIFAR-10, distances that are not FID: no verdict at full scale; profile {profile}",
        "models": {},
        "device": "cpu",
        "sources": {path: file_sha256(root / path) for path in sorted(sources)},
        "command": f"defar reproduce --profile {profile} --only {ID}",
    }
    tables = {"contradictions": contradictions(values)}
    return Artefact(ID, table, tables, {}, provenance, figures_folder(root, ID, profile))
