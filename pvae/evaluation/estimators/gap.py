"""Inference gaps: the part of log p(x) - ELBO due to the encoder, and that due to the family."""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from torch import Tensor

from pvae.errors import PvaeError
from pvae.evaluation.estimator import Estimator, Task
from pvae.evaluation.estimators.ais import AIS
from pvae.evaluation.estimators.ascent import ascend
from pvae.evaluation.estimators.find_family import find_family
from pvae.evaluation.estimators.gaps import Gaps
from pvae.evaluation.estimators.local_gaussian import LocalGaussian
from pvae.evaluation.estimators.member import elbo_terms
from pvae.evaluation.estimators.own_family import OwnFamily
from pvae.evaluation.work import in_blocks
from pvae.importance import Sampler, seed_unit

__all__ = ["Gap"]

_RUNS = 3.0 * 8_000  # about the cost of one datum, in decoder runs
_TAG = 0x6A


@dataclass(frozen=True)
class Gap(Estimator):
    r"""Finds, for each datum on its own, the best member q* of the guide's family.

    The family is the product of the distributions of the guide's sites. Parameters that vary
    over the data are free (all, if none varies); the others belong to the family and are fixed.
    A site after an enumerated one has parameters for each value of that site. Masked values keep
    the guide's parameters. The optimisation starts at the guide and ascends the
    ELBO until it converges, see `pvae.evaluation.estimators.ascent`.

    If a site's parameters depend on samples (a hierarchy, an autoregressive guide), or its
    distribution has no parameters to optimise (a flow), q* is the best product of Normals on the
    unconstrained latents u, with enumerated sites summed out. It starts at the moments of the
    guide's samples.

    Separate samples then compare q* with its start. If q* is not better for a datum, or if its
    terms vary too much to tell, the start is kept. The reported numbers are from fresh samples,
    the same for q and q* (common random numbers), so that this choice does not bias them.

    Log p(x) is from quadrature if it is known for all these data; else it is the bound or the
    AIS with the highest mean over these data. AIS runs on as many data, unless the evaluation
    already has it.

    Attributes:
        num_data: Number of data, drawn at random; None for all.
        ais: The AIS that runs if no other was asked for.
        num_samples: Samples for each ELBO.
        num_steps: Largest number of gradients for the optimisation.
        num_particles: Samples for each gradient, at first.

    Raises:
        PvaeError: If the guide has no latent site, or a discrete one that is not enumerated; if
            a site is masked differently in model and guide; or if the ELBO is NaN.

    Source: Cremer, Li & Duvenaud 2018, *Inference suboptimality in variational autoencoders*,
    arXiv:1801.03558.

    Example:
        >>> import pvae, torch
        >>> model, guide = pvae.models.PPCA((4,), 1), pvae.guides.LinearGaussian((4,), 1)
        >>> wanted = [Gap(2, pvae.estimators.AIS(2, num_chains=2, num_temperatures=9))]
        >>> found = pvae.evaluate(model, guide, torch.rand(5, 4), num_samples=10, estimators=wanted)
        >>> found.findings["gap"].title
        'The inference gap'
    """

    name, finding, hint = "gap", Gaps, "--gap 100"

    num_data: int | None = 100
    ais: AIS = field(default_factory=AIS)
    num_samples: int = 1000
    num_steps: int = 600
    num_particles: int = 32

    @classmethod
    def from_options(  # noqa: D417 - AIS documents the options of annealing
        cls,
        gap: int = 0,
        num_chains: int = 16,
        num_temperatures: int = 500,
        num_leapfrog: int = 2,
    ) -> Self | None:
        """Inference gaps.

        Args:
            gap: Number of data for the inference gaps. AIS runs on as many data, unless the
                evaluation already has it.
        """
        ais = AIS.asked("gap", gap, num_chains, num_temperatures, num_leapfrog)
        return ais and cls(ais.num_data, ais)

    def plan(self, asked: Sequence[Estimator], task: Task) -> list[Estimator]:
        own = next((each for each in asked if isinstance(each, AIS)), None)
        there = task.known.settings.get("ais_prior", {}) if task.known else {}
        if task.code or (own is None and there.get("num_data", 0) >= self.num_data):
            return [self]
        num_data = max(self.num_data, own.num_data if own else 0)
        needed = dataclasses.replace(own or self.ais, num_data=num_data)
        return [*needed.plan(asked, task), self]

    def options(self, task: Task) -> dict[str, Any]:
        # The gap depends on the estimate of log p(x).
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
                "The guide gives a point and has no ELBO, so there is no inference gap."
            )
        sampler = task.sampler
        # A chunk of gradients holds at least one sample of every datum.
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
            # Where densities lose precision, the mean is meaningless and the spread large.
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
                raise PvaeError(
                    f"The ELBO of datum {int(block[int(bad[0])])} is NaN. Check the parameters and "
                    "this datum for NaN."
                )
            # A gain on the samples of the optimisation alone comes from rounding errors.
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
    """The name and the values, [n], of the best estimate of log p(x); NaN without any.

    It is quadrature if certain for all data, else the estimate from below with the highest mean.
    It is one for all data, because the highest for each datum would select lucky samples.
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
