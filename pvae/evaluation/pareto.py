"""Pareto k̂: whether importance weights have tails that their mean can be trusted with."""

import math

import numpy as np
from arviz_stats.base import array_stats

__all__ = ["khat", "khat_threshold", "verdict"]


def khat(log_w: np.ndarray) -> np.ndarray:
    """Fits a generalised Pareto distribution to each datum's largest weights.

    Args:
        log_w: Log weights [B, S], nats.

    Returns:
        Array [B], the shape k̂: below 0 bounded, above ½ infinite variance, above 1 infinite
        mean; -inf where the weights are constant (an exact guide), NaN where S is below 25 or
        the tail is too discrete for a fit.

    Source: Vehtari, Simpson, Gelman, Yao & Gabry 2024, *Pareto Smoothed Importance Sampling*,
    as implemented in arviz_stats.
    """
    result = np.full(len(log_w), np.nan)
    for i, row in enumerate(log_w):
        high = row.max()
        if not np.isfinite(high):
            continue
        # Weights that agree to single precision are as good as constant.
        if high - row.min() <= 1e-5 * max(1.0, abs(high)):
            result[i] = -np.inf
        elif len(row) >= 25:
            try:
                # psislw takes log likelihoods and smooths their reciprocals.
                result[i] = array_stats.psislw(-row)[1]
            except ValueError:  # all values of the tail are the same
                continue
    return result


def khat_threshold(num_samples: int) -> float:
    """Returns min(1 - 1 / log10 S, 0.7), the k̂ up to which S samples are enough.

    Example:
        >>> round(khat_threshold(5000), 3), round(khat_threshold(100), 3)
        (0.7, 0.5)
    """
    return min(1 - 1 / math.log10(num_samples), 0.7) if num_samples > 10 else 0.0


def verdict(values: np.ndarray, threshold: float, num_samples: int) -> str:
    """Says in words what k̂ tells about the bounds, and what it cannot tell."""
    known = values[~np.isnan(values)]
    if not len(known):
        return (
            f"k̂ is not available: with {num_samples} samples for each datum, or tails this "
            "discrete, nothing can be said about the weights' tails. Use 100 samples or more."
        )
    share = float((known > threshold).mean())
    closing = (
        "A low k̂ cannot exclude a mode of the posterior that the guide never visits; nothing "
        "here has checked for that."
    )
    if share == 0:
        return (
            f"k̂ is at most {threshold:.2f} for every datum: no sign that the guide's tails are "
            f"too light for these estimates and their errors. {closing}"
        )
    tails = (
        f"k̂ is above {threshold:.2f} for {share:.1%} of the data: there the guide's tails are too "
        f"light for {num_samples} samples, and the error bar of log p(x) is not to be trusted. "
        "The numbers remain lower bounds in expectation."
    )
    return f"{tails} {closing}" if share < 0.1 else tails
