"""What code names, what objects hold, and which of them come from libraries."""

import argparse
import contextlib
import dis
import functools
import os
import sys
import types
from collections import ChainMap, UserDict, UserList
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyro
import torch
from torch import nn

__all__ = [
    "PLAIN",
    "attributes",
    "from_library",
    "functions_of",
    "imports",
    "is_closed",
    "is_library",
    "is_program",
    "names_in",
    "slots",
    "variables",
]

PLAIN = (bool, int, float, complex, str, type(None))
"""Numbers, strings and None."""

_LIBRARIES = {"pyro", "pvae", "torch", "torchvision", "numpy"} | sys.stdlib_module_names
_PVAE = Path(__file__).parents[1]
_ROOTS = (_PVAE, Path(pyro.__file__).parent, Path(torch.__file__).parent)
_IN_LIBRARIES = tuple(f"{root}{os.sep}" for root in _ROOTS)
_IN_PROGRAMS = tuple(f"{_PVAE / name}{os.sep}" for name in ("models", "guides"))
_NAMESPACES = (types.SimpleNamespace, argparse.Namespace, UserDict, UserList, ChainMap)
# Attributes of a module that torch and Pyro keep for themselves.
_INTERNAL = frozenset(vars(nn.Module()))


def from_library(thing: types.ModuleType | types.FunctionType) -> bool:
    """Whether a Python module or a function comes from a library. All installed modules do."""
    if isinstance(thing, types.ModuleType):
        name = thing.__name__
        if not is_program(getattr(thing, "__file__", None) or ""):
            return True
    else:
        name = thing.__module__
    return (name or "").partition(".")[0] in _LIBRARIES


def is_library(thing: Any) -> bool:
    """Whether a class, or an object's class, comes from a library."""
    kind = thing if isinstance(thing, type) else type(thing)
    return kind.__module__.partition(".")[0] in _LIBRARIES


def is_program(file: str) -> bool:
    """Whether a file is the user's or one of pvae's models and guides, not a library's."""
    installed = any(part in file for part in ("/lib/python", "site-packages", "dist-packages"))
    library = installed or file.startswith((*_IN_LIBRARIES, "<frozen"))
    return file.startswith(_IN_PROGRAMS) or not library


def attributes(thing: Any) -> dict[str, Any]:
    """Returns an object's own attributes, except those that torch keeps in a module."""
    found = {name: v for name, v in getattr(thing, "__dict__", {}).items() if name not in _INTERNAL}
    for name in slots(type(thing)):
        with contextlib.suppress(AttributeError):
            found[name] = getattr(thing, name)
    return found


def slots(kind: type) -> list[str]:
    """Returns the names of the slots of a class's objects."""
    member = types.MemberDescriptorType
    return [n for each in kind.__mro__ for n, v in vars(each).items() if isinstance(v, member)]


def variables(function: types.FunctionType) -> dict[str, Any]:
    """Returns the globals that a function's code names, and the filled cells of its closure."""
    names = names_in(function.__code__)
    found = {name: function.__globals__[name] for name in names & function.__globals__.keys()}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        with contextlib.suppress(ValueError):  # not assigned yet
            found[name] = cell.cell_contents
    return dict(sorted(found.items()))


@functools.lru_cache(10_000)
def names_in(code: types.CodeType) -> frozenset[str]:
    """Returns the globals and attributes that code names, also in the functions inside it."""
    inner = (const for const in code.co_consts if isinstance(const, types.CodeType))
    return frozenset(code.co_names).union(*map(names_in, inner))


@functools.lru_cache(10_000)
def imports(code: types.CodeType) -> bool:
    """Whether code imports, when it runs, a module that is not a library's."""
    names = (i.argval for i in dis.get_instructions(code) if i.opname == "IMPORT_NAME")
    inner = (const for const in code.co_consts if isinstance(const, types.CodeType))
    return any(n.partition(".")[0] not in _LIBRARIES for n in names) or any(map(imports, inner))


def functions_of(value: Any) -> Iterator[Any]:
    """Yields the functions of a class's attribute (a property has two), or its value."""
    if isinstance(value, property):
        yield from filter(None, (value.fget, value.fset))
    elif isinstance(value, staticmethod | classmethod):
        yield value.__func__
    elif isinstance(value, functools.cached_property):
        yield value.func
    elif not isinstance(value, (*PLAIN, types.MemberDescriptorType, types.GetSetDescriptorType)):
        yield value


def is_closed(kind: type) -> bool:
    """Whether objects of a class are not followed, as those of most library classes."""
    if kind in _NAMESPACES or kind.__module__.startswith(("pyro.", "torch.distributions")):
        return False  # handlers and distributions can hold modules
    return is_library(kind)
