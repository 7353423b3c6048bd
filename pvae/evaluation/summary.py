"""The summary of an evaluation: means over the data with their errors, as JSON and as a table."""

import dataclasses
import math
from typing import Any

import numpy as np

__all__ = ["mean_and_se", "summarise", "tabulate"]


def summarise(evaluation: Any) -> dict[str, Any]:
    """Returns the keys of `evaluation.json`, see `Evaluation.summary`."""
    e = evaluation
    units = [site["active_units"] for site in e.sites.values()]
    known = e.khat[~np.isnan(e.khat)]
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
                "unused_samples": e.num_samples % k,
                "monte_carlo_se": _of_mean(e.bounds_se.get(k)),
            }
            for k, values in e.bounds.items()
        ],
        "log_px_se": _number(np.sqrt(np.mean(e.log_px_se**2) / len(e))),
        "psis": None if e.psis is None else mean_and_se(e.psis),
        "jvi": [
            {"order": order, "num_samples": k, **mean_and_se(values)}
            for order, found in e.jvi.items()
            for k, values in found.items()
        ],
        "cubo": _cubo(e),
        "kl": _number(e.kl.mean()),
        "reconstruction": _number(e.reconstruction.mean()),
        "khat": {
            "median": _number(np.median(known)) if len(known) else None,
            "threshold": _number(e.khat_threshold),
            "above_threshold": (_number((known > e.khat_threshold).mean()) if len(known) else None),
            "unknown": len(e.khat) - len(known),
        },
        "ess": {"median": _number(np.median(e.ess))},
        "zero_weights": _number(e.zero_weights.mean()),
        "active_units": None if None in units else sum(units),
        "sites": e.sites,
        "strategy": e.strategy,
        "exact": e.exact,
        "not_a_likelihood": e.caveat,
        "bits_per_dim": _bits_per_dim(e),
        "verdict": e.verdict,
        "missing": e.missing,
    }
    return summary | {name: _FINDINGS[name](found, e) for name, found in e.findings.items()}


def _cubo(e: Any) -> dict[str, Any] | None:
    if e.cubo is None:
        return None
    shown = ~np.isnan(e.cubo)
    difference = (e.cubo - e.log_px)[shown]
    return {
        "above_log_px": _number(difference.mean()) if len(difference) else None,
        "shown_for": _number(shown.mean()),
    }


def _bits_per_dim(e: Any) -> dict[str, float | None] | None:
    r"""Bits for each dimension of x, where it takes one of `levels` values.

    Discrete x has a probability, and :math:`-\log p(x) / (D \ln 2)` bits. Dequantised x has a
    density on the unit cube, whose cells are :math:`1 / \mathrm{levels}` wide, so that
    :math:`\log_2 \mathrm{levels}` bits are added; they bound the bits of the discrete value
    from above.
    """
    if "dims" not in e.data or e.caveat or "code" in e.findings:
        return None
    added = math.log2(e.data["levels"]) if e.data["observation"] == "dequantize" else 0.0
    scale = e.data["dims"] * math.log(2)
    return {
        "elbo": _number(added - e.elbo.mean() / scale),
        "log_px": _number(added - e.log_px.mean() / scale),
    }


def _estimate(found: Any, e: Any) -> dict[str, Any]:
    """An estimate of log p(x) on some data, beside the importance-weighted bound on the same."""
    with np.errstate(invalid="ignore"):  # -inf - -inf
        difference = found.log_px - e.log_px[found.datum]
    return {
        "num_data": len(found),
        **mean_and_se(found.log_px),
        "above_log_px": mean_and_se(difference),
    }


def _annealed(found: Any, e: Any) -> dict[str, Any]:
    return {
        **_estimate(found, e),
        "monte_carlo_se": _of_mean(found.log_px_se),
        "num_chains": found.num_chains,
        "num_temperatures": found.num_temperatures,
        "num_leapfrog": found.num_leapfrog,
        "acceptance": _number(found.acceptance.mean()) if found.acceptance.size else None,
        "ess": {"median": _number(np.median(found.ess))},
    }


def _from_prior(found: Any, e: Any) -> dict[str, Any]:
    return {
        **_estimate(found, e),
        "num_samples": found.num_samples,
        "shared": found.shared,
        "relative_variance": {"median": _number(np.median(found.relative_variance))},
        "ess": {"median": _number(np.median(found.ess))},
    }


def _sandwich(found: Any, e: Any) -> dict[str, Any]:
    return {
        "num_data": len(found),
        "lower": mean_and_se(found.lower),
        "upper": mean_and_se(found.upper),
        "gap": {"mean": _number(found.gap), "se": _number(found.gap_se)},
        "num_chains": found.num_chains,
        "num_temperatures": found.num_temperatures,
        "num_leapfrog": found.num_leapfrog,
    }


def _quadrature(found: Any, e: Any) -> dict[str, Any]:
    known = np.isfinite(found.log_px)
    part = dataclasses.replace(
        found, datum=found.datum[known], log_px=found.log_px[known], error=found.error[known]
    )
    error = _number(part.error.max()) if len(part) else None
    return {**_estimate(part, e), "error": error, "unknown": int((~known).sum())}


def _gap(found: Any, e: Any) -> dict[str, Any]:
    first = "amortisation" if found.own_family else "gap to the optimal mean field"
    return {
        "num_data": len(found),
        "family": found.family,
        "own_family": found.own_family,
        "not_converged": None if found.converged is None else int((~found.converged).sum()),
        first: mean_and_se(found.to_best),
        "approximation": mean_and_se(found.approximation),
        "inference": mean_and_se(found.inference),
    }


def _code(found: Any, e: Any) -> dict[str, Any]:
    return {
        "num_data": len(found),
        "log_joint": mean_and_se(found.log_joint),
        "log_likelihood": mean_and_se(found.log_likelihood),
        "log_prior": mean_and_se(found.log_prior),
        "squared_error": mean_and_se(found.squared_error),
    }


def _surgery(found: Any, e: Any) -> dict[str, Any]:
    return {
        "num_data": found.num_data,
        "num_draws": len(found),
        "mutual_information": _number(found.mutual_information),
        "mutual_information_se": _number(found.mutual_information_se),
        "log_num_data": found.log_num_data,
        "marginal_kl": _number(found.marginal_kl),
        "marginal_kl_se": _number(found.marginal_kl_se),
    }


_FINDINGS = {
    "code": _code,
    "prior": _from_prior,
    "ais_prior": _annealed,
    "ais_guide": _annealed,
    "bdmc": _sandwich,
    "quadrature": _quadrature,
    "gap": _gap,
    "surgery": _surgery,
}


def tabulate(evaluation: Any) -> str:
    """Returns the table of an evaluation, see `Evaluation.table`."""
    e, summary = evaluation, summarise(evaluation)
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
        rows.append(("ELBO", summary["elbo"], ""))
    if summary["elbo_analytic"]:
        rows.append(("ELBO, KL in closed form", summary["elbo_analytic"], ""))
    for row in summary["log_px"]:
        unused = f"{row['unused_samples']} samples left over" if row["unused_samples"] else ""
        rows.append((f"L_{row['num_samples']}", row, "exact" if e.exact else unused))
    if not e.exact:
        last: dict[int, dict[str, Any]] = {row["order"]: row for row in summary["jvi"]}
        rows += [
            (f"JVI-{order}, K = {row['num_samples']}", row, "an estimate, not a bound")
            for order, row in last.items()
        ]
        if summary["psis"]:
            rows.append(("PSIS", summary["psis"], "an estimate, not a bound"))
    for name, words in (
        ("prior", "prior, naive"),
        ("ais_prior", "AIS from the prior"),
        ("ais_guide", "AIS from the guide"),
        ("quadrature", "quadrature"),
    ):
        if name in summary:
            row = summary[name]
            above = row["above_log_px"]["mean"]
            some = f"{row['num_data']} data, " if row["num_data"] < len(e) else ""
            if code:
                some = f"log p(x), {row['num_data']} data"
            beside = "" if above is None else f"{above:+.2f} on L_{e.num_samples} of the same data"
            rows.append((words, row, f"{some}{beside}".removesuffix(", ")))
    width = max(len(name) for name, *_ in rows) + 2
    lines = [
        f"{e.model} with {e.guide} on {e.data['name']} ({e.data['observation']}, "
        f"{len(e)} data{'' if code else f', {e.num_samples} samples each'})",
        f"{'' if code else 'bound':<{width}}{'mean':>12}{'± se':>10}   {label}",
    ]
    lines += [
        f"{name:<{width}}{_show(row['mean']):>12}{_show(row['se']):>10}   {note}".rstrip()
        for name, row, note in rows
    ]
    lines += _details(e, summary)
    return "\n".join(lines + ([e.caveat] if e.caveat else []))


def _details(e: Any, summary: dict[str, Any]) -> list[str]:
    above = summary["khat"]["above_threshold"]
    units = summary["active_units"]
    terms = [f"active units {'–' if units is None else units}"]
    if "code" not in summary:
        shown = [f"{name} {_show(summary[key])}" for name, key in
                 (("reconstruction", "reconstruction"), ("KL", "kl"))]  # fmt: skip
        terms = [*shown, *terms, f"median ESS {_show(summary['ess']['median'])}"]
    lines = [", ".join(terms)]
    if above is not None:
        unknown = summary["khat"]["unknown"]
        lines.append(
            f"k̂: median {_show(summary['khat']['median'])}, above {e.khat_threshold:.2f} for "
            f"{above:.1%} of the data"
            + (f" that have one; {unknown:,} have none" if unknown else "")
        )
    if bits := summary["bits_per_dim"]:
        lines.append(f"bits/dim: {_show(bits['log_px'], 4)} (by the ELBO {_show(bits['elbo'], 4)})")
    if found := summary.get("bdmc"):
        lines.append(
            f"bidirectional Monte Carlo on {found['num_data']} simulated data: "
            f"{_show(found['lower']['mean'])} to {_show(found['upper']['mean'])}, gap "
            f"{_show(found['gap']['mean'])} ± {_show(found['gap']['se'])}"
        )
    if found := summary.get("gap"):
        first = "amortisation" if found["own_family"] else "gap to the optimal mean field"
        lines.append(
            f"inference gap on {found['num_data']} data: {first} {_show(found[first]['mean'])} "
            f"± {_show(found[first]['se'])}, approximation "
            f"{_show(found['approximation']['mean'])} ± {_show(found['approximation']['se'])}"
            + (
                f"; the optimisation of {found['not_converged']} did not converge, where part of "
                "the approximation gap may be its own"
                if found["not_converged"]
                else ""
            )
        )
    if found := summary.get("surgery"):
        lines.append(
            f"index-code mutual information {_show(found['mutual_information'])} (at most log N = "
            f"{found['log_num_data']:.2f}), marginal KL {_show(found['marginal_kl'])}"
        )
    return [*lines, e.verdict]


def mean_and_se(values: np.ndarray) -> dict[str, float | None]:
    """Returns the mean over the data and its standard error, sd / √N; None where undefined."""
    if not len(values):
        return {"mean": None, "se": None}
    with np.errstate(invalid="ignore"):
        se = values.std(ddof=1) / math.sqrt(len(values)) if len(values) > 1 else math.nan
        return {"mean": _number(values.mean()), "se": _number(se)}


def _of_mean(errors: np.ndarray | None) -> float | None:
    """The Monte Carlo error of a mean over data that have samples of their own."""
    if errors is None or not len(errors):
        return None
    return _number(np.sqrt(np.mean(errors**2) / len(errors)))


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _show(value: float | None, places: int = 2) -> str:
    return "–" if value is None else f"{value:.{places}f}"
