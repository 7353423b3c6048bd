"""Supports of distributions, and log densities that are -inf outside of them.

Without validation, torch's `log_prob` returns finite numbers outside of a support. Some declared
supports are too wide: a TransformedDistribution declares its last transform's codomain, a von Mises
the real line.
"""

import copy
import math
from collections.abc import Sequence
from typing import Any

import torch
from pyro.distributions import (
    Independent,
    MaskedDistribution,
    SineBivariateVonMises,
    constraints,
)
from pyro.distributions.torch_distribution import ExpandedDistribution
from torch import Tensor
from torch.distributions import ComposeTransform, TransformedDistribution, VonMises, biject_to
from torch.distributions.constraints import Constraint
from torch.distributions.transforms import Transform

__all__ = [
    "contains",
    "inside",
    "is_discrete",
    "is_image",
    "log_prob",
    "peeled",
    "pull_back",
    "same_support",
    "support_of",
    "unvalidated",
]

_ANGLES = (VonMises, SineBivariateVonMises)
_TURN = constraints.interval(-math.pi, math.pi)
_FROM_BELOW = (constraints.greater_than, constraints.greater_than_eq)
_BETWEEN = (constraints.interval, constraints.half_open_interval)


def support_of(fn: Any) -> Constraint | None:
    """Returns the support that a distribution declares, or None.

    For angles this is one turn; Pyro declares the real line.

    Example:
        >>> import pyro.distributions as dist
        >>> support_of(dist.Gamma(1.0, 1.0))
        GreaterThanEq(lower_bound=0.0)
    """
    if isinstance(peeled(fn), _ANGLES):
        return constraints.independent(_TURN, fn.event_dim)
    try:
        support = fn.support
    except (NotImplementedError, AttributeError):
        return None
    return None if constraints.is_dependent(support) else support


def is_discrete(fn: Any) -> bool:
    """Whether a distribution is discrete; one without a known support counts as continuous.

    Example:
        >>> import pyro.distributions as dist
        >>> is_discrete(dist.Poisson(1.0)), is_discrete(dist.Normal(0.0, 1.0))
        (True, False)
    """
    support = support_of(fn)
    return support is not None and support.is_discrete


def inside(fn: Any, value: Tensor, *, observed: bool = False) -> Tensor | None:
    """Finds which values lie in the support of a distribution; masked values always do.

    Args:
        fn: A distribution.
        value: Values [*batch, *event].
        observed: Whether these are data. Bounds are then strict, and angles of any turn are inside.

    Returns:
        Booleans that broadcast with [*batch]; None if all are inside, or if the support is unknown.

    Example:
        >>> import pyro.distributions as dist
        >>> inside(dist.Beta(torch.ones(3), 1.0), torch.tensor([0.5, 2.0, 0.1]))
        tensor([ True, False,  True])
    """
    if isinstance(fn, MaskedDistribution):
        found = inside(fn.base_dist, value, observed=observed)
        if found is None or fn._mask is False:
            return None
        return found if fn._mask is True else found | ~fn._mask
    if isinstance(fn, ExpandedDistribution):
        return inside(fn.base_dist, value, observed=observed)
    if isinstance(fn, Independent):
        found = inside(fn.base_dist, value, observed=observed)
        return None if found is None else _all(found, fn.reinterpreted_batch_ndims)
    if is_image(fn):
        try:
            value, within = pull_back(fn.transforms, value, value.ndim - fn.event_dim)
        except (NotImplementedError, KeyError):  # it has no inverse
            return None
        found = inside(fn.base_dist, value, observed=observed)
        if found is None:
            return within
        found = _all(found, fn.event_dim - fn.base_dist.event_dim)
        return found if within is None else found & within
    support = support_of(fn)
    if isinstance(fn, _ANGLES) and observed:
        return None
    return None if support is None else contains(support, value, strict=observed)


def contains(support: Constraint, value: Tensor, *, strict: bool = False) -> Tensor | None:
    """Finds which values lie in a support; None if all do.

    Open bounds are inside unless `strict`, because rounding can put samples on them.

    Example:
        >>> from torch.distributions import constraints
        >>> contains(constraints.positive, torch.tensor([0.0, 1.0]), strict=True)
        tensor([False,  True])
        >>> contains(constraints.positive, torch.tensor([0.0, 1.0]))
        tensor([True, True])
    """
    if isinstance(support, constraints.independent):
        found = contains(support.base_constraint, value, strict=strict)
        return None if found is None else _all(found, support.reinterpreted_batch_ndims)
    if isinstance(support, type(constraints.real)):
        return None
    if isinstance(support, constraints.MixtureSameFamilyConstraint):
        each = value.unsqueeze(-1 - support.event_dim)
        found = contains(support.base_constraint, each, strict=strict)
        return None if found is None else found.any(-1)
    if isinstance(support, type(constraints.simplex)):
        rounding = max(1e-5, 10 * value.shape[-1] * _eps(value))
        return (value >= -rounding).all(-1) & ((value.sum(-1) - 1).abs() <= rounding)
    if isinstance(support, type(constraints.ordered_vector)):
        return (value[..., 1:] >= value[..., :-1]).all(-1)
    if isinstance(support, type(constraints.positive_definite)):
        rounding = 1e3 * _eps(value) * value.abs().amax((-2, -1), keepdim=True)
        symmetric = ((value - value.mT).abs() <= rounding).all(-1).all(-1)
        return symmetric & torch.linalg.cholesky_ex(value).info.eq(0)
    support = _compact(support)
    if strict:
        return support.check(value)
    if isinstance(support, _FROM_BELOW):
        return value >= support.lower_bound
    if isinstance(support, constraints.less_than):
        return value <= support.upper_bound
    if isinstance(support, _BETWEEN):
        return (value >= support.lower_bound) & (value <= support.upper_bound)
    return support.check(value)


def same_support(a: Any, b: Any) -> bool:
    """Whether two distributions certainly have the same support at every call.

    Example:
        >>> import pyro.distributions as dist
        >>> same_support(dist.Normal(0.0, 1.0), dist.Cauchy(0.0, 1.0))
        True
        >>> same_support(dist.Normal(0.0, 1.0), dist.Exponential(1.0))
        False
    """
    a, b = peeled(a), peeled(b)
    if any(is_image(fn) for fn in (a, b)):
        return False
    return _same(support_of(a), support_of(b))


def log_prob(fn: Any, value: Tensor, *args: Any, observed: bool = False, **kwargs: Any) -> Tensor:
    """Returns the log density of a distribution, -inf outside of its support.

    With gradients on or a discrete support, a value outside is replaced by one inside before the
    density is computed. Its gradient is then zero, not NaN, and no table is read beyond its end.

    Example:
        >>> import pyro.distributions as dist
        >>> log_prob(dist.Exponential(torch.ones(2)), torch.tensor([1.0, -1.0]))
        tensor([-1., -inf])
    """
    within = inside(fn, value, observed=observed)
    if within is None:
        return fn.log_prob(value, *args, **kwargs)
    replaced = torch.is_grad_enabled() or is_discrete(fn)
    if replaced and (there := _a_value(fn, value)) is not None:
        value = torch.where(within[(..., *(None,) * fn.event_dim)], value, there)
    return torch.where(within, fn.log_prob(value, *args, **kwargs), -math.inf)


def unvalidated(fn: Any) -> Any:
    """Returns a copy of a distribution that accepts any value, valid or not.

    Example:
        >>> import pyro.distributions as dist
        >>> unvalidated(dist.Bernoulli(0.5)).log_prob(torch.tensor(0.5))
        tensor(-0.6931)
    """
    if not isinstance(fn, torch.distributions.Distribution):
        return fn
    fn = copy.copy(fn)
    for name, part in vars(fn).items():
        if isinstance(part, torch.distributions.Distribution):
            vars(fn)[name] = unvalidated(part)
        elif type(part) in (list, tuple):
            vars(fn)[name] = type(part)(map(unvalidated, part))
    fn._validate_args = False
    return fn


def peeled(fn: Any) -> Any:
    """Returns a distribution without masks and without expanded or independent dimensions.

    Example:
        >>> import pyro.distributions as dist
        >>> type(peeled(dist.Normal(torch.zeros(3), 1.0).to_event(1).mask(False))).__name__
        'Normal'
    """
    while isinstance(fn, MaskedDistribution | ExpandedDistribution | Independent):
        fn = fn.base_dist
    return fn


def is_image(fn: Any, *, read: bool = False) -> bool:
    """Whether transforms map the base's support to something other than their codomain.

    Args:
        fn: A distribution.
        read: Whether to compare bounds that are tensors, too. A graph cannot record that.

    Example:
        >>> import pyro.distributions as dist
        >>> from torch.distributions.transforms import ExpTransform
        >>> is_image(dist.LogNormal(0.0, 1.0))
        False
        >>> is_image(dist.TransformedDistribution(dist.Uniform(0.0, 1.0), [ExpTransform()]))
        True
    """
    if not isinstance(fn, TransformedDistribution) or not fn.transforms:
        return False
    if type(fn).support is not TransformedDistribution.support:
        return False
    base = peeled(fn.base_dist)
    if is_image(base, read=read):
        return True
    support = support_of(base)
    ends = [support if support is not None else fn.transforms[0].domain]
    ends += [transform.codomain for transform in fn.transforms]
    pairs = zip(ends, fn.transforms, strict=False)
    return not all(_same(end, transform.domain, read=read) for end, transform in pairs)


def pull_back(
    transforms: Sequence[Transform], value: Tensor, batch_dims: int
) -> tuple[Tensor, Tensor | None]:
    """Inverts transforms, the last one first.

    Args:
        transforms: Of a TransformedDistribution.
        value: Its values [*batch, *event].
        batch_dims: The number of batch dimensions.

    Returns:
        The values before the transforms; and whether each value lies in the image of all
        transforms, [*batch], or None if all do.

    Example:
        >>> from torch.distributions.transforms import ExpTransform
        >>> value, inside_image = pull_back([ExpTransform()], torch.tensor([1.0, -1.0]), 1)
        >>> value[0], inside_image
        (tensor(0.), tensor([ True, False]))
    """
    within = None
    for transform in reversed(transforms):
        found = contains(transform.codomain, value)
        if found is not None:
            found = _all(found, found.ndim - batch_dims)
            within = found if within is None else found & within
        value = transform.inv(value)
    return value, within


def _same(a: Constraint | None, b: Constraint | None, *, read: bool = False) -> bool:
    """Whether two constraints are the same, bounds included, event dimensions ignored."""
    a, b = (_elementwise(c) for c in (a, b))
    if a is None or b is None:
        return False
    for kind in (type(constraints.real), _FROM_BELOW, _BETWEEN):
        if isinstance(a, kind) and isinstance(b, kind):
            break
    else:
        if type(a) is not type(b):
            return False
    if read:
        ours, theirs = vars(a), vars(b)
        return ours.keys() == theirs.keys() and all(
            bool((torch.as_tensor(ours[name]) == torch.as_tensor(theirs[name])).all())
            if isinstance(ours[name], Tensor | float | int)
            else ours[name] == theirs[name]
            for name in ours
        )
    # Tensor bounds may change from call to call.
    return vars(a) == vars(b) if not _tensors(a) and not _tensors(b) else False


def _elementwise(support: Constraint | None) -> Constraint | None:
    while isinstance(support, constraints.independent | constraints.MixtureSameFamilyConstraint):
        support = support.base_constraint
    return support


def _tensors(support: Constraint) -> list[Tensor]:
    return [value for value in vars(support).values() if isinstance(value, Tensor)]


def _compact(support: Constraint) -> Constraint:
    """Returns a constraint without the copies of its bounds along expanded dimensions."""
    small = copy.copy(support)
    for name, value in vars(support).items():
        if isinstance(value, Tensor):
            for dim in range(value.ndim):
                if value.stride(dim) == 0:
                    value = value.narrow(dim, 0, 1)
            setattr(small, name, value)
    return small


def _all(found: Tensor, num: int) -> Tensor:
    return found.flatten(-num).all(-1) if num and found.ndim >= num else found


def _eps(value: Tensor) -> float:
    return torch.finfo(value.dtype).eps if value.is_floating_point() else 0.0


def _a_value(fn: Any, like: Tensor) -> Tensor | None:
    """Returns a value inside of a distribution's support."""
    fn, support = peeled(fn), support_of(peeled(fn))
    try:
        if is_image(fn):
            return ComposeTransform(fn.transforms)(_a_value(fn.base_dist, like))
        if support.is_discrete:
            return like.new_zeros(like.shape) + getattr(support, "lower_bound", 0)
        transform = biject_to(support)
        return transform(like.new_zeros(transform.inverse_shape(like.shape)))
    except (NotImplementedError, RuntimeError, TypeError):
        return None
