"""Peaks of a log density that lie between the points of a grid."""

import torch
from torch import Tensor
from torch.nn.functional import max_pool1d, max_pool2d

from pvae.evaluation.estimators.cubature import LogF

__all__ = ["find_peaks", "reach"]

_PEAKS = 16  # of a datum, at most
_HALVINGS = 40
_BISECTIONS = 4
_RESOLVED = 1.0  # nats between a maximum and its neighbours on a grid that resolves it


def find_peaks(
    log_f: LogF, low: Tensor, high: Tensor, values: Tensor, data: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Climbs from the local maxima of a grid in one or two dimensions, if it is too coarse there.

    Far from a narrow peak f vanishes, but log f still rises towards it, so a peak between grid
    points gives a local maximum. Around each of the highest ones a smaller grid is moved to its
    best point and halved, until its values differ by at most one nat.

    Args:
        log_f: Log density.
        low: Lower corners of the grids, [B, D].
        high: Upper corners, [B, D].
        values: Log f on the grids, [G^D, B].
        data: Numbers of the data, [B].

    Returns:
        Points [k, B, D]; log f there [k, B], -inf if there are fewer peaks; and the sizes of the
        last grids, [k, B, D].
    """
    size, dim = low.shape
    points = round(len(values) ** (1 / dim))
    finite = values.clamp(min=-1e300)
    square = finite.T.reshape(size, 1, *[points] * dim)
    pool = max_pool1d if dim == 1 else max_pool2d
    highest, lowest = (s * pool(s * square, 3, 1, 1).reshape(size, -1).T for s in (1, -1))
    maxima = torch.where((highest == finite) & values.isfinite(), values, -torch.inf)
    heights, at = maxima.topk(_PEAKS, 0)
    step = ((high - low) / (points - 1)).expand(_PEAKS, -1, -1).clone()
    t = low + torch.stack(torch.unravel_index(at, (points,) * dim), -1) * step

    around = _around(low)
    coarse = (heights - lowest.gather(0, at) > _RESOLVED).nonzero()
    for _ in range(_HALVINGS):
        if not len(coarse):
            break
        where = coarse[:, 0], coarse[:, 1]
        near = t[where] + around * step[where]
        f = log_f(near, data[where[1]])
        heights[where], best = f.max(0)
        t[where] = near[best, torch.arange(len(best), device=best.device)]
        step[where] = step[where] / 2
        coarse = coarse[heights[where] - f.amin(0) > _RESOLVED]
    return t, heights, step


def reach(
    log_f: LogF, peaks: Tensor, heights: Tensor, sizes: Tensor, depth: float, data: Tensor
) -> Tensor:
    """Returns how far peaks extend in each dimension until they have fallen by `depth`, [n, D].

    A grid around each peak is doubled in the dimensions that end too high, then bisected.

    Args:
        log_f: Log density.
        peaks: Points, [n, D].
        heights: Log f there, [n].
        sizes: Sizes of the first grids, [n, D].
        depth: How far log f has fallen at the end of a peak, nats.
        data: Numbers of the data, [n].
    """
    around = _around(peaks)

    def ends_high(sizes: Tensor, which: Tensor) -> Tensor:
        f = log_f(peaks[which] + around * sizes, data[which])
        high = (f >= heights[which] - depth)[..., None]
        return ((around.abs() == 1) & high).any(0)

    most, everything = sizes.clone(), torch.arange(len(peaks), device=peaks.device)
    which = everything
    for _ in range(2 * _HALVINGS):
        if not len(which):
            break
        wider = ends_high(most[which], which)
        most[which] = torch.where(wider, 2 * most[which], most[which])
        which = which[wider.any(-1)]
    least = most / 2
    for _ in range(_BISECTIONS if len(peaks) else 0):
        middle = (least + most) / 2
        wider = ends_high(middle, everything)
        least, most = torch.where(wider, middle, least), torch.where(wider, most, middle)
    return most


def _around(like: Tensor) -> Tensor:
    axis = torch.linspace(-1, 1, 5, dtype=like.dtype, device=like.device)
    return torch.cartesian_prod(*[axis] * like.shape[-1]).reshape(-1, 1, like.shape[-1])
