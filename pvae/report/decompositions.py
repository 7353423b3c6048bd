"""Where the nats go: KL by dimension, the ELBO surgery, and the gaps below log p(x)."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup

from pvae.evaluation import ActiveUnits
from pvae.report import text
from pvae.report.panels import Missing, Panel
from pvae.report.svg import ACCENT, FILL, INK, PAPER, RULE, SECOND, chart, key, plain, responsive

if TYPE_CHECKING:
    from pvae.evaluation import Evaluation

__all__ = ["gap", "kl_dims", "surgery"]

Part = tuple[str, float, float | None]

_BARS = 64
_SITES = 6


def kl_dims(evaluation: "Evaluation") -> Panel | None:
    """Draws the KL of each latent dimension, sorted, the active ones marked."""
    title = "KL of each latent dimension"
    known = {n: s for n, s in evaluation.sites.items() if s["kl_dims"]}
    if not known:
        if not evaluation.sites:
            return Panel(title, hidden=True)
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
        "smallest. In strong colour are the active units: their posterior mean varies over the "
        f"data by more than {ActiveUnits.threshold:g} (Burda, Grosse & Salakhutdinov 2016, section "
        "5.2). A faint bar varies less, or its mean is undefined. A dimension without KL carries "
        "nothing about x."
    )
    dims = ", ".join(
        f"the {_BARS} largest of {text.count(len(known[name]['kl_dims']))}"
        + (f" of {name}" if several else "")
        for name in shown if len(known[name]["kl_dims"]) > _BARS
    )  # fmt: skip
    note += f" Shown: {dims}." if dims else ""
    if left := len(known) - len(shown):
        note += (
            f" {text.plural(left, 'site')} with less KL {'is' if left == 1 else 'are'} not shown."
        )
    if without := [name for name in evaluation.sites if name not in known]:
        note += f" Not split into dimensions: {', '.join(without)}."
    return Panel(title, bodies, note)


def _dims(name: str, site: dict[str, Any], index: int, width: float) -> Markup:
    kl = np.nan_to_num(np.asarray(site["kl_dims"], dtype=np.float64), posinf=np.nan)
    order = np.argsort(-np.nan_to_num(kl), kind="stable")[:_BARS]
    variance = site["variance"] or []
    same = len(variance) == len(kl)
    active = np.asarray(variance)[order] > ActiveUnits.threshold if same else np.zeros(len(order))
    label = f"KL of the dimensions of latent site {index + 1}"
    with chart(label, width, 200) as drawn:
        ax, at = drawn.figure.subplots(), np.arange(len(order))
        for some, colour, words in (
            (active == 1, ACCENT, "active"),
            (active == 0, FILL, "not active"),
        ):
            ax.bar(at[some], kl[order][some], color=colour, width=0.72,
                   alpha=0.85, label=words if same else None)  # fmt: skip
        if same and 0 < active.sum() < len(active):
            key(ax, 2)
        few = len(order) <= (20 if width > 500 or len(order) <= 10 else 12)
        ax.set_xticks(at if few else [], [str(i + 1) for i in order] if few else [])
        ax.set_xlim(-0.8, max(len(order), width / 60) - 0.2)
        plain(ax.yaxis)
        ax.set_title(f"{name}, nats", parse_math=False)
        ax.set_xlabel("dimension, sorted →" if few else "dimensions, sorted →", loc="right")
    return drawn.svg


def _sum(values: Sequence[float]) -> float:
    return float(np.nansum(values))


def surgery(evaluation: "Evaluation") -> Panel | None:
    """Draws the rate as mutual information and marginal KL, beside log N."""
    title = "ELBO surgery: what the rate is spent on"
    if "surgery" not in evaluation.findings:
        return Panel(title, hidden=True)
    found = evaluation.findings["surgery"]
    parts: list[Part] = [
        ("index-code mutual information", found.mutual_information, found.mutual_information_se),
        ("marginal KL(q(z) ‖ p(z))", found.marginal_kl, found.marginal_kl_se),
    ]
    most = found.log_num_data
    if not all(math.isfinite(value) for _, value, _ in parts):
        return None
    body = responsive(lambda width: _steps("ELBO surgery", parts, "rate", found.rate, width, most))
    n = text.count(found.num_data)
    note = (
        "Rate = mutual information + marginal KL (Hoffman & Johnson 2016), from one draw of z for "
        f"{text.plural(len(found), 'datum', 'data')}. The first says how well a code tells which "
        f"of the {n} data it is of; it cannot exceed log N = {text.number(most)} nats, the dashed "
        "line, and close to it only says that N is small for this pair, and that the other part is "
        "overstated. The second says how far the codes of all data together are from the prior: "
        "what a better prior could win."
    )
    return Panel(title, (body,), note)


def gap(evaluation: "Evaluation", summary: dict[str, Any]) -> Panel | None:
    """Draws what lies between the ELBO and log p(x): amortisation, then approximation."""
    title = "Inference gap: from the ELBO to log p(x)"
    if "gap" not in evaluation.findings:
        return Panel(title, hidden=True)
    found, means = evaluation.findings["gap"], summary["gap"]
    first = "amortisation" if found.own_family else "gap to the optimal mean field"
    words = "amortisation gap" if found.own_family else first
    second = "approximation gap" if found.own_family else "from there to log p(x)"
    parts = [(words, *_mean(means[first])), (second, *_mean(means["approximation"]))]
    total = means["inference"]["mean"]
    if total is None or any(value is None for _, value, _ in parts):
        return None
    body = responsive(
        lambda width: _steps(
            "Inference gap", parts, "inference gap", total, width, error=means["inference"]["se"]
        )
    )
    data = text.plural(len(found), "datum", "data")
    note = f"log p(x) − ELBO on {data} (Cremer, Li & Duvenaud 2018), ±1 standard error over them. "
    if found.own_family:
        note += (
            "The amortisation gap is what an encoder of more capacity or more training could win; "
            "the approximation gap is what only a richer family than the guide's could win. "
            f"Optimised for each datum: {found.family}"
        )
    else:
        reason = found.family.removeprefix(f"{first}: ")
        note += (
            f"The guide's own family could not be optimised datum by datum ({reason}), so the "
            "comparison is with the optimal mean field: this is no amortisation gap, and it is "
            "below zero where the guide is better than every mean field. Optimised for each datum: "
            "a product of Normals"
        )
    note += (
        f" ({text.count(found.num_steps)} steps). {_unfinished(means)}log p(x) is by quadrature "
        "where that is there, else by that of importance weights and AIS (each below it in "
        "expectation) whose mean over these data is highest; the last gap is known only as well "
        "as that."
    )
    return Panel(title, (body,), note)


def _unfinished(means: dict[str, Any]) -> str:
    lost = means["not_converged"]
    if not lost:
        return ""
    of = text.plural(lost, "datum", "data")
    return (
        f"For {of} the optimisation did not converge: what is the family's there may in part be "
        "the optimisation's. "
    )


def _mean(row: dict[str, Any]) -> tuple[Any, Any]:
    return row["mean"], row["se"]


def _steps(
    label: str,
    parts: Sequence[Part],
    whole: str,
    total: float,
    width: float,
    most: float | None = None,
    error: float | None = None,
) -> Markup:
    """Parts laid end to end, which may be below zero, and their sum beneath.

    Args:
        label: What the picture shows, for those who cannot see it.
        parts: Name, nats and standard error of each.
        whole: Name of the sum.
        total: The sum.
        width: CSS pixels.
        most: What the first part can be at most.
        error: Standard error of the sum.
    """
    places = min(3, max(2, text.decimals(*(se for _, _, se in parts))))
    with chart(label, width, 60 + 46 * (len(parts) + 1)) as drawn:
        ax, start = drawn.figure.subplots(), 0.0
        ends = [0.0]
        for y, (name, value, se) in enumerate([*parts, (whole, total, error)]):
            last = y == len(parts)
            left = 0.0 if last else start
            colour = RULE if last else (ACCENT, SECOND)[y % 2]
            ax.barh(y, value, left=left, height=0.34, color=colour, alpha=1 if last else 0.8)
            start = left + value
            spread = se if se is not None and math.isfinite(se) else 0.0
            if spread:
                ax.errorbar(start, y, xerr=spread, color=INK, elinewidth=1.4, capsize=3)
            if y < len(parts):
                ax.plot([start, start], [y, y + 1], color=RULE, linewidth=1, zorder=0)
            ends += [start - spread, start + spread]
            words = " ".join([name, "", *text.with_error(value, se, places)]).strip()
            ax.annotate(
                words, (0, y - 0.22), xytext=(5, 0),
                xycoords=ax.get_yaxis_transform(), textcoords="offset points", va="bottom",
                color=INK, bbox={"fc": PAPER, "ec": "none", "pad": 1},
            )  # fmt: skip
        if most is not None:
            ax.plot([most, most], [-0.18, 0.34], color=INK, linewidth=1.4, dashes=(3, 2))
            ends.append(most)
            left = most >= 0.8 * max(ends)
            if not left or parts[0][1] < 0.75 * most:
                ax.annotate(
                    "log N", (most, 0), (-5 if left else 5, 0), textcoords="offset points",
                    ha="right" if left else "left", va="center", color=INK,
                )  # fmt: skip
        ax.axvline(0, color=INK, linewidth=1.4)
        low, high = min(ends), max(ends)
        room = 0.03 * (high - low) or 0.5
        ax.set_xlim(low - (room if low < 0 else 0), high + room)
        ax.set_ylim(len(parts) + 0.4, -0.75)
        ax.set_yticks([])
        ax.grid(True, axis="x")
        plain(ax.xaxis)
        ax.set_xlabel("nats per datum →", loc="right")
    return drawn.svg
