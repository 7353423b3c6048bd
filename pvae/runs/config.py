"""What a run is made of: names to programs, type hints to arguments, and config.yaml."""

import argparse
import contextlib
import copy
import hashlib
import importlib
import importlib.util
import inspect
import os
import re
import sys
from collections.abc import Callable, Iterable
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import yaml

from pvae.errors import PvaeError, first_line, nearest
from pvae.pair import in_words
from pvae.runs.trust import check_trust
from pvae.runtime import check_seed, is_out_of_memory
from pvae.training import FOLDER, beside, with_class

__all__ = [
    "build_pair",
    "from_file",
    "full_name",
    "in_file",
    "load_yaml",
    "names_of",
    "read_config",
    "renamed",
    "resolve",
    "shared",
]

GIVEN = {"model": {"event_shape"}, "guide": {"event_shape", "model"}}
"""Parameters of constructors that the pair's own making fills in."""

_FILE = "pvae_file_"
_PATHS: dict[str, str] = {}  # of the modules of files, as they were typed
_MOVED = {"pvae.multisample": "pvae.objectives"}  # modules that older configs name

Program = Callable[..., Any]
Home = Literal["models", "guides"]


def full_name(name: str, home: Home) -> str:
    """Returns the class path of a bare name: `VAE` in `models` is `pvae.models.VAE`."""
    return name if "." in name or ":" in name else f"pvae.{home}.{name}"


def resolve(name: str, home: Home) -> Program:
    """Finds the class or function that a name means.

    Args:
        name: `VAE`, a name in `pvae.models` or `pvae.guides`; `my_package.MyModel`, imported
            (the current folder is importable); or `path/to/file.py:MyModel`, from a file that
            is run once for a pair, however many names are taken from it. `file.py:VAE.model`
            is a method of an object of the class `VAE`, the same object for both programs of
            a pair; a file may hold the object itself, `file.py:vae.model`.
        home: Where bare names are looked up.

    Returns:
        A class, to be constructed, or a function or an object, to be used as it is. Of a
        method of a class, the class.

    Raises:
        PvaeError: There is no such file, module or name (the message has the nearest ones),
            or the name means neither a class nor a program.

    Example:
        >>> resolve("pvae.models.VAE", "models")
        <class 'pvae.models.vae.VAE'>
    """
    return _find(name, home)[0]


def shared(model: str, guide: str) -> bool:
    """Whether two names mean parts of one object, such as `VAE.model` and `VAE.guide`."""
    (ours, our_part, _), (theirs, their_part, _) = _find(model, "models"), _find(guide, "guides")
    return isinstance(ours, type) and ours is theirs and bool(our_part or their_part)


def _find(name: str, home: Home) -> tuple[Program, tuple[str, ...], ModuleType]:
    """Returns what a name means, the attributes to take of an object of it, and its module."""
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
    """Returns the module of a dotted path, its name, and what of the path lies inside it."""
    _importable(Path.cwd())
    parts, missing = path.split("."), ""
    for end in range(len(parts) - 1, 0, -1):
        module = ".".join(parts[:end])
        try:
            found = importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{module}.".startswith(f"{error.name}."):
                raise _failed(f"the module {module} cannot be imported", error) from error
            missing = missing or error.name
            continue
        except Exception as error:
            if isinstance(error, PvaeError) or is_out_of_memory(error):
                raise
            raise _failed(f"the module {module} cannot be imported", error) from error
        if not missing or hasattr(found, parts[end]):  # a class, whose attribute is asked for
            return found, module, ".".join(parts[end:])
        break
    raise PvaeError(
        f"{name}: there is no module {missing}, neither installed nor in the current folder"
    )


def _load_file(path: Path) -> ModuleType:
    real = path.expanduser().resolve()
    # A name of its own, the same in every process: pickles and inspect find the module by it.
    digest = hashlib.sha256(str(real).encode()).hexdigest()[:8]
    name = f"{_FILE}{re.sub(r'\W', '_', real.stem)}_{digest}"
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
        raise _failed(f"the file {path} cannot be run", error) from error
    return module


def _importable(folder: Path) -> None:
    # Last on the path: a file of the user's called random.py must not replace the library's.
    if str(folder) not in sys.path:
        sys.path.append(str(folder))


def build_pair(
    config: dict[str, Any], event_shape: Iterable[int] | None = None
) -> tuple[Program, Program]:
    """Constructs the pair that a config names, model first, from the config's seed.

    Args:
        config: With `seed`, `model` and `guide`, the latter two
            `{"class_path": str, "init_args": {...}}`. A function is used as it is. Of parts of
            one object (see `resolve`), it is made from the model's arguments.
        event_shape: For constructors with a parameter of this name that the config leaves
            unset. A guide's constructor that has a parameter `model` receives the model.

    Returns:
        The model and the guide.

    Raises:
        PvaeError: A name cannot be found, or an argument is missing, unknown or of the
            wrong type.
    """
    import pyro

    # Files and modules may draw parameters when they are first run, constructors always do:
    # seeded before both, a pair is the same whether or not its file had been run before.
    pyro.set_rng_seed(config["seed"])
    names = {side: config[side]["class_path"] for side in ("model", "guide")}
    for side, name in names.items():
        target, _, module = _find(name, f"{side}s")
        if not isinstance(target, type) and module.__name__.startswith(_FILE):
            # What such a file holds is the pair's own: it is run anew, from the seed.
            sys.modules.pop(module.__name__, None)
    pyro.set_rng_seed(config["seed"])
    found = {side: _find(name, f"{side}s") for side, name in names.items()}
    one = shared(*names.values())
    pyro.set_rng_seed(config["seed"])
    made: dict[str, Program] = {}
    for side, (target, _, _) in found.items():
        init_args = config[side].get("init_args") or {}
        if not (one and made):
            made[side] = _construct(side, target, init_args, event_shape, made.get("model"))
    made.setdefault("guide", made["model"])
    return tuple(_part(made[side], found[side][1], name) for side, name in names.items())


def _part(thing: Any, attributes: Iterable[str], name: str) -> Program:
    """Returns an object's attribute that is a program."""
    for attribute in attributes:
        if not hasattr(thing, attribute):
            known = [n for n in vars(type(thing)) if n[0] != "_"]
            raise PvaeError(f"{name}: there is no {attribute}. {nearest(attribute, known)}")
        thing = getattr(thing, attribute)
    if not callable(thing):
        raise PvaeError(f"{name} is {type(thing).__name__} and no program: it cannot be called")
    return thing


def _construct(
    side: str,
    target: Program,
    init_args: dict[str, Any],
    event_shape: Iterable[int] | None,
    model: Program | None,
) -> Program:
    if not isinstance(target, type):
        return target
    values = dict(init_args)
    shape = values.pop("event_shape", event_shape)
    given = parameters(target)
    arguments = typed(target, values, skip=GIVEN[side], prefix=f"{side}.")
    if model is not None and "model" in given:
        arguments["model"] = model
    if "event_shape" in given:
        if shape is None:
            raise PvaeError(f"{target.__name__} needs an event_shape, and the config has none")
        arguments["event_shape"] = tuple(shape)
    try:
        return target(**arguments)
    except PvaeError:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise _failed(f"the {side} {target.__name__} cannot be made", error) from error


def _failed(what: str, error: Exception) -> PvaeError:
    """Says in one line where the user's own code failed."""
    if isinstance(error, SyntaxError) and error.filename:
        text = f" (at {error.filename}:{error.lineno}): SyntaxError: {first_line(error)}"
    else:
        text = in_words(error)
    return PvaeError(f"{what}{text}")


def parameters(target: Program) -> set[str]:
    """Returns the parameters of a class or function, also those it hands on as `**kwargs`."""
    parser = _parser(target, set())
    return {action.dest for action in parser._actions} - {"help"}


def typed(
    target: Program, values: dict[str, Any], *, skip: Iterable[str] = (), prefix: str = ""
) -> dict[str, Any]:
    """Returns plain values as the arguments that the type hints of `target` ask for.

    Args:
        target: A class or a function.
        values: Numbers, strings and plain containers; an object is
            `{"class_path": str, "init_args": {...}}`.
        skip: Parameters to leave out.
        prefix: Put before a parameter's name in messages.

    Raises:
        PvaeError: A value is missing, unknown, or of the wrong type.
    """
    parser = _parser(target, set(skip))
    try:
        values = parser.parse_object(renamed(values, from_file))
        arguments = parser.instantiate(values).as_dict()
    except PvaeError:
        raise
    except argparse.ArgumentError as error:
        raise PvaeError(one_line(error, prefix)) from None
    except ValueError as error:  # what a constructor of ours says, among a union's members
        cause = error
        while cause is not None and not isinstance(cause, PvaeError):
            cause = cause.__cause__
        raise cause or PvaeError(one_line(error, prefix)) from None
    for name in _untyped(target):
        if arguments.get(name, ...) is None:
            raise PvaeError(f"--{prefix}{name}: must be given, there is no default")
    return arguments


def _untyped(target: Program) -> list[str]:
    # jsonargparse takes a parameter without a type hint for one that may be left out.
    classes = target.__mro__ if isinstance(target, type) else ()
    functions = [c.__init__ for c in classes if inspect.isfunction(vars(c).get("__init__"))]
    found = [p for function in functions for p in inspect.signature(function).parameters.values()]
    return [p.name for p in found if p.default is p.empty and p.annotation is p.empty]


def _parser(target: Program, skip: set[str]) -> Any:
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    add = parser.add_class_arguments if isinstance(target, type) else parser.add_function_arguments
    add(target, skip=skip, fail_untyped=False)
    return parser


def one_line(error: Exception, prefix: str = "") -> str:
    """Returns jsonargparse's message as one line that names options as they are typed."""
    text = str(error)
    if missing := re.match(r"the following arguments are required: (.*)", text):
        options = ", ".join(f"--{prefix}{key}" for key in missing[1].split(", "))
        return f"{options}: must be given, there is no default"
    unknown = r"(?:Group '(.*)' does not accept option|Option) '(\S+)'(?: is not accepted)?$"
    if found := re.match(unknown, text):
        name = f"{found[1]}.{found[2]}" if found[1] else found[2]
        return f"--{prefix}{name}: there is no such option"
    text = re.sub(r"a typing\.Literal\[(.*?)\]", r"one of \1", text)
    text = re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", text)
    text = text.replace("Expected a int", "Expected an int")
    text = re.sub(rf"\b{_FILE}\w+\.\w+", lambda found: in_file(found[0]), text)
    text = re.sub(r"Expected a dot import path string: (\S+)", r"there is no class \1", text)
    text = re.sub(r"Type .* expects a function or a callable class: (.*)\. Got .*", r"\1", text)
    key = re.match(r'Parser key "([^"]+)":', text)
    causes = text.partition("Errors:")[2].partition("\n  Given value")[0].split("\n    - ")[1:]
    causes = [cause for cause in dict.fromkeys(causes) if "NoneType" not in cause]
    # Of a union's members, the one whose class was found is the one that was meant.
    found = [c for c in causes if "given class_path" in c or "is not accepted" in c]
    text = "; ".join(found or causes) if causes else text[key.end() if key else 0 :]
    return (f"--{prefix}{key[1]}: " if key else "") + " ".join(text.split())


def read_config(run: str | os.PathLike[str], *, trust: bool = False) -> dict[str, Any]:
    """Reads the config of a run: everything that repeats it.

    Args:
        run: The folder of a run, or the path of its config.yaml.
        trust: Whether it may name code beside that of pvae, torch and Pyro, which is run when
            the pair is built.

    Returns:
        `model` and `guide` (`{"class_path": str, "init_args": {...}}`), `data`, `seed` and the
        options of `pvae.fit` and `pvae.evaluate`.

    Raises:
        PvaeError: There is no config, it is not one that pvae wrote in full, or it names code
            that is not trusted.
    """
    config = load_yaml(run)
    needed = {"model", "guide", "data", "seed", "pvae"}  # pvae, the version, is written last
    sides = [config.get(side) for side in ("model", "guide")]
    whole = all(
        isinstance(side, dict)
        and isinstance(side.get("class_path"), str)
        and isinstance(side.get("init_args") or {}, dict)
        for side in sides
    )
    if needed - config.keys() or not whole or not isinstance(config["data"], dict):
        raise PvaeError(f"the config of {run} is not a complete one of a run of pvae")
    check_seed(config["seed"])
    if not trust:
        check_trust(names_of(config), f"the config of {run}")
    return config


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


def renamed(config: Any, rule: Callable[[str], str]) -> Any:
    """Returns a copy of plain values in which a rule has changed every class path."""
    config = copy.deepcopy(config)
    for part in with_class(config):
        part["class_path"] = rule(part["class_path"])
    return config


def names_of(config: dict[str, Any]) -> dict[str, Any]:
    """Returns what of a config can name code, with the full names of model and guide."""
    sides = {
        side: {**config[side], "class_path": full_name(config[side]["class_path"], f"{side}s")}
        for side in ("model", "guide")
        if side in config
    }
    return {key: value for key, value in config.items() if key not in ("data", "pvae")} | sides


def load_yaml(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads a config file (or the config.yaml of a folder) into a dictionary, however partial."""
    path = Path(path)
    file = path / "config.yaml" if path.is_dir() else path
    try:
        config = yaml.safe_load(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        what = f"{path} has no config.yaml" if path.is_dir() else f"there is no {path}"
        raise PvaeError(f"{what}; `pvae run` and `pvae train` make a run folder") from None
    except OSError as error:
        raise PvaeError(f"cannot read {file}: {error.strerror}") from None
    except RecursionError:
        raise PvaeError(f"{file} is nested too deeply to be a config of pvae") from None
    except (yaml.YAMLError, ValueError, IndexError, TypeError, AttributeError) as error:
        raise PvaeError(f"{file} is damaged or no config: {' '.join(f'{error}'.split())}") from None
    if not isinstance(config, dict) or not all(isinstance(key, str) for key in config):
        raise PvaeError(f"{file} is not a config of pvae")
    _name_as_today(config)
    return config


def _name_as_today(config: dict[str, Any]) -> None:
    """Gives class paths of moved modules the names of today."""
    for part in with_class(config):
        module, dot, name = part["class_path"].rpartition(".")
        part["class_path"] = f"{_MOVED.get(module, module)}{dot}{name}"
