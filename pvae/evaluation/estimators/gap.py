"""Inference gaps: how much of log p(x) - ELBO is the encoder's fault, and how much the family's."""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from torch import Tensor

from pvae.drawing import Panel, attempt, responsive, steps, text
from pvae.errors import PvaeError
from pvae.evaluation.estimator import Estimator, Task
from pvae.evaluation.estimators.ais import AIS
from pvae.evaluation.estimators.ascent import ascend
from pvae.evaluation.estimators.find_family import find_family
from pvae.evaluation.estimators.local_gaussian import LocalGaussian
from pvae.evaluation.estimators.member import elbo_terms
from pvae.evaluation.estimators.own_family import OwnFamily
from pvae.evaluation.finding import Finding, Known
from pvae.evaluation.numbers import mean_and_se, show
from pvae.evaluation.work import in_blocks
from pvae.importance import Sampler, seed_unit
from pvae.runtime import whole

__all__ = ["Gap", "Gaps"]

_RUNS = 3.0 * 8_000  # of the decoder, with gradients, that a datum is worth about
_TAG = 0x6A


@dataclass(frozen=True)
class Gaps(Finding, kind="Gap"):
    r"""What lies between the ELBO and log p(x), datum by datum.

    .. math:: \log p(x) - L[q] = \underbrace{\log p(x) - L[q^*]}_{\text{approximation gap}}
        + \underbrace{L[q^*] - L[q]}_{\text{amortisation gap}}

    with q the guide and q* the best distribution for this datum in the guide's own family. Where
    that family cannot be optimised datum by datum, q* is the optimal mean field; then the
    second difference is not an amortisation gap, and can be below zero.

    Attributes:
        datum: Positions of the data, [n].
        elbo: L[q], [n], nats.
        elbo_best: L[q*], [n], nats, from draws that neither the optimisation nor the choice
            of q* saw.
        log_px: The estimate of log p(x) that was handed in, [n], nats; NaN where there is none.
        elbo_best_se: Monte Carlo standard error of `elbo_best`, [n]; inf where the optimisation
            did not converge.
        to_best_se: That of `to_best`, [n]; its parts share draws.
        family: What was optimised, in words.
        own_family: Whether that is the guide's own family.
        num_samples: Draws behind each ELBO.
        num_steps: Gradients that the optimisation took, for the data that took most.
        converged: Whether the optimisation stood still, [n]. Where it did not, L[q*] is that of
            the best member that was found, and what is said to be the family's may be the
            optimisation's. None in evaluations that did not ask.

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

    def panels(self, known: Known) -> list[Panel]:
        title = "Inference gap: from the ELBO to log p(x)"
        return [attempt("gap", title, _steps, self, self.summary(known), flagged=True)]

    def line(self, summary: dict[str, Any]) -> str:
        first, second = summary[self.first], summary["approximation"]
        unfinished = (
            f"; the optimisation of {summary['not_converged']} did not converge, where part of the "
            "approximation gap may be its own"
        )
        return (
            f"inference gap on {len(self)} data: {self.first} {show(first['mean'])} ± "
            f"{show(first['se'])}, approximation {show(second['mean'])} ± {show(second['se'])}"
            + (unfinished if summary["not_converged"] else "")
        )


@dataclass(frozen=True)
class Gap(Estimator):
    r"""Finds, for each datum on its own, the best member q* of the guide's family.

    The family is the product of the distributions that the guide gives a datum's sites. Free
    are those parameters that vary over the data (all, if none does); what is the same for every
    datum belongs to the family. A site after an enumerated one has parameters for each of its
    values; where a site is masked, in guide and model alike, it stays as the guide has it. From
    the guide the ELBO is ascended until it stands still, see `pvae.evaluation.estimators.ascent`.

    If a site's parameters depend on draws (a hierarchy, an autoregressive guide), or its
    distribution has no parameters to optimise (a flow), q* is instead the best product of
    Normals on the unconstrained latents u, started at the moments of the guide's draws,
    enumerated sites summed out.

    q* is taken back to where it started for each datum in which, on draws of their own, it is
    no better there, or its terms spread too far to say so. The reported numbers are from fresh
    draws, the same for q and q* (common random numbers), so that the choice makes none of them
    optimistic.

    Log p(x) is that of quadrature where it is known for all these data, else the bound or the AIS
    whose mean over these data is highest. AIS runs on as many data, unless that was done before.

    Attributes:
        num_data: Number of data, drawn at random; None for all.
        ais: The AIS that runs where none is asked for.
        num_samples: Draws for each ELBO.
        num_steps: Gradients that the optimisation may take.
        num_particles: Draws for each gradient to begin with.

    Raises:
        PvaeError: If the guide has no latent sites, or a discrete one that is not enumerated,
            or a site is masked in one program alone; or if the ELBO is NaN.

    Source: Cremer, Li & Duvenaud 2018, *Inference suboptimality in variational autoencoders*,
    arXiv:1801.03558.
    """

    name, finding, hint = "gap", Gaps, "--gap 100"

    num_data: int | None = 100
    ais: AIS = field(default_factory=AIS)
    num_samples: int = 1000
    num_steps: int = 600
    num_particles: int = 32

    @classmethod
    def from_options(
        cls,
        gap: int = 0,
        num_chains: int = 16,
        num_temperatures: int = 500,
        num_leapfrog: int = 2,
    ) -> Self | None:
        """Inference gaps.

        Args:
            gap: Number of data for the inference gaps, which need AIS on as many; AIS that is
                there already for as many is used.
            num_chains: As in AIS.
            num_temperatures: As in AIS.
            num_leapfrog: As in AIS.
        """
        num_data = whole("gap", gap, 0)
        ais = AIS(num_data or None, num_chains, num_temperatures, num_leapfrog)
        return cls(num_data, ais) if num_data else None

    def plan(self, asked: Sequence[Estimator], task: Task) -> list[Estimator]:
        own = next((each for each in asked if isinstance(each, AIS)), None)
        there = task.known.settings.get("ais_prior", {}) if task.known else {}
        if task.code or (own is None and there.get("num_data", 0) >= self.num_data):
            return [self]
        num_data = max(self.num_data, own.num_data if own else 0)
        needed = dataclasses.replace(own or self.ais, num_data=num_data)
        return [*needed.plan(asked, task), self]

    def options(self, task: Task) -> dict[str, Any]:
        # With another estimate of log p(x) the gap is another.
        source, _ = _best_known(task)
        found = {"of": source, "of_settings": task.known and task.known.settings.get(source)}
        names = ("num_samples", "num_steps", "num_particles")
        changed = {n: getattr(self, n) for n in names if getattr(self, n) != getattr(Gap, n)}
        return found | changed

    def cost(self, sampler: Sampler) -> float:
        return _RUNS

    def estimate(self, task: Task) -> Gaps:
        if task.code:
            raise PvaeError(
                "A guide that gives a point has no bound, and so no gap below log p(x)."
            )
        sampler = task.sampler
        # A chunk of gradients holds one sample of every datum at least.
        size = max(1, min(32 if task.device.type == "cpu" else 512, sampler.gradient_rows))
        blocks = in_blocks(task.positions, size)
        seed_unit(task.seed, 0, purpose=_TAG)
        free, family = find_family(sampler, (task.batch(block) for block in blocks))

        def compute(block: np.ndarray) -> dict[str, np.ndarray]:
            first, batch = int(block[0]), task.batch(block)
            seed_unit(task.seed, first, 1, purpose=_TAG)
            member = OwnFamily(sampler, batch, free) if free else LocalGaussian(sampler, batch)
            start = member.parameters()
            best = ascend(
                member,
                self.num_particles,
                self.num_steps,
                lambda i: seed_unit(task.seed, first, 10 + i, purpose=_TAG),
            )

            def draws(tag: int, parameters: list[Tensor]) -> Tensor:
                member.recentre(parameters)
                seed_unit(task.seed, first, tag, purpose=_TAG)
                return member.draws(self.num_samples, first)

            here, there = draws(2, start), draws(2, best.parameters)
            gain = there.mean(0) - here.mean(0)
            # Where densities lose their digits the mean may be anything, and the spread is large.
            sound = there.std(0) <= 2 * here.std(0) + 1
            error = (there - here).std(0) / math.sqrt(self.num_samples)
            sound |= gain > 5 * error
            better = best.fine & sound & (gain > 0)
            found = draws(3, member.chosen(better, best.parameters, start))
            if free:
                elbo = draws(3, start)
            else:
                seed_unit(task.seed, first, 3, purpose=_TAG)
                elbo = elbo_terms(sampler, batch, self.num_samples, first)
            bad = (elbo + found).isnan().any(0).nonzero()
            if len(bad):
                raise PvaeError(f"The ELBO of datum {int(block[int(bad[0])])} is NaN in the gap.")
            # What was won on the draws of the climb alone was won from rounding errors.
            converged = best.still & best.fine & (better | (gain > -3 * error - 0.01))
            converged = converged.cpu().numpy()
            return {
                "elbo": elbo.mean(0).cpu().numpy(),
                "elbo_best": found.mean(0).cpu().numpy(),
                "elbo_best_se": np.where(converged, _se(found), np.inf),
                "to_best_se": _se(found - elbo),
                "converged": converged,
                "steps": np.full(len(block), best.steps),
            }

        columns = task.map("inference gap", blocks, compute)
        return Gaps(
            datum=task.positions,
            log_px=_best_known(task)[1],
            num_steps=int(columns.pop("steps").max()),
            **columns,
            family=family,
            own_family=bool(free),
            num_samples=self.num_samples,
        )


def _best_known(task: Task) -> tuple[str, np.ndarray]:
    """The best estimate of log p(x) at these data: its name and values, [n]; NaN without any.

    Quadrature, where it is there and certain, else of the estimates from below the one whose
    mean is highest. It is the same one for all data: the highest for each datum would be that of
    the luckiest draws.
    """
    positions, known = task.positions, task.known
    if known is None:
        return "log_px", np.full(len(positions), np.nan)
    best, source = known.log_px[positions].astype(np.float64), "log_px"
    for name in ("quadrature", "ais_prior", "ais_guide"):
        found = known.findings.get(name)
        if found is None or not np.isin(positions, found.datum).all():
            continue
        values = found.log_px[np.searchsorted(found.datum, positions)].astype(np.float64)
        if name == "quadrature":
            if np.isfinite(values).all():
                return name, values
        elif values.mean() > best.mean():
            best, source = values, name
    return source, best


def _se(values: Tensor) -> np.ndarray:
    return (values.std(0) / math.sqrt(len(values))).cpu().numpy()


def _steps(found: Gaps, means: dict[str, Any]) -> Panel | None:
    """Draws what lies between the ELBO and log p(x): amortisation, then approximation."""
    first = found.first
    words = "amortisation gap" if found.own_family else first
    second = "approximation gap" if found.own_family else "from there to log p(x)"
    parts = [(words, *means[first].values()), (second, *means["approximation"].values())]
    total = means["inference"]["mean"]
    if total is None or any(value is None for _, value, _ in parts):
        return None
    body = responsive(
        lambda width: steps(
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
    return Panel((body,), note)


def _unfinished(means: dict[str, Any]) -> str:
    lost = means["not_converged"]
    if not lost:
        return ""
    of = text.plural(lost, "datum", "data")
    return (
        f"For {of} the optimisation did not converge: what is the family's there may in part be "
        "the optimisation's. "
    )
