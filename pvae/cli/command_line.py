"""Turns a command line and a config file into one complete config."""

import argparse
import copy
import inspect
import re
from pathlib import Path
from typing import Any

import pyro
import yaml

from pvae.cli.options import names_of_evaluation, parser_of_pair
from pvae.cli.parser import PROGRAMS, underscored, values
from pvae.cli.usage import UsageError
from pvae.diagnosis import diagnose
from pvae.errors import PvaeError
from pvae.runs import (
    check_trust,
    from_file,
    full_name,
    in_file,
    load_yaml,
    names_of,
    parameters,
    read_config,
    renamed,
    resolve,
    shared,
)
from pvae.runtime import check_seed
from pvae.training import with_own_source

__all__ = ["PLACES", "parse"]

PLACES = {"config", "resume", "out", "overwrite", "trust"}
"""Options that are not part of a config."""

_SIDES = {"model": "VAE", "guide": "MeanField"}
_SHARED = ("latent_dim", "latent_dims", "num_latents", "num_categories")


def parse(command: str, argv: list[str]) -> tuple[dict[str, Any], argparse.Namespace]:
    """Returns the config of a command line, and the options that say where the run is written.

    Raises:
        UsageError: An option is wrong.
        PvaeError: A file or a class cannot be found, or the config names code that is not trusted.
    """
    # The classes have to be known before jsonargparse can type the other options.
    early, rest = _early(argv)
    config = _start(early)
    if (early.config or early.resume) and not early.trust:
        _check_names(config, early.config or early.resume, argv, rest)
    if command == "check":  # only what a check takes
        taken = {*PROGRAMS, *inspect.signature(diagnose).parameters}
        config = {key: config[key] for key in config.keys() & taken}
    pyro.set_rng_seed(config["seed"])  # a file may draw parameters when it is run
    names = {side: config[side]["class_path"] for side in _SIDES}
    targets = {side: resolve(name, f"{side}s") for side, name in names.items()}
    if shared(*names.values()):
        targets["guide"] = None  # the object is made from the model's arguments
        config["guide"]["init_args"] = {}
    for name in _SHARED:
        _share(name, config, early, targets, rest)
    init_args = {side: config[side]["init_args"] for side in _SIDES}
    shapes = {side: init_args[side].pop("event_shape", None) for side in _SIDES}
    if any(argument.startswith("--data.") for argument in rest) or early.data:
        shapes = dict.fromkeys(_SIDES)
    source = config["data"].pop("source")

    base = {key: value for key, value in (config | init_args).items() if value != {}}
    _drop_replaced(base, rest)
    start = yaml.safe_dump(renamed(base, from_file))
    rest_of_files = _from_files(rest)
    found = values(parser_of_pair(command, targets), ["--config", start, *rest_of_files])
    found = renamed(found, in_file)
    for side in _SIDES:
        config[side]["init_args"] = found.pop(side, None) or {}
        if shape := getattr(early, f"{side}.event_shape") or shapes[side]:
            config[side]["init_args"]["event_shape"] = list(shape)
    config["data"] = {"source": source} | found.pop("data", {})
    config |= {key: value for key, value in found.items() if key not in PLACES}
    _share_inner(config, "optim", "lr", base, rest)
    _share_inner(config, "loss", "num_particles", base, rest)
    return config, early


def _early(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """Parses the options that have to be known before the classes, and returns the others."""
    argv = [re.sub(r"^--(model|guide)\.init_args\.", r"--\1.", a) for a in underscored(argv)]
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    words = ("config", "resume", "out", "data", *_SIDES)
    for name in words:
        parser.add_argument(f"--{name}")
    for name in (*_SHARED, "event_shape"):
        for side in _SIDES:
            parser.add_argument(f"--{side}.{name}", type=yaml.safe_load)
    parser.add_argument("--seed", type=int)
    for name in ("overwrite", "trust"):
        parser.add_argument(f"--{name}", action="store_true")
    try:
        early, rest = parser.parse_known_args(argv)
    except argparse.ArgumentError as error:
        raise UsageError(f"{error}.") from None
    for name in words:
        if getattr(early, name) == "":
            raise UsageError(f"--{name}: the value is empty. Give one, or leave the option out.")
    if early.resume:
        _check_resume(argv, early.resume)
    return early, rest


def _check_resume(argv: list[str], run: str) -> None:
    """Refuses options that would change a resumed training; its evaluation may change."""
    free = names_of_evaluation() | {"resume", "device", "progress", "trust", "epochs", "logger"}
    names = {argument.partition("=")[0] for argument in argv if argument.startswith("--")}
    if fixed := sorted(names - {f"--{name}" for name in free}):
        raise UsageError(
            f"{fixed[0]} cannot be used with --resume, which continues a run with its own options. "
            f"`pvae run --config {run}` with other options starts a new run."
        )


def _start(early: argparse.Namespace) -> dict[str, Any]:
    """Returns the content of the config file, with defaults and the early options."""
    config = {}
    if early.resume:
        config = with_own_source(Path(early.resume), read_config(early.resume, trust=True))
    if early.config:
        path = Path(early.config)
        run = path if path.is_dir() else path.parent
        config = with_own_source(run, load_yaml(early.config), missing=True)
    config.pop("pvae", None)
    try:
        seed = config.get("seed", 0) if early.seed is None else early.seed
        config["seed"] = check_seed(seed)
    except PvaeError as error:
        if early.seed is None:
            raise
        raise UsageError(f"--{error}") from None
    for side, default in _SIDES.items():
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
        expected = f"a name, or a mapping with {short}," if short else "a mapping"
        raise PvaeError(f"{key}: {expected} is expected in the config, not {value!r}.")
    return dict(value)


def _check_names(config: dict[str, Any], where: str, argv: list[str], rest: list[str]) -> None:
    """Refuses names in a config that are neither trusted nor typed on this command line."""
    typed = {part for argument in argv for part in (argument, argument.partition("=")[2])}
    typed |= {full_name(name, f"{side}s") for name in typed for side in _SIDES}
    names = names_of(copy.deepcopy(config))
    programs = {side: names.pop(side) for side in _SIDES}
    kept = names | {side: program["init_args"] for side, program in programs.items()}
    _drop_replaced(kept, rest)
    check_trust([kept, *(p["class_path"] for p in programs.values())], str(where), typed)


def _share(
    name: str,
    config: dict[str, Any],
    early: argparse.Namespace,
    targets: dict[str, Any],
    rest: list[str],
) -> None:
    """Makes one side's value the other side's default; the command line has priority."""
    typed = {side: getattr(early, f"{side}.{name}") for side in _SIDES}
    stored = {side: config[side]["init_args"].get(name) for side in _SIDES}
    for side, other in (("model", "guide"), ("guide", "model")):
        # A value of the wrong type is reported on the side where it was typed.
        shared_value = typed[other] if isinstance(typed[other], int | list) else None
        order = (typed[side], shared_value, stored[side], stored[other])
        value = next((value for value in order if value is not None), None)
        takes = isinstance(targets[side], type) and name in parameters(targets[side])
        if value is not None and takes:
            config[side]["init_args"][name] = value
        elif typed[side] is not None:  # this class has no such option, which is reported later
            rest.append(f"--{side}.{name}={typed[side]}")


def _share_inner(
    config: dict[str, Any], place: str, name: str, stored: dict[str, Any], rest: list[str]
) -> None:
    """Gives the object in `place` the value of `--name`, unless its own value was set.

    The default of the object's class does not count as set.
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
    """Drops an object of a config if the command line replaces it by another one."""
    for argument in rest:
        *parents, key = re.sub(r"^--|=.*", "", argument).split(".")
        node: Any = base
        for parent in parents:
            node = node.get(parent) if isinstance(node, dict) else None
        if argument.startswith("--") and isinstance(node, dict) and isinstance(node.get(key), dict):
            del node[key]


def _from_files(argv: list[str]) -> list[str]:
    """Replaces classes of files by names that jsonargparse can import."""
    parts = (a.partition("=") if a.startswith("--") else ("", "", a) for a in argv)
    return [f"{option}{sign}{from_file(value)}" for option, sign, value in parts]
