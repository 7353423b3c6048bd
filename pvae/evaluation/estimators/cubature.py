"""Adaptive quadrature in one or two dimensions, with cells that must agree with samples."""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

__all__ = ["LogF", "integrate"]

_ORDER = 16  # of the Clenshaw-Curtis rule of a cell; the coarse rule has every second point
_CELLS = 3000  # at most, for each datum
_AT_ONCE = 64  # cells of a datum that are split in one round, at most
_DEEP = 60  # halvings of the box, at most

LogF = Callable[[Tensor, Tensor], Tensor]
"""Log density at points [G, n, D] of data numbered [n], nats, [G, n]."""


def integrate(
    log_f: LogF, low: Tensor, high: Tensor, draws: Tensor, known: Tensor, tolerance: Tensor
) -> tuple[Tensor, Tensor]:
    r"""Integrates exp(log f) over the box of each datum.

    Cells with a large error are halved along the side along which log f varies most, because a
    peak may be as wide as the box on one side and very narrow on the other. The error is the
    difference of Clenshaw-Curtis rules of 17 and 9 points in each dimension or, if larger, the
    volume of the cell times the distance of the rule's polynomial from f at samples in the cell:
    samples find a peak that lies between the points of a cell. Neighbours of a cell that matters
    are at most twice as wide, so that its flank is not missed; if this takes too many cells, the
    integral is unknown. In each round the new cells of all data are evaluated together.

    Args:
        log_f: Log density of B data.
        low: Lower corners of the boxes, [B, D].
        high: Upper corners, [B, D].
        draws: Points where f is known, [k, B, D].
        known: Log f there, [k, B]; -inf for points to leave out.
        tolerance: Relative error at which a datum is finished, [B].

    Returns:
        Log of the integrals, nats, [B], and their errors, nats, [B]; inf if unknown.

    Source: Clenshaw & Curtis 1960; Berrut & Trefethen 2004, *Barycentric Lagrange interpolation*.
    """
    size, dim = low.shape
    device = low.device
    nodes, fine, coarse = (t.to(device) for t in _rule())
    grid = torch.cartesian_prod(*[nodes] * dim).reshape(-1, 1, dim)
    both = torch.stack([_product(weights, dim) for weights in (fine, coarse)])
    sides = torch.eye(dim, dtype=low.dtype, device=device)
    data, top = torch.arange(size, device=device), known.amax(0)

    owner = data[top.isfinite()]
    corners, sizes = low[owner], (high - low)[owner]
    # Lower corner, size, integral and error of each cell; the latter relative to exp(top).
    cells, owners, along = low.new_zeros(0, 2 * dim + 2), data[:0], data[:0]
    total = share = low.new_zeros(size)
    unknown = torch.zeros_like(data, dtype=torch.bool)
    while len(owner):
        values = log_f(corners + grid * sizes, owner)
        highest = top.scatter_reduce(0, owner, values.amax(0), "amax")
        # Earlier integrals are relative to the largest value.
        cells[:, 2 * dim :] *= (top - highest)[owners, None].exp()
        top = highest
        f, volume = (values - top[owner]).exp(), sizes.prod(-1)
        integral, rough = volume * (both @ f)
        error = (integral - rough).abs()
        t = (draws[:, owner] - corners) / sizes
        inside = ((t >= 0) & (t < 1)).all(-1) & known[:, owner].isfinite()
        which, at = inside.nonzero(as_tuple=True)
        seen = (known[which, owner[at]] - top[owner[at]]).exp()
        missed = (_interpolate(f[:, at].T, t[which, at], nodes) - seen).abs() * volume[at]
        error = error.scatter_reduce(0, at, missed, "amax")
        found = torch.cat([corners, sizes, integral[:, None], error[:, None]], -1)
        cells, owners = torch.cat([cells, found]), torch.cat([owners, owner])
        along = torch.cat([along, _ranges(values, dim).argmax(-1)])

        of = owners == data[:, None]
        count, (total, share) = of.sum(-1), (of.to(cells.dtype) @ cells[:, -2:]).T
        least = tolerance * total.clamp(min=1e-300)
        # The errors of the cells that are not split add up to less than the tolerance.
        split = (cells[:, -1] > (least / count)[owners]) & (share > least)[owners]
        side = along.clone()
        for i in owner.unique().tolist():
            if share[i] <= least[i] or count[i] == _CELLS:
                widest, split[of[i]] = _ungraded(cells[of[i]], dim, least[i])
                side[of[i]] = torch.where(split[of[i]], widest, side[of[i]])
                unknown[i] = (count[i] == _CELLS) & split[of[i]].any()
        width = cells[:, dim : 2 * dim].gather(1, side[:, None])[:, 0]
        split &= width > (high - low)[owners, side] * 2.0**-_DEEP
        split = split.nonzero()[:, 0]
        split = split[cells[split, -1].argsort(descending=True)]
        room = (_CELLS - count).clamp(max=_AT_ONCE)
        rank = (owners[split] == data[:, None]).cumsum(-1)
        split = split[(rank <= room[:, None]).gather(0, owners[split][None])[0]]
        keep = torch.ones_like(owners, dtype=torch.bool)
        keep[split] = False
        corners, sizes = cells[split, :dim], cells[split, dim : 2 * dim]
        half = sizes * sides[side[split]] / 2
        corners, sizes = torch.cat([corners, corners + half]), (sizes - half).repeat(2, 1)
        owner = owners[split].repeat(2)
        cells, owners, along = cells[keep], owners[keep], along[keep]
    share = torch.where((total > 0) & ~unknown, share / total, 1.0).clamp(max=1)
    return total.log() + top, -torch.log1p(-share)


def _ranges(values: Tensor, dim: int) -> Tensor:
    """The range of log f, [G^D, n], along each side of cells, averaged over lines, [n, D]."""
    lowest = torch.where(values.isfinite(), values, math.inf).amin(0)
    grid = values.clamp(min=lowest).reshape(*[_ORDER + 1] * dim, -1)
    ranges = [grid.amax(d) - grid.amin(d) for d in range(dim)]
    return torch.stack([r.reshape(-1, r.shape[-1]).mean(0) for r in ranges], -1)


def _ungraded(cells: Tensor, dim: int, least: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the side on which a cell is widest relative to a neighbour, and if over twice, [n].

    Only neighbours whose integrals are above `least` count.
    """
    sizes = cells[:, dim : 2 * dim]
    middles = cells[:, :dim] + sizes / 2
    matter = cells[:, -2] > least
    far = (middles[:, None] - middles[matter]).abs()
    near = (far <= 0.5001 * (sizes[:, None] + sizes[matter])).all(-1, keepdim=True)
    wide = torch.where(near, sizes[:, None] / sizes[matter], 0.0).amax(1)
    ratio, side = wide.max(-1)
    return side, ratio > 2.01


def _rule() -> tuple[Tensor, Tensor, Tensor]:
    """Nodes on [0, 1], weights of the rule, and weights of the rule with every second node."""

    def weights(n: int) -> np.ndarray:
        k, j = np.arange(n + 1), np.arange(1, n // 2 + 1)
        b = np.where(2 * j == n, 1.0, 2.0) / (4 * j**2 - 1)
        w = 1 - (b * np.cos(2 * np.outer(k, j) * np.pi / n)).sum(-1)
        w *= np.where((k == 0) | (k == n), 1, 2) / n
        return w / 2

    coarse = np.zeros(_ORDER + 1)
    coarse[::2] = weights(_ORDER // 2)
    nodes = (1 - np.cos(np.arange(_ORDER + 1) * np.pi / _ORDER)) / 2
    return tuple(torch.from_numpy(a) for a in (nodes, weights(_ORDER), coarse))


def _product(weights: Tensor, dim: int) -> Tensor:
    return weights if dim == 1 else (weights[:, None] * weights).flatten()


def _interpolate(f: Tensor, t: Tensor, nodes: Tensor) -> Tensor:
    """The polynomials through values [k, n^D] on the grids of cells, at points t [k, D] in them."""
    basis = []
    signs = (-1.0) ** torch.arange(len(nodes), device=nodes.device, dtype=nodes.dtype)
    signs[0] /= 2
    signs[-1] /= 2
    for d in range(t.shape[1]):
        apart = t[:, d, None] - nodes
        at_node = apart.abs() < 1e-14
        terms = signs / torch.where(at_node, 1.0, apart)
        terms = torch.where(at_node.any(-1, keepdim=True), at_node.to(terms.dtype), terms)
        basis.append(terms / terms.sum(-1, keepdim=True))
    if len(basis) == 1:
        return (basis[0] * f).sum(-1)
    square = f.reshape(-1, len(nodes), len(nodes))
    return torch.einsum("ki,kij,kj->k", basis[0], square, basis[1])
