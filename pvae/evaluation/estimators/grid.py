"""Integrals over one or two latent dimensions on a grid, in a box that is moved to the mass."""

import math

import torch
from torch import Tensor

from pvae.evaluation.estimators.cubature import LogF, integrate
from pvae.evaluation.estimators.peaks import find_peaks, reach
from pvae.importance import Density, replaced

__all__ = ["integrate_on_grid"]

_DRAWS = 128  # first samples of the prior and of the guide
_DEPTH = 40.0  # nats below the maximum, where the grid ends
_OPEN = 30.0  # nats below the maximum that log f may reach outside of the box
_SEARCH = {1: 129, 2: 65}  # grid points in each dimension while the box moves
_MOST = {1: 2**16 + 1, 2: 2**10 + 1}  # grid points in each dimension, at most
_MOVES = 50  # of a box, at most
_TURNS = 6  # of its axes, at most
_TOLERANCE = 1e-8
_CELLS_TOLERANCE = 1e-9
_BEYOND = 1000.0  # mass that may lie beyond an edge, relative to the mass right at it
_SEEN = 256  # samples of the guide and of the prior that the grid is compared with
_APART = 1.0  # nats by which a sample may exceed its neighbours on a converged grid
_FLANK = 5e-7  # nats of a peak that may be missed between the points of a cell beside it
_EDGE = 1e-5  # share of the mass at an edge above which log p(x) is unknown


def integrate_on_grid(density: Density, batch: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    """Returns log p(x) and its error, each [B], see `Quadrature`."""
    size, dim = len(batch[0]), density.dim
    draws = [density.prior(batch, _DRAWS), density.posterior(batch, _DRAWS)]
    u = replaced(torch.cat(draws))
    dtype, u = u.dtype, u.double()

    # Coordinates t of the grid: u = origin + A t.
    origin, a = u.new_zeros(size, dim), torch.eye(dim, dtype=u.dtype, device=u.device)
    a = a.repeat(size, 1, 1)

    def log_f(t: Tensor, data: Tensor) -> Tensor:
        """Log p(x, t) at points [G, b, D] of some of the data, [G, b]; NaN becomes -inf."""
        part = tuple(each[data] for each in batch)
        turn, shift = a[data], origin[data]

        def run(start: int, stop: int) -> dict[str, Tensor]:
            u = shift + (turn @ t[start:stop, ..., None])[..., 0]
            return {"": density.log_joint(u.to(dtype), part)[1].double()}

        found = density.sampler.chunks.run(len(t), len(data), run)[""] + turn.logdet()
        return torch.where(found < math.inf, found, -math.inf)

    everything = torch.arange(size, device=u.device)
    known = log_f(u, everything)
    spread = u.amax(0) - u.amin(0)
    spread = torch.where(spread > 0, spread, 1.0)
    low, high = u.amin(0) - spread, u.amax(0) + spread
    stable = torch.zeros(size, dtype=torch.bool, device=u.device)
    for turn in range(_TURNS if dim > 1 else 1):
        t = torch.linalg.solve(a, (u - origin)[..., None])[..., 0]
        _search(log_f, low, high, t, known + a.logdet(), stable)
        if turn == _TURNS - 1 or dim == 1:
            break
        mean, factor, slanted, *box = _moments(log_f, low, high)
        if not slanted.any():
            break
        origin = torch.where(slanted[:, None], origin + (a @ mean[..., None])[..., 0], origin)
        a = torch.where(slanted[:, None, None], a @ factor, a)
        low, high = (
            torch.where(slanted[:, None], *each) for each in zip(box, (low, high), strict=True)
        )
        stable = stable & ~slanted
    log_px, error = torch.full_like(known[0], -math.inf), torch.full_like(known[0], math.inf)
    points, active = _SEARCH[dim], everything
    nodes = _nodes(low, high, points)
    first = log_f(nodes, everything)
    if _hold_peaks(log_f, low, high, first):
        nodes = _nodes(low, high, points)
        first = log_f(nodes, everything)
    used = torch.full_like(log_px, points)
    while len(active) and points <= _MOST[dim]:
        used[active] = points
        # A fine grid of two dimensions is evaluated for few data at a time.
        for data in active.split(max(1, 2**22 // points**dim)):
            corners = low[data], high[data]
            values = first if points == _SEARCH[dim] else log_f(_nodes(*corners, points), data)
            fine, coarse = _sums(values, *corners, points)
            log_px[data], error[data] = fine, (fine - coarse).abs()
        rounding = torch.finfo(dtype).eps * (log_px.abs() + _DEPTH)
        finer = (error > rounding.clamp(min=_TOLERANCE)) & log_px.isfinite()
        if points**dim > 2**16:  # cells are more efficient if the error is still large
            finer &= error < 1e-3
        active = everything[finer]
        points = 2 * points - 1
    error = torch.maximum(error, rounding)
    log_px, error = _against_draws(
        density, batch, log_f, origin, a, low, high, used, first, log_px, error, rounding
    )
    u = origin + (a @ nodes[..., None])[..., 0]
    weights = first.softmax(0)
    lost = torch.where(density.is_exact(u.to(dtype)), 0.0, weights).sum(0)
    error = torch.maximum(error, _BEYOND * lost)
    return log_px, torch.where(stable & (lost < _EDGE), error, math.inf)


def _against_draws(
    density: Density,
    batch: tuple[Tensor, ...],
    log_f: LogF,
    origin: Tensor,
    a: Tensor,
    low: Tensor,
    high: Tensor,
    used: Tensor,
    first: Tensor,
    log_px: Tensor,
    error: Tensor,
    rounding: Tensor,
) -> tuple[Tensor, Tensor]:
    """Integrates those data adaptively for which the grid disagrees with samples."""
    size, dim = log_px.shape[0], low.shape[1]
    u = replaced(torch.cat([density.posterior(batch, _SEEN), density.prior(batch, _SEEN)]))
    t = torch.linalg.solve(a, (u.double() - origin)[..., None])[..., 0]
    inside = ((t >= low) & (t < high)).all(-1)
    everything = torch.arange(size, device=u.device)
    known = log_f(t, everything)
    peaks, heights, _ = find_peaks(log_f, low, high, first, everything)
    # High values outside of the box, or on its faces next to a peak, mean that it is too small.
    side = torch.eye(dim, dtype=torch.bool, device=u.device).reshape(dim, 1, 1, dim)
    faces = torch.cat([torch.where(side, end, peaks).flatten(0, 1) for end in (low, high)])
    beyond = torch.where(inside, -math.inf, known).amax(0)
    beyond = torch.maximum(beyond, log_f(faces, everything).amax(0))
    known = torch.cat([torch.where(inside, known, -math.inf), heights])
    t = torch.cat([t, peaks])
    error = torch.where(beyond > known.amax(0) - _OPEN, math.inf, error)
    log_w = torch.cat([d.log_w for d in density.sampler.stream(batch, _SEEN)]).double()
    seen = log_w.logsumexp(0) - math.log(len(log_w))
    weights = (log_w - log_w.amax(0)).exp()
    noise = (weights.std(0) / weights.mean(0) / math.sqrt(len(log_w))).nan_to_num(math.inf)
    least = seen - 5 * noise - 1e-3

    # The highest corner of each sample's cell in the last grid.
    step = (high - low) / (used[:, None] - 1)
    at = torch.minimum(((t - low) / step).floor().clamp(min=0), used[:, None] - 2)
    guess = torch.full_like(known, -math.inf)
    for corner in torch.cartesian_prod(*[torch.arange(2.0, device=u.device)] * dim).reshape(
        -1, dim
    ):
        guess = torch.maximum(guess, log_f(low + (at + corner) * step, everything))
    strange = (known > guess + _APART) & (known > known.amax(0) - 20)
    strange = strange.any(0)
    doubtful = strange | (least - log_px > error) | (error > rounding.clamp(min=1e-6))
    data = (doubtful & error.isfinite()).nonzero()[:, 0]
    if not len(data):
        return log_px, error
    value, own = integrate(
        lambda t, which: log_f(t, data[which]),
        low[data],
        high[data],
        t[:, data],
        known[:, data],
        rounding[data].clamp(min=_CELLS_TOLERANCE),
    )
    own = torch.maximum(own, rounding[data].clamp(min=_FLANK))
    better = (strange | (least - log_px > error))[data] | (own < error[data])
    data, value, own = (each[better & value.isfinite()] for each in (data, value, own))
    log_px[data], error[data] = value, own
    return log_px, torch.where(least - log_px > error, math.inf, error)


def _moments(log_f: LogF, low: Tensor, high: Tensor) -> tuple[Tensor, ...]:
    """Mean and Cholesky factor of the posterior, if it is slanted, and corners of a box along it.

    A narrow slanted posterior needs few points only in coordinates along it.
    """
    points, data = _SEARCH[low.shape[1]], torch.arange(len(low), device=low.device)
    nodes = _nodes(low, high, points)
    values = log_f(nodes, data)
    weights = values.softmax(0).nan_to_num(0)[..., None]
    mean = (weights * nodes).sum(0)
    apart = nodes - mean
    covariance = torch.einsum("gbd,gbe->bde", weights * apart, apart)
    cell = (high - low) / (points - 1)
    covariance = covariance + torch.diag_embed((cell / 4) ** 2)
    factor = torch.linalg.cholesky(covariance)
    variance = covariance.diagonal(dim1=-2, dim2=-1)
    slanted = covariance.det() / variance.prod(-1) < 0.3  # 1 - ρ²
    peaks, heights, _ = find_peaks(log_f, low, high, values, data)
    t = torch.linalg.solve(factor, (peaks - mean)[..., None])
    t = torch.where(heights[..., None] >= heights.amax(0)[:, None] - _DEPTH, t[..., 0], 0.0)
    return mean, factor, slanted, (t.amin(0) - 1).clamp(max=-10), (t.amax(0) + 1).clamp(min=10)


def _search(
    log_f: LogF, low: Tensor, high: Tensor, draws: Tensor, known: Tensor, stable: Tensor
) -> None:
    """Moves the boxes [B, D] that are not stable yet to the mass, in place."""
    points = _SEARCH[low.shape[1]]
    for _ in range(_MOVES):
        data = (~stable).nonzero()[:, 0]
        if not len(data):
            break
        values = log_f(_nodes(low[data], high[data], points), data)
        top = torch.maximum(values.amax(0), known[:, data].amax(0))
        # Samples and peaks count as well: the mass may be between the points.
        peaks, heights, _ = find_peaks(log_f, low[data], high[data], values, data)
        near = torch.cat([draws[:, data], peaks])
        height = torch.cat([known[:, data], heights])
        good = height >= torch.maximum(top, heights.amax(0)) - _DEPTH
        values = values.reshape(*[points] * low.shape[1], len(data))
        done = torch.ones_like(data, dtype=torch.bool)
        for d in range(low.shape[1]):
            others = tuple(i for i in range(low.shape[1]) if i != d)
            profile = values.amax(others) if others else values
            start, end = low[data, d], high[data, d]
            width = end - start
            keep = _hopeful(profile) >= top - _DEPTH  # cells [points - 1, b]
            cell, at = width / (points - 1), torch.arange(points - 1, device=low.device)[:, None]
            first = torch.where(keep, at, points).amin(0)
            last = torch.where(keep, at, -1).amax(0)
            new_low, new_high = start + (first - 1) * cell, start + (last + 2) * cell
            # A box that grows does not shrink: it doubles until it holds the mass.
            left, right = first == 0, last == points - 2
            new_low = torch.where(left, start - width, torch.where(right, start, new_low))
            new_high = torch.where(right, end + width, torch.where(left, end, new_high))
            least = torch.where(good, near[..., d], math.inf).amin(0)
            most = torch.where(good, near[..., d], -math.inf).amax(0)
            new_low = torch.minimum(new_low, least - cell)
            new_high = torch.maximum(new_high, most + cell)
            moved = (new_low < start) | (new_high > end)
            moved |= (new_high - new_low) < 0.8 * width
            moved &= new_low.isfinite() & new_high.isfinite() & (new_high > new_low)
            low[data, d] = torch.where(moved, new_low, start)
            high[data, d] = torch.where(moved, new_high, end)
            done &= ~moved
        stable[data] = done


def _hold_peaks(log_f: LogF, low: Tensor, high: Tensor, values: Tensor) -> bool:
    """Widens boxes [B, D] to hold the flanks of peaks that the grid misses, in place."""
    points, data = _SEARCH[low.shape[1]], torch.arange(len(low), device=low.device)
    peaks, heights, sizes = find_peaks(log_f, low, high, values, data)
    climbed = (sizes < (high - low) / (points - 1)).any(-1) & (heights >= heights.amax(0) - _DEPTH)
    which, of = climbed.nonzero(as_tuple=True)
    if not len(of):
        return False
    peaks = peaks[which, of]
    wide = reach(log_f, peaks, heights[which, of], sizes[which, of], _DEPTH, of)
    at = of[:, None].expand_as(peaks)
    low.scatter_reduce_(0, at, peaks - wide, "amin")
    high.scatter_reduce_(0, at, peaks + wide, "amax")
    return True


def _hopeful(profile: Tensor) -> Tensor:
    """An upper limit of log f within each cell of a grid, [G - 1, b], from [G, b].

    If log f is concave near a cell, it is below the line through the two points left of the cell,
    and below the line through the two points right of it.
    """
    profile = profile.clamp(min=-1e300)
    left, right = profile[:-1], profile[1:]
    slope = right - left
    up = torch.cat([torch.full_like(slope[:1], math.inf), slope[:-1]])  # from the left
    down = torch.cat([-slope[1:], torch.full_like(slope[:1], math.inf)])  # from the right
    up, down = (torch.where(s.isfinite(), s, slope.abs()) for s in (up, down))
    # left + up t = right + down (1 - t)
    t = ((right + down - left) / (up + down)).nan_to_num(0.5).clamp(0, 1)
    meet = torch.where((up > 0) & (down > 0), left + up * t, -math.inf)
    return torch.maximum(torch.maximum(left, right), meet)


def _sums(values: Tensor, low: Tensor, high: Tensor, points: int) -> tuple[Tensor, Tensor]:
    """Returns the log integral on a grid, and on every second of its points, each [b]."""
    dim = low.shape[1]
    coarse = values.reshape(*[points] * dim, len(low))[(slice(None, None, 2),) * dim]
    log_cell = ((high - low) / (points - 1)).log().sum(-1)
    coarse = coarse.reshape(-1, len(low)).logsumexp(0) + dim * math.log(2)
    return values.logsumexp(0) + log_cell, coarse + log_cell


def _nodes(low: Tensor, high: Tensor, points: int) -> Tensor:
    """The points of grids between the corners of boxes, [points^D, b, D]."""
    axis = torch.linspace(0, 1, points, dtype=low.dtype, device=low.device)
    grid = torch.cartesian_prod(*[axis] * low.shape[1]).reshape(-1, 1, low.shape[1])
    return low + grid * (high - low)
