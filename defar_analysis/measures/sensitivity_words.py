"""What the verdicts on the paper's statements say, in sentences; every number and every name is the tables'."""

from __future__ import annotations

import pandas as pd

from ..errors import DefarError
from .sensitivity import HOLDS, PFR_STATEMENTS, READINGS


def sentences(table: pd.DataFrame, verdicts: pd.DataFrame, *references: str) -> str:
    """Three sentences on the rows of `measures.sensitivity`'s evaluate and verdicts.

    Which statements hold for the networks under every setting; which of them also for all `references`, perfect fields,
    so that they prove no defect; which never hold; what in the setting decides on the rest; and where the bias crosses.
    Raises DefarError for tables without a network.
    """
    networks = verdicts[~verdicts["model"].isin(references)]
    if networks.empty:
        raise DefarError("nothing to tell: the table has no verdict on any network")
    robust = [name for name, own in networks.groupby("statement", sort=False) if (own["share_holds"] == 1).all()]
    perfect = verdicts[verdicts["model"].isin(references)].set_index(["statement", "model"])["share_holds"]
    shared = [name for name in robust if all(perfect.get((name, exact), 0.0) == 1 for exact in references)]
    total = networks["statement"].nunique()
    if robust:
        common = f"all {len(shared)}" if len(shared) == len(robust) else f"{len(shared)}{_listed(shared)}"
        who, verb, them = f"the {references[0]}, an exact field without defect,", "shares", "it"
        if len(references) > 1:
            who, verb, them = f"the exact fields without defect ({', '.join(references)})", "share", "them"
        said = [
            f"Of {total} statements {len(robust)} hold for the networks under every setting{_listed(robust)}; of these "
            f"{who} {verb} {common}, and what holds for {them} too proves no defect."
        ]
    else:
        said = [f"Of {total} statements none holds for the networks under every setting."]
    never = [name for name, own in networks.groupby("statement", sort=False) if (own["holds"] == 0).all()]
    rest = networks[~networks["statement"].isin([*robust, *never])]
    told = []
    for name, own in rest.groupby("statement", sort=False):
        models = ", ".join(f"{row.model} {row.holds} of {row.settings}" for row in own.itertuples())
        known = [exact for exact in references if (name, exact) in perfect.index]
        exact = "".join(f", {field} {100 * perfect[name, field]:.0f} %" for field in known)
        told.append(f"{name} ({models}{exact}{_deciding(table, name, references)})")
    decided = f"the setting decides on {'; '.join(told)}" if told else "no other verdict depends on the setting"
    said.append(f"Under no setting and for no network holds: {', '.join(never) or 'none'}; {decided}.")
    crossing = table[(table["statement"] == PFR_STATEMENTS[2]) & ~table["model"].isin(references)]["where"].dropna()
    count = f"verdicts rest on 95 % bootstrap intervals over {int(table['n'].iloc[0])} images"
    if len(crossing):
        count = (
            f"where the networks' bias falls below the target moves from t = {crossing.min():.2f} to "
            f"{crossing.max():.2f} with the setting; {count}"
        )
    said.append(f"{count[0].upper()}{count[1:]}.")
    return "\n".join(said)


def _listed(names: list[str]) -> str:
    return f" ({', '.join(names)})" if names else ""


def _deciding(table: pd.DataFrame, statement: str, references: tuple[str, ...]) -> str:
    """The option whose values differ most in how often the statement holds for the networks."""
    own = table[(table["statement"] == statement) & ~table["model"].isin(references)]
    best, spread = "", 0.0
    for column in READINGS:
        shares = (own["verdict"] == HOLDS).groupby(own[column]).mean()  # cells that do not apply are left out
        if len(shares) > 1 and shares.max() - shares.min() > spread:
            spread = shares.max() - shares.min()
            ends = (f"{100 * shares[end]:.0f} % at {end}" for end in (shares.idxmin(), shares.idxmax()))
            best = f"; most by {column}: {', '.join(ends)}"
    return best
