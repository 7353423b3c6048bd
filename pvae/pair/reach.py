"""Finds what the programs of a pair can reach: modules, and all else that their code names."""

import argparse
import contextlib
import dis
import functools
import inspect
import os
import sys
import types
import weakref
from collections import ChainMap, UserDict, UserList, deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyro
import torch
from pyro.poutine import Trace
from torch import Tensor, nn

from pvae.errors import PvaeError, text_of

__all__ = ["PLAIN", "Reached", "is_program", "modules", "reach", "variables"]

PLAIN = (bool, int, float, complex, str, type(None))
"""Numbers, strings and None."""

_Parts = Iterator[tuple[Any, str]]
_NOTHING = (*PLAIN, bytes, Tensor, torch.dtype, torch.device, Trace)
_LIBRARIES = {"pyro", "pvae", "torch", "torchvision", "numpy"} | sys.stdlib_module_names
_PVAE = Path(__file__).parents[1]
_ROOTS = (_PVAE, Path(pyro.__file__).parent, Path(torch.__file__).parent)
_IN_LIBRARIES = tuple(f"{root}{os.sep}" for root in _ROOTS)
_IN_PROGRAMS = tuple(f"{_PVAE / name}{os.sep}" for name in ("models", "guides"))
_NAMESPACES = (types.SimpleNamespace, argparse.Namespace, UserDict, UserList, ChainMap)
# Of a module's own attributes, those that torch and Pyro keep there.
_INTERNAL = frozenset(vars(nn.Module()))
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_MOST_ENTRIES = 1000
# Code that can look up an attribute of any name.
_ANY_NAME = {"getattr", "vars", "__dict__", "attrgetter", "methodcaller", "eval", "exec"}
# Code that can look up a value that is not followed.
_HIDING = {"globals", "environ", "getenv", "modules", "import_module", "__import__", "eval", "exec"}
_NOT_CALLED = {"__init__", "__new__", "__del__", "__repr__", "__str__", "__init_subclass__"}
_OF_CLASSES = set(vars(type("_", (), {}))) | {"__annotations__", "__qualname__"}


def modules(model: Callable[..., Any], guide: Callable[..., Any]) -> dict[str, nn.Module]:
    """Finds every module that a pair can reach, without running it.

    A program is a module, a method of an object, or a function. What its code names is followed:
    closures, globals, defaults, attributes (also of Python modules that are not installed),
    entries of lists and dicts, hooks, weak references, handlers and partials around it. What it
    computes (`sys.modules["nets"]`) is not.

    Returns:
        The outermost modules, named by the way to them: `"model"` for a model that is a
        module, `"guide.encoder"` for an `encoder` in the guide's closure. A module that both
        reach is named once, after the model.
    """
    return reach(model, guide).modules


def reach(model: Callable[..., Any], guide: Callable[..., Any]) -> "Reached":
    """Finds what a pair can reach, without running it."""
    found = Reached()
    found.visit(model, "model")
    found.visit(guide, "guide")
    return found


class Reached:
    """What code can name, starting from programs.

    Attributes:
        modules: The outermost modules, by the way to them.
        spaces: Where values are kept: parts of modules, functions, classes and other objects,
            lists, dicts and sets (but for long ones), each with the way to it.
        hides: Whether code looks up values that are not followed, or imports them when it runs.
    """

    def __init__(self) -> None:
        self.modules: dict[str, nn.Module] = {}
        self.spaces: list[tuple[str, Any]] = []
        self.hides = False
        self._seen: dict[int, Any] = {}
        self._names: set[str] = set()
        self._any_name = False
        self._later: dict[str, list[tuple[Any, str]]] = {}

    def asks(self, holder: Any, name: str) -> bool:
        """Whether code asks an object, or a class, for an attribute of that name."""
        if isinstance(holder, types.ModuleType):
            return name in self._names
        if self.is_library(holder) or self._any_name:
            return True
        special = isinstance(holder, type) and name.startswith("__") and name not in _NOT_CALLED
        return name in self._names or name == "forward" or (special and name not in _OF_CLASSES)

    @staticmethod
    def is_library(holder: Any) -> bool:
        """Whether an object's class, or a class, comes from a library."""
        return _is_library(holder if isinstance(holder, type) else type(holder))

    @staticmethod
    def from_library(thing: types.ModuleType | types.FunctionType) -> bool:
        """Whether a module or a function is part of a library; all installed modules are."""
        if isinstance(thing, types.ModuleType):
            name, file = thing.__name__, getattr(thing, "__file__", None) or ""
            if not is_program(file):
                return True
        else:
            name = thing.__module__
        return (name or "").partition(".")[0] in _LIBRARIES

    def ignore(self, thing: Any) -> None:
        """Skips an object from now on."""
        self._seen[id(thing)] = thing

    def visit(self, thing: Any, path: str) -> None:
        """Follows what a value refers to, depth first."""
        left = [iter([(thing, path)])]  # a stack of our own: lists may be nested without an end
        while left:
            try:
                left.append(self._parts(*next(left[-1])))
            except StopIteration:
                left.pop()

    def _parts(self, thing: Any, path: str) -> _Parts:
        """Notes a value, and yields those that it refers to, each with the way to it."""
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
            if not self.from_library(thing):
                yield from self._of_function(thing, path)
        elif isinstance(thing, type):
            yield from self._of_class(thing)
        elif isinstance(thing, types.ModuleType):
            if not self.from_library(thing):
                yield from self._of_attributes(thing, path)
        elif isinstance(thing, dict | list | tuple | set | frozenset | deque):
            if not isinstance(thing, tuple | frozenset) and len(thing) <= _MOST_ENTRIES:
                self.spaces.append((path, thing))
            for key, value in list(thing.items() if isinstance(thing, dict) else enumerate(thing)):
                if not isinstance(value, PLAIN):
                    yield value, f"{path}.{key}"
        elif not _is_closed(type(thing)):
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
        kind = type(thing)
        if not _is_library(kind):
            yield from self._of_class(kind)
        for name, value in attributes(thing).items():
            if not isinstance(value, PLAIN) and not name.startswith("_pyro_"):
                yield from self._if_asked(thing, name, value, path)

    def _of_class(self, kind: type) -> _Parts:
        for each in kind.__mro__:
            if (id(each) in self._seen and each is not kind) or _is_library(each):
                continue
            self._seen[id(each)] = each
            self.spaces.append((each.__name__, each))
            for name, value in list(vars(each).items()):
                for part in _functions_of(value):
                    yield from self._if_asked(each, name, part, each.__name__)

    def _if_asked(self, holder: Any, name: str, value: Any, path: str) -> _Parts:
        """Yields an attribute if code names it, or keeps it until code does."""
        if self.asks(holder, name):
            yield value, f"{path}.{name}"
        else:
            self._later.setdefault(name, []).append((value, path))

    def _of_function(self, function: types.FunctionType, path: str) -> _Parts:
        self.spaces.append((path, function))
        names = _names_in(function.__code__)
        self._names |= names
        self._any_name = self._any_name or not _ANY_NAME.isdisjoint(names)
        self.hides = self.hides or not _HIDING.isdisjoint(names) or _imports(function.__code__)
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


def is_program(file: str) -> bool:
    """Whether a file is the user's, or one of pvae's models and guides, and no library's."""
    installed = any(part in file for part in ("/lib/python", "site-packages", "dist-packages"))
    library = installed or file.startswith((*_IN_LIBRARIES, "<frozen"))
    return file.startswith(_IN_PROGRAMS) or not library


def attributes(thing: Any) -> dict[str, Any]:
    """Returns an object's own attributes but those that torch keeps in a module."""
    found = {name: v for name, v in getattr(thing, "__dict__", {}).items() if name not in _INTERNAL}
    for name in slots(type(thing)):
        with contextlib.suppress(AttributeError):
            found[name] = getattr(thing, name)
    return found


def slots(kind: type) -> list[str]:
    """Returns the attributes of a class's objects that are kept in slots."""
    members = (types.MemberDescriptorType,)
    return [n for each in kind.__mro__ for n, v in vars(each).items() if isinstance(v, members)]


def variables(function: types.FunctionType) -> dict[str, Any]:
    """Returns the globals that a function's code names, and the filled cells of its closure."""
    names = _names_in(function.__code__)
    found = {name: function.__globals__[name] for name in names & function.__globals__.keys()}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        with contextlib.suppress(ValueError):  # not assigned yet
            found[name] = cell.cell_contents
    return dict(sorted(found.items()))


@functools.lru_cache(10_000)
def _names_in(code: types.CodeType) -> frozenset[str]:
    """Returns the globals and attributes that code names, with the functions written inside it."""
    inner = (const for const in code.co_consts if isinstance(const, types.CodeType))
    return frozenset(code.co_names).union(*map(_names_in, inner))


@functools.lru_cache(10_000)
def _imports(code: types.CodeType) -> bool:
    """Whether code imports, when it runs, what does not come from a library."""
    names = (i.argval for i in dis.get_instructions(code) if i.opname == "IMPORT_NAME")
    inner = (const for const in code.co_consts if isinstance(const, types.CodeType))
    return any(n.partition(".")[0] not in _LIBRARIES for n in names) or any(map(_imports, inner))


def _functions_of(value: Any) -> Iterator[Any]:
    """Yields the functions of a class's attribute, or its value."""
    if isinstance(value, property):
        yield from filter(None, (value.fget, value.fset))
    elif isinstance(value, staticmethod | classmethod):
        yield value.__func__
    elif isinstance(value, functools.cached_property):
        yield value.func
    elif not isinstance(value, (*PLAIN, types.MemberDescriptorType, types.GetSetDescriptorType)):
        yield value


@functools.lru_cache(10_000)
def _is_library(kind: type) -> bool:
    return kind.__module__.partition(".")[0] in _LIBRARIES


@functools.lru_cache(10_000)
def _is_closed(kind: type) -> bool:
    """Whether objects of a class are not looked into: those of libraries, but for namespaces, and
    for handlers and distributions, which can hold modules.
    """
    name = kind.__module__
    if name.startswith(("pyro.", "torch.distributions")) or kind in _NAMESPACES:
        return False
    return _is_library(kind)
