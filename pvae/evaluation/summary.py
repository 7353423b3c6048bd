"""The summary of an evaluation: means over the data with their errors, as JSON and as a table."""

import dataclasses
import math
from typing import Any

import numpy as np

from pvae.drawing import text
from pvae.evaluation.finding import Estimate, Known
from pvae.evaluation.numbers import finite, mean_and_se, se_of_mean, show
from pvae.evaluation.reading import Reading, read
from pvae.evaluation.rounded import rounded_in_words

__all__ = ["summarise", "tabulate"]


def summarise(e: Known, verdict: str) -> dict[str, Any]:
    """Returns the keys of `evaluation.json`, see `Evaluation.summary`."""
    units = [site["active_units"] for site in e.sites.values()]
    khat = e.khat[~np.isnan(e.khat)]
    summary: dict[str, Any] = {
        "units": "nats",
        "num_data": len(e),
        "num_samples": e.num_samples,
        "seed": e.seed,
        "model": e.model,
        "guide": e.guide,
        "data": e.data,
        "elbo": mean_and_se(e.elbo),
        "elbo_analytic": None if e.elbo_analytic is None else mean_and_se(e.elbo_analytic),
        "log_px": [
            {
                "num_samples": k,
                **mean_and_se(values),
                "unused_samples": 0 if e.one_code else e.num_samples % k,
                "monte_carlo_se": se_of_mean(e.bounds_se.get(k)),
            }
            for k, values in e.bounds.items()
        ],
        "log_px_se": finite(np.sqrt(np.mean(e.log_px_se**2) / len(e))),
        "psis": None if e.psis is None else mean_and_se(e.psis),
        "jvi": [
            {"order": order, "num_samples": k, **mean_and_se(values)}
            for order, found in e.jvi.items()
            for k, values in found.items()
        ],
        "cubo": _cubo(e),
        "kl": finite(e.kl.mean()),
        "reconstruction": finite(e.reconstruction.mean()),
        "khat": {
            "median": finite(np.median(khat)) if len(khat) else None,
            "threshold": finite(e.khat_threshold),
            "above_threshold": finite((khat > e.khat_threshold).mean()) if len(khat) else None,
            "unknown": len(e.khat) - len(khat),
        },
        "ess": {"median": finite(np.median(e.ess))},
        "zero_weights": finite(e.zero_weights.mean()),
        "active_units": None if None in units else sum(units),
        "sites": e.sites,
        "strategy": e.strategy,
        "precision": e.precision,
        "exact": e.exact,
        "one_code": e.one_code,
        "not_a_likelihood": e.caveat,
        "bits_per_dim": _bits_per_dim(e),
        "reading": dataclasses.asdict(read(e)),
        "verdict": verdict,
        "missing": e.missing,
    }
    return summary | {name: found.summary(e) for name, found in e.findings.items()}


def _cubo(e: Known) -> dict[str, Any] | None:
    if e.cubo is None:
        return None
    shown = ~np.isnan(e.cubo)
    difference = (e.cubo - e.log_px)[shown]
    return {
        "above_log_px": finite(difference.mean()) if len(difference) else None,
        "shown_for": finite(shown.mean()),
    }


def _bits_per_dim(e: Known) -> dict[str, float | None] | None:
    r"""Returns the bits per dimension of x, if x takes one of `levels` values.

    Discrete x has a probability, and :math:`-\log p(x) / (D \ln 2)` bits. Dequantised x has a
    density on the unit cube, whose cells are :math:`1 / \mathrm{levels}` wide, so that
    :math:`\log_2 \mathrm{levels}` bits are added; they bound the bits of the discrete value
    from above.
    """
    if "dims" not in e.data or e.caveat or e.code:
        return None
    added = math.log2(e.data["levels"]) if e.data["observation"] == "dequantize" else 0.0
    scale = e.data["dims"] * math.log(2)
    return {
        "elbo": finite(added - e.elbo.mean() / scale),
        "log_px": finite(added - e.log_px.mean() / scale),
    }


def tabulate(e: Known, summary: dict[str, Any]) -> str:
    """Returns the table of an evaluation, see `Evaluation.table`."""
    label = "not a likelihood, nats per datum" if e.caveat else "nats per datum"
    code = summary.get("code")
    rows: list[tuple[str, dict[str, Any], str]] = []
    if code:
        rows += [
            ("log p(x, z)", code["log_joint"], "at the code z: no bound on log p(x)"),
            ("log p(x|z)", code["log_likelihood"], "at the code: the reconstruction"),
            ("log p(z)", code["log_prior"], "at the code: minus the penalty"),
            ("‖x − E[x|z]‖²", code["squared_error"], "squared error, summed over x; not in nats"),
        ]
    else:
        rows.append(("ELBO", summary["elbo"], "log p(x, z(x))" if e.one_code else ""))
    if summary["elbo_analytic"]:
        rows.append(("ELBO, KL in closed form", summary["elbo_analytic"], ""))
    for row in [] if e.one_code else summary["log_px"]:
        unused = f"{row['unused_samples']} samples left over" if row["unused_samples"] else ""
        rows.append((f"L_{row['num_samples']}", row, "exact" if e.exact else unused))
    if not e.constant:
        last: dict[int, dict[str, Any]] = {row["order"]: row for row in summary["jvi"]}
        rows += [
            (f"JVI-{order}, K = {row['num_samples']}", row, "an estimate, not a bound")
            for order, row in last.items()
        ]
        if summary["psis"]:
            rows.append(("PSIS", summary["psis"], "an estimate, not a bound"))
    for name, found in e.in_order():
        if isinstance(found, Estimate):
            row = summary[name]
            above = row["above_log_px"]["mean"]
            some = f"{row['num_data']} data, " if row["num_data"] < len(e) else ""
            if code:
                some = f"log p(x), {row['num_data']} data"
            bound = "the bound" if e.one_code else f"L_{e.num_samples}"
            beside = "" if above is None else f"{above:+.2f} on {bound} of the same data"
            rows.append((found.label or found.title, row, f"{some}{beside}".removesuffix(", ")))
    width = max(len(name) for name, *_ in rows) + 2
    lines = [
        f"{e.model} with {e.guide} on {e.data['name']} ({e.data['observation']}, "
        f"{len(e)} data{'' if code or e.constant else f', {e.num_samples} samples each'})",
        f"{'' if code else 'bound':<{width}}{'mean':>12}{'± se':>10}   {label}",
    ]
    lines += [
        f"{name:<{width}}{show(row['mean']):>12}{show(row['se']):>10}   {note}".rstrip()
        for name, row, note in rows
    ]
    if "density" in e.data:
        lines.append(f"log p(x) stands for log {e.data['density']}.")
    lines += _details(e, summary)
    return "\n".join(lines + ([e.caveat] if e.caveat else []))


def _details(e: Known, summary: dict[str, Any]) -> list[str]:
    above = summary["khat"]["above_threshold"]
    units = summary["active_units"]
    terms = [f"active units {'–' if units is None else units}"]
    if not e.code:
        shown = [f"{name} {show(summary[key])}" for name, key in
                 (("reconstruction", "reconstruction"), ("KL", "kl"))]  # fmt: skip
        ess = [] if e.constant else [f"median ESS {show(summary['ess']['median'])}"]
        terms = [*shown, *terms, *ess]
    lines = [", ".join(terms)]
    if above is not None and not e.constant:
        unknown = summary["khat"]["unknown"]
        lines.append(
            f"k̂: median {show(summary['khat']['median'])}, above {e.khat_threshold:.2f} for "
            f"{text.percent(above)} of the data"
            + (f" that have one; {unknown:,} have none" if unknown else "")
        )
    if e.precision:
        lines.append(rounded_in_words(e.precision, e.num_samples))
    if bits := summary["bits_per_dim"]:
        lines.append(f"bits/dim: {show(bits['log_px'], 4)} (by the ELBO {show(bits['elbo'], 4)})")
    elif "bits_per_dim" in e.missing:
        lines.append(f"bits/dim left out: {e.missing['bits_per_dim']}")
    lines += filter(None, (found.line(summary[name]) for name, found in e.in_order()))
    return [*lines, f"{Reading(**summary['reading'])}", summary["verdict"]]
