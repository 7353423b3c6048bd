"""Annealed importance sampling in both directions: log p(x) between two bounds."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from pvae.evaluation.estimators.kernels import State, transition
from pvae.importance import AnnealingPath

__all__ = ["anneal", "anneal_back", "pilot_length", "schedule", "tune"]

_TARGET = 0.65  # mean acceptance probability
# A quarter of a period takes a Gaussian to an independent sample; half a period, to its mirror.
_LONGEST = math.pi / 2
_WARMUP = 25
_VISITS = 100


def schedule(num_temperatures: int) -> Tensor:
    r"""Inverse temperatures, densest near both ends.

    .. math:: \beta_t = \frac{\sigma(\delta (2t/T - 1)) - \sigma(-\delta)}
        {\sigma(\delta) - \sigma(-\delta)}, \quad \delta = 4, \quad t = 0 \dots T

    Args:
        num_temperatures: T, at least 1. With T = 1, annealing is importance sampling from f_0.

    Returns:
        Tensor [T + 1], float64, from exactly 0 to exactly 1.

    Source: Wu, Burda, Salakhutdinov & Grosse 2017, *On the quantitative analysis of
    decoder-based generative models*.

    Example:
        >>> schedule(4)
        tensor([0.0000, 0.1050, 0.5000, 0.8950, 1.0000], dtype=torch.float64)
    """
    curve = torch.linspace(-4, 4, num_temperatures + 1, dtype=torch.float64).sigmoid()
    return (curve - curve[0]) / (curve[-1] - curve[0])


def pilot_length(num_temperatures: int) -> int:
    """Returns how many of the T - 1 inner temperatures `tune` visits: all of few, 100 of many."""
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


def anneal(
    path: AnnealingPath,
    z: Tensor,
    betas: Tensor,
    step_sizes: Tensor,
    num_leapfrog: int,
    *,
    counts: Sequence[int] = (),
    tick: Callable[[], object] = lambda: None,
) -> tuple[Tensor, Tensor, Tensor]:
    r"""Annealed importance sampling: log weights with E[w] = p(x).

    .. math:: \log w = \sum_{t=1}^{T} (\beta_t - \beta_{t-1})
        \log \frac{f_1(z_{t-1})}{f_0(z_{t-1})}, \quad
        z_0 \sim f_0, \quad z_t \sim K_t(\cdot | z_{t-1}), \quad E[w] = p(x)

    with :math:`K_t` one trajectory of Hamiltonian Monte Carlo that leaves
    :math:`f_0^{1 - \beta_t} f_1^{\beta_t}` invariant, and then one Gibbs `sweep` of the discrete
    coordinates, if there are any. The log of the mean weight is a lower
    bound on log p(x) in expectation. Random numbers are from torch's global generator; their
    number depends on the shapes only.

    Args:
        path: The two ends. It is evaluated 1 + (T - 1) L times, with gradients.
        z: Exact samples from f_0 [C, B, D].
        betas: Inverse temperatures [T + 1], increasing from 0 to 1.
        step_sizes: Leapfrog step sizes [T - 1, B, D], or anything that broadcasts to it from
            [T - 1, ...], chosen independently of these chains.
        num_leapfrog: L, leapfrog steps in a trajectory.
        counts: Numbers of values of the last coordinates, which are discrete.
        tick: Called after each of the T - 1 inner temperatures.

    Returns:
        Log weights [C, B], nats, float64; acceptance [T - 1, B], the mean probability over the
        chains; and the ends of the chains [C, B, D], weighted samples from p(z|x). A transition
        at β = 1 would not change the weights, and is left out.

    Raises:
        PvaeError: If log f_1 has no gradient with respect to z.

    Source: Neal 2001, *Annealed importance sampling*; Wu et al. 2017.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> def path(z):  # p(x) = e
        ...     return -(z**2 + math.log(2 * math.pi)).sum(-1) / 2, 1 - (
        ...         (z - 3) ** 2 + math.log(2 * math.pi)
        ...     ).sum(-1) / 2
        >>> betas, steps = schedule(100), torch.ones(99, 1, 1)
        >>> log_w, acceptance, _ = anneal(path, torch.randn(1000, 1, 1), betas, steps, 2)
        >>> round(log_w.logsumexp(0).item() - math.log(1000), 1)
        1.0
    """
    state = State.at(path, z, counts)
    betas = betas.tolist()
    log_w, acceptance = state.log_ratio() * (betas[1] - betas[0]), []
    for t in range(1, len(betas) - 1):
        step = step_sizes[t - 1]
        state, accepted = transition(path, state, betas[t], step, num_leapfrog, counts)
        log_w += state.log_ratio() * (betas[t + 1] - betas[t])
        acceptance.append(accepted.mean(0))
        tick()
    shape = (len(acceptance), z.shape[1])
    return log_w, torch.stack(acceptance) if acceptance else z.new_empty(shape), state.z


def anneal_back(
    path: AnnealingPath,
    z: Tensor,
    betas: Tensor,
    step_sizes: Tensor,
    num_leapfrog: int,
    *,
    counts: Sequence[int] = (),
    tick: Callable[[], object] = lambda: None,
) -> Tensor:
    r"""The reverse of `anneal`: log weights with E[1/w] = 1 / p(x).

    .. math:: \log w = \sum_{t=T}^{1} (\beta_t - \beta_{t-1})
        \log \frac{f_1(z_{t-1})}{f_0(z_{t-1})}, \quad
        z_{T-1} \sim p(z|x), \quad z_{t-1} \sim K_t(\cdot | z_t), \quad E[1/w] = 1/p(x)

    from :math:`z_{T-1}` down to :math:`z_0`, where :math:`K_t` leaves
    :math:`f_0^{1 - \beta_t} f_1^{\beta_t}` invariant. Minus the log of the mean of 1/w is then an
    upper bound on log p(x) in expectation. An exact sample from p(z|x) is known if x was drawn
    from the model together with z.

    Args:
        path: The two ends. It is evaluated 1 + (T - 1) L times, with gradients.
        z: Exact samples from p(z|x) [C, B, D]; all chains of a datum may start at the same one.
        betas: Inverse temperatures [T + 1], increasing from 0 to 1, as in `anneal`.
        step_sizes: Step sizes [T - 1, B, D], in the order of `betas`, as in `anneal`.
        num_leapfrog: L, leapfrog steps in a trajectory.
        counts: See `anneal`.
        tick: Called after each of the T - 1 inner temperatures.

    Returns:
        Log weights [C, B], nats, float64.

    Raises:
        PvaeError: If log f_1 has no gradient with respect to z.

    Source: Grosse, Ghahramani & Adams 2015, *Sandwiching the marginal likelihood using
    bidirectional Monte Carlo*; Grosse, Ancha & Roy 2016.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> def path(z):  # p(x) = e
        ...     return -(z**2 + math.log(2 * math.pi)).sum(-1) / 2, 1 - (
        ...         (z - 3) ** 2 + math.log(2 * math.pi)
        ...     ).sum(-1) / 2
        >>> betas, steps = schedule(100), torch.ones(99, 1, 1)
        >>> log_w = anneal_back(path, 3 + torch.randn(1000, 1, 1), betas, steps, 2)
        >>> round(math.log(1000) - (-log_w).logsumexp(0).item(), 1)
        1.0
    """
    state = State.at(path, z, counts)
    betas = betas.tolist()
    log_w = state.log_ratio() * (betas[-1] - betas[-2])
    for t in range(len(betas) - 2, 0, -1):
        step = step_sizes[t - 1]
        state, _ = transition(path, state, betas[t], step, num_leapfrog, counts)
        log_w += state.log_ratio() * (betas[t] - betas[t - 1])
        tick()
    return log_w


def _smooth(step: Tensor, counts: Sequence[int]) -> Tensor:
    """Step sizes without those of the discrete coordinates, which Hamiltonian dynamics leaves."""
    if counts:
        step[..., step.shape[-1] - len(counts) :] = 0
    return step
