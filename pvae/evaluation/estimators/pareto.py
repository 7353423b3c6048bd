"""Pareto k̂: whether importance weights have tails that their mean can be trusted with."""

import math

import numpy as np
from arviz_stats.base import array_stats

from pvae.evaluation.estimators.bounds import log_mean_exp

__all__ = ["khat", "khat_threshold", "psis", "rounding_error"]

_ALIKE = 1e-4  # nats: weights that differ by less are as good as constant
_COARSE = 0.1  # nats: rounding errors above this cannot tell constant weights from others


def rounding_error(summands: np.ndarray, eps: float) -> np.ndarray:
    """Returns the rounding error of log weights, nats, from the size of what was added up."""
    return 16 * eps * summands


def psis(log_w: np.ndarray, rounding: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    r"""Fits a generalised Pareto distribution to each datum's largest weights, and smooths them.

    The M largest of S weights, :math:`M = \min(S / 5, 3 \sqrt S)`, are replaced by quantiles of
    the fit, cut off at the largest weight: :math:`\tilde w`. The rest stay as they are.

    .. math:: \log \hat p(x) = \log \frac1S \sum_s \tilde w_s

    It is a little biased and varies less than the plain mean where k̂ is above ½. Where k̂ is
    above 0.7 it is not to be trusted either; far above 1 it can be many nats below the plain one.

    Args:
        log_w: Log weights [B, S], nats.
        rounding: The rounding error of each datum's log weights, [B], nats, which depends on the
            log densities that they are sums of. None is for log weights that are no differences
            of larger numbers, in the precision of the array.

    Returns:
        The shape k̂ [B]: below 0 bounded, above ½ infinite variance, above 1 infinite mean; -inf
        where the weights are constant (an exact guide) up to rounding or up to 0.01%; NaN where
        S is 1, or below 25 with weights that differ, or where the tail is too discrete for a fit,
        or where rounding errors of more than 0.1 nats hide how the weights differ. It does not
        depend on a constant that is added to log w. And the smoothed estimate of log p(x) [B],
        nats: the plain log of the mean weight where k̂ is not finite, or where no weight outside
        the tail is above zero.

    Source: Vehtari, Simpson, Gelman, Yao & Gabry 2024, *Pareto Smoothed Importance Sampling*,
    as implemented in arviz_stats.

    Example:
        >>> log_w = 0.3 * np.random.default_rng(0).exponential(size=(1, 20_000))
        >>> shape, log_px = psis(log_w)  # Pareto weights of mean 1 / (1 - 0.3) = 1.43
        >>> shape.round(1), np.exp(log_px).round(1)
        (array([0.3]), array([1.4]))
    """
    count = log_w.shape[1]
    tail = count // 5 if count <= 225 else int(3 * math.sqrt(count))
    # The fit looks at the tail and the weight below it; the rest would only be sorted. Of the
    # 5 M + 5 largest weights psislw takes 3 sqrt(n / r_eff) as the tail: this r_eff makes it M.
    keep, r_eff = 5 * tail + 5, 9 * (5 * tail + 5) / (tail + 0.5) ** 2
    if keep >= count:
        keep, r_eff = count, 1.0
    if rounding is None:
        size = np.where(np.isfinite(log_w), np.abs(log_w), 0.0).max(-1)
        rounding = rounding_error(size, np.finfo(log_w.dtype).eps)
    log_w = log_w.astype(np.float64, copy=False)
    shape, estimate = np.full(len(log_w), np.nan), log_mean_exp(log_w)
    for i, row in enumerate(log_w):
        high = row.max()
        if not np.isfinite(high):
            continue
        spread = high - row.min()
        if count > 1 and spread <= max(_ALIKE, min(rounding[i], _COARSE)):
            shape[i] = -np.inf
        elif count >= 25 and spread > rounding[i]:
            ordered = np.partition(row, count - keep) - high
            top = np.sort(ordered[count - keep :])
            try:
                # psislw takes log likelihoods and smooths their reciprocals.
                with np.errstate(all="ignore"):
                    smooth, shape[i] = array_stats.psislw(-top, r_eff=r_eff)
            except ValueError:  # all values of the tail are the same
                continue
            # The result sums to one. What it was divided by shows in the weight below the tail,
            # which was not smoothed. It has the same rank in both, but with ties not always the
            # same place.
            below = keep - tail - 1
            with np.errstate(invalid="ignore"):
                total = np.exp(top[below] - np.partition(smooth, below)[below])
            if np.isfinite(shape[i]) and np.isfinite(total):
                total += np.exp(ordered[: count - keep]).sum()
                estimate[i] = high + math.log(total / count)
    return shape, estimate


def khat(log_w: np.ndarray) -> np.ndarray:
    """The first result of `psis`: the Pareto shape k̂ [B] of log weights [B, S].

    Example:
        >>> khat(np.zeros((1, 100)))  # constant weights: the guide is exact
        array([-inf])
    """
    return psis(log_w)[0]


def khat_threshold(num_samples: int) -> float:
    """Returns min(1 - 1 / log10 S, 0.7), the k̂ up to which S samples are enough.

    Example:
        >>> round(khat_threshold(5000), 3), round(khat_threshold(100), 3)
        (0.7, 0.5)
    """
    return min(1 - 1 / math.log10(num_samples), 0.7) if num_samples > 10 else 0.0
