"""Watch: notices a change of the values and bindings that a recorded pair relies on."""

import types
from collections import deque
from collections.abc import Callable, Iterator, Sequence, Sized
from itertools import chain
from operator import is_
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from pvae.pair import (
    PLAIN,
    Program,
    Reached,
    attributes,
    is_library,
    reach,
    slots,
    variables,
)

__all__ = ["Change", "Watch"]

_OBJECTS = (nn.Module, types.FunctionType, types.MethodType, type, types.ModuleType)
_HELD = ("_parameters", "_buffers", "_modules")
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_OF_FUNCTIONS = ("__code__", "__defaults__", "__kwdefaults__")
_END = object()


class Change(NamedTuple):
    """A value that has changed: its full name, and its holder if it can be set there."""

    name: str
    holder: Any
    key: Any


class Watch:
    """Remembers everything, except tensors' values, that a pair's programs read.

    Watched is what their code names: numbers, strings, tensors and other objects in attributes,
    closures, globals, defaults, lists, dicts and sets; modules with their parameters, buffers and
    hooks, and the hooks of all modules; functions and methods; which parameters are frozen, and
    their dtype. Not watched: what comes from outside (files, clocks, settings of libraries), the
    inside of NumPy arrays, and lists and dicts of more than a thousand entries.

    Args:
        model: Pyro program.
        guide: Pyro program.
        loss: An object whose attributes are watched too.
        ignored: Values that may change, as (holder, key).

    Example:
        >>> net = nn.Linear(2, 2)
        >>> watch = Watch(net, net, object())
        >>> net.in_features = 3
        >>> watch.changed().name
        'model.in_features'
    """

    def __init__(
        self,
        model: Program,
        guide: Program,
        loss: object,
        ignored: Sequence[tuple[Any, Any]] = (),
    ) -> None:
        self._ignored = {_place(holder, key) for holder, key in ignored}
        reached = reach(model, guide)
        self._spaces = [*_spaces_of_all_modules(), *_spaces_of_loss(loss, reached)]
        for path, thing in reached.spaces:
            self._spaces += _spaces_of(path, thing, reached)
        named = [
            (p, f"{path}.{name}")
            for path, module in reached.modules.items()
            for name, p in module.named_parameters()
        ]
        self._parameters, self._names = [p for p, _ in named], [name for _, name in named]
        firsts = (next(module.parameters(), None) for module in reached.modules.values())
        self._first = [p for p in firsts if p is not None]
        self._look()

    def _look(self) -> None:
        """Remembers all values of now."""
        for space in self._spaces:
            space.take(self._ignored)
        sized = [space.sized for space in self._spaces if space.sized is not None]
        self._empty, self._filled = [d for d in sized if not d], [d for d in sized if d]
        self._sizes = list(map(len, self._filled))
        self._views = [space.view for space in self._spaces if space.view is not None]
        self._flat = list(chain.from_iterable(self._views))
        values = [
            (space.holder, key, value)
            for space in self._spaces
            if space.holder is not None
            for key, value in space.before.items()
            if space.view is None or not _is_settled(value)
        ]
        self._reads = [(holder, key) for holder, key, _ in values]
        self._values = [value for *_, value in values]
        self._frozen = [p.requires_grad for p in self._parameters]
        self._dtypes = [p.dtype for p in self._first]

    def changed(self) -> Change | None:
        """Returns the first change, or None."""
        if not self._unchanged():
            for space in self._spaces:
                for change in space.changes():
                    return change
            self._look()  # something that no code reads has changed, or an equal number
        if [p.dtype for p in self._first] != self._dtypes:
            return Change("the parameters' dtype", None, "")
        if [p.requires_grad for p in self._parameters] != self._frozen:
            both = zip(self._parameters, self._names, self._frozen, strict=True)
            name = next(name for p, name, frozen in both if p.requires_grad is not frozen)
            return Change(f"{name}.requires_grad", None, "")
        return None

    def _unchanged(self) -> bool:
        """Compares whole lists, which is the fastest way in Python."""
        try:
            if any(self._empty) or [*map(len, self._filled)] != self._sizes:
                return False
            now = [holder[key] for holder, key in self._reads]
            if not all(map(is_, now, self._values)):
                if any(
                    a is not b and _differ(a, b) for a, b in zip(now, self._values, strict=True)
                ):
                    return False
                self._values = now  # numbers of the same value
            return not self._views or [*chain.from_iterable(self._views)] == self._flat
        except (LookupError, AttributeError, RuntimeError, TypeError, ValueError):
            return False  # gone, or arrays that are neither equal nor unequal

    def settle(self) -> Change | None:
        """Ignores from now on what a call of the programs has changed, as its results.

        Returns:
            A change that the next call starts from, such as a count of calls, or None.
        """
        for space in list(self._spaces):
            for change in space.changes():
                before = space.before.get(change.key, _END)
                if space.view is not None and before is _END:
                    self._spaces.remove(space)  # a list that is filled, call by call
                    break
                now = space.read().get(change.key, _END)
                if space.kept or space.holder is None or not _same_result(now, before):
                    return change
                self._ignored.add(_place(space.holder, change.key))
        self._look()
        return None


class _Space:
    """A place where values are kept.

    Args:
        path: Its name.
        holder: Has the values by key; None for a set.
        read: Returns the values to watch, by key.
        sized: Its length changes with the number of values.
        view: All values, to be compared together; None to watch each by its key.
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
        """Remembers the values of now."""
        now = dict(self.read())
        self._ignored = {key for key in now if _place(self.holder, key) in ignored}
        self.before = {key: value for key, value in now.items() if key not in self._ignored}
        if self._ignored:
            self.view = None

    def changes(self) -> Iterator[Change]:
        now = self.read()
        settable = isinstance(self.holder, dict | list | _Cells)
        for key in [*self.before, *(now.keys() - self.before.keys() - self._ignored)]:
            value, before = now.get(key, _END), self.before.get(key, _END)
            if value is not before and _differ(value, before):
                yield Change(f"{self.path}.{key}", self.holder if settable else None, key)


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


def _spaces_of_all_modules() -> Iterator[_Space]:
    """The hooks of all modules."""
    here = torch.nn.modules.module
    for name, hooks in vars(here).items():
        if name.startswith("_global_") and isinstance(hooks, dict):
            yield _of_dict(f"torch.nn.{name}", hooks)


def _spaces_of_loss(loss: object, reached: Reached) -> Iterator[_Space]:
    """The loss's attributes, but for private objects."""
    own, name = getattr(loss, "__dict__", {}), type(loss).__name__

    def public() -> dict[str, Any]:
        values = (*PLAIN, Tensor)
        return {n: v for n, v in own.items() if n[:1] != "_" or isinstance(v, values)}

    reached.ignore(loss)
    for key, value in public().items():
        reached.visit(value, f"{name}.{key}")
    reached.visit(getattr(loss, "differentiable_loss", None), name)
    yield _Space(name, own, public, own)


def _spaces_of(path: str, thing: Any, reached: Reached) -> Iterator[_Space]:
    if isinstance(thing, dict):
        yield _Space(path, thing, lambda: thing, thing, thing.values())
    elif isinstance(thing, list):
        yield _Space(path, thing, lambda: dict(enumerate(thing)), thing, thing)
    elif isinstance(thing, set | deque):
        yield _Space(path, None, lambda: dict(enumerate(thing)), thing, thing)
    elif isinstance(thing, types.FunctionType):
        yield from _spaces_of_function(path, thing)
    elif isinstance(thing, type):
        named = lambda: {n: v for n, v in vars(thing).items() if reached.asks(thing, n)}  # noqa: E731
        yield _Space(path, vars(thing), named, vars(thing))
    else:
        yield from _spaces_of_object(path, thing, reached)


def _of_dict(path: str, values: dict[Any, Any], *, kept: bool = False) -> _Space:
    return _Space(path, values, lambda: values, values, kept=kept)


def _spaces_of_function(path: str, function: types.FunctionType) -> Iterator[_Space]:
    cells, itself = _Cells(function), _Attributes(function)
    free, given = set(cells.cells), function.__globals__
    named = variables(function).keys() - free
    yield _Space(path, given, lambda: {n: given[n] for n in named if n in given})
    yield _Space(path, cells, lambda: {n: v for n, v in variables(function).items() if n in free})
    yield _Space(path, itself, lambda: {n: itself[n] for n in _OF_FUNCTIONS})
    if vars(function):
        yield _of_dict(path, vars(function))


def _spaces_of_object(path: str, thing: Any, reached: Reached) -> Iterator[_Space]:
    own, is_module = getattr(thing, "__dict__", {}), isinstance(thing, nn.Module)

    def named() -> dict[str, Any]:
        found = {n: v for n, v in attributes(thing).items() if reached.asks(thing, n)}
        found = {n: v for n, v in found.items() if n in own and not n.startswith("_pyro_")}
        return found | ({"training": own.get("training")} if is_module else {})

    kept_in_slots = slots(type(thing))
    if is_library(thing) and not is_module:  # which may note what it has computed
        names = list(named())
        yield _Space(path, own, lambda: {n: own[n] for n in names if n in own})
    elif own:
        yield _Space(path, own, named, own)
    if kept_in_slots:
        by_name = _Attributes(thing)
        asked = lambda: {n: v for n, v in attributes(thing).items() if n in kept_in_slots}  # noqa: E731
        yield _Space(path, by_name, asked)
    if is_module:
        for key in (*_HELD, *_HOOKS):
            where = path if key in _HELD else f"{path}.{key}"
            yield _of_dict(where, own[key], kept=key in _HELD)


def _place(holder: Any, key: Any) -> tuple[int, Any]:
    """Identifies a value's place; functions that share a variable share its cell."""
    return (id(holder.cells[key]), None) if isinstance(holder, _Cells) else (id(holder), key)


def _is_settled(value: Any) -> bool:
    """Whether an equal value can stand for this one."""
    if isinstance(value, tuple):
        return all(map(_is_settled, value))
    return isinstance(value, (*PLAIN, *_OBJECTS))


def _differ(now: Any, before: Any) -> bool:
    if isinstance(now, PLAIN) and isinstance(before, PLAIN):
        same = type(now) is type(before) and (now == before or (now != now and before != before))
        return not same  # NaN is NaN
    return not (isinstance(now, types.MethodType) and now == before)


def _same_result(now: Any, before: Any) -> bool:
    """Whether two calls from the same state have left the same value."""
    if type(now) is not type(before) or isinstance(now, PLAIN):
        return False
    if not isinstance(now, Tensor):
        return True  # a new object each time, which nobody can compare
    return now.shape == before.shape and torch.allclose(now, before, 1e-3, 1e-6, equal_nan=True)
