"""The options of the shell's commands, from the type hints of the functions that they call."""

import functools
import inspect
from collections.abc import Callable
from typing import Any, Literal

from jsonargparse import ArgumentParser

from pvae.cli.parser import PROGRAMS, new_parser
from pvae.cli.usage import HELP_OF, UsageError
from pvae.data import GIVEN_FRAMES, Data, load
from pvae.diagnosis import diagnose
from pvae.errors import PvaeError
from pvae.evaluation import check_counts, evaluate, find_estimators
from pvae.pair import Program, name_of, signature_of
from pvae.runs import GIVEN, read_codes, typed
from pvae.runtime import check_memory, check_seed
from pvae.training import fit

__all__ = [
    "add_evaluation",
    "check_given",
    "check_numbers",
    "estimators_of",
    "listed",
    "load_data",
    "names_of_evaluation",
    "options_of",
    "parser_of_pair",
    "take_given",
]

NOT_OPTIONS = {"out", "resume", "callbacks"}
"""Arguments of `fit` that the shell fills in."""

LoggerName = Literal["tensorboard", "wandb", "mlflow"]


def parser_of_pair(command: str, targets: dict[str, Any]) -> ArgumentParser:
    """Returns the parser of a command that builds a pair, with the options of its classes.

    Args:
        command: "run", "train" or "check".
        targets: The class or the function of `model` and `guide`.
    """
    check = command == "check"
    parser = new_parser(command, "[MODEL GUIDE]" if check else "")
    parser.add_argument("--config", action="config", metavar="FILE", help=HELP_OF["config"])
    parser.add_argument("--trust", action="store_true", help=HELP_OF["trust"])
    parser.add_argument("--given", type=list[str] | str | None, help=HELP_OF["given"])
    if not check:
        parser.add_argument("--out", metavar="DIR", help=HELP_OF["out"])
        parser.add_argument("--overwrite", action="store_true", help=HELP_OF["overwrite"])
        parser.add_argument("--resume", metavar="RUN", help=HELP_OF["resume"])
        parser.add_argument("--init", type=Literal["glorot"] | None, help=HELP_OF["init"])
        parser.add_argument(
            "--from", metavar="RUN", type=list[str] | str | None, help=HELP_OF["from"]
        )
        parser.add_argument("--freeze", type=list[str] | str | None, help=HELP_OF["freeze"])
        parser.add_argument(
            "--logger", type=list[LoggerName] | LoggerName | None, help=HELP_OF["logger"]
        )
    for side, target in targets.items():
        if isinstance(target, type):
            parser.add_class_arguments(target, side, skip=GIVEN[side], fail_untyped=False)
    parser.add_function_arguments(load, "data", skip={"source"}, fail_untyped=False)
    if check:
        parser.add_function_arguments(diagnose, skip=PROGRAMS, fail_untyped=False)
    else:
        parser.add_function_arguments(fit, skip=PROGRAMS | NOT_OPTIONS, fail_untyped=False)
        add_evaluation(parser, set(inspect.signature(fit).parameters))
    for name in ("model", "guide", "data"):
        group = [action for action in parser._actions if f"--{name}" in action.option_strings]
        action = group[0] if group else parser.add_argument(f"--{name}")
        action.help, action.metavar = HELP_OF[name], "NAME"
    return parser


def add_evaluation(parser: ArgumentParser, skip: set[str]) -> None:
    """Adds the options of `pvae.evaluate` and of each estimator."""
    seen = PROGRAMS | {"estimators"} | skip
    for function in _of_evaluation():
        parser.add_function_arguments(function, skip=set(seen), fail_untyped=False)
        seen |= inspect.signature(function).parameters.keys()


def names_of_evaluation() -> set[str]:
    """Returns the options of an evaluation that training does not have."""
    names = (inspect.signature(each).parameters.keys() for each in _of_evaluation())
    return set().union(*names) - inspect.signature(fit).parameters.keys()


def estimators_of(config: dict[str, Any]) -> list[Any]:
    """Returns the estimators that a config asks for."""
    _, *functions = _of_evaluation()
    found = (function(**options_of(function, config)) for function in functions)
    return [each for each in found if each is not None]


def _of_evaluation() -> list[Callable[..., Any]]:
    return [evaluate, *map(_named, find_estimators())]


def _named(kind: Any) -> Callable[..., Any]:
    """Returns `from_options` under the estimator's name, which separates the groups of options."""

    @functools.wraps(kind.from_options)
    def function(**options: Any) -> Any:
        return kind.from_options(**options)

    function.__name__ = kind.__name__
    return function


def check_numbers(config: dict[str, Any]) -> None:
    """Raises a UsageError for a wrong number, before anything is loaded or written."""
    try:
        check_counts(config.get("num_samples", 1), config.get("num_data"))
        estimators_of(config)
        check_memory(config.get("memory"))
        check_seed(config.get("seed", 0))
    except PvaeError as error:
        raise UsageError(f"--{error}") from None


def listed(names: str | list[str] | None) -> list[str]:
    """Returns the value of an option that takes one name or several."""
    return [names] if isinstance(names, str) else names or []


def take_given(config: dict[str, Any]) -> list[str]:
    """Takes --given out of a config, and asks for the labels of the data if there are other names.

    Of videos, --data.frames makes the fields of given frames.
    """
    names = listed(config.pop("given", None))
    if set(names) - GIVEN_FRAMES:
        config["data"]["labels"] = True
    return names


def check_given(names: list[str], data: Data, model: Program) -> None:
    """Raises a UsageError if the data or the model's arguments have no field of such a name."""
    signature = signature_of(model)
    taken = [] if signature is None else [n for n in signature.parameters if n not in ("x", "size")]
    for name in names:
        if name not in data.train.names:
            raise UsageError(
                f"--given {name}: the data {data.name} have no such field; they have "
                f"{', '.join(data.train.names)}."
            )
        if signature is not None and name not in taken:
            raise UsageError(
                f"--given {name}: {name_of(model)} takes "
                f"{f'no {name}, but ' + ', '.join(taken) if taken else 'nothing beside x'}."
            )


def load_data(config: dict[str, Any], *, trust: bool = False) -> Data:
    """Loads the data that a config names."""
    options = {key: value for key, value in config["data"].items() if key != "source"}
    options = typed(load, options, skip={"source"}, prefix="data.")
    source = config["data"].get("source", "digits")
    if source.startswith("codes:"):
        return read_codes(source, **options, trust=trust)
    return load(source, **options)


def options_of(function: Callable[..., Any], config: dict[str, Any]) -> dict[str, Any]:
    """Returns a function's arguments from a config, converted by its type hints."""
    skip = PROGRAMS | NOT_OPTIONS
    names = inspect.signature(function).parameters.keys() - skip
    return typed(function, {key: config[key] for key in names & config.keys()}, skip=skip)
