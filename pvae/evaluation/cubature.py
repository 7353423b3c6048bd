"""Adaptive quadrature in one or two dimensions, in cells that must explain what draws have seen."""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

__all__ = ["integrate"]

_ORDER = 16  # of the Clenshaw-Curtis rule of a cell, whose coarse partner has every second point
_CELLS = 3000  # at most
_DEEP = 60  # halvings of the box, at most
_TOLERANCE = 1e-9


def integrate(
    log_f: Callable[[Tensor], Tensor], low: Tensor, high: Tensor, draws: Tensor, known: Tensor
) -> tuple[float, float]:
    r"""Integrates exp(log f) over a box, and returns the logarithm and its error in nats.

    Cells are halved, in two dimensions quartered, where their error is largest. That is the
    difference of Clenshaw-Curtis rules of 17 and 9 points in each dimension, and, if it is
    larger, the volume of the cell times how far the rule's polynomial is from f at draws that
    lie in it: a peak that the points of a cell step over shows in the draws that fell on it.
    Neighbours of a cell that matters are at most twice as wide, lest they step over its flank.

    Args:
        log_f: Log density at points [n, D], nats, [n].
        low: Lower corner of the box, [D].
        high: Upper corner, [D].
        draws: Points of the box where f is known, [k, D].
        known: Log f there, [k].

    Returns:
        Log of the integral, nats, and its error.

    Source: Clenshaw & Curtis 1960; Berrut & Trefethen 2004, *Barycentric Lagrange interpolation*.
    """
    dim, device = len(low), low.device
    nodes, fine, coarse = (t.to(device) for t in _rule())
    grid = torch.cartesian_prod(*[nodes] * dim).reshape(-1, dim)
    both = [_product(weights, dim) for weights in (fine, coarse)]
    finite = known.isfinite()
    draws, known = draws[finite], known[finite]
    if not len(known):
        return -math.inf, math.inf
    top = known.max()

    corners, sizes = low[None], (high - low)[None]
    # Lower corner, size, integral and error of each cell; the latter relative to exp(top).
    cells = torch.zeros(0, 2 * dim + 2, dtype=low.dtype, device=device)
    while True:
        points = corners[:, None] + grid * sizes[:, None]
        values = log_f(points.reshape(-1, dim)).reshape(len(corners), -1)
        highest = torch.maximum(top, values.max())
        if highest > top:  # all that is known so far is relative to the largest value
            cells[:, 2 * dim :] *= (top - highest).exp()
            top = highest
        f, volume = (values - top).exp(), sizes.prod(-1)
        integral = volume * (f @ both[0])
        error = (integral - volume * (f @ both[1])).abs()
        seen = (known - top).exp()
        t = (draws - corners[:, None]) / sizes[:, None]
        at, which = ((t >= 0) & (t < 1)).all(-1).nonzero(as_tuple=True)
        if len(at):
            missed = (_interpolate(f[at], t[at, which], nodes) - seen[which]).abs() * volume[at]
            error = error.scatter_reduce(0, at, missed, "amax")
        found = torch.cat([corners, sizes, integral[:, None], error[:, None]], -1)
        cells = torch.cat([cells, found])
        integral, error = cells[:, -2], cells[:, -1]
        total = integral.sum()
        order = error.argsort(descending=True)
        # Those that may stay add up to less than the tolerance.
        rest = error[order].flip(0).cumsum(0).flip(0)
        split = order[rest > _TOLERANCE * total.clamp(min=1e-300)]
        if not len(split):
            split = _ungraded(cells, dim, _TOLERANCE * total)
        split = split[(cells[split, dim] > (high - low)[0] * 2.0**-_DEEP)]
        room = (_CELLS - len(cells)) // (2**dim - 1)
        split = split[: min(room, 64)]
        if not len(split):
            break
        old = cells[split]
        keep = torch.ones(len(cells), dtype=torch.bool, device=device)
        keep[split] = False
        cells = cells[keep]
        half = old[:, dim : 2 * dim] / 2
        steps = torch.cartesian_prod(*[torch.arange(2.0, device=device)] * dim).reshape(-1, dim)
        corners = (old[:, None, :dim] + steps.to(half) * half[:, None]).reshape(-1, dim)
        sizes = half[:, None].expand(-1, 2**dim, -1).reshape(-1, dim)
    total = float(total)
    if not total > 0:
        return -math.inf, math.inf
    share = float(error.sum()) / total
    return math.log(total) + float(top), -math.log1p(-share) if share < 1 else math.inf


def _ungraded(cells: Tensor, dim: int, least: Tensor) -> Tensor:
    """Which cells are more than twice as wide as a neighbour whose integral is above `least`."""
    sizes = cells[:, dim : 2 * dim]
    middles = cells[:, :dim] + sizes / 2
    matter = cells[:, -2] > least
    far = (middles[:, None] - middles[matter]).abs()
    near = (far <= 0.5001 * (sizes[:, None] + sizes[matter])).all(-1)
    wide = sizes[:, None, 0] > 2.01 * sizes[matter, 0]
    return (near & wide).any(-1).nonzero()[:, 0]


def _rule() -> tuple[Tensor, Tensor, Tensor]:
    """Nodes on [0, 1], weights of the rule, and of that with every second node."""

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
    """The polynomials through values on grids of cells, [k, n^D], at points t [k, D] of them."""
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
