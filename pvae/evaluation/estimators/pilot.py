"""The pilot run of annealing: step sizes of Hamiltonian Monte Carlo for every temperature."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from pvae.evaluation.estimators.kernels import State, transition
from pvae.importance import AnnealingPath

__all__ = ["pilot_length", "tune"]

_TARGET = 0.65  # mean acceptance probability
# A quarter of a period takes a Gaussian to an independent sample; half a period, to its mirror.
_LONGEST = math.pi / 2
_WARMUP = 25
_VISITS = 100


def pilot_length(num_temperatures: int) -> int:
    """Returns how many of the T - 1 inner temperatures `tune` visits: 100 at most, if T > 201."""
    return len(_visited(num_temperatures - 1))


def _visited(number: int) -> Tensor:
    """Returns which of a number of inner temperatures the pilot visits.

    They are densest at the start, where the scales of a sharp posterior change fastest.
    """
    if number <= 2 * _VISITS:
        return torch.arange(number)
    share = torch.linspace(0, 1, _VISITS, dtype=torch.float64)
    return ((number - 1) * share**2).round().long().unique()


def tune(
    path: AnnealingPath,
    z: Tensor,
    betas: Tensor,
    num_leapfrog: int,
    *,
    counts: Sequence[int] = (),
    tick: Callable[[], object] = lambda: None,
) -> Tensor:
    r"""Tunes the step sizes for other chains, in a pilot run.

    At each inner temperature, each datum has a step size. It is adapted to an acceptance of 0.65,
    with trajectories of at most π / 2 scales; with many leapfrog steps this limit makes the
    acceptance higher. The pilot visits only `pilot_length` temperatures, from the first to the
    last, and the step sizes of those between are interpolated. Each coordinate has a scale, from
    the chains' positions and gradients:

    .. math:: s_d^4 = \mathrm{Var}(z_d) \; / \; \mathrm{Var}(\partial_d \log f_\beta)

    In a diagonal Gaussian this is exact from any two chains; in a correlated one it is between
    the marginal and the conditional scale.

    Args:
        path: The two ends, see `AnnealingPath`.
        z: Samples from f_0 [C, B, D], used for nothing else; 16 chains are enough.
        betas: Inverse temperatures [T + 1].
        num_leapfrog: L, leapfrog steps in a trajectory.
        counts: See `anneal`. A discrete coordinate has no step size (zero).
        tick: Called after each temperature that the pilot visits.

    Returns:
        Step sizes [T - 1, B, D] for `anneal` and `anneal_back`. They do not bias chains that are
        independent of the pilot's.

    Raises:
        PvaeError: If log f_1 has no gradient with respect to z.

    Source: Neal 2001; the scale is that of the sampler nutpie (Seyboldt, Carlson & Carpenter
    2026, *Preconditioning Hamiltonian Monte Carlo by minimizing Fisher divergence*).

    Example:
        >>> _ = torch.manual_seed(0)
        >>> from pvae.evaluation.estimators.hmc import schedule
        >>> sd = torch.tensor([1.0, 0.1])
        >>> def path(z):
        ...     return -(z**2).sum(-1) / 2, -((z / sd) ** 2).sum(-1) / 2
        >>> steps = tune(path, torch.randn(16, 3, 2), schedule(100), 5)
        >>> steps.shape, bool(((steps[-1, :, 0] / steps[-1, :, 1]) > 7).all())
        (torch.Size([99, 3, 2]), True)
    """
    number = len(betas) - 2
    at = _visited(number)
    inner = betas[1:-1][at].tolist()
    if z.shape[-1] == len(counts):
        for _ in inner:
            tick()
        return z.new_zeros(number, *z.shape[1:])
    state = State.at(path, z)
    log_step, log_scale = z.new_zeros(z.shape[1], 1), z.new_zeros(z.shape[1:])
    steps = z.new_empty(len(inner), *z.shape[1:])
    # The warm-up keeps a poor first guess out of the first temperatures.
    for t, beta in enumerate(inner[:1] * _WARMUP + inner, start=-_WARMUP):
        spread = state.z.var(0, correction=0) / state.gradient(beta).var(0, correction=0)
        fresh = spread.log() / 4
        log_scale = torch.where(fresh.isfinite(), log_scale.lerp(fresh, 0.3), log_scale)
        step = _smooth((log_step + log_scale).exp(), counts)
        state, acceptance = transition(path, state, beta, step, num_leapfrog, counts)
        log_step = log_step + (acceptance.mean(0) - _TARGET)[:, None]
        log_step = log_step.clamp(max=math.log(_LONGEST / num_leapfrog))
        if t >= 0:
            steps[t] = _smooth((log_step + log_scale).exp(), counts)
            tick()
    return steps if len(inner) == number else _between(steps, at)


def _between(steps: Tensor, at: Tensor) -> Tensor:
    """Returns step sizes of all temperatures, from those of the temperatures `at`."""
    every = torch.arange(int(at[-1]) + 1)
    after = torch.searchsorted(at, every).clamp(min=1)
    start, end = at[after - 1], at[after]
    share = ((every - start) / (end - start)).to(steps)[:, None, None]
    first, last = (steps[index.to(steps.device)] for index in (after - 1, after))
    return first + share * (last - first)


def _smooth(step: Tensor, counts: Sequence[int]) -> Tensor:
    """Step sizes without those of the discrete coordinates, which Hamiltonian dynamics leaves."""
    if counts:
        step[..., step.shape[-1] - len(counts) :] = 0
    return step
