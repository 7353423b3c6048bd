"""The places where a recorded pair keeps the values and bindings that it reads."""

import types
from collections import deque
from collections.abc import Callable, Iterator, Sized
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from pvae.pair import PLAIN, Reached, attributes, is_library, slots, variables

__all__ = ["END", "Change", "Space", "differ", "place_of", "spaces"]

_HELD = ("_parameters", "_buffers", "_modules")
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_OF_FUNCTIONS = ("__code__", "__defaults__", "__kwdefaults__")
END = object()  # in place of a value that does not exist


class Change(NamedTuple):
    """A value that has changed: its full name, and its holder and key if it can be set there."""

    name: str
    holder: Any
    key: Any


class Space:
    """A place where values are kept: a dict, a list, a closure, an object's attributes.

    Args:
        path: Its name.
        holder: Has the values by key; None for a set.
        read: Returns the values to watch, by key.
        sized: Its length changes with the number of values.
        view: All values, to be compared together; None to compare each by its key.
        kept: Whether values that programs put there are state of the pair.
    """

    def __init__(
        self,
        path: str,
        holder: Any,
        read: Callable[[], dict[Any, Any]],
        sized: Sized | None = None,
        view: Any = None,
        *,
        kept: bool = False,
    ) -> None:
        self.path, self.holder, self.read, self.kept = path, holder, read, kept
        self.sized, self.view = sized, view

    def take(self, ignored: set[tuple[int, Any]]) -> None:
        """Remembers the present values."""
        now = dict(self.read())
        self._ignored = {key for key in now if place_of(self.holder, key) in ignored}
        self.before = {key: value for key, value in now.items() if key not in self._ignored}
        if self._ignored:
            self.view = None

    def changes(self) -> Iterator[Change]:
        """Yields what differs from the remembered values."""
        now = self.read()
        settable = isinstance(self.holder, dict | list | _Cells)
        for key in [*self.before, *(now.keys() - self.before.keys() - self._ignored)]:
            value, before = now.get(key, END), self.before.get(key, END)
            if differ(value, before):
                yield Change(f"{self.path}.{key}", self.holder if settable else None, key)


def spaces(loss: object, reached: Reached) -> list[Space]:
    """Returns every place where a loss and what a pair reaches keep their values."""
    found = [*_spaces_of_all_modules(), *_spaces_of_loss(loss, reached)]
    for path, thing in reached.spaces:
        found += _spaces_of(path, thing, reached)
    return found


class _Cells:
    """The variables of a function's closure, by name."""

    def __init__(self, function: types.FunctionType) -> None:
        cells = function.__closure__ or ()
        self.cells = dict(zip(function.__code__.co_freevars, cells, strict=True))

    def __getitem__(self, name: str) -> Any:
        return self.cells[name].cell_contents

    def __setitem__(self, name: str, value: Any) -> None:
        self.cells[name].cell_contents = value


class _Attributes:
    """An object's attributes outside of its dict, by name."""

    def __init__(self, thing: Any) -> None:
        self.thing = thing

    def __getitem__(self, name: str) -> Any:
        return getattr(self.thing, name)


def _spaces_of_all_modules() -> Iterator[Space]:
    """Yields the hooks that torch calls for all modules."""
    here = torch.nn.modules.module
    for name, hooks in vars(here).items():
        if name.startswith("_global_") and isinstance(hooks, dict):
            yield _of_dict(f"torch.nn.{name}", hooks)


def _spaces_of_loss(loss: object, reached: Reached) -> Iterator[Space]:
    """Yields the loss's attributes, except private objects."""
    own, name = getattr(loss, "__dict__", {}), type(loss).__name__

    def public() -> dict[str, Any]:
        values = (*PLAIN, Tensor)
        return {n: v for n, v in own.items() if n[:1] != "_" or isinstance(v, values)}

    reached.ignore(loss)
    for key, value in public().items():
        reached.visit(value, f"{name}.{key}")
    reached.visit(getattr(loss, "differentiable_loss", None), name)
    yield Space(name, own, public, own)


def _spaces_of(path: str, thing: Any, reached: Reached) -> Iterator[Space]:
    if isinstance(thing, dict):
        yield Space(path, thing, lambda: thing, thing, thing.values())
    elif isinstance(thing, list):
        yield Space(path, thing, lambda: dict(enumerate(thing)), thing, thing)
    elif isinstance(thing, set | deque):
        yield Space(path, None, lambda: dict(enumerate(thing)), thing, thing)
    elif isinstance(thing, types.FunctionType):
        yield from _spaces_of_function(path, thing)
    elif isinstance(thing, type):

        def named() -> dict[str, Any]:
            return {n: v for n, v in vars(thing).items() if reached.asks(thing, n)}

        yield Space(path, vars(thing), named, vars(thing))
    else:
        yield from _spaces_of_object(path, thing, reached)


def _of_dict(path: str, values: dict[Any, Any], *, kept: bool = False) -> Space:
    return Space(path, values, lambda: values, values, kept=kept)


def _spaces_of_function(path: str, function: types.FunctionType) -> Iterator[Space]:
    cells, itself = _Cells(function), _Attributes(function)
    free, given = set(cells.cells), function.__globals__
    named = variables(function).keys() - free
    yield Space(path, given, lambda: {n: given[n] for n in named if n in given})
    yield Space(path, cells, lambda: {n: v for n, v in variables(function).items() if n in free})
    yield Space(path, itself, lambda: {n: itself[n] for n in _OF_FUNCTIONS})
    if vars(function):
        yield _of_dict(path, vars(function))


def _spaces_of_object(path: str, thing: Any, reached: Reached) -> Iterator[Space]:
    own, is_module = getattr(thing, "__dict__", {}), isinstance(thing, nn.Module)

    def named() -> dict[str, Any]:
        found = {n: v for n, v in attributes(thing).items() if reached.asks(thing, n)}
        found = {n: v for n, v in found.items() if n in own and not n.startswith("_pyro_")}
        return found | ({"training": own.get("training")} if is_module else {})

    kept_in_slots = slots(type(thing))
    if is_library(thing) and not is_module:  # a library's object may add attributes later
        names = list(named())
        yield Space(path, own, lambda: {n: own[n] for n in names if n in own})
    elif own:
        yield Space(path, own, named, own)
    if kept_in_slots:
        by_name = _Attributes(thing)

        def asked() -> dict[str, Any]:
            return {n: v for n, v in attributes(thing).items() if n in kept_in_slots}

        yield Space(path, by_name, asked)
    if is_module:
        for key in (*_HELD, *_HOOKS):
            where = path if key in _HELD else f"{path}.{key}"
            yield _of_dict(where, own[key], kept=key in _HELD)


def place_of(holder: Any, key: Any) -> tuple[int, Any]:
    """Returns a key of a value's place; functions that share a variable share its cell."""
    return (id(holder.cells[key]), None) if isinstance(holder, _Cells) else (id(holder), key)


def differ(now: Any, before: Any) -> bool:
    """Whether two values are different: numbers by value (NaN equals NaN), objects by identity."""
    if isinstance(now, PLAIN) and isinstance(before, PLAIN):
        return type(now) is not type(before) or (now != before and (now == now or before == before))
    return now is not before and not (isinstance(now, types.MethodType) and now == before)
