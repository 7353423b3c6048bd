"""How far the numbers can be trusted, datum by datum: k̂, AIS beside the bound, and the sandwich."""

from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from pvae.evaluation import above_bound
from pvae.report import charts, text
from pvae.report.panels import Missing, Panel
from pvae.report.svg import ACCENT, FILL, INK, MUTED, SECOND, WARN, chart, finite, key, plain

if TYPE_CHECKING:
    from pvae.evaluation import Annealed, Evaluation, Sandwich

__all__ = ["acceptance", "ais", "bdmc", "khat", "log_px"]

Series = NDArray[np.float64]

_STARTS = (("ais_prior", "from the prior"), ("ais_guide", "from the guide"))


def khat(evaluation: "Evaluation") -> Panel | None:
    """Draws the histogram of k̂."""
    title, values = "Pareto k̂, datum by datum", np.asarray(evaluation.khat)
    if evaluation.exact:
        return Panel(title, hidden=True)
    without = []
    if constant := int(np.isneginf(values).sum()):
        n = text.plural(constant, "datum has", "data have")
        without.append(f"{n} constant weights (k̂ = −∞, as with an exact guide)")
    if unknown := int(np.isnan(values).sum()):
        n = text.plural(unknown, "datum has", "data have")
        without.append(f"{n} no k̂ (too few samples or degenerate weights)")
    body = charts.khat_histogram(values, float(evaluation.khat_threshold))
    if body is None:
        raise Missing(f"There is no k̂ to draw: {'; '.join(without) or 'no data'}.")
    note = (
        "k̂ estimates how heavy the tail of a datum's importance weights is (Vehtari et al. 2024). "
        "Up to the threshold the weights give no reason to doubt the Monte Carlo error; above it "
        "a few samples carry the estimate, so the bound may lie far below log p(x) and its error "
        "is understated."
    )
    if without:
        note += f" Not drawn: {'; '.join(without)}."
    return Panel(title, (body,), note)


def log_px(evaluation: "Evaluation", places: int) -> Panel | None:
    """Draws the histogram of the bound, or of log p(x) itself."""
    values = np.asarray(evaluation.log_px)
    body = charts.histogram(values, "Histogram of log p(x) over the data", places)
    what = "log p(x)" if evaluation.exact else "bound on log p(x), at the largest K"
    note = f"How many data have which {what}. The tail on the left is what the pair finds unlikely."
    if missing := int(np.sum(~np.isfinite(values))):
        note += f" {text.plural(missing, 'datum', 'data')} without a finite value: not drawn."
    return Panel("log p(x), datum by datum", (body,), note) if body else None


def ais(evaluation: "Evaluation") -> Panel | None:
    """Draws what AIS finds above or below the bound, for each datum of its own, in order."""
    title = "AIS against the bound, datum by datum"
    found = _annealed(evaluation)
    if not found:
        return Panel(title, hidden=True)
    first = next(iter(found.values()))
    difference, noise, higher = above_bound(first, evaluation.log_px, evaluation.log_px_se)
    order = np.argsort(np.where(np.isnan(difference), np.inf, difference), kind="stable")
    order = order[np.isfinite(difference[order])]
    if not len(order):
        return None
    with chart("Annealed importance sampling minus the bound L, datum by datum") as drawn:
        ax, at = drawn.figure.subplots(), np.arange(1, len(order) + 1)
        ax.axhline(0, color=INK, linewidth=1.4)
        size = 5 if len(order) < 60 else 3
        for some, colour in ((~higher[order], ACCENT), (higher[order], WARN)):
            ax.errorbar(
                at[some], difference[order][some], yerr=2 * noise[order][some], fmt="o",
                color=colour, markersize=size, markeredgewidth=0, elinewidth=1.2,
                label=next(iter(found)) if colour == ACCENT else None,
            )  # fmt: skip
        if len(found) > 1:
            other, *_ = above_bound(
                found["from the guide"], evaluation.log_px, evaluation.log_px_se
            )
            ax.plot(at, other[order], "o", markersize=size - 0.5, markerfacecolor="none",
                    markeredgecolor=SECOND, label="from the guide")  # fmt: skip
            key(ax, 2)
        ax.set_xlim(0.3 - 0.01 * len(at), len(at) + 0.7 + 0.01 * len(at))
        plain(ax.xaxis, whole=True)
        plain(ax.yaxis)
        ax.set_title("nats")
        ax.set_xlabel("data, sorted →", loc="right")
    note = _about(evaluation, found, int(higher.sum()))
    if left := len(difference) - len(order):
        note += f" {text.plural(left, 'datum', 'data')} without a finite difference: not drawn."
    return Panel(title, (drawn.svg,), note)


def _annealed(evaluation: "Evaluation") -> dict[str, "Annealed"]:
    return {words: evaluation.findings[name] for name, words in _STARTS
            if name in evaluation.findings}  # fmt: skip


def _about(evaluation: "Evaluation", found: dict[str, Any], higher: int) -> str:
    (start, first), *others = found.items()
    k = text.count(evaluation.num_samples)
    note = (
        f"Annealed importance sampling {start} (Neal 2001; Wu et al. 2017) minus the bound at "
        f"K = {k}, for {text.plural(len(first), 'datum', 'data')} in the order of that difference; "
        "bars are ±2 Monte Carlo errors of both. "
    )
    if start == "from the prior":
        note += (
            "Chains from the prior can reach modes of the posterior that the guide never visits: "
            "such a datum lies above zero by more than its error. "
        )
    much = "higher by more than three errors and 0.05 nats."
    note += f"In red: the {higher} {much}" if higher else f"None is {much}"
    note += " Far below zero the chains are too short, and say nothing about the guide."
    if others:
        note += (
            " Circles: the same from the guide, which starts nearer and is blind where it is blind."
        )
    return note


def acceptance(evaluation: "Evaluation") -> Panel | None:
    """Draws the acceptance of AIS over its temperatures."""
    title = "Acceptance of AIS"
    found = {words: np.asarray(f.acceptance) for words, f in _annealed(evaluation).items()}
    if not any(len(values) for values in found.values()):
        return Panel(title, hidden=True)
    if not any(len(finite(values)) for values in found.values()):
        return None
    with chart("Acceptance of annealed importance sampling over its temperatures") as drawn:
        ax = drawn.figure.subplots()
        for (words, values), colour in zip(found.items(), (ACCENT, SECOND), strict=False):
            dot = {"marker": "o", "markersize": 4} if len(values) < 10 else {}
            ax.plot(np.arange(1, len(values) + 1), values, color=colour, label=words, **dot)
        if len(found) > 1:
            key(ax, 2)
        ax.set_ylim(-0.03, 1.03)
        plain(ax.xaxis, whole=True)
        plain(ax.yaxis)
        ax.set_title("share")
        ax.set_xlabel("temperatures, to the posterior →", loc="right")
    lowest = "; ".join(
        f"{words} {text.percent(float(finite(values).min()))}"
        for words, values in found.items() if len(finite(values))
    )  # fmt: skip
    note = (
        "Mean acceptance probability of the Hamiltonian moves at each temperature, from the first "
        f"distribution to the posterior; lowest: {lowest}. Where it collapses the chains stand "
        "still, and AIS is not to be trusted."
    )
    return Panel(title, (drawn.svg,), note)


def bdmc(evaluation: "Evaluation") -> Panel | None:
    """Draws both ends of the sandwich for each simulated datum, and how far they are apart."""
    title = "Bidirectional Monte Carlo, on simulated data"
    if "bdmc" not in evaluation.findings:
        return Panel(title, hidden=True)
    found = evaluation.findings["bdmc"]
    known = np.isfinite(found.lower) & np.isfinite(found.upper)
    if not known.any():
        return None
    lower, upper = found.lower[known], found.upper[known]
    order = np.argsort(lower, kind="stable")
    bodies = (_ends(lower[order], upper[order]), _gaps((upper - lower)[order], found))
    places = text.decimals(found.gap_se)
    note = (
        f"For {text.plural(len(found), 'datum', 'data')} drawn from the model together with their "
        "z, annealing forwards bounds log p(x) from below and annealing back from that z bounds "
        "it from above, both in expectation (Grosse, Ghahramani & Adams 2015; "
        f"{text.plural(found.num_chains, 'chain')}, "
        f"{text.plural(found.num_temperatures, 'temperature')}). First, the two ends; then what "
        f"lies between them in the same order, on average {text.number(found.gap, places)} ± "
        f"{text.number(found.gap_se, places)} nats: on average neither end is further from log "
        "p(x) than that, and below zero there is only noise. This holds for data drawn from the "
        "model, not for the test data, whose posteriors can be harder; it says how well annealing "
        "with these settings can do."
    )
    if left := int((~known).sum()):
        note += f" {text.plural(left, 'datum', 'data')} without finite ends: not drawn."
    return Panel(title, bodies, note)


def _ends(lower: Series, upper: Series) -> Markup:
    with chart("Bidirectional Monte Carlo: lower and upper ends for each simulated datum") as drawn:
        ax, at = drawn.figure.subplots(), np.arange(1, len(lower) + 1)
        ax.vlines(at, lower, upper, color=MUTED, linewidth=1.2)
        size = 5 if len(at) < 60 else 3
        for ends, shape, colour, name in ((lower, "^", ACCENT, "from below"),
                                          (upper, "v", SECOND, "from above")):  # fmt: skip
            ax.plot(at, ends, shape, color=colour, markersize=size, markeredgewidth=0, label=name)
        key(ax, 2)
        plain(ax.xaxis, whole=True)
        plain(ax.yaxis)
        ax.set_title("nats")
        ax.set_xlabel("simulated data →", loc="right")
    return drawn.svg


def _gaps(gaps: Series, found: "Sandwich") -> Markup:
    with chart("Bidirectional Monte Carlo: the gap of each simulated datum") as drawn:
        ax = drawn.figure.subplots()
        ax.bar(np.arange(1, len(gaps) + 1), gaps, color=FILL, width=0.7)
        if np.isfinite(found.gap):
            ax.axhline(found.gap, color=INK, linewidth=1.4, label="mean gap")
            if np.isfinite(found.gap_se):
                ax.axhspan(found.gap - found.gap_se, found.gap + found.gap_se, color=INK,
                           alpha=0.14, linewidth=0)  # fmt: skip
            key(ax, 1)
        plain(ax.xaxis, whole=True)
        plain(ax.yaxis)
        ax.set_title("gap, nats")
        ax.set_xlabel("simulated data →", loc="right")
    return drawn.svg
