"""Pareto k̂: whether the tail of importance weights lets their mean be trusted."""

import math

import torch
from torch import Tensor

from pvae.evaluation.estimators.bounds import log_mean_exp

__all__ = ["khat_threshold", "psis", "rounding_error"]

_ALIKE = 1e-4  # nats: weights that differ by less count as constant
_COARSE = 0.1  # nats: weights with larger rounding errors cannot be said to be constant
_FLOATS = 2**24  # of the largest temporary tensor: 128 MiB in double precision


def rounding_error(summands: Tensor, eps: float) -> Tensor:
    """Returns the rounding error of log weights, nats, from the size of their summands."""
    return 16 * eps * summands


def psis(log_w: Tensor, rounding: Tensor | None = None) -> tuple[Tensor, Tensor]:
    r"""Fits a generalised Pareto distribution to each datum's largest weights, and smooths them.

    The M largest of S weights, :math:`M = \min(S / 5, 3 \sqrt S)`, are replaced by quantiles of
    the fit, cut off at the largest weight: :math:`\tilde w`. The rest are unchanged.

    .. math:: \log \hat p(x) = \log \frac1S \sum_s \tilde w_s

    It is a little biased, and varies less than the plain mean if k̂ is above ½. Above 0.7 it cannot
    be trusted either; far above 1 it can be many nats below the plain mean.

    Args:
        log_w: Log weights [B, S], nats.
        rounding: The rounding error of each datum's log weights, [B], nats, see `rounding_error`.
            None is for log weights that are no differences of larger numbers, in the precision of
            the tensor.

    Returns:
        The shape k̂ [B]: below 0 bounded, above ½ infinite variance, above 1 infinite mean. It is
        -inf if the weights are constant (an exact guide) up to rounding or up to 0.01%. It is NaN
        if S is 1, or below 25 with weights that differ; if the tail is too discrete for a fit; or
        if rounding errors above 0.1 nats hide how the weights differ. A constant added to log w
        does not change it.

        And the smoothed estimate of log p(x) [B], nats. It is the plain log of the mean weight if
        k̂ is not finite. Both are in double precision, on the device of the weights.

    Source: Vehtari, Simpson, Gelman, Yao & Gabry 2024, *Pareto Smoothed Importance Sampling*,
    arXiv:1507.02646; the numbers are those of `arviz_stats.psislw`.

    Example:
        >>> log_w = 0.3 * torch.zeros(1, 20_000).exponential_(generator=torch.manual_seed(2))
        >>> shape, log_px = psis(log_w)  # Pareto weights of mean 1 / (1 - 0.3) = 1.43
        >>> shape.round(decimals=1), log_px.exp().round(decimals=1)
        (tensor([0.3000], dtype=torch.float64), tensor([1.4000], dtype=torch.float64))
    """
    count = log_w.shape[1]
    if rounding is None:
        size = torch.where(log_w.isfinite(), log_w.abs(), 0.0).amax(-1)
        rounding = rounding_error(size, torch.finfo(log_w.dtype).eps)
    log_w = log_w.double()
    plain, high = log_mean_exp(log_w), log_w.amax(-1)
    spread = high - log_w.amin(-1)
    constant = spread <= rounding.clamp(max=_COARSE).clamp(min=_ALIKE)
    constant &= high.isfinite() & (count > 1)
    shape = torch.full_like(plain, math.nan).masked_fill(constant, -math.inf)
    tail = count // 5 if count <= 225 else int(3 * math.sqrt(count))
    if tail < 5:
        return shape, plain
    step = max(1, _FLOATS // max(count, tail * _grid_size(tail)))
    pieces = zip(log_w.split(step), high.split(step), strict=True)
    fitted = [_smoothed(piece, top, tail) for piece, top in pieces]
    found, estimate = (torch.cat(part) for part in zip(*fitted, strict=True))
    applies = ~constant & (spread > rounding) & high.isfinite()
    shape = torch.where(applies, found, shape)
    smooth = applies & found.isfinite() & estimate.isfinite()
    return shape, torch.where(smooth, estimate, plain)


def _smoothed(log_w: Tensor, high: Tensor, tail: int) -> tuple[Tensor, Tensor]:
    """Returns k̂ [B], NaN without a fit, and the log of the mean of the smoothed weights [B]."""
    weights = (log_w - high[:, None]).exp_()
    largest, places = weights.topk(tail + 1)
    below, largest = largest[:, -1:], largest[:, :-1].flip(-1)
    shape, scale = _fit(largest - below)
    # The quantiles of the fit at the middle of each of M equal shares.
    log_survival = (-_middles(tail, weights)).log1p()
    k = shape[:, None]
    excess = torch.where(k == 0, -log_survival, torch.expm1(-k * log_survival) / k)
    excess *= torch.where(scale > 0, scale, math.nan)[:, None]
    smooth = (below + excess).minimum(largest[:, -1:])
    body = weights.scatter_(-1, places[:, :-1], 0.0).sum(-1)
    # Equal weights in the tail have no shape.
    shape = torch.where(largest[:, 0] < largest[:, -1], shape, math.nan)
    return shape, high + ((body + smooth.sum(-1)) / log_w.shape[1]).log()


def _fit(x: Tensor) -> tuple[Tensor, Tensor]:
    r"""Fits generalised Pareto distributions to M excesses each: [B, M] -> shape [B], scale [B].

    .. math:: p(x) = \frac1\sigma \left( 1 + \frac{k x}{\sigma} \right)^{-1 / k - 1}

    The profile posterior of b = -k/σ is evaluated on a grid; k is shrunk towards ½ as by ten
    observations.

    Args:
        x: Excesses over the weight below the tail, in rising order.

    Returns:
        NaN if a quarter of the excesses equal the smallest, infinity if nothing fits.

    Source: Zhang & Stephens 2009, *A New and Efficient Estimation Method for the Generalized
    Pareto Distribution*; the shrinkage is that of Vehtari et al.
    """
    count = x.shape[-1]
    grid = 1 - (1 / _middles(_grid_size(count), x)).sqrt()
    quartile, least, most = x[:, int(count / 4 + 0.5) - 1], x[:, 0], x[:, -1]
    b = grid / (3 * quartile[:, None]) + 1 / most[:, None]
    means = (-b[..., None] * x[:, None]).log1p_().mean(-1)
    posterior = (count * ((-b / means).log() - means - 1)).softmax(-1)
    posterior = torch.where(posterior >= 10 * torch.finfo(x.dtype).eps, posterior, 0.0)
    b = (b * posterior).sum(-1) / posterior.sum(-1)
    k = (-b[:, None] * x).log1p_().mean(-1)
    scale, k = -k / b, (count * k + 5) / (count + 10)
    k = torch.where(k.isnan(), math.inf, k)
    return torch.where(quartile > least, k, math.nan), scale


def _grid_size(count: int) -> int:
    return 30 + math.isqrt(count)


def _middles(count: int, like: Tensor) -> Tensor:
    """(i - ½) / n for i = 1 … n."""
    return (torch.arange(count, device=like.device, dtype=like.dtype) + 0.5) / count


def khat_threshold(num_samples: int) -> float:
    """Returns min(1 - 1 / log10 S, 0.7), the k̂ up to which S samples are enough.

    Example:
        >>> round(khat_threshold(5000), 3), round(khat_threshold(100), 3)
        (0.7, 0.5)
    """
    return min(1 - 1 / math.log10(num_samples), 0.7) if num_samples > 10 else 0.0
