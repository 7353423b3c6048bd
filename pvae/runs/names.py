"""Names of programs: `VAE`, `my_package.MyModel` or `path/to/file.py:MyModel`."""

import contextlib
import hashlib
import importlib
import importlib.util
import re
import sys
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Literal

from pvae.errors import PvaeError, first_line, nearest
from pvae.pair import Program, in_words
from pvae.runtime import is_out_of_memory
from pvae.training import FOLDER, beside

__all__ = ["FILE", "failed", "find", "from_file", "full_name", "in_file", "resolve", "shared"]

FILE = "pvae_file_"
_PATHS: dict[str, str] = {}  # module of a file: its path as it was typed
Home = Literal["models", "guides"]


def full_name(name: str, home: Home) -> str:
    """Returns the class path of a bare name: `VAE` in `models` is `pvae.models.VAE`."""
    return name if "." in name or ":" in name else f"pvae.{home}.{name}"


def resolve(name: str, home: Home) -> Program:
    """Finds the class or function that a name means.

    Args:
        name: `VAE`, a name in `pvae.models` or `pvae.guides`; `my_package.MyModel`, imported
            (the current folder is importable); or `path/to/file.py:MyModel`. A file is run once
            for a pair. `file.py:VAE.model` is a method of an object of the class `VAE`, the same
            object for both programs; `file.py:vae.model` takes the object from the file.
        home: Where bare names are looked up.

    Returns:
        A class, to be constructed; or a function or an object, to be used directly. For a method
        of a class, the class.

    Raises:
        PvaeError: There is no such file, module or name (the message has the nearest ones),
            or the name is neither a class nor a program.

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
        raise PvaeError(f"{name}: only a file has a colon, as in path/to/file.py:{attribute}")
    else:
        module, where, attribute = _import(full_name(name, home), name)
    known = _programs(module)
    if where == f"pvae.{home}" and attribute not in known:
        raise PvaeError(f"there is no {home[:-1]} called {attribute}. {nearest(attribute, known)}")
    from torch import nn

    found, rest, passed = module, attribute.split("."), False
    while rest and not isinstance(found, type):
        passed = passed or isinstance(found, nn.Module)
        found = getattr(found, rest[0], None)
        if found is None or (isinstance(found, ModuleType) and rest[1:]):
            hint = nearest(rest[0], known) if attribute else f"It has {', '.join(known)}."
            what = f"there is no {attribute} in {where}"
            raise PvaeError(f"{what if attribute else f'{where}:Name is asked for'}. {hint}")
        del rest[0]
    calls = not isinstance(found, type) or any("__call__" in vars(c) for c in found.__mro__)
    if not calls and not rest:
        raise PvaeError(
            f"{name} is a class whose objects cannot be called, and so no Pyro program: give it "
            "a method __call__, or name a pyro.nn.PyroModule or one of its methods"
        )
    made = passed or isinstance(found, nn.Module)
    if not callable(found) or (made and not path.endswith(".py")):
        raise PvaeError(
            f"{name} is {type(found).__name__} and not a class or a function; "
            "name the class, so that the seed decides its first parameters"
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
        try:
            found = importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{module}.".startswith(f"{error.name}."):
                raise failed(f"the module {module} cannot be imported", error) from error
            missing = missing or error.name
            continue
        except Exception as error:
            if isinstance(error, PvaeError) or is_out_of_memory(error):
                raise
            raise failed(f"the module {module} cannot be imported", error) from error
        if not missing or hasattr(found, parts[end]):  # a class, whose attribute is asked for
            return found, module, ".".join(parts[end:])
        break
    raise PvaeError(
        f"{name}: there is no module {missing}, neither installed nor in the current folder"
    )


def _load_file(path: Path) -> ModuleType:
    real = path.expanduser().resolve()
    # The same name in every process: pickles and inspect find the module by it.
    digest = hashlib.sha256(str(real).encode()).hexdigest()[:8]
    name = f"{FILE}{re.sub(r'\W', '_', real.stem)}_{digest}"
    if name in sys.modules:
        return sys.modules[name]
    if not real.is_file():
        raise PvaeError(f"there is no file {path} (looked for from the current folder)")
    _importable(Path.cwd())
    _importable(real.parent)
    loader = SourceFileLoader(name, str(real))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(name, loader))
    sys.modules[name] = module
    copied = real.parent.name == FOLDER
    try:
        with beside(real.parent) if copied else contextlib.nullcontext():
            loader.exec_module(module)
    except BaseException as error:
        sys.modules.pop(name, None)
        if isinstance(error, PvaeError) or not isinstance(error, Exception):
            raise
        if is_out_of_memory(error):
            raise
        raise failed(f"the file {path} cannot be run", error) from error
    return module


def _importable(folder: Path) -> None:
    # Last on the path: a user's random.py must not replace the standard library's.
    if str(folder) not in sys.path:
        sys.path.append(str(folder))


def failed(what: str, error: Exception) -> PvaeError:
    """Returns an error that says in one line where the user's own code failed."""
    if isinstance(error, SyntaxError) and error.filename:
        text = f" (at {error.filename}:{error.lineno}): SyntaxError: {first_line(error)}"
    else:
        text = in_words(error)
    return PvaeError(f"{what}{text}")


def from_file(name: str) -> str:
    """Returns the dotted name that `path/to/file.py:Name` is imported by, and runs the file.

    Other names are returned unchanged.
    """
    path, colon, attribute = name.rpartition(":")
    if not (colon and path.endswith(".py") and attribute.isidentifier()):
        return name
    module = _load_file(Path(path))
    if not hasattr(module, attribute):
        hint = nearest(attribute, _programs(module))
        raise PvaeError(f"there is no {attribute} in {path}. {hint}")
    _PATHS[module.__name__] = path
    return f"{module.__name__}.{attribute}"


def in_file(name: str) -> str:
    """Returns the name of a file's class as it was typed: the inverse of `from_file`."""
    module, _, attribute = name.partition(".")
    return f"{_PATHS[module]}:{attribute}" if module in _PATHS else name
