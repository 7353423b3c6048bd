"""Bounds on log p(x) from log weights, datum by datum."""

import math

import numpy as np
from scipy.special import logsumexp

__all__ = ["bound", "effective_sample_size", "log_px_se"]


def bound(log_w: np.ndarray, num_samples: int) -> np.ndarray:
    r"""The importance-weighted bound, from all samples in blocks of K.

    .. math:: L_K = E \left[ \log \frac1K \sum_{k=1}^K w_k \right] \le \log p(x)

    Args:
        log_w: Log weights [B, S], nats.
        num_samples: K, at most S. The S mod K samples of the last, unfinished block are left
            out.

    Returns:
        Array [B]: the mean over the ⌊S / K⌋ blocks.

    Source: Burda, Grosse & Salakhutdinov 2016.

    Example:
        >>> bound(np.log([[1.0, 3.0, 2.0, 2.0]]), 2)
        array([0.69314718])
    """
    blocks = log_w.shape[1] // num_samples
    cut = log_w[:, : blocks * num_samples].reshape(len(log_w), blocks, num_samples)
    return (logsumexp(cut, axis=-1) - math.log(num_samples)).mean(-1)


def effective_sample_size(log_w: np.ndarray) -> np.ndarray:
    r"""Kish's effective sample size, :math:`(\sum_k w_k)^2 / \sum_k w_k^2`.

    Args:
        log_w: Log weights [B, S], nats.

    Returns:
        Array [B] between 1 and S; NaN where every weight is zero.
    """
    with np.errstate(invalid="ignore"):
        return np.exp(2 * logsumexp(log_w, axis=-1) - logsumexp(2 * log_w, axis=-1))


def log_px_se(log_w: np.ndarray) -> np.ndarray:
    r"""Monte Carlo standard error of the log of the mean weight, by the delta method.

    .. math:: \mathrm{se} = \frac{\mathrm{sd}(w)}{\sqrt S \; \bar w}

    It means something only where the weights have a finite variance, which k̂ tells.

    Args:
        log_w: Log weights [B, S], nats.

    Returns:
        Array [B]; NaN for a single sample, or where every weight is zero.
    """
    if log_w.shape[1] < 2:
        return np.full(len(log_w), np.nan)
    with np.errstate(invalid="ignore"):
        weights = np.exp(log_w - log_w.max(-1, keepdims=True))
        return weights.std(-1, ddof=1) / weights.mean(-1) / math.sqrt(log_w.shape[1])
