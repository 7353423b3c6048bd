"""Sums enumerated sites out of log densities, and takes means over them."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor

__all__ = ["expect", "sum_beyond", "sum_out"]


def sum_beyond(terms: list[Tensor], lead: int) -> list[Tensor]:
    """Sums out the enumerated dimensions left of the last `lead` ones."""
    axes = range(-max((term.ndim for term in terms), default=2), -2 - lead)
    return [t.reshape(t.shape[-2 - lead :]) for t in eliminate(terms, axes)]


def sum_out(terms: Iterable[Tensor]) -> Tensor:
    """Returns the logsumexp of a sum of terms over their enumerated dimensions, [K, B]."""
    return sum(sum_beyond(list(terms), 0))


def eliminate(terms: list[Tensor], axes: Iterable[int]) -> list[Tensor]:
    r"""Sums enumerated dimensions out of a sum of terms, one after the other.

    .. math:: \log \sum_y \exp \sum_i t_i = \sum_j t'_j

    A dimension is summed in those terms alone that have it; first comes the one that makes the
    smallest tensor. A chain of T sites with S values then costs T S² in place of S^T.

    Args:
        terms: Tensors [*enumerated, K, B], aligned from the right, with size 1 where a term does
            not depend on a site.
        axes: Which dimensions, negative. They stay, with size 1.

    Source: Obermeyer et al. 2019, *Tensor Variable Elimination for Plated Factor Graphs*.
    """
    left = set(axes)
    while left:
        with_axis = {a: [term for term in terms if _has(term, a)] for a in left}
        sizes = {
            a: math.prod(torch.broadcast_shapes(*(t.shape for t in found)))
            for a, found in with_axis.items()
        }
        axis = min(sorted(left), key=sizes.get)
        left.remove(axis)
        if mine := with_axis[axis]:
            rest = [term for term in terms if not _has(term, axis)]
            terms = [*rest, sum(mine).logsumexp(axis, keepdim=True)]
    return terms


def expect(log_q: list[Tensor], value: Tensor) -> Tensor:
    """Returns the mean of a value over the sites that the guide enumerates.

    Args:
        log_q: Log probabilities of these sites, [*enumerated, K, B].
        value: [*further, *enumerated, K, B], where `further` needs all enumerated dimensions on
            its right. What is infinite counts 0 where q is 0.

    Returns:
        Tensor [*further, K, B].
    """
    lead = max((term.ndim for term in log_q), default=2) - 2
    axes = [axis for axis in range(-2 - lead, -2) if _has(value, axis)]
    if axes:
        others = set(range(-2 - lead, -2)) - set(axes)
        log_q = sum(eliminate(log_q, others))
        log_q, value = torch.broadcast_tensors(log_q, value)
        product = torch.where(log_q.isneginf(), 0.0, log_q.exp() * value)
        value = product.sum(axes, keepdim=True)
    further = value.shape[: max(0, value.ndim - 2 - lead)]
    return value.reshape(*further, *value.shape[-2:])


def _has(term: Tensor, axis: int) -> bool:
    return term.ndim >= -axis and term.shape[axis] > 1
