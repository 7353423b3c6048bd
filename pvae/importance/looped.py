"""Sums sites out one value at a time, for programs that do not broadcast over them."""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from pyro.distributions import TorchDistribution
from pyro.poutine import Trace
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from pvae.errors import PvaeError
from pvae.pair import mask_of, unmasked

__all__ = ["over_values"]

_MOST = 4096  # calls of a program


def over_values(
    run: Callable[[Messenger], Trace],
    names: Sequence[str],
    wide: int,
    given: Mapping[str, Tensor] | None = None,
) -> Trace:
    """Calls a program once for each combination of values of some sites, and stacks the traces.

    A site has one value for each combination of values of the named sites before it in the
    program; what is sampled before all of them is sampled once. The trace is laid out as Pyro's
    parallel enumeration does it: the dimension of site i is -1 - wide - i.

    Args:
        run: Calls the program within a handler and returns its trace.
        names: The sites that are summed out.
        wide: Number of dimensions that plates take up.
        given: Values that take the place of samples; may have dimensions of named sites.

    Raises:
        PvaeError: If there are more than 4,096 combinations.
    """
    given, drawn, calls = given or {}, {}, {}
    first = _Fixed(names, wide, dict.fromkeys(names, 0), given, drawn)
    calls[(0,) * len(names)] = run(first)
    sizes = [first.sizes.get(name, 1) for name in names]
    if math.prod(sizes) > _MOST:
        raise PvaeError(
            f"The sites that are summed out have {math.prod(sizes):,} combinations of values, and "
            f"the program would be called for each of them. The limit is {_MOST:,}."
        )
    for index in itertools.product(*map(range, sizes)):
        if index not in calls:
            fixed = _Fixed(names, wide, dict(zip(names, index, strict=True)), given, drawn)
            calls[index] = run(fixed)
    trace = Trace()
    for name, node in calls[(0,) * len(names)].nodes.items():
        depends = first.depends.get(name)
        if depends is None:  # no sample site
            trace.add_node(name, **node)
            continue
        lead = [size if i in depends else 1 for i, size in enumerate(sizes)]
        parts = [
            calls[index].nodes[name]
            for index in sorted(itertools.product(*map(range, lead)), key=lambda i: i[::-1])
        ]
        infer = {}
        if name in names:
            parts = [_with_outer_mask(part) for part in parts]
            if name not in given:
                infer["_enumerate_dim"] = -1 - wide - names.index(name)
        stacked = _stacked(parts, tuple(reversed(lead)), wide)
        trace.add_node(name, **{**node, **stacked, "infer": {**node["infer"], **infer}})
    return trace


class _Fixed(Messenger):
    """Fixes the named sites to one combination of their values."""

    def __init__(
        self,
        names: Sequence[str],
        wide: int,
        index: dict[str, int],
        given: Mapping[str, Tensor],
        drawn: dict[tuple, Tensor],
    ) -> None:
        super().__init__()
        self._names, self._wide, self._index = names, wide, index
        self._given, self._drawn = given, drawn
        self.sizes: dict[str, int] = {}
        self.depends: dict[str, frozenset[int]] = {}
        self._before: set[int] = set()

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        if site_is_subsample(msg):
            return
        name, fn = msg["name"], msg["fn"]
        if not msg["is_observed"]:
            if name in self._given:
                self._give(msg, self._select(self._given[name], fn))
            elif name in self._index:
                support = fn.enumerate_support(expand=False)
                self.sizes[name] = len(support)
                value = support[self._index[name]]
                self._give(msg, value.expand(fn.batch_shape + fn.event_shape))
                self._before.add(self._names.index(name))
            elif self._key(name) in self._drawn:
                self._give(msg, self._drawn[self._key(name)])
        self.depends[name] = frozenset(self._before)

    def _pyro_post_sample(self, msg: dict[str, Any]) -> None:
        if msg["name"] in self.depends and not msg["is_observed"]:
            self._drawn[self._key(msg["name"])] = msg["value"]

    def _key(self, name: str) -> tuple:
        return (name, *((i, self._index[self._names[i]]) for i in sorted(self._before)))

    def _give(self, msg: dict[str, Any], value: Tensor) -> None:
        msg["value"], msg["done"] = value, True

    def _select(self, value: Tensor, fn: Any) -> Tensor:
        event_dim = fn.event_dim
        for i, name in enumerate(self._names):
            axis = -1 - self._wide - i - event_dim
            if value.ndim >= -axis and value.shape[axis] > 1:
                self.sizes[name] = value.shape[axis]
                self._before.add(i)
                value = value.narrow(axis, self._index[name], 1)
        while value.ndim > len(fn.batch_shape) + event_dim and value.shape[0] == 1:
            value = value[0]
        return value


def _with_outer_mask(site: dict[str, Any]) -> dict[str, Any]:
    mask, fn = mask_of(site), unmasked(site["fn"])
    return {**site, "fn": fn, "mask": mask if mask is None else mask[(...,) + (0,) * fn.event_dim]}


def _stacked(sites: list[dict[str, Any]], lead: tuple[int, ...], wide: int) -> dict[str, Any]:
    """Stacks a site of several calls: distribution, value and mask, [*lead, *plates]."""
    event_dim = sites[0]["fn"].event_dim
    if len(sites) == 1:
        return {name: sites[0][name] for name in ("fn", "value", "mask")}
    masks = [site["mask"] for site in sites]
    if any(isinstance(mask, Tensor) for mask in masks):
        masks = [torch.as_tensor(True if mask is None else mask) for mask in masks]
        mask = _stack(masks, lead, wide)
    else:
        mask = masks[0]
    values = [site["value"] for site in sites]
    value = values[0] if sites[0]["is_observed"] else _stack(values, lead, wide + event_dim)
    return {
        "fn": _Stacked([site["fn"] for site in sites], lead, wide),
        "value": value,
        "mask": mask,
    }


def _stack(tensors: Sequence[Tensor], lead: tuple[int, ...], ndim: int) -> Tensor:
    padded = [t.reshape((1,) * (ndim - t.ndim) + t.shape) for t in tensors]
    whole = torch.stack(torch.broadcast_tensors(*padded))
    return whole.reshape(*lead, *whole.shape[1:])


class _Stacked(TorchDistribution):
    """Distributions of one site in several calls, as one with batch shape [*lead, *plates]."""

    arg_constraints: ClassVar = {}

    def __init__(self, parts: Sequence[Any], lead: tuple[int, ...], wide: int) -> None:
        self.parts, self._lead, self._wide = parts, lead, wide
        plates = torch.broadcast_shapes(*(part.batch_shape for part in parts), (1,) * wide)
        super().__init__((*lead, *plates), parts[0].event_shape, validate_args=False)

    @property
    def has_rsample(self) -> bool:
        return all(part.has_rsample for part in self.parts)

    @property
    def support(self) -> Any:
        return self.parts[0].support

    @property
    def mean(self) -> Tensor:
        means = [part.mean for part in self.parts]
        return _stack(means, self._lead, self._wide + self.event_dim)

    def log_prob(self, value: Tensor) -> Tensor:
        ndim = self._wide + self.event_dim
        value = value.reshape((1,) * (ndim - value.ndim) + value.shape)
        value = value.expand(*self._lead, *value.shape[value.ndim - ndim :]).flatten(0, -1 - ndim)
        terms = [part.log_prob(v) for part, v in zip(self.parts, value, strict=True)]
        return _stack(terms, self._lead, self._wide)
