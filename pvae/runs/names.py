"""Finds programs by name: `VAE`, `my_package.MyModel` or `path/to/file.py:MyModel`."""

import contextlib
import hashlib
import importlib
import importlib.util
import re
import sys
import sysconfig
from collections.abc import Iterator
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Literal

from pvae.errors import PvaeError, first_line, nearest
from pvae.pair import Program, in_words
from pvae.runtime import is_out_of_memory
from pvae.training import FOLDER, beside

__all__ = ["FILE", "find", "from_file", "full_name", "in_file", "in_one_line", "resolve", "shared"]

FILE = "pvae_file_"
_FOLDERS: set[str] = set()  # that were put on the path here
_PATHS: dict[str, str] = {}  # from the module of a file to its path as the user typed it
Home = Literal["models", "guides"]


def full_name(name: str, home: Home) -> str:
    """Returns the class path of a bare name: `VAE` in `models` is `pvae.models.VAE`."""
    return name if "." in name or ":" in name else f"pvae.{home}.{name}"


def resolve(name: str, home: Home) -> Program:
    """Finds the class or function that a name means.

    Args:
        name: `VAE`, a name in `pvae.models` or `pvae.guides`; `my_package.MyModel`, which is
            imported (from the current folder too); or `path/to/file.py:MyModel`. A file is run
            once for a pair. `file.py:VAE.model` is a method of an object of the class `VAE`; model
            and guide are methods of the same object. `file.py:vae.model` takes the object from
            the file.
        home: Where bare names are looked up.

    Returns:
        A class, which has to be constructed, or a function or an object, which is used directly.
        For a method of a class, the class.

    Raises:
        PvaeError: There is no such file, module or name (the message has the nearest names), or
            the name is neither a class nor a program.

    Example:
        >>> resolve("pvae.models.VAE", "models")
        <class 'pvae.models.vae.VAE'>
    """
    return find(name, home)[0]


def shared(model: str, guide: str) -> bool:
    """Whether two names mean parts of one object, such as `VAE.model` and `VAE.guide`."""
    (ours, our_part, _), (theirs, their_part, _) = find(model, "models"), find(guide, "guides")
    return isinstance(ours, type) and ours is theirs and bool(our_part or their_part)


def find(name: str, home: Home) -> tuple[Program, tuple[str, ...], ModuleType]:
    """Returns a name's class or object, the attributes to take from it, and its module."""
    path, colon, attribute = name.rpartition(":") if not name.endswith(".py") else (name, ":", "")
    if path.endswith(".py"):
        module, where = _load_file(Path(path)), path
    elif colon:
        raise PvaeError(
            f"{name!r} is not valid: only a file takes a colon, as in path/to/file.py:{attribute}."
        )
    else:
        module, where, attribute = _import(full_name(name, home), name)
    known = _programs(module)
    if where == f"pvae.{home}" and attribute not in known:
        raise PvaeError(f"There is no {home[:-1]} called {attribute}. {nearest(attribute, known)}")
    from torch import nn

    found, rest, passed = module, attribute.split("."), False
    while rest and not isinstance(found, type):
        passed = passed or isinstance(found, nn.Module)
        found = getattr(found, rest[0], None)
        if found is None or (isinstance(found, ModuleType) and rest[1:]):
            if attribute:
                raise PvaeError(f"There is no {attribute} in {where}. {nearest(rest[0], known)}")
            raise PvaeError(
                f"Name a program of {where}, as in {where}:{(*known, 'Name')[0]}. It "
                f"has {', '.join(known) or 'none'}."
            )
        del rest[0]
    calls = not isinstance(found, type) or any("__call__" in vars(c) for c in found.__mro__)
    if not calls and not rest:
        raise PvaeError(
            f"{name} is a class whose objects cannot be called: it is not a Pyro program. Give it "
            "a method __call__, or name a pyro.nn.PyroModule or one of its methods."
        )
    made = passed or isinstance(found, nn.Module)
    if not callable(found) or (made and not path.endswith(".py")):
        raise PvaeError(
            f"{name} is an object of type {type(found).__name__}, not a class or a function. "
            "Name the class, so that the seed decides its initial parameters."
        )
    return found, tuple(rest), module


def _programs(module: ModuleType) -> list[str]:
    if hasattr(module, "__all__"):
        return list(module.__all__)
    return [
        name
        for name, value in vars(module).items()
        if callable(value)
        and not name.startswith("_")
        and f"{getattr(value, '__module__', None)}.".startswith(f"{module.__name__}.")
    ]


def _import(path: str, name: str) -> tuple[ModuleType, str, str]:
    """Returns the module of a dotted path, its name, and the rest of the path."""
    _importable(Path.cwd())
    parts, missing = path.split("."), ""
    for end in range(len(parts) - 1, 0, -1):
        module = ".".join(parts[:end])
        with in_one_line(f"The module {module} cannot be imported"):
            try:
                found = importlib.import_module(module)
            except ModuleNotFoundError as error:
                if error.name is None or not f"{module}.".startswith(f"{error.name}."):
                    raise
                missing = missing or error.name
                continue
        if not missing or hasattr(found, parts[end]):  # an attribute of a class
            return found, module, ".".join(parts[end:])
        break
    raise PvaeError(
        f"{name} cannot be imported: there is no module {missing}, neither installed nor in the "
        "current folder."
    )


def _load_file(path: Path) -> ModuleType:
    real = path.expanduser().resolve()
    # The name is the same in every process, because pickle and inspect find the module by it.
    digest = hashlib.sha256(str(real).encode()).hexdigest()[:8]
    name = f"{FILE}{re.sub(r'\W', '_', real.stem)}_{digest}"
    if name in sys.modules:
        return sys.modules[name]
    if not real.is_file():
        raise PvaeError(f"There is no file {path}. A relative path starts at {Path.cwd()}.")
    _importable(Path.cwd())
    loader = SourceFileLoader(name, str(real))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(name, loader))
    sys.modules[name] = module
    copied = real.parent.name == FOLDER
    try:
        with (
            in_one_line(f"The file {path} cannot be run"),
            beside(real.parent) if copied else _with_its_neighbours(real),
        ):
            loader.exec_module(module)
    except BaseException:
        sys.modules.pop(name, None)
        raise
    return module


def _importable(folder: Path) -> None:
    # After the standard library and packages: a user's random.py must not replace Python's. But
    # before the folders of other programs: each has its own nets.py.
    ours = [path for path in sys.path if path in _FOLDERS]
    if str(folder) in sys.path and str(folder) not in ours:
        return
    others = [path for path in ours if path != str(folder)]
    sys.path[:] = [path for path in sys.path if path not in ours] + [str(folder), *others]
    _FOLDERS.add(str(folder))


@contextlib.contextmanager
def _with_its_neighbours(file: Path) -> Iterator[None]:
    """Lets a file import those beside it, not files of the same names that ran before it.

    Raises:
        PvaeError: If it imports another file where one of that name lies beside it.
    """
    _importable(file.parent)
    names = {path.stem for path in file.parent.glob("*.py")}
    names |= {path.parent.name for path in file.parent.glob("*/__init__.py")}
    theirs = {name for name in names & sys.modules.keys() if _is_a_strangers(name, file.parent)}
    old = {m: sys.modules.pop(m) for m in [*sys.modules] if m.partition(".")[0] in theirs}
    importlib.invalidate_caches()
    try:
        yield
    finally:  # what this file did not import still belongs to those that did
        unused = theirs - sys.modules.keys()
        sys.modules.update({m: old[m] for m in old if m.partition(".")[0] in unused})
        names -= unused
    for name in sorted(names & sys.modules.keys()):
        if _is_a_strangers(name, file.parent):
            raise PvaeError(
                f"{file} imports {name} from {sys.modules[name].__file__}, and there is another "
                f"{name} beside it. Rename one of them."
            )


def _is_a_strangers(name: str, folder: Path) -> bool:
    """Whether a loaded module is a file outside of a folder, of no package that is installed."""
    file = getattr(sys.modules.get(name), "__file__", None)
    if file is None or name in ("__main__", "pvae"):
        return False
    path = Path(file).resolve()
    installed = {Path(p).resolve() for p in sysconfig.get_paths().values()}
    return not any(path.is_relative_to(p) for p in (folder, *installed))


@contextlib.contextmanager
def in_one_line(what: str) -> Iterator[None]:
    """Turns an exception of the user's code into a PvaeError that says where it was raised."""
    try:
        yield
    except Exception as error:
        if isinstance(error, PvaeError) or is_out_of_memory(error):
            raise
        if isinstance(error, SyntaxError) and error.filename:
            text = f" (at {error.filename}:{error.lineno}): SyntaxError: {first_line(error)}"
        else:
            text = in_words(error)
        raise PvaeError(f"{what}{text}") from error


def from_file(name: str) -> str:
    """Runs the file of `path/to/file.py:Name`, and returns a dotted name that imports `Name`.

    Other names are returned unchanged.
    """
    path, colon, attribute = name.rpartition(":")
    if not (colon and path.endswith(".py") and attribute.isidentifier()):
        return name
    module = _load_file(Path(path))
    if not hasattr(module, attribute):
        hint = nearest(attribute, _programs(module))
        raise PvaeError(f"There is no {attribute} in {path}. {hint}")
    _PATHS[module.__name__] = path
    return f"{module.__name__}.{attribute}"


def in_file(name: str) -> str:
    """Returns the name of a file's class as the user typed it: the inverse of `from_file`."""
    module, _, attribute = name.partition(".")
    return f"{_PATHS[module]}:{attribute}" if module in _PATHS else name
