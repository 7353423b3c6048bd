"""The finding of the inference gap: what it says about each datum, and its figure."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from pvae.drawing import Panel, attempt, responsive, steps, text
from pvae.evaluation.finding import Finding, Known
from pvae.evaluation.numbers import mean_and_se, show

__all__ = ["Gaps"]


@dataclass(frozen=True)
class Gaps(Finding, kind="Gap"):
    r"""The difference between log p(x) and the ELBO in two parts, datum by datum.

    .. math:: \log p(x) - L[q] = \underbrace{\log p(x) - L[q^*]}_{\text{approximation gap}}
        + \underbrace{L[q^*] - L[q]}_{\text{amortisation gap}}

    with q the guide and q* the best distribution for this datum in the guide's own family. If
    that family cannot be optimised datum by datum, q* is the optimal mean field. The second
    difference is then no amortisation gap, and it can be negative.

    Attributes:
        datum: Positions of the data, [n].
        elbo: L[q], [n], nats.
        elbo_best: L[q*], [n], nats, from samples that were used neither to optimise nor to choose
            q*.
        log_px: The best estimate of log p(x), [n], nats; NaN if there is none.
        elbo_best_se: Monte Carlo standard error of `elbo_best`, [n]; inf if the optimisation did
            not converge.
        to_best_se: Monte Carlo standard error of `to_best`, [n]; its two ELBOs share samples.
        family: What was optimised, in words.
        own_family: Whether that is the guide's own family.
        num_samples: Samples for each ELBO.
        num_steps: Gradients that the optimisation took, for the data that took most.
        converged: Whether the optimisation converged, [n]. If not, L[q*] is that of the best
            member that was found, and part of the approximation gap may be an error of the
            optimisation. None in old evaluations.

    Source: Cremer, Li & Duvenaud 2018, *Inference suboptimality in variational autoencoders*.
    """

    title, section, order = "The inference gap", "parts", 60

    elbo: np.ndarray
    elbo_best: np.ndarray
    log_px: np.ndarray
    elbo_best_se: np.ndarray
    to_best_se: np.ndarray
    family: str
    own_family: bool
    num_samples: int
    num_steps: int
    converged: np.ndarray | None = None

    @property
    def to_best(self) -> np.ndarray:
        """L[q*] - L[q], [n], nats, whatever the family."""
        with np.errstate(invalid="ignore"):  # -inf - -inf
            return self.elbo_best - self.elbo

    @property
    def amortisation(self) -> np.ndarray:
        """The amortisation gap L[q*] - L[q], [n], nats; NaN unless q* is of the own family."""
        return self.to_best if self.own_family else np.full(len(self), np.nan)

    @property
    def approximation(self) -> np.ndarray:
        """The approximation gap log p(x) - L[q*], [n], nats."""
        return self.log_px - self.elbo_best

    @property
    def inference(self) -> np.ndarray:
        """The inference gap log p(x) - L[q], [n], nats: the sum of the two."""
        return self.log_px - self.elbo

    @property
    def first(self) -> str:
        """What L[q*] - L[q] is, in words."""
        return "amortisation" if self.own_family else "gap to the optimal mean field"

    def summary(self, known: Known) -> dict[str, Any]:
        return {
            "num_data": len(self),
            "family": self.family,
            "own_family": self.own_family,
            "not_converged": None if self.converged is None else int((~self.converged).sum()),
            self.first: mean_and_se(self.to_best),
            "approximation": mean_and_se(self.approximation),
            "inference": mean_and_se(self.inference),
        }

    def parts(
        self, means: dict[str, Any]
    ) -> tuple[list[tuple[str, float, float | None]], float | None, float | None]:
        """Returns what its figure draws: name, mean and error of each part, and of their sum.

        Args:
            means: `summary()`.
        """
        words = "amortisation gap" if self.own_family else self.first
        second = "approximation gap" if self.own_family else "from there to log p(x)"
        parts = [
            (words, *means[self.first].values()),
            (second, *means["approximation"].values()),
        ]
        return parts, *means["inference"].values()

    def panels(self, known: Known) -> list[Panel]:
        title = "Inference gap: from the ELBO to log p(x)"
        return [attempt("gap", title, _steps, self, self.summary(known), flagged=True)]

    def line(self, summary: dict[str, Any]) -> str:
        first, second = summary[self.first], summary["approximation"]
        unfinished = (
            f"; the optimisation did not converge for {lost}: part of the approximation gap may be "
            "its error"
            if (lost := summary["not_converged"])
            else ""
        )
        return (
            f"inference gap on {len(self)} data: {self.first} {show(first['mean'])} ± "
            f"{show(first['se'])}, approximation {show(second['mean'])} ± {show(second['se'])}"
            f"{unfinished}"
        )


def _steps(found: Gaps, means: dict[str, Any]) -> Panel | None:
    """Draws the two gaps between the ELBO and log p(x)."""
    first = found.first
    parts, total, error = found.parts(means)
    if total is None or any(value is None for _, value, _ in parts):
        return None
    body = responsive(
        lambda width: steps("Inference gap", parts, "inference gap", total, width, error=error)
    )
    data = text.plural(len(found), "datum", "data")
    note = f"log p(x) − ELBO on {data} (Cremer, Li & Duvenaud 2018), ±1 standard error over them. "
    if found.own_family:
        note += (
            "A larger encoder or more training could close the amortisation gap; only a richer "
            "family than the guide's could close the approximation gap. "
            f"Optimised for each datum: {found.family}"
        )
    else:
        reason = found.family.removeprefix(f"{first}: ")
        note += (
            f"The guide's own family could not be optimised datum by datum ({reason}), so the "
            "comparison is with the optimal mean field: this is no amortisation gap, and it is "
            "below zero if the guide is better than every mean field. Optimised for each datum: "
            "a product of Normals"
        )
    note += f" ({text.count(found.num_steps)} steps). "
    if lost := means["not_converged"]:
        note += (
            f"The optimisation did not converge for {text.plural(lost, 'datum', 'data')}: part of "
            "the approximation gap may be its error. "
        )
    note += (
        "log p(x) is from quadrature if there is one; else it is the bound or the AIS with the "
        "highest mean over these data, which is below log p(x) in expectation. The last gap is "
        "only as accurate as log p(x)."
    )
    return Panel((body,), note)
