"""Inference gaps: how much of log p(x) - ELBO is the encoder's fault, and how much the family's."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pvae.data import Split
from pvae.errors import PvaeError
from pvae.evaluation.estimators.ascent import ascend
from pvae.evaluation.estimators.local_family import MeanField, OwnFamily, elbo_terms, find_family
from pvae.evaluation.finding import Finding
from pvae.evaluation.work import Work, in_blocks, take
from pvae.importance import Sampler, seed_unit
from pvae.pair import TensorSplit

__all__ = ["Gap", "gap"]

_TAG = 0x6A


@dataclass(frozen=True)
class Gap(Finding):
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


def gap(
    sampler: Sampler,
    part: Split | TensorSplit,
    positions: np.ndarray,
    log_px: np.ndarray | None,
    work: Work,
    device: torch.device,
    seed: int,
    *,
    num_samples: int = 1000,
    num_steps: int = 600,
    num_particles: int = 32,
) -> Gap:
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

    Args:
        sampler: Draws of the pair; its context must be entered.
        part: All N data.
        positions: Which of them: sorted positions in the part.
        log_px: An estimate of log p(x) for all data of the part, [N], nats, or None.
        work: Where blocks are computed, see `Work`.
        device: Where the pair and the data are.
        seed: Seed of the draws; each block of data has its own.
        num_samples: Draws for each ELBO.
        num_steps: Gradients that the optimisation may take.
        num_particles: Draws for each gradient to begin with.

    Raises:
        PvaeError: If the guide has no latent sites, or a discrete one that is not enumerated,
            or a site is masked in one program alone; or if the ELBO is NaN.

    Source: Cremer, Li & Duvenaud 2018.
    """
    # A chunk of gradients holds one sample of every datum at least.
    size = max(1, min(32 if device.type == "cpu" else 512, sampler.gradient_rows))
    blocks = in_blocks(positions, size)
    seed_unit(seed, 0, purpose=_TAG)
    free, family = find_family(sampler, (take(part, block, device) for block in blocks))
    make = (lambda b: OwnFamily(sampler, b, free)) if free else (lambda b: MeanField(sampler, b))

    def compute(block: np.ndarray) -> dict[str, np.ndarray]:
        first, batch = int(block[0]), take(part, block, device)
        seed_unit(seed, first, 1, purpose=_TAG)
        member = make(batch)
        start = member.parameters()
        best = ascend(
            member, num_particles, num_steps, lambda i: seed_unit(seed, first, 10 + i, purpose=_TAG)
        )

        def draws(tag: int, parameters: list[Tensor]) -> Tensor:
            member.recentre(parameters)
            seed_unit(seed, first, tag, purpose=_TAG)
            return member.draws(num_samples, first)

        here, there = draws(2, start), draws(2, best.parameters)
        gain = there.mean(0) - here.mean(0)
        # Where densities lose their digits the mean may be anything, and the spread is large.
        sound = there.std(0) <= 2 * here.std(0) + 1
        error = (there - here).std(0) / math.sqrt(num_samples)
        sound |= gain > 5 * error
        better = best.fine & sound & (gain > 0)
        found = draws(3, member.chosen(better, best.parameters, start))
        if free:
            elbo = draws(3, start)
        else:
            seed_unit(seed, first, 3, purpose=_TAG)
            elbo = elbo_terms(sampler, batch, num_samples, first)
        bad = (elbo + found).isnan().any(0).nonzero()
        if len(bad):
            raise PvaeError(f"The ELBO of datum {int(block[int(bad[0])])} is NaN in the gap.")
        # What was won on the draws of the climb alone was won from rounding errors.
        converged = (best.still & best.fine & (better | (gain > -3 * error - 0.01))).cpu().numpy()
        return {
            "elbo": elbo.mean(0).cpu().numpy(),
            "elbo_best": found.mean(0).cpu().numpy(),
            "elbo_best_se": np.where(converged, _se(found), np.inf),
            "to_best_se": _se(found - elbo),
            "converged": converged,
            "steps": np.full(len(block), best.steps),
        }

    results = work.map("inference gap", blocks, compute)
    columns = {name: np.concatenate([r[name] for r in results]) for name in results[0]}
    known = np.full(len(positions), np.nan) if log_px is None else np.asarray(log_px)[positions]
    return Gap(
        datum=np.asarray(positions),
        log_px=known.astype(np.float64),
        num_steps=int(columns.pop("steps").max()),
        **columns,
        family=family,
        own_family=bool(free),
        num_samples=num_samples,
    )


def _se(values: Tensor) -> np.ndarray:
    return (values.std(0) / math.sqrt(len(values))).cpu().numpy()
