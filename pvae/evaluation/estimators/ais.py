"""Annealed importance sampling: log p(x) estimated from the prior and from the guide."""

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np

from pvae.drawing import ACCENT, INK, SECOND, WARN, Panel, attempt, axes, chart, key, text
from pvae.drawing import finite as finite_values
from pvae.errors import PvaeError
from pvae.evaluation.estimator import Estimator, Task
from pvae.evaluation.estimators.annealing import Annealing
from pvae.evaluation.estimators.bounds import effective_sample_size, log_mean_exp, log_px_se
from pvae.evaluation.finding import Estimate, Known
from pvae.evaluation.numbers import finite, se_of_mean
from pvae.importance import seed_unit
from pvae.runtime import whole

__all__ = ["AIS", "Annealed", "above_bound"]

_TITLES = {"both": "AIS", "prior": "AIS from the prior", "guide": "AIS from the guide"}


@dataclass(frozen=True)
class Annealed(Estimate, kind="Annealed"):
    """Annealed importance sampling of some data, in nats.

    Attributes:
        log_px: Log of the mean weight over the chains, [n]: below log p(x) in expectation.
        log_px_se: Its Monte Carlo standard error (delta method), [n].
        ess: Effective number of chains, [n].
        acceptance: Mean acceptance probability at each temperature, [T - 1].
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
        return _TITLES[self.start]

    @property
    def level(self) -> str:
        return f"AIS, {self.start}"

    @property
    def run(self) -> str:
        """What ran, in words."""
        chains = "chain" if self.num_chains == 1 else "chains"
        return f"{self.title} ({self.num_chains} {chains}, {self.num_temperatures} temperatures)"

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
        return (
            f"{text.plural(self.num_chains, 'chain')}, "
            f"{text.plural(self.num_temperatures, 'temperature')} ({source})"
        )

    def panels(self, known: Known) -> list[Panel]:
        found = [known.findings.get(f"ais_{start}") for start in ("prior", "guide")]
        found = [each for each in found if isinstance(each, Annealed)]
        if self is not found[0]:  # the other one's figures show both
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
        if not known.code:
            return _modes(self, known)
        some = "the {:,} data" if len(self) == len(known) else "{:,} of {:,} data"
        return (
            f"{self.run} estimates log p(x) of {some.format(len(self), len(known))} without the "
            "guide; in expectation it lies below log p(x), by as much as annealing falls short "
            "(--bdmc tells on simulated data)."
        )


@dataclass(frozen=True)
class AIS(Annealing):
    r"""Annealed importance sampling, from the prior and from the guide.

    .. math:: \log p(x) \approx \log \frac1C \sum_{c=1}^C w_c, \qquad
        \log w = \sum_{t=1}^T (\beta_t - \beta_{t-1}) \log \frac{p(x, z_{t-1})}{f_0(z_{t-1})}

    Below log p(x) in expectation. Chains from the prior can find modes that the guide misses;
    those from the guide start nearer. See `Annealing` for the path and the options.

    Attributes:
        start: `"prior"`, `"guide"` or `"both"`, which makes two findings. Where the guide gives
            a point, both is the prior alone.

    Raises:
        PvaeError: If a latent site is discrete and not enumerated, the model's density has no
            gradient, or the guide's density cannot be evaluated where it did not draw.

    Source: Neal 2001, *Annealed importance sampling*, arXiv:physics/9803008; Wu, Burda,
    Salakhutdinov & Grosse 2017, arXiv:1611.04273.
    """

    finding = Annealed
    hint = "--ais 100"

    start: str = "both"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.start not in _TITLES:
            raise PvaeError(f"start={self.start!r}: one of {', '.join(_TITLES)} is needed.")

    @property
    def name(self) -> str:
        return "ais" if self.start == "both" else f"ais_{self.start}"

    @property
    def title(self) -> str:
        return _TITLES[self.start]

    @classmethod
    def from_options(
        cls,
        ais: int = 0,
        num_chains: int = 16,
        num_temperatures: int = 500,
        num_leapfrog: int = 2,
    ) -> Self | None:
        """Annealed importance sampling.

        Args:
            ais: Number of data, drawn at random, for annealed importance sampling, from the prior
                (which can find modes that the guide misses) and from the guide.
            num_chains: Chains for each datum, here and in bidirectional Monte Carlo.
            num_temperatures: Temperatures, in both.
            num_leapfrog: Leapfrog steps at each temperature, in both.
        """
        num_data = whole("ais", ais, 0)
        found = cls(num_data or None, num_chains, num_temperatures, num_leapfrog)
        return found if num_data else None

    def parts(self, code: bool) -> list[Estimator]:
        starts = ("prior", "guide") if self.start == "both" else (self.start,)
        return [dataclasses.replace(self, start=each) for each in starts[: 1 if code else None]]

    def estimate(self, task: Task) -> Annealed:
        if task.code and self.start == "guide":
            raise PvaeError("The guide gives a point, which has no density to anneal from.")
        density = self._density(task)

        def compute(block: np.ndarray) -> dict[str, np.ndarray]:
            seed_unit(task.seed, int(block[0]), purpose=2 if self.start == "prior" else 3)
            tick = task.work.ticks(2 * (self.num_temperatures - 1))
            log_w, acceptance, *_ = self._forward(density, task.batch(block), tick)
            weights = log_w.T.cpu().numpy()
            return {
                "log_px": log_mean_exp(weights),
                "log_px_se": log_px_se(weights),
                "ess": effective_sample_size(weights),
                "acceptance": acceptance.double().cpu().numpy(),
            }

        results = task.work.map(self.title, self._blocks(task), compute)
        acceptance = sum(each.pop("acceptance").sum(1) for each in results) / len(task.positions)
        return Annealed(
            datum=task.positions,
            **{name: np.concatenate([each[name] for each in results]) for name in results[0]},
            acceptance=acceptance,
            **self.options(task),
        )


def above_bound(
    ais: Annealed, log_px: np.ndarray, log_px_se: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns by how much AIS is above the bound, its error, and where that is no chance, [n].

    Not by chance is more than three standard errors of both, and more than 0.05 nats, beyond
    half the bound's variance, by which the log of a mean is too low. Where an error is not known
    (one chain, one sample) nothing is. A bound of -inf, where every weight is zero, is below
    anything.
    """
    at = ais.datum
    with np.errstate(invalid="ignore"):
        zero = np.isneginf(log_px[at])
        difference = np.where(zero, np.inf, ais.log_px - log_px[at])
        own = np.where(zero, 0.0, log_px_se[at])
        noise = np.sqrt(own**2 + ais.log_px_se**2)
        return (
            difference,
            noise,
            (difference > 3 * noise + own**2 / 2 + 0.05) | np.isposinf(difference),
        )


def _modes(ais: Annealed, known: Known) -> str:
    """What AIS from the prior, which can reach every mode, finds beside the guide's samples."""
    difference, noise, above = above_bound(ais, known.log_px, known.log_px_se)
    n, higher = len(difference), int(above.sum())
    finite = np.isfinite(difference)
    some = difference[finite]
    mean = float(some.mean()) if len(some) else math.nan
    se = math.nan
    if len(some):
        alone = len(some) == 1
        se = float(noise[finite][0] if alone else some.std(ddof=1) / math.sqrt(len(some)))
    lost = int(np.isneginf(difference).sum())
    data = "1 datum" if n == 1 else f"{n:,} data"
    rest = len(known) - n
    unchecked = f" The other {rest:,} data were not checked." if rest else ""
    run = ais.run
    size = f"{abs(mean):.2f} ± {se:.2f} nats" if len(some) > 1 else f"{abs(mean):.2f} nats"
    infinite = int(np.isposinf(difference).sum())
    with np.errstate(invalid="ignore"):
        far = bool((above & ~(difference <= 6 * noise + 0.05)).any())
    if higher and (far or not mean <= 2 * se or higher > max(1, 0.02 * n)):
        by = f" by {size} on average" if len(some) else ""
        at = known.khat[ais.datum][above]
        trusted = int((at <= known.khat_threshold).sum())
        why = f": for {trusted} of them k̂ is low, so that " if trusted < higher else ": "
        why += "the guide leaves out part of their posterior, and its samples cannot show that"
        if not trusted:
            why = (
                ": the bound is loose there, with too few samples for this guide or a part of the "
                "posterior that the guide leaves out"
            )
        many = f"{higher} (for {infinite} every weight was zero)" if infinite else f"{higher}"
        if mean < 0:
            short = ", too short to reach what the guide finds" if mean < -2 * se - 0.05 else ""
            return (
                f"{run} on {data} comes out lower{by}{short}, and yet higher by more than three "
                f"standard errors for {many}{why}.{unchecked}"
            )
        return (
            f"{run} on {data} finds log p(x) higher{by}, and by more than three standard errors "
            f"for {many}{why}.{unchecked}"
        )
    if np.isnan(noise).all():
        return (
            f"{run} on {data} has no error to compare by (one chain, or one sample of the guide), "
            f"and can rule out no missed mode.{unchecked}"
        )
    if lost and len(some):
        return (
            f"{run} on {data} came to nothing for {lost} of them: too short to reach what the "
            f"guide finds, so it can rule out no missed mode.{unchecked}"
        )
    if mean < -2 * se - 0.05:
        return (
            f"{run} on {data} comes out lower by {size} on average: too short to reach what the "
            f"guide finds, so it can rule out no missed mode.{unchecked}"
        )
    if not len(some):
        return f"{run} on {data} came to nothing, and can rule out no missed mode.{unchecked}"
    sign = "−" if mean < 0 else "+"
    return (
        f"{run} on {data} agrees (difference {sign}{size}): no sign of a mode that the guide "
        f"misses there, as far as annealing can reach.{unchecked}"
    )


def _differences(found: list[Annealed], known: Known) -> Panel | None:
    """Draws what AIS finds above or below the bound, for each datum of its own, in order."""
    first, *others = found
    difference, noise, higher = above_bound(first, known.log_px, known.log_px_se)
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
                label=f"from the {first.start}" if colour == ACCENT else None,
            )  # fmt: skip
        for other in others:
            above, *_ = above_bound(other, known.log_px, known.log_px_se)
            ax.plot(at, above[order], "o", markersize=size - 0.5, markerfacecolor="none",
                    markeredgecolor=SECOND, label=f"from the {other.start}")  # fmt: skip
            key(ax, 2)
        ax.set_xlim(0.3 - 0.01 * len(at), len(at) + 0.7 + 0.01 * len(at))
        axes(ax, across="data, sorted", up="nats", whole="across")
    note = (
        f"Annealed importance sampling from the {first.start} (Neal 2001; Wu et al. 2017) minus "
        f"the bound at K = {text.count(known.num_samples)}, for "
        f"{text.plural(len(first), 'datum', 'data')} in the order of that difference; bars are ±2 "
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
            " Circles: the same from the guide, which starts nearer and is blind where it is blind."
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
        for each, colour in zip(found, (ACCENT, SECOND), strict=False):
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
        f"distribution to the posterior; lowest: {lowest}. Where it collapses the chains stand "
        "still, and AIS is not to be trusted."
    )
    return Panel((drawn.svg,), note)
