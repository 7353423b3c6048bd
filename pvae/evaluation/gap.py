"""Inference gaps: how much of log p(x) - ELBO is the encoder's fault, and how much the family's."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pvae.data import Part
from pvae.data.tensors import Tensors
from pvae.errors import PvaeError
from pvae.evaluation.family import MeanField, Member, OwnFamily, elbo_terms, find_family
from pvae.evaluation.finding import Finding
from pvae.evaluation.work import Work, in_blocks, take
from pvae.sampler import Sampler, seed_unit

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
        elbo_best_se: Monte Carlo standard error of `elbo_best`, [n].
        to_best_se: That of `to_best`, [n]; its parts share draws.
        family: What was optimised, in words.
        own_family: Whether that is the guide's own family.
        num_samples: Draws behind each ELBO.
        num_steps: Steps of the optimisation.

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
    part: Part | Tensors,
    positions: np.ndarray,
    log_px: np.ndarray | None,
    work: Work,
    device: torch.device,
    seed: int,
    *,
    num_samples: int = 1000,
    num_steps: int = 500,
    num_particles: int = 16,
    learning_rate: float = 0.2,
) -> Gap:
    r"""Finds, for each datum on its own, the best member q* of the guide's family.

    The family is the product of the distributions that the guide gives a datum's sites. Free
    are those parameters that vary from datum to datum (all, if none does); what is the same
    for every datum belongs to the family. A site after an enumerated one has parameters for
    each of its values. Starting at the guide, Adam ascends the reparameterised ELBO (by path
    derivatives) in unconstrained parameters, with locations in units of the guide's scale and
    step sizes that fall a thousandfold.

    If a site's parameters depend on draws (a hierarchy, an autoregressive guide), or its
    distribution has no parameters to optimise (a flow), q* is instead the best product of
    Normals on the unconstrained latents u, started at the moments of the guide's draws,
    enumerated sites summed out.

    q* is taken back to where it started for each datum in which, on draws of their own, it is
    no better there, or its terms spread more than twice as far. The reported numbers are from
    fresh draws, the same for q and q* (common random numbers), so that the choice makes none of
    them optimistic.

    Args:
        sampler: Draws of the pair; its context must be entered.
        part: All N data.
        positions: Which of them: sorted positions in the part.
        log_px: An estimate of log p(x) for all data of the part, [N], nats, or None.
        work: Where blocks are computed, see `Work`.
        device: Where the pair and the data are.
        seed: Seed of the draws; each block of data has its own.
        num_samples: Draws for each ELBO.
        num_steps: Steps of Adam.
        num_particles: Draws for each gradient.
        learning_rate: The first step size.

    Raises:
        PvaeError: If the guide has no latent sites, or a discrete one that is not enumerated,
            or masks a site; or if the ELBO is NaN.

    Source: Cremer, Li & Duvenaud 2018; the gradient is that of Roeder, Wu & Duvenaud 2017,
    *Sticking the landing*.
    """
    seed_unit(seed, 0, purpose=_TAG)
    free, family = find_family(sampler, take(part, positions[:16], device))
    make = (lambda b: OwnFamily(sampler, b, free)) if free else (lambda b: MeanField(sampler, b))
    # A chunk of gradients holds one sample of every datum at least.
    size = max(1, min(32 if device.type == "cpu" else 512, sampler.gradient_rows))

    def compute(block: np.ndarray) -> dict[str, np.ndarray]:
        first, batch = int(block[0]), take(part, block, device)

        def draws(tag: int, source: Callable[[], Tensor]) -> Tensor:
            seed_unit(seed, first, tag, purpose=_TAG)
            return source()

        seed_unit(seed, first, 1, purpose=_TAG)
        member = make(batch)
        found, fine = _optimise(member, num_particles, num_steps, learning_rate)

        def at(which: Tensor) -> Callable[[], Tensor]:
            member.move(found, which)
            return lambda: member.draws(num_samples, first)

        guide = at(torch.zeros_like(fine))
        start = draws(2, guide)
        there = draws(2, at(fine))
        # Where densities lose their digits the mean may be anything, and the spread is large.
        sound = there.std(0) <= 2 * start.std(0) + 1
        better = fine & sound & (there.mean(0) > start.mean(0))
        best = draws(3, at(better))
        if free:
            elbo = draws(3, at(torch.zeros_like(fine)))
        else:
            elbo = draws(3, lambda: elbo_terms(sampler, batch, num_samples, first))
        bad = (elbo + best).isnan().any(0).nonzero()
        if len(bad):
            raise PvaeError(f"The ELBO of datum {int(block[int(bad[0])])} is NaN in the gap.")
        return {
            "elbo": elbo.mean(0).cpu().numpy(),
            "elbo_best": best.mean(0).cpu().numpy(),
            "elbo_best_se": _se(best),
            "to_best_se": _se(best - elbo),
        }

    results = work.map("inference gap", in_blocks(positions, size), compute)
    known = np.full(len(positions), np.nan) if log_px is None else np.asarray(log_px)[positions]
    return Gap(
        datum=np.asarray(positions),
        log_px=known.astype(np.float64),
        **{name: np.concatenate([r[name] for r in results]) for name in results[0]},
        family=family,
        own_family=bool(free),
        num_samples=num_samples,
        num_steps=num_steps,
    )


def _optimise(member: Member, num: int, steps: int, rate: float) -> tuple[list[Tensor], Tensor]:
    """Returns the best offsets found, and for which data, [B], nothing went wrong."""
    with torch.enable_grad():
        leaves = [leaf.requires_grad_() for leaf, _ in member.leaves]
        for leaf in leaves:
            leaf.grad = torch.zeros_like(leaf)
        adam = torch.optim.Adam(leaves, betas=(0.9, 0.99))
        fine = torch.ones(member.size, dtype=torch.bool, device=leaves[0].device)
        for step in range(steps):
            adam.param_groups[0]["lr"] = rate * 1e-3 ** (step / steps)
            adam.zero_grad(set_to_none=False)
            for elbo in member.elbo(num):
                fine &= ~(elbo.isnan() | (elbo == math.inf)).any(0)
                loss = -torch.where(elbo.isfinite(), elbo, 0).sum() / num
                slopes = torch.autograd.grad(loss, leaves, retain_graph=True, allow_unused=True)
                for leaf, slope in zip(leaves, slopes, strict=True):
                    if slope is not None:
                        leaf.grad += slope.nan_to_num(0, 0, 0)
            adam.step()
    return [leaf.detach().clone() for leaf in leaves], fine


def _se(values: Tensor) -> np.ndarray:
    return (values.std(0) / math.sqrt(len(values))).cpu().numpy()
