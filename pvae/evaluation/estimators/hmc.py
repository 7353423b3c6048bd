"""Annealed importance sampling in both directions: log p(x) between two bounds."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from pvae.evaluation.estimators.kernels import State, transition
from pvae.importance import AnnealingPath

__all__ = ["anneal", "anneal_back", "schedule"]


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
        >>> import math
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
        >>> import math
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
