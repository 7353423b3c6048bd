"""Transitions of annealed chains: Hamiltonian Monte Carlo, and Gibbs sampling of discrete parts."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from pvae.errors import PvaeError
from pvae.evaluation.estimators.gibbs import sweep
from pvae.importance import AnnealingPath, slopes

__all__ = ["State", "transition"]

_JITTER = 0.2


class State(NamedTuple):
    """Chains at z [C, B, D]: log densities [2, C, B] of both ends, and gradients [2, C, B, D]."""

    z: Tensor
    log_f: Tensor
    gradients: Tensor

    @classmethod
    def at(cls, path: AnnealingPath, z: Tensor, counts: Sequence[int] = ()) -> "State":
        if z.shape[-1] == len(counts):  # nothing to differentiate by
            with torch.no_grad():
                both = torch.stack(path(z))
            both = torch.where(both < math.inf, both, -math.inf)
            return cls(z, both, both.new_zeros(1))
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            log_f = path(z)
            gradients = slopes(log_f, z)
        if gradients[1] is None:
            raise PvaeError(
                "Annealing needs the gradient of log p(x, z), but this model's density has no "
                "gradient with respect to its latents: they are discrete, or a step cuts the "
                "gradient (detach, no_grad, rounding, NumPy)."
            )
        if gradients[0] is None:
            gradients[0] = torch.zeros_like(z)
        both, force = torch.stack(log_f).detach(), torch.stack(gradients)
        # Any force that depends on the position alone keeps the leapfrog reversible.
        force = torch.where(force.isfinite(), force, 0)
        return cls(z.detach(), torch.where(both < math.inf, both, -math.inf), force)

    def log_density(self, beta: float) -> Tensor:
        return (1 - beta) * self.log_f[0] + beta * self.log_f[1]

    def gradient(self, beta: float) -> Tensor:
        return (1 - beta) * self.gradients[0] + beta * self.gradients[1]

    def log_ratio(self) -> Tensor:
        return self.log_f[1].double() - self.log_f[0].double()


def transition(
    path: AnnealingPath,
    state: State,
    beta: float,
    step: Tensor,
    num_leapfrog: int,
    counts: Sequence[int],
) -> tuple[State, Tensor]:
    """A trajectory and a sweep that leave f_β invariant, and the acceptance probability [C, B]."""
    if not counts:
        return _trajectory(path, state, beta, step, num_leapfrog)
    probability = torch.ones_like(state.log_f[0])
    if state.z.shape[-1] > len(counts):
        state, probability = _trajectory(path, state, beta, step, num_leapfrog)
    return State.at(path, sweep(path, state.z, beta, counts), counts), probability


def _trajectory(
    path: AnnealingPath, old: State, beta: float, step: Tensor, num_leapfrog: int
) -> tuple[State, Tensor]:
    """One trajectory that leaves f_β invariant, and its acceptance probability [C, B]."""
    momentum, uniform = torch.randn_like(old.z), torch.rand_like(old.log_f[0])
    # With the same step for all chains, a trajectory can return to its start.
    step = step * (1 + _JITTER * (2 * torch.rand_like(uniform) - 1))[..., None]
    before = old.log_density(beta) - (momentum**2).sum(-1) / 2
    z, momentum = old.z, momentum + step * old.gradient(beta) / 2
    for i in range(num_leapfrog):
        z = z + step * momentum
        # A position that overflowed is rejected below; the path receives the start instead.
        finite = z.isfinite().all(-1)
        new = State.at(path, torch.where(finite[..., None], z, old.z))
        momentum = momentum + step * new.gradient(beta) / (1 if i < num_leapfrog - 1 else 2)
    after = new.log_density(beta) - (momentum**2).sum(-1) / 2
    probability = torch.where(finite, (after - before).exp().clamp(max=1).nan_to_num(0), 0)
    accept = uniform < probability
    mixed = [
        torch.where(accept if a.shape == old.log_f.shape else accept[..., None], a, b)
        for a, b in zip(new, old, strict=True)
    ]
    return State(*mixed), probability
