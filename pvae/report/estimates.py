"""The bounds and the estimates of log p(x) as tables, and the mean bound against K."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup

from pvae.drawing import HIDDEN, Panel, text
from pvae.evaluation import (
    CUBO_KHAT,
    Estimate,
    Evaluation,
    estimates_beside,
    find_estimators,
    mean_and_se,
)
from pvae.report import charts

__all__ = ["Row", "absent", "against_k", "at_code", "bits", "bounds", "estimates"]

Mean = dict[str, float | None]

_NOTHING: Mean = {"mean": None, "se": None}
_HINT = Markup("{} was not asked for: <code>pvae evaluate RUN {}</code> adds it.")


@dataclass(frozen=True)
class Row:
    """One row of a table, in nats per datum.

    Attributes:
        name: What was computed.
        note: How, and how to read it.
        mean: Over the data.
        se: Standard error over the data.
        k: K, if the row is a bound L_K.
        error: Monte Carlo error of the mean.
        size: Number of data, if they are not all.
        above: `mean` and `se` of the difference from L_K on the same data.
    """

    name: str
    note: str
    mean: float | None
    se: float | None
    k: int | None = None
    error: float | None = None
    size: int | None = None
    above: Mean | None = None


def bounds(evaluation: Evaluation, summary: dict[str, Any]) -> list[Row]:
    """Returns the rows of the bounds: their expectation is at most the mean of log p(x)."""
    e = evaluation
    # If the guide enumerates no site, the ELBO is L_1.
    same = 1 in e.bounds and np.allclose(e.elbo, e.bounds[1], equal_nan=True)
    error = summary["log_px"][0]["monte_carlo_se"] if same and not e.constant else None
    by = "" if e.elbo_analytic is None else "from the samples"
    rows = [Row("ELBO", by, _mean(e.elbo), summary["elbo"]["se"], error=error)]
    if e.elbo_analytic is not None:
        note = "the same quantity, with the KL in closed form if there is one"
        rows.append(Row("ELBO", note, _mean(e.elbo_analytic), summary["elbo_analytic"]["se"]))
    if e.one_code:
        return [Row("ELBO", "log p(x, z(x)) at the guide's code", _mean(e.elbo),
                    summary["elbo"]["se"])]  # fmt: skip
    if e.exact:
        # L_K is the same for every K.
        return [*rows, Row("log p(x)", "exact: nothing was sampled", _mean(e.log_px),
                           summary["log_px"][-1]["se"])]  # fmt: skip
    for row in summary["log_px"]:
        if same and row["num_samples"] == 1:
            continue  # the ELBO again
        k, unused = row["num_samples"], row["unused_samples"]
        note = f"{unused} of {text.plural(e.num_samples, 'sample')} left over" if unused else ""
        rows.append(Row("", note, _mean(e.bounds[k]), row["se"], k, row["monte_carlo_se"]))
    return rows


def at_code(evaluation: Evaluation, summary: dict[str, Any]) -> list[Row]:
    """Returns the rows of a pair whose guide gives a point; none is a bound."""
    code = summary["code"]
    return [
        Row("log p(x, z)", "what training maximised: no bound on log p(x)", **code["log_joint"]),
        Row("log p(x|z)", "minus the reconstruction error", **code["log_likelihood"]),
        Row("log p(z)", "minus the penalty on the code", **code["log_prior"]),
    ]


def estimates(evaluation: Evaluation, summary: dict[str, Any]) -> list[Row]:
    """Returns the rows of the estimates that are not bounds."""
    e, rows = evaluation, []
    if not e.constant:
        for order, found in e.jvi.items():
            k = max(found, default=0)
            if k:
                note = f"jackknife of order {order} (Nowozin 2018): not a bound"
                rows.append(_same_data(f"JVI-{order}, K = {text.count(k)}", note, found[k], e))
        if e.psis is not None:
            note = "Pareto-smoothed weights (Vehtari et al. 2024): not a bound"
            rows.append(_same_data("PSIS", note, e.psis, e))
    for name, found in e.in_order():
        if isinstance(found, Estimate):
            own = summary[name]
            size = own["num_data"] if own["num_data"] < len(e) else None
            rows.append(
                Row(found.title, found.note(own), own["mean"], own["se"],
                    size=size, above=own["above_log_px"])
            )  # fmt: skip
    if e.cubo is not None and not e.constant:
        rows.append(_from_above(e, e.cubo))
    return rows


def _same_data(name: str, note: str, values: np.ndarray, e: Evaluation) -> Row:
    with np.errstate(invalid="ignore"):
        found, above = mean_and_se(values), mean_and_se(values - e.log_px)
    return Row(name, note, found["mean"], found["se"], above=above)


def _from_above(e: Evaluation, cubo: np.ndarray) -> Row:
    """Returns the χ² row, over the data whose k̂ is small enough for it."""
    shown = (e.khat <= CUBO_KHAT) & ~np.isnan(cubo)
    name, why = "χ² (CUBO)", "an indication from above (Dieng et al. 2017), not a bound here"
    if not shown.any():
        return Row(name, f"{why}; shown for 0% of the data: none has a k̂ known to be ≤ ¼", None,
                   None, above=_NOTHING)  # fmt: skip
    share = text.percent(float(shown.mean()))
    with np.errstate(invalid="ignore"):
        found, above = mean_and_se(cubo[shown]), mean_and_se((cubo - e.log_px)[shown])
    size = int(shown.sum()) if not shown.all() else None
    note = f"{why}; shown for {share} of the data, those with k̂ ≤ ¼"
    return Row(name, note, found["mean"], found["se"], size=size, above=above)


def absent(evaluation: Evaluation) -> dict[str, list[str]]:
    """Returns for each section why findings are missing, or how to ask for them."""
    e = evaluation
    titles = {
        "details": ("estimates", "Details of the bounds"),
        "bits_per_dim": ("estimates", "Bits per dimension"),
    }
    hints = dict[str, list[str]]()
    for kind in find_estimators():
        section, usual = kind.finding.section, kind()
        parts = usual.parts(e.code)
        titles |= {part.name: (section, part.title) for part in parts}
        lacking = [p for p in parts if p.name not in e.findings and p.name not in e.missing]
        if usual.suggested(e):
            asked = [usual] if len(lacking) == len(usual.parts(False)) else lacking
            hints.setdefault(section, []).extend(_HINT.format(p.title, p.hint) for p in asked)
    reasons = dict[str, dict[str, list[str]]]()
    for name, reason in e.missing.items():
        section, title = titles.get(name, ("estimates", name))
        reasons.setdefault(section, {}).setdefault(reason, []).append(title)
    return {
        section: [f"Left out: {', '.join(t)}. {r}" for r, t in reasons.get(section, {}).items()]
        + hints.get(section, [])
        for section in ("estimates", "trust", "parts", "uses")
    }


def bits(evaluation: Evaluation, summary: dict[str, Any]) -> str | None:
    """Returns a sentence with the bits per dimension of x; None if x has no levels."""
    found = summary["bits_per_dim"]
    if found is None:
        return None
    e, dims = evaluation, text.count(evaluation.data["dims"])
    by = "" if e.constant else f" by the bound at K = {text.count(e.num_samples)}"
    words = (
        f"In bits per dimension (fewer are better): {text.number(found['log_px'], 4)}{by} and "
        f"{text.number(found['elbo'], 4)} by the ELBO. That is −log p(x) / (D ln 2) for D = {dims}"
    )
    if e.data["observation"] == "dequantize":
        levels = text.count(e.data["levels"])
        words += (
            f", plus log₂ {levels} because the {levels} levels were dequantised to the unit cube: "
            "an upper bound on the bits of the discrete values (Theis et al. 2016)"
        )
    return words + "."


def against_k(evaluation: Evaluation, summary: dict[str, Any]) -> Panel | None:
    """Draws the mean bound against K, and the estimates that are of all data."""
    if evaluation.constant:
        return HIDDEN
    marks, levels = estimates_beside(evaluation, summary)
    body, outside = charts.bounds(summary, marks, levels)
    if body is None:
        return None
    note = "The mean of each bound over the data, against its number of samples"
    if summary["elbo"]["mean"] is not None:
        note += ", beside the ELBO"
    if any(row["se"] is not None for row in summary["log_px"]):
        note += (
            ". The band is ±1 standard error over the data; all points share the same data, so "
            "the rise from one K to the next is known better than the band suggests"
        )
    note += ". A curve that still rises at its end has not reached log p(x)."
    if marks:
        note += (
            " The marks are estimates from the same samples (JVI from blocks of K, PSIS from all), "
            "not bounds. Marks above the curve guess how far it still has to rise."
        )
    if levels:
        note += " Horizontal lines are other estimates on the same data."
    partial = [
        found.title for name, found in evaluation.in_order()
        if isinstance(found, Estimate) and found.level
        and summary[name]["num_data"] < len(evaluation)
    ]  # fmt: skip
    if partial:
        note += f" Not drawn, because they are on some of the data only: {', '.join(partial)}."
    if outside:
        note += f" Outside the frame: {', '.join(outside)}."
    return Panel((body,), note)


def _mean(values: np.ndarray) -> float:
    with np.errstate(invalid="ignore"):
        return float(np.mean(values))
