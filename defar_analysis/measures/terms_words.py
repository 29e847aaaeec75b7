"""What the tables on DEFAR's terms say, in sentences; every number and every verdict is the tables'."""

from __future__ import annotations

import pandas as pd

from ..errors import DefarError


def sentences(table: pd.DataFrame, weights: pd.DataFrame, changes: pd.DataFrame, baseline: str, *methods: str) -> str:
    """Sentences on :mod:`measures.terms`'s rows: ADR's gradient, FC's weight, and loss beside bias of each method.

    Raises DefarError where the table lacks one of the models.
    """
    models = (baseline, *methods)
    said = [_gradients(table, models), _compensation(table, weights, models)]
    said += [_loss_and_bias(changes[changes["model"] == method], baseline, method) for method in methods]
    return "\n".join(said)


def _gradients(table: pd.DataFrame, models: tuple[str, ...]) -> str:
    cosines, floors = {}, []
    for model in models:
        own = table[(table["model"] == model) & (table["quantity"] == "cosine")]
        if own.empty:
            raise DefarError(f"nothing to tell: the table has no cosines of {model!r}")
        cosines[model] = {name: _pick(own, "fm", name, "other batch") for name in ("adr", "adr_stopped")}
        floors.append(_range(_pick(own, "fm", "fm", "other batch")["value"], ".2f"))
    sizes = table[(table["quantity"] == "norm_over_fm") & table["model"].isin(models)]
    literal, stopped = (
        (
            ", ".join(f"{_signs(found[name])} at {model}'s weights" for model, found in cosines.items()),
            _range(sizes.loc[sizes["first"] == name, "value"], ".0f"),
        )
        for name in ("adr", "adr_stopped")
    )
    return (
        f"Beside FM's gradient on other images, ADR's through x_hat points {literal[0]}; stopped at x_hat it points "
        f"{stopped[0]}. Two minibatches' FM gradients themselves have a cosine of {' and '.join(floors)}, and in the "
        f"loss ADR's is {literal[1]} times as long as FM's, stopped {stopped[1]} times."
    )


def _pick(rows: pd.DataFrame, first: str, second: str, estimator: str) -> pd.DataFrame:
    return rows[(rows["first"] == first) & (rows["second"] == second) & (rows["estimator"] == estimator)]


def _signs(rows: pd.DataFrame) -> str:
    """In how many bins the interval lies above and below 0."""
    along, against = int((rows["low"] > 0).sum()), int((rows["high"] < 0).sum())
    extent = _range(rows["value"], "+.2f")
    return f"along it in {along} and against it in {against} of {len(rows)} bins of t0 ({extent})"


def _compensation(table: pd.DataFrame, weights: pd.DataFrame, models: tuple[str, ...]) -> str:
    cosines = table[(table["quantity"] == "cosine") & table["model"].isin(models)]
    least, strong = (_pick(cosines, "fm", name, "same batch")["value"].min() for name in ("fc", "fc_strong"))
    own = weights[weights["model"].isin(models)]
    plain, large = (own[own["reading"] == name] for name in ("l2", "mean"))
    verdict = "turns FM's gradient hardly at all" if least > 0.99 else "turns FM's gradient"
    return (
        f"FC as read by default {verdict} (cosine at least {least:.3f}; w from {plain['p5'].min():.3f} to "
        f"{plain['p95'].max():.3f} in 90 % of pixels), with the mean as normalizer it does more (at least "
        f"{strong:.2f}; w from {large['p5'].min():.2f} to {large['p95'].max():.2f}); of w's energy without its mean "
        f"{_range(100 * plain['low_share'], '.0f')} % is in the low band, where a white map has "
        f"{100 * plain['white_share'].iloc[0]:.0f} %."
    )


def _loss_and_bias(rows: pd.DataFrame, baseline: str, method: str) -> str:
    told = []
    for quantity, name in (("fm_loss", "FM loss"), ("bias_rms", "bias")):
        own = rows[rows["quantity"] == quantity]
        above, below = int((own["low"] > 0).sum()), int((own["high"] < 0).sum())
        told.append(
            f"{name} is above {baseline}'s in {above} and below it in {below} of {len(own)} bins "
            f"({_range(own['value'], '+.1f')} %)"
        )
    return f"On the same images, noise and times {method}'s {told[0]}, and its {told[1]}."


def _range(values: pd.Series, form: str) -> str:
    low, high = format(values.min(), form), format(values.max(), form)
    return low if low == high else f"{low} to {high}"
