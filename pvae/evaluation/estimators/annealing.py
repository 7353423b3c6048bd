"""The common part of AIS and bidirectional Monte Carlo: options, starts of chains, blocks."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor

from pvae.errors import PvaeError
from pvae.evaluation.estimator import Estimator, Task
from pvae.evaluation.estimators.hmc import anneal, schedule
from pvae.evaluation.estimators.pilot import tune
from pvae.evaluation.work import in_blocks
from pvae.importance import (
    AnnealingPath,
    CompiledEnds,
    Density,
    Sampler,
    replaced,
    seed_unit,
    sweep_size,
)
from pvae.runtime import whole

__all__ = ["Annealing"]

_PILOT = 16  # chains of the pilot run
_ROWS = 1024  # chains × data that move together on a CPU: enough to keep it busy
_MOST = 4096  # evaluations of one Gibbs sweep, for each chain
_WORTH_COMPILING = 1500  # evaluations with gradients, each of which saves some ten milliseconds
_GRADIENT = 3.0  # cost of one decoder run with its gradient, in decoder runs


@dataclass(frozen=True)
class Annealing(Estimator):
    r"""Chains that anneal from the prior or the guide to p(x, z).

    .. math:: f_\beta(z) = f_0(z)^{1 - \beta} \, p_\theta(x, z)^\beta, \qquad
        f_0 = p(z) \text{ or } q_\phi(z | x)

    Many chains for many data move together by Hamiltonian Monte Carlo, in unconstrained
    coordinates. A pilot run with separate chains tunes the step sizes. They are then fixed, so
    that the mean weight is an unbiased estimate of p(x).

    Long annealing is compiled: if both log densities and their gradients have to be computed 1,500
    times or more, they become one graph, which takes ten to twenty seconds. On a CPU, a computation
    is for up to 1,024 chains × data together, and convolutional pairs are not compiled.

    Discrete latents move by Gibbs sampling: at each temperature, every element is drawn from its
    distribution given all others, for which each of its values is evaluated.

    Attributes:
        num_data: Number of data, drawn at random; None for all.
        num_chains: Chains for each datum.
        num_temperatures: Temperatures.
        num_leapfrog: Leapfrog steps at each temperature.
        start: Where the chains begin: `"prior"` or `"guide"`.
    """

    num_data: int | None = 100
    num_chains: int = 16
    num_temperatures: int = 500
    num_leapfrog: int = 2
    start: str = "prior"

    @classmethod
    def asked(cls, option: str, num_data: int, *settings: int) -> Self | None:
        """Returns the estimator for a number of data; None for 0. The settings are checked too."""
        num_data = whole(option, num_data, 0)
        found = cls(num_data or None, *settings)
        return found if num_data else None

    def cost(self, sampler: Sampler) -> float:
        each = _GRADIENT * (self.num_leapfrog + 1) + sweep_size(sampler.structure, sampler.dim)
        return self.num_chains * self.num_temperatures * each

    def _density(self, task: Task) -> Density:
        """The pair's density; raises a PvaeError if it cannot be annealed."""
        batch = task.batch(task.positions[:4])
        density = Density(task.sampler, batch, discrete=True)
        if (most := sum(density.counts)) > _MOST:
            raise PvaeError(
                f"The latents have {len(density.counts):,} discrete elements, and one Gibbs sweep "
                f"evaluates log p(x, z) {most:,} times for each chain, at each temperature. The "
                f"limit is {_MOST:,}. Use the bounds from samples of the guide (num_samples), or "
                "samples of the prior (prior_samples)."
            )
        if not density.dim:
            raise PvaeError(
                "There is nothing to anneal: every latent site is summed out, so log_px is already "
                "exact."
            )
        if self.start == "guide" and density.no_guide:
            raise PvaeError(
                "The guide's density cannot be evaluated away from its own samples "
                f"({density.no_guide}). Start from the prior instead."
            )
        # One temperature is one evaluation, which raises if there is no gradient.
        z, _ = self._draw(density, batch, 1)
        anneal(density.path(batch, self.start), z, schedule(1), None, 1, counts=density.counts)
        return density

    def _blocks(self, task: Task) -> list[np.ndarray]:
        """Cuts data into blocks, of which a chunk of gradients holds at least one chain."""
        rows = _ROWS if task.device.type == "cpu" else 64 * _ROWS
        size = min(rows // max(self.num_chains, _PILOT), task.sampler.gradient_rows)
        number = len(task.positions)
        return in_blocks(task.positions, math.ceil(number / math.ceil(number / max(1, size))))

    def _compiled(
        self, task: Task, density: Density, blocks: list[np.ndarray], *, passes: int = 1
    ) -> CompiledEnds | None:
        """Both ends as a graph for all blocks, if their evaluations are worth compiling it.

        The decision does not depend on which blocks this process computes, or how fast.
        """
        calls = passes * len(blocks) * self.num_leapfrog * (self.num_temperatures - 1)
        if (
            calls < _WORTH_COMPILING
            or density.dim == len(density.counts)
            or task.sampler.strategy == "loop"
            or task.sampler.bound
            or self.num_chains * len(blocks[0]) > task.sampler.gradient_rows
        ):
            return None
        seed_unit(task.seed, 0, purpose=2)
        batches = [task.batch(block) for block in (blocks[0], blocks[-1])]
        some = [(density.prior(batch, self.num_chains), batch) for batch in batches]
        return CompiledEnds(density.ends(self.start), some)

    def _forward(
        self,
        density: Density,
        batch: tuple[Tensor, ...],
        compiled: CompiledEnds | None,
        tick: Callable[[], object],
    ) -> tuple[Tensor, Tensor, AnnealingPath, Tensor]:
        """Tunes and anneals. Returns log weights [C, B], acceptance, path and step sizes."""
        path, betas = density.path(batch, self.start, compiled), schedule(self.num_temperatures)
        pilot, _ = self._draw(density, batch, _PILOT)
        options = {"counts": density.counts, "tick": tick}
        steps = tune(path, pilot, betas, self.num_leapfrog, **options)
        z, outside = self._draw(density, batch, self.num_chains)
        log_w, acceptance, _ = anneal(path, z, betas, steps, self.num_leapfrog, **options)
        if density.dim == len(density.counts):  # Gibbs sampling accepts everything
            acceptance = acceptance[:0]
        return log_w.masked_fill(outside, -math.inf), acceptance, path, steps

    def _draw(self, density: Density, batch: tuple[Tensor, ...], num: int) -> tuple[Tensor, Tensor]:
        """Draws u [num, B, D], and says which [num, B] replace draws outside of the support.

        The model has no density there, so the weight of such a chain is zero.
        """
        draw = density.prior if self.start == "prior" else density.posterior
        u = draw(batch, num)
        outside = u.isnan().any(-1)
        if outside.any():
            u = replaced(torch.cat([u, density.prior(batch, 1)]))[:-1]
        return u.contiguous(), outside
