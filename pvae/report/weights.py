"""Histograms of k̂ and of the bound over the data, and the KL of each latent dimension."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from pvae.drawing import (
    HIDDEN,
    MOST_DIMS,
    PAGE,
    Missing,
    Panel,
    chart,
    draw_dims,
    edges_at,
    finite,
    num_bins,
    responsive,
    text,
)
from pvae.evaluation import Evaluation
from pvae.predictive import ACTIVE
from pvae.report import charts

__all__ = ["khat", "kl_dims", "log_px"]

_SITES = 6


def khat(evaluation: Evaluation) -> Panel | None:
    """Draws the histogram of k̂."""
    if evaluation.constant:
        return HIDDEN
    values = np.asarray(evaluation.khat)
    without = []
    if constant := int(np.isneginf(values).sum()):
        n = text.plural(constant, "datum has", "data have")
        without.append(f"{n} constant weights (k̂ = −∞, as with an exact guide)")
    if unknown := int(np.isnan(values).sum()):
        n = text.plural(unknown, "datum has", "data have")
        without.append(f"{n} no k̂ (too few samples or degenerate weights)")
    known, threshold = finite(values), float(evaluation.khat_threshold)
    if not len(known):
        raise Missing(f"There is no k̂ to draw: {'; '.join(without) or 'no data'}.")
    edges = edges_at(known, threshold)
    label = "Histogram of the Pareto shape k̂ of the importance weights"
    line = threshold, f"threshold {text.number(threshold)}"
    body = charts.histogram(known, edges, label, "k̂", line, split=threshold)
    note = (
        "k̂ estimates how heavy the tail of a datum's importance weights is (Vehtari et al. 2024). "
        "Up to the threshold the weights give no reason to doubt the Monte Carlo error; above it "
        "a few samples carry the estimate, so the bound may lie far below log p(x) and its error "
        "is understated."
    )
    if without:
        note += f" Not drawn: {'; '.join(without)}."
    return Panel((body,), note)


def log_px(evaluation: Evaluation, places: int) -> Panel | None:
    """Draws the histogram of the bound, or of log p(x) itself."""
    values = np.asarray(evaluation.log_px)
    known = finite(values)
    if not len(known):
        return None
    mean = float(known.mean())
    every = "mean" if len(known) == len(values) else "mean of the finite"
    line = mean, f"{every} {text.number(mean, places)}"
    label = "Histogram of log p(x) over the data"
    body = charts.histogram(known, num_bins(known), label, "nats", line)
    what = "log p(x)" if evaluation.exact else "bound on log p(x), at the largest K"
    note = f"The {what}, over the data. The left tail holds the data that the pair finds unlikely."
    if missing := int(np.sum(~np.isfinite(values))):
        note += f" {text.plural(missing, 'datum', 'data')} without a finite value: not drawn."
    return Panel((body,), note)


def kl_dims(evaluation: Evaluation) -> Panel | None:
    """Draws the KL of each latent dimension, sorted, the active ones marked."""
    known = {n: s for n, s in evaluation.sites.items() if s["kl_dims"]}
    if not known:
        if not evaluation.sites:
            return HIDDEN
        raise Missing(
            "The KL does not split into dimensions: no latent site has dimensions that are "
            "independent of each other in both the guide and the prior."
        )
    largest = sorted(known, key=lambda name: -_sum(known[name]["kl_dims"]))[:_SITES]
    shown = [name for name in known if name in largest]
    several = len(shown) > 1
    bodies = tuple(
        _dims(name, known[name], i, 350)
        if several
        else responsive(lambda width, name=name: _dims(name, known[name], 0, width))
        for i, name in enumerate(shown)
    )
    note = (
        "KL(q(z|x) ‖ p(z)) of each dimension, averaged over the data, from the largest to the "
        "smallest. Active units are in strong colour: their posterior mean has a variance over the "
        f"data above {ACTIVE:g} (Burda, Grosse & Salakhutdinov 2016, section 5.2). Faint bars have "
        "less, or an undefined mean. A dimension without KL carries nothing about x."
    )
    dims = ", ".join(
        f"the {MOST_DIMS} largest of {text.count(len(known[name]['kl_dims']))}"
        + (f" of {name}" if several else "")
        for name in shown if len(known[name]["kl_dims"]) > MOST_DIMS
    )  # fmt: skip
    note += f" Shown: {dims}." if dims else ""
    if left := len(known) - len(shown):
        note += (
            f" {text.plural(left, 'site')} with less KL {'is' if left == 1 else 'are'} not shown."
        )
    if without := [name for name in evaluation.sites if name not in known]:
        note += f" Not split into dimensions: {', '.join(without)}."
    return Panel(bodies, note)


def _dims(name: str, site: dict[str, Any], index: int, width: float) -> Markup:
    label = f"KL of the dimensions of latent site {index + 1}"
    with chart(label, width, 200) as drawn:
        few = 20 if width > 500 else 12
        ax = drawn.figure.subplots()
        draw_dims(ax, name, site, ACTIVE, look=PAGE, few=few, room=width / 60)
    return drawn.svg


def _sum(values: Sequence[float]) -> float:
    return float(np.nansum(values))
