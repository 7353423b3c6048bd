"""The jackknife: estimates of log p(x) that are less biased than the bound they start from."""

import math

import numpy as np

from pvae.errors import PvaeError

__all__ = ["jackknife"]

_LARGEST = 8  # weights of a block, whose pairs are handled one by one
_TERMS = 16  # of the series of log(1 - x) for all other weights
_CHUNK = 2**15  # log weights at a time, so that temporaries stay in the cache


def jackknife(log_w: np.ndarray, num_samples: int, order: int = 1) -> np.ndarray:
    r"""The jackknife estimate of log p(x) of order m, from all samples in blocks of K.

    .. math:: \mathrm{JVI}_m = \sum_{j=0}^m c_j \bar L_{K-j}, \qquad
        c_j = (-1)^j \frac{(K-j)^m}{(m-j)! \, j!}

    with :math:`\bar L_{K-j}` the mean of the log mean weight over all subsets of K - j of the
    block's K weights. The bound :math:`L_K` is below log p(x) by a series in 1/K; order m
    removes its first m terms, if the weights have the moments that the series needs. The result
    is an estimate, no bound: it can be on either side of log p(x).

    The cost is linear in K for both orders: pairs are summed in closed form, to an error of about
    1e-13 or K · 1e-15 nats, whichever is larger.

    Args:
        log_w: Log weights [B, S], nats.
        num_samples: K, between m + 1 and S. The S mod K samples of the last, unfinished block
            are left out.
        order: m, 1 or 2.

    Returns:
        Array [B], nats: the mean over the ⌊S / K⌋ blocks. NaN if some block has m or fewer
        weights above zero: without these its mean weight is zero, and the log infinite.

    Raises:
        PvaeError: The order is neither 1 nor 2, or K is not between m + 1 and S.

    Source: Nowozin 2018, *Debiasing Evidence Approximations: On Importance-weighted
    Autoencoders and Jackknife Variational Inference*.

    Example:
        >>> jackknife(np.log([[1.0, 3.0]]), 2)  # 2 log 2 - (log 1 + log 3) / 2
        array([0.83698822])
    """
    size, count = log_w.shape
    if order not in (1, 2):
        raise PvaeError(
            f"order={order} is not valid: the coefficients of orders above 2 grow so fast with "
            "num_samples that the result is noise. Use 1 or 2."
        )
    if num_samples < order + 1:
        raise PvaeError(
            f"num_samples={num_samples} is too small: a jackknife of order {order} leaves out up "
            f"to {order} of them, and at least one must remain. Use {order + 1} or more."
        )
    if num_samples > count:
        raise PvaeError(
            f"num_samples={num_samples} is too large: there are only {count} log weights for each "
            f"datum. Use {count} or fewer."
        )
    blocks = count // num_samples
    cut = log_w[:, : blocks * num_samples].reshape(-1, num_samples)
    estimate = _first if order == 1 else _second
    result = np.empty(len(cut))
    step = max(1, _CHUNK // (num_samples + _TERMS))
    # A block without enough weights above zero ends in -inf - -inf = NaN, as it should.
    with np.errstate(invalid="ignore", divide="ignore"):
        for start in range(0, len(cut), step):
            result[start : start + step] = estimate(cut[start : start + step])
    return result.reshape(size, blocks).mean(-1)


def _first(log_w: np.ndarray) -> np.ndarray:
    """Order 1 for each block: [..., K] -> [...]."""
    k = log_w.shape[-1]
    log_w = _sums_fast(np.partition(log_w, k - 2, axis=-1))
    first, second = log_w[..., -1], log_w[..., -2]
    # The others are summed on their own scale. Their sum is no difference from the whole, which
    # would lose all digits if the largest weight dominates.
    others = np.exp(log_w[..., :-1] - second[..., None])
    rest, gap = others.sum(-1), second - first
    total = 1 + np.exp(gap) * rest
    others *= (-np.exp(gap) / total)[..., None]
    one = gap + np.log(rest / total) + np.log1p(others, out=others).sum(-1)
    c1 = -(k - 1)
    return first + np.log(total) - math.log(k) - c1 * math.log1p(-1 / k) + c1 / k * one


def _second(log_w: np.ndarray) -> np.ndarray:
    r"""Order 2 for each block: [..., K] -> [...].

    With a the weights divided by their sum, in falling order, it needs
    :math:`\sum_i \log(1 - a_i)` and :math:`\sum_{i<j} \log(1 - a_i - a_j)`. The m largest
    weights are handled one by one. For the others, x in log(1 - x) is at most 2 / (m + 1), and the
    series of the log turns every sum over them into power sums. The error of the series is largest
    for two weights that equal the m largest: :math:`(2 / (m + 2))^{T+1} / (T + 1)`, below 1e-13
    for T = 16 terms.
    """
    k = log_w.shape[-1]
    m = min(_LARGEST, k)
    log_w = np.partition(log_w, k - m, axis=-1)
    log_w[..., k - m :].sort(axis=-1)
    log_w = _sums_fast(log_w)
    top = log_w[..., : -m - 1 : -1]
    first, second, third = top[..., 0], top[..., 1], top[..., 2]

    # As above, the sums without the largest weight and without the largest two are never
    # differences. b is a weight divided by the sum without the largest, a = keep · b.
    b_small = np.exp(log_w[..., : k - m] - third[..., None])
    b_top = np.exp(top[..., 2:] - third[..., None])
    without_two = b_top.sum(-1) + b_small.sum(-1)
    gap, gap_3 = second - first, third - second
    without_one = 1 + np.exp(gap_3) * without_two
    total = 1 + np.exp(gap) * without_one
    keep = np.exp(gap) * without_one / total
    log_keep = gap + np.log(without_one / total)
    log_keep_2 = gap_3 + np.log(without_two / without_one)
    scale = (np.exp(gap_3) / without_one)[..., None]
    b_small *= scale
    b_top *= scale
    a_top = keep[..., None] * np.concatenate([1 / without_one[..., None], b_top], axis=-1)

    left = np.log1p(-a_top)  # log(1 - a_i) for i = 2 … m
    one = log_keep + left.sum(-1)
    i, j = np.triu_indices(m - 1, 1)
    two = np.log1p(-a_top[..., i] - a_top[..., j]).sum(-1)
    two += (k - 1) * log_keep + log_keep_2 + np.log1p(-b_top).sum(-1)  # pairs with the largest
    if k > m:
        b_sums = _power_sums(b_small)
        a_sums = b_sums * keep[..., None] ** np.arange(_TERMS + 1)
        one -= a_sums @ _LOG
        two -= b_sums @ _LOG
        # log(1 - a_i - a_j) = log(1 - a_i) + log(1 - a_j / (1 - a_i)), and a_j is small
        two += (k - m) * left.sum(-1) - (_power_sums(np.exp(-left)) * a_sums) @ _LOG
        two += (a_sums @ _LOG_2 - np.vecdot(a_sums @ _PAIRS, a_sums)) / 2

    c1, c2 = -((k - 1) ** 2), (k - 2) ** 2 / 2
    constant = -math.log(k) - c1 * math.log1p(-1 / k) - c2 * math.log1p(-2 / k)
    return first + np.log(total) + constant + c1 / k * one + c2 / math.comb(k, 2) * two


def _sums_fast(x: np.ndarray) -> np.ndarray:
    """Puts a short last axis outermost in memory, because numpy then sums it much faster."""
    return np.asarray(x, order="F" if x.shape[-1] < 64 else "C")


def _power_sums(x: np.ndarray) -> np.ndarray:
    """Sums of x^p over the last axis, for p = 0 … T: [..., n] -> [..., T + 1]."""
    sums = np.empty((*x.shape[:-1], _TERMS + 1))
    sums[..., 0] = x.shape[-1]
    power = x.copy(order="K")
    for p in range(1, _TERMS + 1):
        power.sum(-1, out=sums[..., p])
        power *= x
    return sums


def _pair_coefficients() -> np.ndarray:
    """The factor of (Σ x^q)(Σ x^r) in Σ_ij (x_i + x_j)^p / p, p = q + r: C(p, q) / p."""
    table = np.zeros((_TERMS + 1, _TERMS + 1))
    for p in range(1, _TERMS + 1):
        for q in range(p + 1):
            table[q, p - q] = math.comb(p, q) / p
    return table


_LOG = np.array([0.0, *(1 / p for p in range(1, _TERMS + 1))])  # -log(1 - x)
_LOG_2 = _LOG * 2.0 ** np.arange(_TERMS + 1)  # -log(1 - 2 x)
_PAIRS = _pair_coefficients()
