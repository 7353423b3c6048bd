"""The finding of the ELBO surgery: mutual information and marginal KL, and their figure."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from pvae.drawing import Panel, attempt, responsive, steps, text
from pvae.evaluation.finding import Finding, Known
from pvae.evaluation.numbers import finite, se, show

__all__ = ["AggregatePosterior"]


@dataclass(frozen=True)
class AggregatePosterior(Finding, kind="Surgery"):
    r"""The densities of one sample z ~ q(z|x_n) for each of n data.

    .. math:: \underbrace{E_n \mathrm{KL}(q(z|x_n) \| p(z))}_{\text{rate}}
        = \underbrace{I_q(n; z)}_{\text{mutual information}}
        + \underbrace{\mathrm{KL}(q(z) \| p(z))}_{\text{marginal KL}}, \qquad
        q(z) = \frac1N \sum_{j=1}^N q(z|x_j), \qquad I_q(n; z) \le \log N

    The estimates are means over the samples, with the standard errors of these means.

    Attributes:
        datum: Positions n of the data whose z was sampled, [n].
        log_q_given_x: log q(z|x_n) at the sample of datum n, [n], nats.
        log_q_marginal: log q(z) at the same sample, [n], nats.
        log_prior: log p(z) at the same sample, [n], nats.
        num_data: N, all data.

    Source: Hoffman & Johnson 2016, *ELBO surgery: yet another way to carve up the variational
    evidence lower bound*.

    Example:
        >>> found = AggregatePosterior(
        ...     np.arange(2), np.zeros(2), np.log([0.5, 0.5]), np.array([-1.0, -2.0]), num_data=2
        ... )
        >>> found.rate, round(found.mutual_information, 4), round(found.marginal_kl, 4)
        (1.5, 0.6931, 0.8069)
    """

    title, section, order = "The ELBO surgery", "parts", 50

    log_q_given_x: np.ndarray
    log_q_marginal: np.ndarray
    log_prior: np.ndarray
    num_data: int

    @property
    def mutual_information(self) -> float:
        """I = E[log q(z|x_n) - log q(z)], nats: between 0 and log N, up to noise at 0."""
        return float(self._information.mean())

    @property
    def mutual_information_se(self) -> float:
        """Standard error of `mutual_information`, nats."""
        return se(self._information)

    @property
    def marginal_kl(self) -> float:
        """KL(q(z) ‖ p(z)) = E[log q(z) - log p(z)], nats."""
        return float((self.log_q_marginal - self.log_prior).mean())

    @property
    def marginal_kl_se(self) -> float:
        """Standard error of `marginal_kl`, nats."""
        return se(self.log_q_marginal - self.log_prior)

    @property
    def rate(self) -> float:
        """E_n KL(q(z|x_n) ‖ p(z)) from the same samples, nats: the sum of the other two."""
        return float((self.log_q_given_x - self.log_prior).mean())

    @property
    def log_num_data(self) -> float:
        """Log N, nats: the largest possible mutual information."""
        return math.log(self.num_data)

    def summary(self, known: Known) -> dict[str, Any]:
        return {
            "num_data": self.num_data,
            "num_draws": len(self),
            "mutual_information": finite(self.mutual_information),
            "mutual_information_se": finite(self.mutual_information_se),
            "log_num_data": self.log_num_data,
            "marginal_kl": finite(self.marginal_kl),
            "marginal_kl_se": finite(self.marginal_kl_se),
        }

    def panels(self, known: Known) -> list[Panel]:
        return [attempt("surgery", "ELBO surgery: what the rate is spent on", _split_rate, self)]

    def line(self, summary: dict[str, Any]) -> str:
        return (
            f"index-code mutual information {show(summary['mutual_information'])} (at most log N = "
            f"{self.log_num_data:.2f}), marginal KL {show(summary['marginal_kl'])}"
        )

    @property
    def _information(self) -> np.ndarray:
        return self.log_q_given_x - self.log_q_marginal


def _split_rate(found: AggregatePosterior) -> Panel | None:
    """Draws the rate as mutual information and marginal KL, beside log N."""
    parts = [
        ("index-code mutual information", found.mutual_information, found.mutual_information_se),
        ("marginal KL(q(z) ‖ p(z))", found.marginal_kl, found.marginal_kl_se),
    ]
    most = found.log_num_data
    if not all(math.isfinite(value) for _, value, _ in parts):
        return None
    body = responsive(lambda width: steps("ELBO surgery", parts, "rate", found.rate, width, most))
    n = text.count(found.num_data)
    note = (
        "Rate = mutual information + marginal KL (Hoffman & Johnson 2016), from one sample of z "
        f"for {text.plural(len(found), 'datum', 'data')}. The mutual information says how well a "
        f"code identifies its datum among the {n}. It cannot exceed log N = {text.number(most)} "
        "nats, the dashed line; close to it N is too small for this pair, and the marginal KL is "
        "overestimated. The marginal KL says how far the codes of all data together are from the "
        "prior: a better prior could save it."
    )
    return Panel((body,), note)
