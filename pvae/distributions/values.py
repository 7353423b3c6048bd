"""The values of a discrete distribution, if there is a finite list of them."""

from typing import Any, NamedTuple

import torch
from torch.distributions import constraints

from pvae.distributions.support import support_of

__all__ = ["Values", "values_of"]


class Values(NamedTuple):
    """The values of each element of a discrete event.

    Attributes:
        numbers: The values; in one-hot form the positions of the one.
        one_hot: Whether the last dimension of the event holds an element in one-hot form.
        shape: The elements of an event.
    """

    numbers: range
    one_hot: bool
    shape: torch.Size


def values_of(fn: Any) -> Values | None:
    """Returns the values of a distribution; None without one finite list for all elements.

    Example:
        >>> import pyro.distributions as dist
        >>> values_of(dist.OneHotCategorical(torch.ones(5, 3)).to_event(1))
        Values(numbers=range(0, 3), one_hot=True, shape=torch.Size([5]))
        >>> values_of(dist.Poisson(1.0)) is None
        True
    """
    support = support_of(fn)
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    if support is constraints.boolean:
        return Values(range(2), False, fn.event_shape)
    if support is constraints.one_hot:
        return Values(range(fn.event_shape[-1]), True, fn.event_shape[:-1])
    if not isinstance(support, constraints.integer_interval):
        return None
    low, high = (torch.as_tensor(b).unique() for b in (support.lower_bound, support.upper_bound))
    if len(low) != 1 or len(high) != 1:
        return None
    return Values(range(int(low), int(high) + 1), False, fn.event_shape)
