"""Bounds on log p(x) from log weights, datum by datum."""

import math
from collections.abc import Iterable

import numpy as np

__all__ = [
    "bounds",
    "cubo",
    "effective_sample_size",
    "log_mean_exp",
    "log_px_se",
]


def bounds(
    log_w: np.ndarray, num_samples: Iterable[int]
) -> dict[int, tuple[np.ndarray, np.ndarray]]:
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
        >>> found = bounds(np.log([[1.0, 3.0, 2.0, 2.0]]), [1, 2])
        >>> list(found), found[2][0]
        ([1, 2], array([0.69314718]))
    """
    means: dict[int, np.ndarray] = {}
    for k in sorted(set(num_samples)):
        # A block of 50 is ten blocks of 5: only the smallest K needs every weight.
        part = max((j for j in means if k % j == 0), default=0)
        means[k] = _block_means(means[part], k // part) if part else _block_means(log_w, k)
    return {k: (m.mean(-1), _block_se(m, log_w, k)) for k, m in means.items()}


def cubo(log_w: np.ndarray) -> np.ndarray:
    r"""The χ² upper bound on log p(x), estimated from samples.

    .. math:: \log p(x) \le \frac12 \log E_q[w^2] \approx \frac12 \log \frac1S \sum_s w_s^2

    The inequality holds for the expectation. The log of the average is too low in expectation, and
    much too low if few samples dominate the average of :math:`w^2`. The result can therefore be
    below log p(x): it is an indication, no certificate, and it is meaningless if the variance of
    :math:`w^2` is infinite (k̂ above ¼).

    Args:
        log_w: Log weights [B, S], nats.

    Returns:
        Array [B], nats; -inf where every weight is zero.

    Source: Dieng, Tran, Ranganath, Paisley & Blei 2017, *Variational Inference via χ Upper
    Bound Minimization*.

    Example:
        >>> cubo(np.log([[1.0, 7.0]]))  # log 5, where the mean weight is 4
        array([1.60943791])
    """
    weights, high = _relative(log_w)
    return _log_of_mean(np.vecdot(weights, weights) / log_w.shape[-1], 2 * high) / 2


def effective_sample_size(log_w: np.ndarray) -> np.ndarray:
    r"""Kish's effective sample size, :math:`(\sum_k w_k)^2 / \sum_k w_k^2`.

    Args:
        log_w: Log weights [B, S], nats.

    Returns:
        Array [B] between 1 and S; NaN where every weight is zero.

    Example:
        >>> effective_sample_size(np.log([[1.0, 1.0, 2.0]]))
        array([2.66666667])
    """
    weights, _ = _relative(log_w)
    return weights.sum(-1) ** 2 / np.vecdot(weights, weights)


def log_mean_exp(log_w: np.ndarray) -> np.ndarray:
    """The log of the mean weight along the last axis, in nats.

    Args:
        log_w: Log weights [..., S], nats.

    Returns:
        Array [...]; -inf where every weight is zero.

    Example:
        >>> log_mean_exp(np.log([[1.0, 3.0], [2.0, 2.0]]))
        array([0.69314718, 0.69314718])
    """
    weights, high = _relative(log_w)
    return _log_of_mean(weights.mean(-1), high)


def log_px_se(log_w: np.ndarray) -> np.ndarray:
    r"""Monte Carlo standard error of the log of the mean weight, by the delta method.

    .. math:: \mathrm{se} = \frac{\mathrm{sd}(w)}{\sqrt S \; \bar w}

    It is valid only if the weights have a finite variance, see k̂.

    Args:
        log_w: Log weights [B, S], nats.

    Returns:
        Array [B]; NaN for a single sample, or where every weight is zero.

    Example:
        >>> log_px_se(np.log([[1.0, 3.0]]))
        array([0.5])
    """
    if log_w.shape[1] < 2:
        return np.full(len(log_w), np.nan)
    weights, _ = _relative(log_w)
    return weights.std(-1, ddof=1) / weights.mean(-1) / math.sqrt(log_w.shape[1])


def _block_means(log_w: np.ndarray, num_samples: int) -> np.ndarray:
    """The log of the mean weight of each block of K, [B, ⌊S / K⌋]."""
    if num_samples == 1:
        return log_w
    blocks = log_w.shape[1] // num_samples
    return log_mean_exp(log_w[:, : blocks * num_samples].reshape(len(log_w), blocks, num_samples))


def _block_se(means: np.ndarray, log_w: np.ndarray, num_samples: int) -> np.ndarray:
    if means.shape[1] < 2:
        return log_px_se(log_w[:, :num_samples])
    with np.errstate(invalid="ignore"):  # -inf - -inf
        return means.std(-1, ddof=1) / math.sqrt(means.shape[1])


def _relative(log_w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weights [..., S] divided by the largest (NaN where that is zero), and its log [...]."""
    # numpy reduces a short last axis many times faster if it is outermost in memory.
    weights = np.array(log_w, order="F" if log_w.shape[-1] < 32 else "C")
    high = weights.max(-1)
    with np.errstate(invalid="ignore"):
        weights -= high[..., None]
    return np.exp(weights, out=weights), high


def _log_of_mean(mean: np.ndarray, high: np.ndarray) -> np.ndarray:
    return np.where(np.isneginf(high), -np.inf, high + np.log(mean))[()]
