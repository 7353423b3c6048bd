"""Builds a pair from a config: type hints say how plain values become arguments."""

import argparse
import inspect
import re
import sys
from collections.abc import Iterable
from typing import Any

from pvae.errors import PvaeError, nearest
from pvae.pair import Program
from pvae.runs.config import renamed
from pvae.runs.names import FILE, find, from_file, in_file, in_one_line, shared

__all__ = ["GIVEN", "build_pair", "one_line", "parameters", "typed"]

GIVEN = {"model": {"event_shape"}, "guide": {"event_shape", "model"}}
"""Constructor parameters that `build_pair` fills in."""


def build_pair(
    config: dict[str, Any], event_shape: Iterable[int] | None = None
) -> tuple[Program, Program]:
    """Constructs the pair that a config names, model first, from the config's seed.

    Args:
        config: With `seed`, `model` and `guide`; `model` and `guide` are
            `{"class_path": str, "init_args": {...}}`. A function is used directly. If both are
            parts of one object (see `resolve`), it is made from the model's arguments.
        event_shape: For constructors with a parameter of this name, if the config does not set
            it. A guide's constructor with a parameter `model` receives the model.

    Returns:
        The model and the guide.

    Raises:
        PvaeError: A name cannot be found, or an argument is missing, unknown or of the wrong type.
    """
    import pyro

    # A file may draw parameters when it is first run, and constructors draw them always. The seed
    # is set before both, so that a pair does not depend on whether its file has run before.
    pyro.set_rng_seed(config["seed"])
    names = {side: config[side]["class_path"] for side in ("model", "guide")}
    for side, name in names.items():
        target, _, module = find(name, f"{side}s")
        if not isinstance(target, type) and module.__name__.startswith(FILE):
            # The objects in such a file belong to the pair, so the file is run again.
            sys.modules.pop(module.__name__, None)
    pyro.set_rng_seed(config["seed"])
    found = {side: find(name, f"{side}s") for side, name in names.items()}
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
            raise PvaeError(f"{name} has no {attribute!r}. {nearest(attribute, known)}")
        thing = getattr(thing, attribute)
    if not callable(thing):
        raise PvaeError(
            f"{name} is an object of type {type(thing).__name__}, which cannot be called: it is "
            "not a Pyro program."
        )
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
            raise PvaeError(
                f"{target.__name__} needs an event_shape, and the config has none. Set "
                f"{side}.init_args.event_shape."
            )
        arguments["event_shape"] = tuple(shape)
    with in_one_line(f"The {side} {target.__name__} cannot be constructed"):
        return target(**arguments)


def parameters(target: Program) -> set[str]:
    """Returns the parameters of a class or function, including those behind `**kwargs`."""
    return {action.dest for action in _parser(target, set())._actions} - {"help"}


def typed(
    target: Program, values: dict[str, Any], *, skip: Iterable[str] = (), prefix: str = ""
) -> dict[str, Any]:
    """Turns plain values into the arguments that the type hints of `target` ask for.

    Args:
        target: A class or a function.
        values: Numbers, strings and plain containers; an object is
            `{"class_path": str, "init_args": {...}}`.
        skip: Parameters to leave out.
        prefix: What messages write before a parameter's name.

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
    except ValueError as error:  # jsonargparse wraps the errors of our constructors
        cause = error
        while cause is not None and not isinstance(cause, PvaeError):
            cause = cause.__cause__
        raise cause or PvaeError(one_line(error, prefix)) from None
    for name in _untyped(target):
        if arguments.get(name, ...) is None:
            raise PvaeError(f"--{prefix}{name}: must be given; it has no default.")
    return arguments


def _untyped(target: Program) -> list[str]:
    # jsonargparse treats a parameter without a type hint as optional.
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
    """Returns jsonargparse's message in one line, with the options as a user types them."""
    text = str(error)
    if missing := re.match(r"the following arguments are required: (.*)", text):
        options = ", ".join(f"--{prefix}{key}" for key in missing[1].split(", "))
        return f"{options}: must be given; it has no default."
    unknown = r"(?:Group '(.*)' does not accept option|Option) '(\S+)'(?: is not accepted)?$"
    if found := re.match(unknown, text):
        name = f"{found[1]}.{found[2]}" if found[1] else found[2]
        return f"--{prefix}{name}: there is no such option."
    text = re.sub(r"a typing\.Literal\[(.*?)\]", r"one of \1", text)
    text = re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", text)
    text = text.replace("Expected a int", "Expected an int")
    text = re.sub(rf"\b{FILE}\w+\.\w+", lambda found: in_file(found[0]), text)
    text = re.sub(r"Expected a dot import path string: (\S+)", r"there is no class \1", text)
    text = re.sub(r"Type .* expects a function or a callable class: (.*)\. Got .*", r"\1", text)
    key = re.match(r'Parser key "([^"]+)":', text)
    causes = text.partition("Errors:")[2].partition("\n  Given value")[0].split("\n    - ")[1:]
    causes = [cause for cause in dict.fromkeys(causes) if "NoneType" not in cause]
    # For a union, report the member whose class was found: the user meant this one.
    found = [c for c in causes if "given class_path" in c or "is not accepted" in c]
    text = "; ".join(found or causes) if causes else text[key.end() if key else 0 :]
    text = " ".join(text.split()).removesuffix(".")
    return f"--{prefix}{key[1]}: {text}." if key else f"{text}."
