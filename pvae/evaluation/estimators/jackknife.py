"""The jackknife: estimates of log p(x) that are less biased than the bound they start from."""

import math

import torch
from torch import Tensor

from pvae.errors import PvaeError
from pvae.evaluation.estimators.bounds import sums_fast

__all__ = ["jackknife"]

_LARGEST = 8  # weights of a block, whose pairs are handled one by one
_TERMS = 16  # of the series of log(1 - x) for all other weights
_CHUNK = 2**18  # log weights at a time on a CPU: 2 MiB
_MOST = 2**24  # elsewhere


def jackknife(log_w: Tensor, num_samples: int, order: int = 1) -> Tensor:
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
        Tensor [B], nats: the mean over the ⌊S / K⌋ blocks. NaN if some block has m or fewer
        weights above zero: without these its mean weight is zero, and the log infinite.

    Raises:
        PvaeError: The order is neither 1 nor 2, or K is not between m + 1 and S.

    Source: Nowozin 2018, *Debiasing Evidence Approximations: On Importance-weighted
    Autoencoders and Jackknife Variational Inference*.

    Example:
        >>> jackknife(torch.tensor([[1.0, 3.0]]).log(), 2)  # 2 log 2 - (log 1 + log 3) / 2
        tensor([0.8370])
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
    # A block without enough weights above zero ends in -inf - -inf = NaN, as it should.
    most = _CHUNK if log_w.device.type == "cpu" else _MOST
    step = max(1, most // (num_samples + _TERMS))
    result = torch.cat([estimate(part) for part in cut.split(step)])
    return result.reshape(size, blocks).mean(-1)


def _first(log_w: Tensor) -> Tensor:
    """Order 1 for each block: [n, K] -> [n]."""
    k = log_w.shape[-1]
    log_w = sums_fast(log_w)
    first, largest = log_w.max(-1)
    # The others are summed on their own scale. Their sum is no difference from the whole, which
    # would lose all digits if the largest weight dominates.
    others = log_w.scatter(-1, largest[:, None], -math.inf)
    second = others.amax(-1)
    others = others.sub_(second[:, None]).exp_()
    rest, gap = others.sum(-1), second - first
    total = 1 + gap.exp() * rest
    others *= (-gap.exp() / total)[:, None]
    one = gap + (rest / total).log() + others.log1p_().sum(-1)
    c1 = -(k - 1)
    return first + total.log() - math.log(k) - c1 * math.log1p(-1 / k) + c1 / k * one


def _second(log_w: Tensor) -> Tensor:
    r"""Order 2 for each block: [n, K] -> [n].

    With a the weights divided by their sum, in falling order, it needs
    :math:`\sum_i \log(1 - a_i)` and :math:`\sum_{i<j} \log(1 - a_i - a_j)`. The m largest
    weights are handled one by one. For the others, x in log(1 - x) is at most 2 / (m + 1), and the
    series of the log turns every sum over them into power sums. The error of the series is largest
    for two weights that equal the m largest: :math:`(2 / (m + 2))^{T+1} / (T + 1)`, below 1e-13
    for T = 16 terms.
    """
    k = log_w.shape[-1]
    m = min(_LARGEST, k)
    top, largest = log_w.topk(m)
    first, second, third = top[:, 0], top[:, 1], top[:, 2]

    # As above, the sums without the largest weight and without the largest two are never
    # differences. b is a weight divided by the sum without the largest, a = keep · b.
    b_small = (log_w - third[:, None]).exp_().scatter_(-1, largest, 0.0)
    b_top = (top[:, 2:] - third[:, None]).exp()
    without_two = b_top.sum(-1) + b_small.sum(-1)
    gap, gap_3 = second - first, third - second
    without_one = 1 + gap_3.exp() * without_two
    total = 1 + gap.exp() * without_one
    keep = gap.exp() * without_one / total
    log_keep = gap + (without_one / total).log()
    log_keep_2 = gap_3 + (without_two / without_one).log()
    scale = (gap_3.exp() / without_one)[:, None]
    b_small *= scale
    b_top *= scale
    a_top = keep[:, None] * torch.cat([1 / without_one[:, None], b_top], -1)

    left = (-a_top).log1p()  # log(1 - a_i) for i = 2 … m
    one = log_keep + left.sum(-1)
    i, j = torch.triu_indices(m - 1, m - 1, 1, device=log_w.device)
    two = (-a_top[:, i] - a_top[:, j]).log1p().sum(-1)
    two += (k - 1) * log_keep + log_keep_2 + (-b_top).log1p().sum(-1)  # pairs with the largest
    if k > m:
        like = {"device": log_w.device, "dtype": log_w.dtype}
        log, log_2, pairs = (table.to(**like) for table in (_LOG, _LOG_2, _PAIRS))
        b_sums = _power_sums(b_small, k - m)
        a_sums = b_sums * keep[:, None] ** torch.arange(_TERMS + 1, **like)
        one -= a_sums @ log
        two -= b_sums @ log
        # log(1 - a_i - a_j) = log(1 - a_i) + log(1 - a_j / (1 - a_i)), and a_j is small
        two += (k - m) * left.sum(-1) - (_power_sums((-left).exp(), m - 1) * a_sums) @ log
        two += (a_sums @ log_2 - (a_sums @ pairs * a_sums).sum(-1)) / 2

    c1, c2 = -((k - 1) ** 2), (k - 2) ** 2 / 2
    constant = -math.log(k) - c1 * math.log1p(-1 / k) - c2 * math.log1p(-2 / k)
    return first + total.log() + constant + c1 / k * one + c2 / math.comb(k, 2) * two


def _power_sums(x: Tensor, count: int) -> Tensor:
    """Sums of x^p over the last axis, for p = 0 … T: [n, K] -> [n, T + 1]; x^0 counts `count`."""
    low, high = x.new_empty((2, len(x), 4, x.shape[-1]))
    low[:, 0], high[:, 0] = x, 1.0
    square = torch.mul(x, x, out=low[:, 1])
    torch.mul(square, x, out=low[:, 2])
    fourth = torch.mul(square, square, out=low[:, 3])
    high[:, 1] = fourth
    eighth = torch.mul(fourth, fourth, out=high[:, 2])
    torch.mul(eighth, fourth, out=high[:, 3])
    sums = high @ low.mT  # of x^(4 i + j), in rising order
    return torch.cat([sums.new_full((len(x), 1), count), sums.flatten(1)], -1)


def _pair_coefficients() -> Tensor:
    """The factor of (Σ x^q)(Σ x^r) in Σ_ij (x_i + x_j)^p / p, p = q + r: C(p, q) / p."""
    table = torch.zeros(_TERMS + 1, _TERMS + 1, dtype=torch.float64)
    for p in range(1, _TERMS + 1):
        for q in range(p + 1):
            table[q, p - q] = math.comb(p, q) / p
    return table


_LOG = torch.tensor(
    [0.0, *(1 / p for p in range(1, _TERMS + 1))], dtype=torch.float64
)  # -log(1 - x)
_LOG_2 = _LOG * 2.0 ** torch.arange(_TERMS + 1)  # -log(1 - 2 x)
_PAIRS = _pair_coefficients()
