"""Sums enumerated sites out of log densities, and takes means over them."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from pvae.errors import PvaeError

__all__ = ["expect", "over_plates", "sum_beyond", "sum_out"]


def sum_beyond(terms: list[Tensor], lead: int, inner: int = 0) -> list[Tensor]:
    """Sums out the enumerated dimensions left of the last `lead` ones."""
    own = 2 + inner  # dimensions of plates
    axes = range(-max((term.ndim for term in terms), default=own), -own - lead)
    found = eliminate(terms, axes, inner)
    return [t.reshape(t.shape[max(0, t.ndim - own - lead) :]) for t in found]


def sum_out(terms: Iterable[Tensor], inner: int = 0) -> Tensor:
    """Returns the logsumexp of a sum of terms over their enumerated dimensions, [K, B]."""
    return sum(over_plates(term, inner) for term in sum_beyond(list(terms), 0, inner))


def eliminate(terms: list[Tensor], axes: Iterable[int], inner: int = 0) -> list[Tensor]:
    r"""Sums enumerated dimensions out of a sum of terms, one after the other.

    .. math:: \log \sum_y \exp \sum_i t_i = \sum_j t'_j

    A dimension is summed in those terms alone that have it; first comes the one that makes the
    smallest tensor. A chain of T sites with S values then costs T S² in place of S^T.

    A site in an inner plate has a value for each index of the plate, and each is summed by itself:
    :math:`\sum_{y_1 \dots y_N} \prod_n f_n(y_n) = \prod_n \sum_{y_n} f_n(y_n)`. The terms that
    depend on a site are all in its plates. Those in more plates are added up over these first.

    Args:
        terms: Tensors [*enumerated, *inner, K, B], aligned from the right, with size 1 where a
            term does not depend on a site, or is not in a plate.
        axes: Which dimensions, negative. They stay, with size 1.
        inner: The number of inner plates.

    Raises:
        PvaeError: If the sum does not factorise, because a term depends on sites of two plates,
            neither of which is in the other.

    Source: Obermeyer et al. 2019, *Tensor Variable Elimination for Plated Factor Graphs*
    (arXiv:1902.03210).
    """
    left = set(axes)
    while left:
        with_axis = {a: [term for term in terms if _has(term, a)] for a in left}
        sizes = {
            a: math.prod(torch.broadcast_shapes(*(t.shape for t in found)))
            for a, found in with_axis.items()
            if not inner or _is_ready(a, terms, inner)
        }
        if not sizes:
            raise PvaeError(
                "The sum over the enumerated sites does not factorise: a density depends on sites "
                "of two plates, neither of which is inside the other, or on a site of the model "
                "that is outside the plate of a site of the guide. Sample some of these sites: "
                'leave out infer={"enumerate": "parallel"}.'
            )
        axis = min(sorted(sizes), key=sizes.get)
        left.remove(axis)
        if mine := with_axis[axis]:
            rest = [term for term in terms if not _has(term, axis)]
            if inner:
                own = _plates_of(axis, terms, inner)
                mine = [_over(term, _plates(term, inner) - own) for term in mine]
            terms = [*rest, sum(mine).logsumexp(axis, keepdim=True)]
    return terms


def _is_ready(axis: int, terms: list[Tensor], inner: int) -> bool:
    """Whether no other site of a term has a value for each index of a plate without this site."""
    own = _plates_of(axis, terms, inner)
    return not any(
        (_plates(term, inner) - own) & _plates_of(other, terms, inner)
        for term in terms
        if _has(term, axis)
        for other in range(-term.ndim, -2 - inner)
        if other != axis and _has(term, other)
    )


def expect(log_q: list[Tensor], value: Tensor, inner: int = 0) -> Tensor:
    """Returns the mean of a value over the sites that the guide enumerates, summed over plates.

    Args:
        log_q: Log probabilities of these sites, [*enumerated, *inner, K, B].
        value: [*further, *enumerated, *inner, K, B], where `further` needs all enumerated
            dimensions on its right. What is infinite counts 0 where q is 0.
        inner: The number of inner plates.

    Returns:
        Tensor [*further, K, B].
    """
    own = 2 + inner
    lead = max(0, max((term.ndim for term in log_q), default=own) - own)
    axes = [axis for axis in range(-own - lead, -own) if _has(value, axis)]
    if axes:
        # A site of another plate depends on these, and its probabilities sum to one.
        around = _plates(value, inner)
        log_q = [term for term in log_q if _plates(term, inner) <= around]
        others = set(range(-own - lead, -own)) - set(axes)
        log_q = sum(eliminate(log_q, others))
        log_q, value = torch.broadcast_tensors(log_q, value)
        product = torch.where(log_q.isneginf(), 0.0, log_q.exp() * value)
        value = product.sum(axes, keepdim=True)
    value = over_plates(value, inner)
    further = value.shape[: max(0, value.ndim - 2 - lead)]
    return value.reshape(*further, *value.shape[-2:])


def over_plates(term: Tensor, inner: int) -> Tensor:
    """Adds up over inner plates: [*enumerated, *inner, K, B] becomes [*enumerated, K, B]."""
    there = range(-min(term.ndim, 2 + inner), -2)
    return term.sum(list(there)) if there else term


def _over(term: Tensor, axes: set[int]) -> Tensor:
    return term.sum(list(axes), keepdim=True) if axes else term


def _plates_of(axis: int, terms: list[Tensor], inner: int) -> set[int]:
    """The plates of a site: those of all the terms that depend on it."""
    found = [_plates(term, inner) for term in terms if _has(term, axis)]
    return set.intersection(*found) if found else set()


def _plates(term: Tensor, inner: int) -> set[int]:
    return {axis for axis in range(-2 - inner, -2) if _has(term, axis)}


def _has(term: Tensor, axis: int) -> bool:
    return term.ndim >= -axis and term.shape[axis] > 1
