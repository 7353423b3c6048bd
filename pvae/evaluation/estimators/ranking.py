"""How well a score separates two sets: the area under the ROC curve, and a threshold."""

import math

import numpy as np

__all__ = ["auroc", "rejected", "threshold"]


def auroc(kept: np.ndarray, foreign: np.ndarray) -> tuple[float, float]:
    r"""The area under the ROC curve of a score, with its standard error.

    .. math:: A = P(s > t) + \tfrac12 P(s = t), \qquad s \text{ kept}, \; t \text{ foreign}

    ½ is chance, 1 means that every datum of the first set scores higher. The error is that of
    DeLong's structural components, without assumptions on the distributions of the scores:

    .. math:: \mathrm{se}^2 = \frac{\mathrm{var}_i \, A_i}{m} + \frac{\mathrm{var}_j \, A_j}{n}

    with A_i the share of the n foreign scores below :math:`s_i`, and A_j the share of the m kept
    scores above :math:`t_j`. It is zero if the sets do not overlap.

    Args:
        kept: Scores of the set that should score higher, [m]; -inf is allowed.
        foreign: Scores of the other set, [n].

    Returns:
        A, and its standard error; the error is NaN if a set has a single datum.

    Source: DeLong, DeLong & Clarke-Pearson 1988, *Comparing the Areas under Two or More Correlated
    Receiver Operating Characteristic Curves: A Nonparametric Approach* (doi:10.2307/2531595).

    Example:
        >>> area, se = auroc(np.array([3.0, 2.0]), np.array([1.0, 2.0]))
        >>> area, round(se, 3)
        (0.875, 0.177)
    """
    each = _share_below(kept, foreign)
    others = 1 - _share_below(foreign, kept)
    if min(len(kept), len(foreign)) < 2:
        return float(each.mean()), math.nan
    variance = each.var(ddof=1) / len(kept) + others.var(ddof=1) / len(foreign)
    return float(each.mean()), math.sqrt(variance)


def _share_below(values: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Returns the share of the others below each value; ties count half."""
    others = np.sort(others)
    below, up_to = (np.searchsorted(others, values, side) for side in ("left", "right"))
    return (below + up_to) / (2 * len(others))


def threshold(kept: np.ndarray, share: float) -> float:
    """Returns the score below which at most this share of the kept data lies.

    Example:
        >>> float(threshold(np.arange(100.0), 0.05))
        5.0
    """
    order = np.sort(kept)
    return float(order[math.floor(share * len(order))])


def rejected(scores: np.ndarray, at: float) -> tuple[float, float]:
    """Returns the share of scores below a threshold, with its binomial standard error."""
    share = float((scores < at).mean())
    return share, math.sqrt(share * (1 - share) / len(scores))
