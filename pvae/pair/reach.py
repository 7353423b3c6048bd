"""Finds what the programs of a pair can reach: modules, and everything that their code names."""

import contextlib
import functools
import inspect
import types
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import torch
from pyro.poutine import Trace
from torch import Tensor, nn

from pvae.errors import PvaeError, text_of
from pvae.pair.named import (
    PLAIN,
    attributes,
    from_library,
    functions_of,
    imports,
    is_closed,
    is_library,
    names_in,
    variables,
)

__all__ = ["Reached", "modules", "reach"]

_Parts = Iterator[tuple[Any, str]]
_NOTHING = (*PLAIN, bytes, Tensor, torch.dtype, torch.device, Trace)
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_MOST_ENTRIES = 1000  # of a container whose changes are watched
# Code with these names can look up an attribute of any name.
_ANY_NAME = {"getattr", "vars", "__dict__", "attrgetter", "methodcaller", "eval", "exec"}
# Code with these names can look up a value that is not followed.
_HIDING = {"globals", "environ", "getenv", "modules", "import_module", "__import__", "eval", "exec"}
_NOT_CALLED = {"__init__", "__new__", "__del__", "__repr__", "__str__", "__init_subclass__"}
_OF_CLASSES = set(vars(type("_", (), {}))) | {"__annotations__", "__qualname__"}


def modules(model: Callable[..., Any], guide: Callable[..., Any]) -> dict[str, nn.Module]:
    """Finds every module that a pair can reach, without running it.

    A program is a module, a method of an object, or a function. What its code names is followed:
    closures, globals, defaults, attributes (also of Python modules that are not installed),
    entries of lists and dicts, hooks, weak references, handlers and partials around it. What it
    computes (`sys.modules["nets"]`) is not followed.

    Returns:
        The outermost modules by path: `"model"` for a model that is a module, `"guide.encoder"`
        for an `encoder` in the guide's closure. A module that both programs reach is named once,
        after the model.

    Raises:
        PvaeError: If a module's constructor left out `super().__init__()`.
    """
    return reach(model, guide).modules


def reach(model: Callable[..., Any], guide: Callable[..., Any]) -> "Reached":
    """Finds what a pair can reach, without running it."""
    found = Reached()
    found.visit(model, "model")
    found.visit(guide, "guide")
    return found


class Reached:
    """Everything that code can name, starting from programs.

    Attributes:
        modules: The outermost modules, by path.
        spaces: The holders of values, each with its path: parts of modules, functions, classes and
            other objects, lists, dicts and sets (except long ones).
        hides: Whether code looks up values that are not followed, or imports them when it runs.
        names: The globals and attributes that the code names.
    """

    def __init__(self) -> None:
        self.modules: dict[str, nn.Module] = {}
        self.spaces: list[tuple[str, Any]] = []
        self.hides = False
        self._seen: dict[int, Any] = {}
        self.names: set[str] = set()
        self._any_name = False
        self._later: dict[str, list[tuple[Any, str]]] = {}

    def asks(self, holder: Any, name: str) -> bool:
        """Whether code may read an attribute of that name from an object or a class."""
        if isinstance(holder, types.ModuleType):
            return name in self.names
        if is_library(holder) or self._any_name:
            return True
        special = isinstance(holder, type) and name.startswith("__") and name not in _NOT_CALLED
        return name in self.names or name == "forward" or (special and name not in _OF_CLASSES)

    def ignore(self, thing: Any) -> None:
        """Skips an object from now on."""
        self._seen[id(thing)] = thing

    def visit(self, thing: Any, path: str) -> None:
        """Follows what a value refers to, depth first."""
        left = [iter([(thing, path)])]  # no recursion, because containers may be nested deeply
        while left:
            try:
                left.append(self._parts(*next(left[-1])))
            except StopIteration:
                left.pop()

    def _parts(self, thing: Any, path: str) -> _Parts:
        """Notes a value, and yields those that it refers to, with their paths."""
        if isinstance(thing, weakref.ReferenceType):
            thing = thing()
        elif type(thing) in weakref.ProxyTypes:
            with contextlib.suppress(ReferenceError):
                thing = thing.__repr__.__self__
        if isinstance(thing, _NOTHING) or id(thing) in self._seen:
            return
        self._seen[id(thing)] = thing
        if isinstance(thing, nn.Module):
            yield from self._of_module(thing, path)
        elif isinstance(thing, functools.partial):
            for name, part in enumerate((thing.func, *thing.args)):
                yield part, f"{path}.{name}" if path in self.modules else path
            yield thing.keywords, path
        elif inspect.ismethod(thing):
            yield thing.__self__, path
            yield thing.__func__, path
        elif isinstance(thing, types.BuiltinMethodType | types.MethodWrapperType):
            yield thing.__self__, path
        elif inspect.isfunction(thing):
            if not from_library(thing):
                yield from self._of_function(thing, path)
        elif isinstance(thing, type):
            yield from self._of_class(thing)
        elif isinstance(thing, types.ModuleType):
            if not from_library(thing):
                yield from self._of_attributes(thing, path)
        elif isinstance(thing, dict | list | tuple | set | frozenset | deque):
            if not isinstance(thing, tuple | frozenset) and len(thing) <= _MOST_ENTRIES:
                self.spaces.append((path, thing))
            for key, value in list(thing.items() if isinstance(thing, dict) else enumerate(thing)):
                if not isinstance(value, PLAIN):
                    yield value, f"{path}.{key}"
        elif not is_closed(type(thing)):
            yield from self._of_attributes(thing, path)
        else:  # such as functools.cache
            yield getattr(thing, "__wrapped__", None), path

    def _of_module(self, module: nn.Module, path: str) -> _Parts:
        self.modules[path] = module
        try:
            parts = list(module.named_modules())
        except AttributeError as error:
            if "'_modules'" not in text_of(error):
                raise
            raise PvaeError(
                f"A module in {path} is not complete ({text_of(error)}): its __init__ does not "
                "call super().__init__(). Call it there first."
            ) from error
        self._seen |= {id(part): part for _, part in parts}
        for name, part in parts:
            here = f"{path}.{name}" if name else path
            if type(part).__module__.startswith("torch.nn"):
                self.spaces.append((here, part))
            else:
                yield from self._of_attributes(part, here)
                yield getattr(part, "_pyro_samples", None) or None, here
            for hooks in _HOOKS:
                for hook in vars(part)[hooks].values():
                    yield hook, f"{here}.{hooks}"

    def _of_attributes(self, thing: Any, path: str) -> _Parts:
        self.spaces.append((path, thing))
        yield type(thing), path
        for name, value in attributes(thing).items():
            if not isinstance(value, PLAIN) and not name.startswith("_pyro_"):
                yield from self._if_asked(thing, name, value, path)

    def _of_class(self, kind: type) -> _Parts:
        for each in kind.__mro__:
            if (id(each) in self._seen and each is not kind) or is_library(each):
                continue
            self._seen[id(each)] = each
            self.spaces.append((each.__name__, each))
            for name, value in list(vars(each).items()):
                for part in functions_of(value):
                    yield from self._if_asked(each, name, part, each.__name__)

    def _if_asked(self, holder: Any, name: str, value: Any, path: str) -> _Parts:
        """Yields an attribute if code names it, or keeps it until code does."""
        if self.asks(holder, name):
            yield value, f"{path}.{name}"
        else:
            self._later.setdefault(name, []).append((value, path))

    def _of_function(self, function: types.FunctionType, path: str) -> _Parts:
        self.spaces.append((path, function))
        names = names_in(function.__code__)
        self.names |= names
        self._any_name = self._any_name or not _ANY_NAME.isdisjoint(names)
        self.hides = self.hides or not _HIDING.isdisjoint(names) or imports(function.__code__)
        for name, value in variables(function).items():
            yield value, f"{path}.{name}"
        yield getattr(function, "__wrapped__", None), path
        for name, value in vars(function).items():
            yield from self._if_asked(function, name, value, path)
        defaults = [
            *enumerate(function.__defaults__ or ()),
            *(function.__kwdefaults__ or {}).items(),
        ]
        for name, value in defaults:
            yield value, f"{path}.{name}"
        now = list(self._later) if self._any_name else names & self._later.keys()
        for name in sorted(now):
            for value, where in self._later.pop(name, ()):
                yield value, f"{where}.{name}"
