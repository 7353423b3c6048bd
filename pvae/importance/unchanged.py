"""Detects changes in anything that a pair's code names."""

import types
import weakref
from collections import deque
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pvae.pair import PLAIN, Program, Reached, attributes, reach, variables

__all__ = ["marks_of"]

_BY_VALUE = (*PLAIN, bytes, torch.dtype, torch.device, np.generic)
_CONTAINERS = (dict, list, set, deque)
_MOST_ENTRIES = 1000  # of a container that is looked into
_MOST_BYTES = 1 << 20  # of an array whose values are compared
_KEPT = ("_parameters", "_buffers", "_modules", "_forward_hooks", "_forward_pre_hooks")


def marks_of(model: Program, guide: Program) -> tuple[list[Any], list[Any]]:
    """Returns marks of everything that two programs name, and the norms of their tensors.

    Two lists of marks are equal if nothing has changed between them, as long as the references
    of the first are kept.

    Returns:
        The marks, and weak references to the objects that they stand for.

    Raises:
        TypeError: If something cannot be marked, so that a change might go unseen.
    """
    reached, marker = reach(model, guide), _Marker()
    marks = [marker.mark(model), marker.mark(guide), *map(marker.mark, _hooks_of_all_modules())]
    for path, thing in reached.spaces:
        marks += [(path, str(key), marker.mark(value)) for key, value in _held(thing, reached)]
    return marks + marker.norms(), marker.references


class _Marker:
    """Marks immutable objects by value, and others by identity."""

    def __init__(self) -> None:
        self.references: list[Any] = []
        self._tensors: list[Tensor] = []

    def mark(self, value: Any) -> Any:
        """Returns a mark of a value. Raises a TypeError if it has none."""
        if isinstance(value, _BY_VALUE):
            return type(value), value
        if isinstance(value, Tensor):
            self._tensors.append(value)
            return self._refer(value), value._version, value.data_ptr(), value.shape, value.dtype
        if isinstance(value, np.ndarray):
            if value.nbytes > _MOST_BYTES or value.dtype.hasobject:
                raise TypeError("values that are not compared")
            return value.shape, str(value.dtype), value.tobytes()
        if isinstance(value, _CONTAINERS):
            if len(value) > _MOST_ENTRIES:
                raise TypeError("entries that are not compared")
            return type(value), len(value)
        if isinstance(value, tuple | frozenset):
            return type(value), tuple(map(self.mark, value))
        if isinstance(value, types.MethodType):
            return self.mark(value.__self__), self.mark(value.__func__)
        if isinstance(value, property):
            return self.mark(value.fget), self.mark(value.fset)
        if isinstance(value, staticmethod | classmethod):
            return self.mark(value.__func__)
        if isinstance(value, types.MemberDescriptorType | types.GetSetDescriptorType):
            return str(value)
        return self._refer(value)

    def _refer(self, value: Any) -> int:
        # An object has one weak reference, whose address no other gets while it is kept.
        self.references.append(weakref.ref(value))
        return id(self.references[-1])

    def norms(self) -> list[float]:
        """Returns the norms of all tensors marked: some change without a new version."""
        found = [torch.linalg.vector_norm(t.detach().to(torch.float64)) for t in self._tensors]
        return torch.stack([norm.cpu() for norm in found]).tolist() if found else []


def _held(thing: Any, reached: Reached) -> Iterator[tuple[Any, Any]]:
    """Yields the values kept in a place, by key."""
    if isinstance(thing, dict):
        yield from thing.items()
    elif isinstance(thing, list | set | deque):
        yield from enumerate(thing)
    elif isinstance(thing, types.FunctionType):
        yield from variables(thing).items()
        yield from vars(thing).items()
        yield from enumerate((thing.__code__, thing.__defaults__, thing.__kwdefaults__))
        yield from (thing.__kwdefaults__ or {}).items()
    elif isinstance(thing, type):
        yield from ((n, v) for n, v in vars(thing).items() if reached.asks(thing, n))
    else:
        for name, value in attributes(thing).items():
            if reached.asks(thing, name) and not name.startswith("_pyro_"):
                yield name, value
        if isinstance(thing, nn.Module):
            yield from ((n, v) for kept in _KEPT for n, v in vars(thing)[kept].items())


def _hooks_of_all_modules() -> Iterator[Any]:
    for name, hooks in vars(torch.nn.modules.module).items():
        if name.startswith("_global_") and isinstance(hooks, dict):
            yield from hooks.values()
