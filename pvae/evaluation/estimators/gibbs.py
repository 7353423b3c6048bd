"""Gibbs sampling of the discrete coordinates of annealed chains."""

from collections.abc import Sequence

import torch
from torch import Tensor

from pvae.importance import AnnealingPath

__all__ = ["sweep"]


@torch.no_grad()
def sweep(path: AnnealingPath, z: Tensor, beta: float, counts: Sequence[int]) -> Tensor:
    r"""Draws each discrete coordinate in turn from its distribution given all the others.

    .. math:: z_s \sim f_\beta(z_s | z_{-s}) \propto
        f_0(z)^{1 - \beta} f_1(z)^\beta, \qquad s = 1, \ldots, S

    Leaves :math:`f_\beta` invariant. All values of a coordinate are one call of the path.

    Args:
        path: The two ends; called S times, with C times as many rows as the coordinate has values.
        z: Chains [C, B, D + S]. The last S coordinates are discrete, 0 … n_s − 1.
        beta: The inverse temperature, between 0 and 1.
        counts: n_s, the number of values of each of the S coordinates.

    Returns:
        Chains [C, B, D + S]. A chain at which every value has zero density stays.

    Source: Geman & Geman 1984, *Stochastic Relaxation, Gibbs Distributions, and the Bayesian
    Restoration of Images*.

    Example:
        >>> def path(z):  # one bit, p = 0.9
        ...     return 0 * z[..., 0], (2 * z[..., 0] - 1) * math.log(9) / 2
        >>> import math
        >>> _ = torch.manual_seed(0)
        >>> round(sweep(path, torch.zeros(1000, 1, 1), 0.99, [2]).mean().item(), 1)
        0.9
    """
    first = z.shape[-1] - len(counts)
    for s, count in enumerate(counts, first):
        each = z.expand(count, *z.shape).clone()
        each[..., s] = torch.arange(count, dtype=z.dtype, device=z.device)[:, None, None]
        ends = torch.stack(path(each.flatten(0, 1))).unflatten(1, each.shape[:2])
        ends = torch.where(ends < torch.inf, ends, -torch.inf)  # NaN too
        log_p = (1 - beta) * ends[0] + beta * ends[1]
        gumbel = -torch.empty_like(log_p).exponential_().log()
        drawn = (log_p + gumbel).argmax(0).to(z.dtype)
        z = z.clone()
        z[..., s] = torch.where(log_p.isneginf().all(0), z[..., s], drawn)
    return z
