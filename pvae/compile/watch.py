"""Watch: finds a change of the values and bindings that a recorded pair relies on."""

import types
from collections.abc import Sequence
from itertools import chain
from operator import is_
from typing import Any

import torch
from torch import Tensor, nn

from pvae.compile.spaces import END, Change, differ, place_of, spaces
from pvae.pair import PLAIN, Program, reach

__all__ = ["Watch"]

_OBJECTS = (nn.Module, types.FunctionType, types.MethodType, type, types.ModuleType)


class Watch:
    """Remembers everything that the model and the guide read, except the values in tensors.

    It watches what their code names: numbers, strings, tensors and other objects in attributes,
    closures, globals, defaults, lists, dicts and sets; modules with their parameters, buffers and
    hooks, and the hooks of all modules; functions and methods; which parameters are frozen, and
    their dtype. It does not watch values from outside (files, clocks, settings of libraries), the
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
        self._ignored = {place_of(holder, key) for holder, key in ignored}
        reached = reach(model, guide)
        self._spaces = spaces(loss, reached)
        named = [
            (p, f"{path}.{name}")
            for path, module in reached.modules.items()
            for name, p in module.named_parameters()
        ]
        self._parameters, self._names = [p for p, _ in named], [name for _, name in named]
        firsts = (next(module.parameters(), None) for module in reached.modules.values())
        self._first = [p for p in firsts if p is not None]
        self._remember()

    def _remember(self) -> None:
        """Remembers all present values."""
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
            self._remember()  # something that no code reads has changed, or an equal number
        if [p.dtype for p in self._first] != self._dtypes:
            return Change("the parameters' dtype", None, "")
        if [p.requires_grad for p in self._parameters] != self._frozen:
            both = zip(self._parameters, self._names, self._frozen, strict=True)
            name = next(name for p, name, frozen in both if p.requires_grad is not frozen)
            return Change(f"{name}.requires_grad", None, "")
        return None

    def _unchanged(self) -> bool:
        """Compares whole lists, the fastest way in Python."""
        try:
            if any(self._empty) or [*map(len, self._filled)] != self._sizes:
                return False
            now = [holder[key] for holder, key in self._reads]
            if not all(map(is_, now, self._values)):
                if any(map(differ, now, self._values)):
                    return False
                self._values = now  # other objects of equal values
            return not self._views or [*chain.from_iterable(self._views)] == self._flat
        except (LookupError, AttributeError, RuntimeError, TypeError, ValueError):
            return False  # a value is gone, or arrays cannot be compared by ==

    def settle(self) -> Change | None:
        """Ignores from now on what the last call of the model and the guide has changed.

        Returns:
            A change that affects the next call, such as a counter, or None.
        """
        for space in list(self._spaces):
            for change in space.changes():
                before = space.before.get(change.key, END)
                if space.view is not None and before is END:
                    self._spaces.remove(space)  # a list that each call extends
                    break
                now = space.read().get(change.key, END)
                if space.kept or space.holder is None or not _same_result(now, before):
                    return change
                self._ignored.add(place_of(space.holder, change.key))
        self._remember()
        return None


def _is_settled(value: Any) -> bool:
    """Whether an equal value is as good as this one."""
    if isinstance(value, tuple):
        return all(map(_is_settled, value))
    return isinstance(value, (*PLAIN, *_OBJECTS))


def _same_result(now: Any, before: Any) -> bool:
    """Whether two calls from the same state have left the same value."""
    if type(now) is not type(before) or isinstance(now, PLAIN):
        return False
    if not isinstance(now, Tensor):
        return True  # a new object in each call, which cannot be compared
    return now.shape == before.shape and torch.allclose(now, before, 1e-3, 1e-6, equal_nan=True)
