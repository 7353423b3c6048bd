"""Detects changes in anything that a pair's code names."""

import functools
import types
import weakref
from collections import deque
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from pvae.importance.bits import digest
from pvae.pair import (
    PLAIN,
    Program,
    Reached,
    attributes,
    from_library,
    is_library,
    reach,
    slots,
    variables,
)

__all__ = ["marks_of"]

_BY_VALUE = (*PLAIN, bytes, range, slice, torch.dtype, torch.device, torch.layout, np.generic)
_CONTAINERS = (dict, list, set, deque)
_MOST_ENTRIES = 1000  # of a container that is looked into
_MOST_BYTES = 1 << 20  # of an array whose values are compared
_KEPT = ("_parameters", "_buffers", "_modules", "_forward_hooks", "_forward_pre_hooks")
_PLAIN_BASES = {"Module", "PyroModule", "ABC", "Generic", "Protocol", "object"}
_DESCRIPTORS = (types.MemberDescriptorType, types.GetSetDescriptorType)
# Objects of libraries that hold nothing that could change.
_FIXED = (
    types.CodeType,
    types.MethodDescriptorType,
    types.WrapperDescriptorType,
    functools.cached_property,
    np.ufunc,
)
_POINTER = np.dtype(np.intp).itemsize
_FIXED_MODULES = {"dataclasses", "typing", "re", "pathlib", "torch._ops"}


def marks_of(model: Program, guide: Program) -> tuple[list[Any], list[Any]]:
    """Returns marks of everything that two programs name, and digests of their tensors.

    Two lists of marks are equal if nothing has changed between them, as long as the references
    of the first are kept.

    Returns:
        The marks, and weak references to the objects that they stand for.

    Raises:
        TypeError: If something cannot be marked, so that a change might go unseen.
    """
    reached = reach(model, guide)
    if reached.hides:
        raise TypeError("code that looks up what cannot be followed")
    marker = _Marker(reached)
    marks = [marker.mark(model), marker.mark(guide), *map(marker.mark, _hooks_of_all_modules())]
    for path, thing in reached.spaces:
        marks += [(path, str(key), marker.mark(value)) for key, value in _held(thing, reached)]
    return marks + marker.digests(), marker.references


class _Marker:
    """Marks immutable objects by value, and those that are followed by identity.

    Args:
        reached: What is followed.
    """

    def __init__(self, reached: Reached) -> None:
        self.references: list[Any] = []
        self._tensors: list[Tensor] = []
        self._reached = reached
        self._followed = {id(thing) for _, thing in reached.spaces}

    def mark(self, value: Any) -> Any:
        """Returns a mark of a value. Raises a TypeError if it has none."""
        if isinstance(value, _BY_VALUE):
            return type(value), value
        if isinstance(value, Tensor):
            return self._mark_tensor(value)
        if isinstance(value, np.ndarray):
            if value.nbytes > _MOST_BYTES or value.dtype.hasobject:
                raise TypeError("values that are not compared")
            return value.shape, str(value.dtype), value.tobytes()
        if isinstance(value, _CONTAINERS):
            return self._mark_container(value)
        if isinstance(value, tuple | frozenset):
            return type(value), tuple(map(self.mark, value))
        if isinstance(value, types.MethodType):
            return self.mark(value.__self__), self.mark(value.__func__)
        if isinstance(value, types.BuiltinMethodType | types.MethodWrapperType):
            return value.__name__, self.mark(value.__self__)
        if isinstance(value, functools.partial):
            parts = value.func, value.args, value.keywords
            return self._refer(value), tuple(map(self.mark, parts))
        if isinstance(value, property):
            return self.mark(value.fget), self.mark(value.fset)
        if isinstance(value, staticmethod | classmethod):
            return self.mark(value.__func__)
        if isinstance(value, _DESCRIPTORS):
            return str(value)
        if isinstance(value, weakref.ReferenceType):
            return self.mark(value())
        if id(value) in self._followed or self._is_fixed(value):
            return self._refer(value)
        return self._refer(value), self._mark_attributes(value)

    def _mark_attributes(self, value: Any) -> Any:
        """Marks what an object holds that is not followed, such as an argparse.Namespace."""
        kind = type(value)
        if kind.__basicsize__ != object.__basicsize__ + _POINTER * len(slots(kind)):
            raise TypeError(f"{kind.__name__}, which may have changed inside")
        # All that it holds is in its attributes. It may be in itself.
        self._followed.add(id(value))
        return tuple((name, self.mark(each)) for name, each in attributes(value).items())

    def _mark_tensor(self, tensor: Tensor) -> Any:
        if is_lazy(tensor):
            return self._refer(tensor)
        if (
            type(tensor) not in (Tensor, nn.Parameter)
            or tensor.is_inference()
            or tensor.is_meta
            or tensor.is_quantized
            or tensor.is_nested
            or tensor.layout is not torch.strided
        ):
            raise TypeError("a tensor of an unusual kind")
        self._tensors.append(tensor)
        where = tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype
        own = tuple((n, v) for n, v in vars(tensor).items() if isinstance(v, _BY_VALUE))
        return self._refer(tensor), tensor._version, where, own

    def _mark_container(self, value: Any) -> Any:
        if len(value) > _MOST_ENTRIES or getattr(value, "__dict__", None):
            raise TypeError("entries that are not compared")
        if id(value) in self._followed:
            return type(value), len(value)
        self._followed.add(id(value))  # it may be in itself
        entries = value.items() if isinstance(value, dict) else value
        return type(value), len(value), tuple(map(self.mark, entries))

    def _is_fixed(self, value: Any) -> bool:
        """Whether an object that is not followed holds nothing that could change."""
        if isinstance(value, types.ModuleType | types.FunctionType):
            return from_library(value)
        if isinstance(value, type):
            return is_library(value)
        return isinstance(value, _FIXED) or type(value).__module__ in _FIXED_MODULES

    def _refer(self, value: Any) -> int:
        # An object has one weak reference, whose address no other gets while it is kept.
        self.references.append(weakref.ref(value))
        return id(self.references[-1])

    def digests(self) -> list[int]:
        """Returns digests of all tensors marked: some change without a new version."""
        found = [digest(tensor) for tensor in self._tensors]
        return torch.stack([each.cpu() for each in found]).tolist() if found else []


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
            asked = reached.asks(thing, name) or _inherits(type(thing))
            if asked and not name.startswith("_pyro_"):
                yield name, value
        if isinstance(thing, torch.jit.ScriptModule):
            raise TypeError("a module whose parts are not kept in Python")
        if isinstance(thing, nn.Module):
            yield from ((n, v) for kept in _KEPT for n, v in vars(thing)[kept].items())


def _inherits(kind: type) -> bool:
    """Whether code of a library that is not followed may ask for an object's attributes."""
    bases = (base for base in kind.__mro__ if base.__name__ not in _PLAIN_BASES)
    return any(is_library(base) for base in bases)


def _hooks_of_all_modules() -> Iterator[Any]:
    for name, hooks in vars(torch.nn.modules.module).items():
        if name.startswith("_global_") and isinstance(hooks, dict):
            yield from hooks.values()
