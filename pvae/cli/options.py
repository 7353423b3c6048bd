"""Parses a command line: options from type hints, a config file, and their defaults."""

import argparse
import copy
import functools
import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from pvae.errors import PvaeError, nearest

__all__ = ["HELP_OF", "PLACES", "PROGRAMS", "SIDES", "UsageError", "new_parser", "parse", "values"]

SIDES = {"model": "VAE", "guide": "MeanField"}
PROGRAMS = {"model", "guide", "data"}
SHARED = ("latent_dim", "latent_dims")
PLACES = {"config", "resume", "out", "overwrite", "trust"}
HELP_OF = {
    "config": "A YAML file with options, such as the config.yaml of a run, which repeats the run; "
    "options on the command line override it.",
    "trust": "Import what the config names beside classes of pvae, torch and Pyro, and so run its "
    "code.",
    "resume": "Continue the run in this folder.",
    "out": "The run folder (default: runs/DATA-MODEL-N).",
    "init": "Where the parameters start: 'glorot' draws the weights as Glorot & Bengio do and sets "
    "the output to the mean of the data (default: as the classes make them).",
    "model": "A name in pvae.models, my_package.MyModel, path/to/file.py:MyModel or "
    "path/to/file.py:Both.model (default: VAE).",
    "guide": "The same for the guide: a name in pvae.guides, or a class (default: MeanField).",
    "data": "A data set's name or a .npy, .npz or .pt file (default: digits).",
}


class UsageError(PvaeError):
    """The command line is wrong."""


def parse(command: str, argv: list[str]) -> tuple[dict[str, Any], argparse.Namespace]:
    """Returns the config of a command line, and the options that say where the run is written."""
    import pyro
    import yaml

    from pvae.runs import from_file, in_file, renamed, resolve, shared

    # jsonargparse can type the rest only once the classes are known.
    early, rest = _early(argv)
    config = _start(early)
    if (early.config or early.resume) and not early.trust:
        _check_names(config, early.config or early.resume, argv, rest)
    if command == "check":  # of a run's config, what it takes
        config = {key: config[key] for key in config.keys() & {*PROGRAMS, *_of_check()}}
    # A file may draw parameters when it is run.
    pyro.set_rng_seed(config["seed"])
    targets = {side: resolve(config[side]["class_path"], f"{side}s") for side in SIDES}
    if shared(*(config[side]["class_path"] for side in SIDES)):
        targets["guide"] = None  # the object is made from the model's arguments
        config["guide"]["init_args"] = {}
    for name in SHARED:
        _share(name, config, early, targets, rest)
    init_args = {side: config[side]["init_args"] for side in SIDES}
    shapes = {side: init_args[side].pop("event_shape", None) for side in SIDES}
    if any(argument.startswith("--data.") for argument in rest) or early.data:
        shapes = dict.fromkeys(SIDES)
    source = config["data"].pop("source")

    parser = _run_parser(command, targets)
    base = {key: value for key, value in (config | init_args).items() if value != {}}
    _drop_replaced(base, rest)
    start = yaml.safe_dump(renamed(base, from_file))
    found = renamed(values(parser, ["--config", start, *_from_files(rest)]), in_file)
    for side in SIDES:
        config[side]["init_args"] = found.pop(side, None) or {}
        if shape := getattr(early, f"{side}.event_shape") or shapes[side]:
            config[side]["init_args"]["event_shape"] = list(shape)
    config["data"] = {"source": source} | found.pop("data", {})
    config |= {key: value for key, value in found.items() if key not in PLACES}
    _share_inner(config, "optim", "lr", base, rest)
    _share_inner(config, "loss", "num_particles", base, rest)
    return config, early


def _check_names(config: dict[str, Any], where: str, argv: list[str], rest: list[str]) -> None:
    """Refuses names in a config that are neither trusted nor typed on this command line."""
    from pvae.runs import check_trust, full_name, names_of

    typed = {part for argument in argv for part in (argument, argument.partition("=")[2])}
    typed |= {full_name(name, f"{side}s") for name in typed for side in SIDES}
    names = names_of(copy.deepcopy(config))
    programs = {side: names.pop(side) for side in SIDES}
    kept = names | {side: program["init_args"] for side, program in programs.items()}
    _drop_replaced(kept, rest)
    check_trust([kept, *(p["class_path"] for p in programs.values())], str(where), typed)


def _of_check() -> set[str]:
    from pvae.diagnosis import diagnose

    return {*inspect.signature(diagnose).parameters}


def _early(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    import yaml

    argv = [re.sub(r"^--(model|guide)\.init_args\.", r"--\1.", a) for a in _underscored(argv)]
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for name in ("config", "resume", "out", "data", *SIDES):
        parser.add_argument(f"--{name}")
    for name in (*SHARED, "event_shape"):
        for side in SIDES:
            parser.add_argument(f"--{side}.{name}", type=yaml.safe_load)
    parser.add_argument("--seed", type=int)
    for name in ("overwrite", "trust"):
        parser.add_argument(f"--{name}", action="store_true")
    try:
        early, rest = parser.parse_known_args(argv)
    except argparse.ArgumentError as error:
        raise UsageError(str(error)) from None
    for name in ("config", "resume", "out", "data", *SIDES):
        if getattr(early, name) == "":
            raise UsageError(f"--{name}: the word behind it is empty; leave out the option instead")
    if early.resume:
        _check_resume(argv, early.resume)
    return early, rest


def _check_resume(argv: list[str], run: str) -> None:
    # Training continues unchanged; options of the evaluation may change.
    free = names_of_evaluation() | {"resume", "device", "progress", "trust", "epochs"}
    names = {argument.partition("=")[0] for argument in argv if argument.startswith("--")}
    if fixed := sorted(names - {f"--{name}" for name in free}):
        raise UsageError(
            f"{fixed[0]} cannot go with --resume, which continues a run as it began; "
            f"`pvae run --config {run}` with other options starts a new one"
        )


def _start(early: argparse.Namespace) -> dict[str, Any]:
    """Returns the config file's content, completed and overridden by the early options."""
    from pvae.runs import full_name, load_yaml, read_config
    from pvae.runtime import check_seed
    from pvae.training import with_own_source

    config = {}
    if early.resume:
        config = with_own_source(Path(early.resume), read_config(early.resume, trust=True))
    if early.config:
        path = Path(early.config)
        run = path if path.is_dir() else path.parent
        config = with_own_source(run, load_yaml(early.config), missing=True)
    config.pop("pvae", None)
    config["seed"] = config.get("seed", 0) if early.seed is None else early.seed
    if type(config["seed"]) is not int:
        raise PvaeError(f"seed: expected an integer, and the config has {config['seed']!r}")
    try:
        check_seed(config["seed"])
    except PvaeError as error:
        raise (PvaeError if early.seed is None else UsageError)(f"--{error}") from None
    for side, default in SIDES.items():
        program = _mapping(config, side, "class_path")
        stored = full_name(program.get("class_path", default), f"{side}s")
        chosen = full_name(getattr(early, side) or stored, f"{side}s")
        init_args = _mapping(program, "init_args") if chosen == stored else {}
        config[side] = {"class_path": chosen, "init_args": init_args}
    config["data"] = {"source": "digits"} | _mapping(config, "data", "source")
    if early.data:
        config["data"]["source"] = early.data
    return config


def _mapping(config: dict[str, Any], key: str, short: str | None = None) -> dict[str, Any]:
    """Returns a copy of a part of a config; a bare name stands for `{short: name}`."""
    value = config.get(key)
    value = {} if value is None else value
    if value and short and isinstance(value, str):
        value = {short: value}
    if not isinstance(value, dict) or not (
        isinstance(found := value.get(short, key), str) and found
    ):
        raise PvaeError(f"{key}: the config has {value!r} where options are expected")
    return dict(value)


def _share(
    name: str,
    config: dict[str, Any],
    early: argparse.Namespace,
    targets: dict[str, Any],
    rest: list[str],
) -> None:
    """Makes one side's value the other side's default; the command line has priority."""
    from pvae.runs import parameters

    typed = {side: getattr(early, f"{side}.{name}") for side in SIDES}
    stored = {side: config[side]["init_args"].get(name) for side in SIDES}
    for side, other in (("model", "guide"), ("guide", "model")):
        # A value of the wrong type is reported on the side where it was typed.
        shared_value = typed[other] if isinstance(typed[other], int | list) else None
        order = (typed[side], shared_value, stored[side], stored[other])
        value = next((value for value in order if value is not None), None)
        shared = isinstance(targets[side], type) and name in parameters(targets[side])
        if value is not None and shared:
            config[side]["init_args"][name] = value
        elif typed[side] is not None:  # an option that this class does not have
            rest.append(f"--{side}.{name}={typed[side]}")


def _share_inner(
    config: dict[str, Any], place: str, name: str, stored: dict[str, Any], rest: list[str]
) -> None:
    """Gives the class in `place` the value of `--name`, unless it has a value of its own.

    The class's default does not count as its own value.
    """
    init_args = _init_args(config.get(place))
    if name not in init_args:
        return
    options = {argument.partition("=")[0] for argument in rest}
    typed = options & {f"--{place}.{name}", f"--{place}.init_args.{name}"}
    if typed or (name in _init_args(stored.get(place)) and f"--{name}" not in options):
        config[name] = init_args[name]
    else:
        init_args[name] = config[name]


def _init_args(part: Any) -> dict[str, Any]:
    return part.get("init_args") or {} if isinstance(part, dict) else {}


def _drop_replaced(base: dict[str, Any], rest: list[str]) -> None:
    """Drops an object of a config if the command line names another one for its place."""
    for argument in rest:
        *parents, key = re.sub(r"^--|=.*", "", argument).split(".")
        node: Any = base
        for parent in parents:
            node = node.get(parent) if isinstance(node, dict) else None
        if argument.startswith("--") and isinstance(node, dict) and isinstance(node.get(key), dict):
            del node[key]


def _from_files(argv: list[str]) -> list[str]:
    """Replaces classes of files by names that jsonargparse can import."""
    from pvae.runs import from_file

    parts = (a.partition("=") if a.startswith("--") else ("", "", a) for a in argv)
    return [f"{option}{sign}{from_file(value)}" for option, sign, value in parts]


def _underscored(argv: list[str]) -> list[str]:
    return [re.sub(r"(?<=^--)[^=]+", lambda m: m[0].replace("-", "_"), a) for a in argv]


def _check_options(parser: Any, rest: list[str]) -> None:
    known = {name for action in parser._actions for name in action.option_strings}
    # jsonargparse checks what follows a dot, if the option before the dot takes an object.
    objects = tuple(f"{name}." for name in known - {f"--{name}" for name in PROGRAMS})
    for name in (argument.partition("=")[0] for argument in rest if argument.startswith("--")):
        if name not in known and not name.startswith(objects):
            close = nearest(name, known)
            close = close if close.startswith("Did") else f"`{parser.prog} --help` lists them."
            raise UsageError(f"there is no option {name}. {close}")


def add_evaluation(parser: Any, skip: set[str]) -> None:
    """Adds the options of `pvae.evaluate` and those of each estimator."""
    seen = PROGRAMS | {"estimators"} | skip
    for function in _of_evaluation():
        parser.add_function_arguments(function, skip=set(seen), fail_untyped=False)
        seen |= inspect.signature(function).parameters.keys()


def names_of_evaluation() -> set[str]:
    """Returns the options that training does not take."""
    from pvae.training import fit

    names = (inspect.signature(each).parameters.keys() for each in _of_evaluation())
    return set().union(*names) - inspect.signature(fit).parameters.keys()


def estimators_of(config: dict[str, Any]) -> list[Any]:
    """Returns the estimators that a config asks for."""
    _, *functions = _of_evaluation()
    found = (function(**options_of(function, config)) for function in functions)
    return [each for each in found if each is not None]


def _of_evaluation() -> list[Callable[..., Any]]:
    from pvae.evaluation import evaluate, find_estimators

    return [evaluate, *map(_named, find_estimators())]


def _named(kind: Any) -> Callable[..., Any]:
    """Returns `from_options` under the estimator's name, which tells groups of options apart."""

    @functools.wraps(kind.from_options)
    def function(**options: Any) -> Any:
        return kind.from_options(**options)

    function.__name__ = kind.__name__
    return function


def _run_parser(command: str, targets: dict[str, Any]) -> Any:
    from pvae.data import load
    from pvae.diagnosis import diagnose
    from pvae.runs import GIVEN
    from pvae.training import fit

    parser = new_parser(command)
    if command == "check":
        parser.usage = "pvae check [MODEL GUIDE] [OPTIONS]"
    parser.add_argument("--config", action="config", metavar="FILE", help=HELP_OF["config"])
    parser.add_argument("--trust", action="store_true", help=HELP_OF["trust"])
    if command != "check":
        parser.add_argument("--out", metavar="DIR", help=HELP_OF["out"])
        parser.add_argument("--overwrite", action="store_true", help="Replace the run in --out.")
        parser.add_argument("--resume", metavar="RUN", help=HELP_OF["resume"])
        parser.add_argument("--init", type=Literal["glorot"] | None, help=HELP_OF["init"])
    for side, target in targets.items():
        if isinstance(target, type):
            parser.add_class_arguments(target, side, skip=GIVEN[side], fail_untyped=False)
    parser.add_function_arguments(load, "data", skip={"source"}, fail_untyped=False)
    if command == "check":
        parser.add_function_arguments(diagnose, skip=PROGRAMS, fail_untyped=False)
    else:
        parser.add_function_arguments(fit, skip=PROGRAMS | {"out", "resume"}, fail_untyped=False)
        add_evaluation(parser, set(inspect.signature(fit).parameters))
    for name in ("model", "guide", "data"):
        group = [action for action in parser._actions if f"--{name}" in action.option_strings]
        action = group[0] if group else parser.add_argument(f"--{name}")
        action.help, action.metavar = HELP_OF[name], "NAME"
    return parser


def new_parser(command: str) -> Any:
    from jsonargparse import ArgumentParser, DefaultHelpFormatter

    class Formatter(DefaultHelpFormatter):
        def _expand_help(self, action: argparse.Action) -> str:
            text = super()._expand_help(action)
            classes = re.search(r", known subclasses: ([^)]*)", text)
            many = classes and classes[1].count(",") > 40
            return text.replace(classes[0], "") if many else text

    return ArgumentParser(
        prog=f"pvae {command}", exit_on_error=False, print_config=None, formatter_class=Formatter
    )


def values(parser: Any, argv: list[str], *, defaults: bool = True) -> dict[str, Any]:
    """Returns the values of a command line as plain values."""
    import yaml

    from pvae.runs import one_line

    argv = _underscored(argv)
    _check_options(parser, argv)
    try:
        found = parser.parse_args(argv, defaults=defaults)
    except argparse.ArgumentError as error:
        text = one_line(error).replace("--run:", "RUN:").replace("--name:", "NAME:")
        raise UsageError(text) from None
    return yaml.safe_load(parser.dump(found, skip_unset=False)) or {}


def load_data(config: dict[str, Any]) -> Any:
    """Loads the data that a config names."""
    from pvae.data import load
    from pvae.runs import typed

    options = {key: value for key, value in config["data"].items() if key != "source"}
    options = typed(load, options, skip={"source"}, prefix="data.")
    return load(config["data"].get("source", "digits"), **options)


def options_of(function: Callable[..., Any], config: dict[str, Any]) -> dict[str, Any]:
    """Returns a function's arguments from a config, converted by its type hints."""
    from pvae.runs import typed

    names = inspect.signature(function).parameters.keys() - PROGRAMS - {"out", "resume"}
    values = {key: config[key] for key in names & config.keys()}
    return typed(function, values, skip=PROGRAMS | {"out", "resume"})
