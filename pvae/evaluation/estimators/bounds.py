"""Bounds on log p(x) from log weights, datum by datum."""

import math
from collections.abc import Iterable

from torch import Tensor

__all__ = [
    "bounds",
    "cubo",
    "effective_sample_size",
    "log_mean_exp",
    "log_px_se",
    "sums_fast",
]


def bounds(log_w: Tensor, num_samples: Iterable[int]) -> dict[int, tuple[Tensor, Tensor]]:
    r"""The importance-weighted bound for several K, each from all samples in blocks of K.

    .. math:: L_K = E \left[ \log \frac1K \sum_{k=1}^K w_k \right] \le \log p(x), \qquad
        \mathrm{se} = \mathrm{sd}(L^{(1)}, \ldots, L^{(n)}) / \sqrt n,
        \quad n = \lfloor S / K \rfloor

    with :math:`L^{(i)}` the log of the mean weight of block i. The error of a single block is its
    `log_px_se`. Several K cost little more than one.

    Args:
        log_w: Log weights [B, S], nats.
        num_samples: The values of K, each at most S. The S mod K samples of the last, unfinished
            block are left out.

    Returns:
        For each K, in rising order, the bound [B], the mean over the blocks, and its Monte Carlo
        standard error [B]. If every weight of a block is zero, they are -inf and NaN. The error
        is also NaN if S is 1.

    Source: Burda, Grosse & Salakhutdinov 2016, arXiv:1509.00519.

    Example:
        >>> import torch
        >>> found = bounds(torch.tensor([[1.0, 3.0, 2.0, 2.0]]).log(), [1, 2])
        >>> list(found), found[2][0]
        ([1, 2], tensor([0.6931]))
    """
    means: dict[int, Tensor] = {}
    for k in sorted(set(num_samples)):
        # A block of 50 is ten blocks of 5: only the smallest K needs every weight.
        part = max((j for j in means if k % j == 0), default=0)
        means[k] = _block_means(means[part], k // part) if part else _block_means(log_w, k)
    return {k: (m.mean(-1), _block_se(m, log_w, k)) for k, m in means.items()}


def cubo(log_w: Tensor) -> Tensor:
    r"""The χ² upper bound on log p(x), estimated from samples.

    .. math:: \log p(x) \le \frac12 \log E_q[w^2] \approx \frac12 \log \frac1S \sum_s w_s^2

    The inequality holds for the expectation. The log of the average is too low in expectation, and
    much too low if few samples dominate the average of :math:`w^2`. The result can therefore be
    below log p(x): it is an indication, no certificate, and it is meaningless if the variance of
    :math:`w^2` is infinite (k̂ above ¼).

    Args:
        log_w: Log weights [B, S], nats.

    Returns:
        Tensor [B], nats; -inf where every weight is zero.

    Source: Dieng, Tran, Ranganath, Paisley & Blei 2017, *Variational Inference via χ Upper
    Bound Minimization*.

    Example:
        >>> import torch
        >>> cubo(torch.tensor([[1.0, 7.0]]).log())  # log 5, where the mean weight is 4
        tensor([1.6094])
    """
    return log_mean_exp(2 * log_w) / 2


def effective_sample_size(log_w: Tensor) -> Tensor:
    r"""Kish's effective sample size, :math:`(\sum_k w_k)^2 / \sum_k w_k^2`.

    Args:
        log_w: Log weights [B, S], nats.

    Returns:
        Tensor [B] between 1 and S; NaN where every weight is zero.

    Example:
        >>> import torch
        >>> effective_sample_size(torch.tensor([[1.0, 1.0, 2.0]]).log())
        tensor([2.6667])
    """
    weights = _relative(log_w)
    return weights.sum(-1) ** 2 / weights.square().sum(-1)


def log_mean_exp(log_w: Tensor) -> Tensor:
    """The log of the mean weight along the last axis, in nats.

    Args:
        log_w: Log weights [..., S], nats.

    Returns:
        Tensor [...]; -inf where every weight is zero.

    Example:
        >>> import torch
        >>> log_mean_exp(torch.tensor([[1.0, 3.0], [2.0, 2.0]]).log())
        tensor([0.6931, 0.6931])
    """
    return sums_fast(log_w).logsumexp(-1) - math.log(log_w.shape[-1])


def log_px_se(log_w: Tensor) -> Tensor:
    r"""Monte Carlo standard error of the log of the mean weight, by the delta method.

    .. math:: \mathrm{se} = \frac{\mathrm{sd}(w)}{\sqrt S \; \bar w}

    It is valid only if the weights have a finite variance, see k̂.

    Args:
        log_w: Log weights [B, S], nats.

    Returns:
        Tensor [B]; NaN for a single sample, or where every weight is zero.

    Example:
        >>> import torch
        >>> log_px_se(torch.tensor([[1.0, 3.0]]).log())
        tensor([0.5000])
    """
    if log_w.shape[1] < 2:
        return log_w.new_full((len(log_w),), math.nan)
    weights = _relative(log_w)
    return _se_of_mean(weights) / weights.mean(-1)


def sums_fast(x: Tensor) -> Tensor:
    """Puts a short last axis outermost in memory, because torch then reduces it much faster."""
    if x.shape[-1] >= 32 or x.device.type != "cpu":
        return x
    return x.movedim(-1, 0).contiguous().movedim(0, -1)


def _block_means(log_w: Tensor, num_samples: int) -> Tensor:
    """The log of the mean weight of each block of K, [B, ⌊S / K⌋]."""
    if num_samples == 1:
        return log_w
    blocks = log_w.shape[1] // num_samples
    return log_mean_exp(log_w[:, : blocks * num_samples].reshape(len(log_w), blocks, num_samples))


def _block_se(means: Tensor, log_w: Tensor, num_samples: int) -> Tensor:
    if means.shape[1] < 2:
        return log_px_se(log_w[:, :num_samples])
    return _se_of_mean(means)


def _se_of_mean(x: Tensor) -> Tensor:
    """The standard error of the mean of each row: [B, n] -> [B]; on a CPU faster than `x.std`."""
    size = x.shape[-1]
    return ((x - x.mean(-1, keepdim=True)).square_().sum(-1) / (size - 1) / size).sqrt()


def _relative(log_w: Tensor) -> Tensor:
    """Weights [B, S] divided by the largest of each row (NaN where that is zero)."""
    return (log_w - log_w.amax(-1, keepdim=True)).exp_()
