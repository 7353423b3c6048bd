"""The finding of annealed importance sampling: its row, its verdict and its figures."""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pvae.drawing import Panel, attempt, axes, chart, colours, key, text
from pvae.drawing import finite as finite_values
from pvae.evaluation.finding import Estimate, Known
from pvae.evaluation.numbers import finite, se, se_of_mean

__all__ = ["TITLES", "Annealed", "above_bound"]

TITLES = {"both": "AIS", "prior": "AIS from the prior", "guide": "AIS from the guide"}


@dataclass(frozen=True)
class Annealed(Estimate, kind="Annealed"):
    """Annealed importance sampling of some data, in nats.

    Attributes:
        log_px: Log of the mean weight over the chains, [n]: below log p(x) in expectation.
        log_px_se: Its Monte Carlo standard error (delta method), [n].
        ess: Effective number of chains, [n].
        acceptance: Mean acceptance probability of the Hamiltonian moves at each temperature,
            [T - 1]; empty if every latent is discrete.
        start: `"prior"` or `"guide"`: where the chains begin.
        num_chains: C, chains for each datum.
        num_temperatures: T.
        num_leapfrog: L.
    """

    section, order = "trust", 20

    log_px_se: np.ndarray
    ess: np.ndarray
    acceptance: np.ndarray = field(metadata={"dims": ("temperature",)})
    start: str
    num_chains: int
    num_temperatures: int
    num_leapfrog: int

    @property
    def title(self) -> str:
        return TITLES[self.start]

    @property
    def level(self) -> str:
        return f"AIS, {self.start}"

    @property
    def independent(self) -> str:
        return "annealing" if self.start == "prior" else ""

    @property
    def run(self) -> str:
        """Its title and settings, in words."""
        return f"{self.title} ({self._settings})"

    @property
    def _settings(self) -> str:
        chains = text.plural(self.num_chains, "chain")
        return f"{chains}, {text.plural(self.num_temperatures, 'temperature')}"

    def summary(self, known: Known) -> dict[str, Any]:
        return {
            **super().summary(known),
            "monte_carlo_se": se_of_mean(self.log_px_se),
            "num_chains": self.num_chains,
            "num_temperatures": self.num_temperatures,
            "num_leapfrog": self.num_leapfrog,
            "acceptance": finite(self.acceptance.mean()) if self.acceptance.size else None,
            "ess": {"median": finite(np.median(self.ess))},
        }

    def note(self, summary: dict[str, Any]) -> str:
        source = "Neal 2001" if self.start == "prior" else "Neal 2001; Wu et al. 2017"
        return f"{self._settings} ({source})"

    def panels(self, known: Known) -> list[Panel]:
        found = [known.findings.get(f"ais_{start}") for start in ("prior", "guide")]
        found = [each for each in found if isinstance(each, Annealed)]
        if self is not found[0]:  # the figures of the first one show both
            return []
        panels = []
        if not known.code:
            title = "AIS against the bound, datum by datum"
            panels.append(attempt("ais", title, _differences, found, known, flagged=True))
        if any(len(each.acceptance) for each in found):
            panels.append(attempt("acceptance", "Acceptance of AIS", _acceptance, found))
        return panels

    def verdict(self, known: Known) -> str | None:
        if self.start != "prior":
            return None
        if known.one_code:
            return _beyond_one_code(self, known)
        if not known.code:
            return _missed_modes(self, known)
        some = "the {:,} data" if len(self) == len(known) else "{:,} of {:,} data"
        return (
            f"{self.run} estimates log p(x) of {some.format(len(self), len(known))} without the "
            "guide. In expectation it is below log p(x); --bdmc measures how far, on simulated "
            "data."
        )


def above_bound(
    ais: Annealed, log_px: np.ndarray, log_px_se: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns how far AIS is above the bound, the error of this, and whether it is significant.

    Significant is more than three standard errors plus 0.05 nats, plus half the bound's variance,
    by which the log of a mean is too low. If an error is unknown (one chain, one sample), the
    difference is not significant. A bound of -inf (every weight is zero) is below any value.
    All results are over the data of `ais`, [n].
    """
    at = ais.datum
    with np.errstate(invalid="ignore"):
        zero = np.isneginf(log_px[at])
        difference = np.where(zero, np.inf, ais.log_px - log_px[at])
        own = np.where(zero, 0.0, log_px_se[at])
        noise = np.sqrt(own**2 + ais.log_px_se**2)
        least = 3 * noise + own**2 / 2 + 0.05
        return difference, noise, (difference > least) | np.isposinf(difference)


def _above(ais: Annealed, known: Known) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    # log p(x, z(x)) of a single code has no Monte Carlo error.
    error = np.zeros(len(known)) if known.one_code else known.log_px_se
    return above_bound(ais, known.log_px, error)


def _beyond_one_code(ais: Annealed, known: Known) -> str:
    """Says how far log p(x), of all codes, is from log p(x, z(x))."""
    difference = _above(ais, known)[0]
    mean = float(difference.mean())
    where = "above" if mean >= 0 else "below"
    return (
        f"{ais.run} on {text.plural(len(ais), 'datum', 'data')} sums over all codes, and its "
        f"estimate of log p(x) is {abs(mean):.2f} nats {where} log p(x, z(x)) on average."
    )


def _missed_modes(ais: Annealed, known: Known) -> str:
    """Says whether AIS from the prior, which can reach every mode, finds more than the bound."""
    difference, noise, above = _above(ais, known)
    n, higher = len(difference), int(above.sum())
    finite = np.isfinite(difference)
    some, mean, error = difference[finite], math.nan, math.nan
    if len(some):
        mean = float(some.mean())
        error = float(noise[finite][0]) if len(some) == 1 else se(some)
    size = f"{abs(mean):.2f} ± {error:.2f} nats" if len(some) > 1 else f"{abs(mean):.2f} nats"
    with np.errstate(invalid="ignore"):
        far = bool((above & ~(difference <= 6 * noise + 0.05)).any())
    lost = int(np.isneginf(difference).sum())
    low = mean < -2 * error - 0.05
    short = "its chains are too short to reach what the guide finds"
    blind = "so it cannot rule out a missed mode"
    if higher and (far or not mean <= 2 * error or higher > max(1, 0.02 * n)):
        said = f"finds log p(x) higher by {size} on average, and"
        if mean < 0:
            said = f"is lower by {size} on average{f' ({short})' if low else ''}, but higher"
        elif not len(some):
            said = "finds log p(x) higher,"
        said += f" by more than three standard errors for {_why_higher(ais, known, above)}"
    elif np.isnan(noise).all():
        said = f"has no standard error (one chain, or one sample from the guide), {blind}"
    elif lost and len(some):
        said = f"gave only zero weights for {lost} of them: {short}, {blind}"
    elif low:
        said = f"is lower by {size} on average: {short}, {blind}"
    elif not len(some):
        said = f"gave no finite estimate, {blind}"
    else:
        said = (
            f"agrees (difference {'−' if mean < 0 else '+'}{size}): no sign of a mode that the "
            "guide misses there, as far as annealing can reach"
        )
    rest = len(known) - n
    unchecked = f" The other {rest:,} data were not checked." if rest else ""
    return f"{ais.run} on {'1 datum' if n == 1 else f'{n:,} data'} {said}.{unchecked}"


def _why_higher(ais: Annealed, known: Known, above: np.ndarray) -> str:
    """For how many data AIS is significantly above the bound, and why that can be."""
    higher, at = int(above.sum()), ais.datum[above]
    zero = int(np.isneginf(known.log_px[at]).sum())
    many = f"{higher} (for {zero} every weight was zero)" if zero else f"{higher}"
    trusted = int((known.khat[at] <= known.khat_threshold).sum())
    if not trusted:
        return (
            f"{many}: the bound is loose there, because there are too few samples for this guide, "
            "or because the guide leaves out part of the posterior"
        )
    some = f"for {trusted} of them k̂ is low, so that " if trusted < higher else ""
    return (
        f"{many}: {some}the guide leaves out part of their posterior, and its samples cannot show "
        "that"
    )


def _differences(found: list[Annealed], known: Known) -> Panel | None:
    """Draws AIS minus the bound for each datum, sorted."""
    first, *others = found
    difference, noise, higher = _above(first, known)
    order = np.argsort(np.where(np.isnan(difference), np.inf, difference), kind="stable")
    order = order[np.isfinite(difference[order])]
    if not len(order):
        return None
    with chart("Annealed importance sampling minus the bound L, datum by datum") as drawn:
        ax, at = drawn.figure.subplots(), np.arange(1, len(order) + 1)
        ax.axhline(0, color=colours.INK, linewidth=1.4)
        size = 5 if len(order) < 60 else 3
        for some, colour in ((~higher[order], colours.ACCENT), (higher[order], colours.WARN)):
            ax.errorbar(
                at[some], difference[order][some], yerr=2 * noise[order][some], fmt="o",
                color=colour, markersize=size, markeredgewidth=0, elinewidth=1.2,
                label=f"from the {first.start}" if colour == colours.ACCENT else None,
            )  # fmt: skip
        for other in others:
            above, *_ = _above(other, known)
            ax.plot(at, above[order], "o", markersize=size - 0.5, markerfacecolor="none",
                    markeredgecolor=colours.SECOND, label=f"from the {other.start}")  # fmt: skip
            key(ax, 2)
        ax.set_xlim(0.3 - 0.01 * len(at), len(at) + 0.7 + 0.01 * len(at))
        axes(ax, across="data, sorted", up="nats", whole="across")
    note = (
        f"Annealed importance sampling from the {first.start} (Neal 2001; Wu et al. 2017) minus "
        f"the bound at K = {text.count(known.num_samples)}, for "
        f"{text.plural(len(first), 'datum', 'data')}, sorted by this difference. Bars are ±2 "
        "Monte Carlo errors of both. "
    )
    if first.start == "prior":
        note += (
            "Chains from the prior can reach modes of the posterior that the guide never visits: "
            "such a datum lies above zero by more than its error. "
        )
    much = "higher by more than three errors and 0.05 nats."
    note += f"In red: the {higher.sum()} {much}" if higher.any() else f"None is {much}"
    note += " Far below zero the chains are too short, and say nothing about the guide."
    if others:
        note += (
            " Circles: AIS from the guide, which starts nearer but misses what the guide misses."
        )
    if left := len(difference) - len(order):
        note += f" {text.plural(left, 'datum', 'data')} without a finite difference: not drawn."
    return Panel((drawn.svg,), note)


def _acceptance(found: list[Annealed]) -> Panel | None:
    """Draws the acceptance over the temperatures."""
    if not any(len(finite_values(each.acceptance)) for each in found):
        return None
    with chart("Acceptance of annealed importance sampling over its temperatures") as drawn:
        ax = drawn.figure.subplots()
        for each, colour in zip(found, (colours.ACCENT, colours.SECOND), strict=False):
            dot = {"marker": "o", "markersize": 4} if len(each.acceptance) < 10 else {}
            at = np.arange(1, len(each.acceptance) + 1)
            ax.plot(at, each.acceptance, color=colour, label=f"from the {each.start}", **dot)
        if len(found) > 1:
            key(ax, 2)
        ax.set_ylim(-0.03, 1.03)
        axes(ax, across="temperatures, to the posterior", up="share", whole="across")
    lowest = "; ".join(
        f"from the {each.start} {text.percent(float(finite_values(each.acceptance).min()))}"
        for each in found if len(finite_values(each.acceptance))
    )  # fmt: skip
    note = (
        "Mean acceptance probability of the Hamiltonian moves at each temperature, from the first "
        f"distribution to the posterior; lowest: {lowest}. Where it is near zero the chains do not "
        "move, and AIS is not to be trusted."
    )
    return Panel((drawn.svg,), note)
