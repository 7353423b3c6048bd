"""Writes a run's config.yaml, and makes the config of a pair that Python trained."""

import inspect
import os
import sys
from pathlib import Path
from typing import Any

import yaml

from pvae.data import Data
from pvae.distributions import Head
from pvae.nn import arguments
from pvae.pair import Program
from pvae.runtime import atomic
from pvae.training.source import keep_source
from pvae.version import __version__

__all__ = ["keep_config", "write_config"]

_GIVEN = {"model", "guide"}  # arguments that are filled in when the pair is built


def write_config(run: str | os.PathLike[str], config: dict[str, Any]) -> None:
    """Writes config.yaml into a run folder, all of it or nothing.

    Raises:
        PvaeError: The file cannot be written there.
    """
    text = yaml.safe_dump({**config, "pvae": __version__}, sort_keys=False, allow_unicode=True)
    with atomic(Path(run) / "config.yaml") as temporary:
        temporary.write_text(text, encoding="utf-8")


def keep_config(
    run: Path, model: Program, guide: Program, data: Any, options: dict[str, Any]
) -> None:
    """Writes the config and the source files of a pair that Python trains, if that is possible.

    It is possible for data from `pvae.data.load` by name or file, and for programs that can be
    imported: module-level functions, and objects whose constructor arguments are known and plain.

    Args:
        run: The run's folder.
        model: Pyro program.
        guide: Pyro program.
        data: The data.
        options: Arguments of `fit`; those that are not plain are left out.
    """
    if (config := _config(model, guide, data, options)) is not None:
        write_config(run, config)
        keep_source(run, config)


def _config(
    model: Program, guide: Program, data: Any, options: dict[str, Any]
) -> dict[str, Any] | None:
    if not isinstance(data, Data) or data.source is None:
        return None
    sides = {"model": _program(model), "guide": _program(guide)}
    if None in sides.values():
        return None
    how = {
        "source": data.source,
        "observation": data.observation,
        "levels": data.asked_levels,
        "validation": 0 if data.validation is None else len(data.validation),
        "labels": data.train.labels,
        "seed": data.seed,
    }
    kept = {name: value for name, value in options.items() if _plain(value) is not None}
    return {**sides, "data": {k: v for k, v in how.items() if v is not None}, **kept}


def _program(program: Program) -> dict[str, Any] | None:
    target, init_args = (program, {}) if inspect.isfunction(program) else (type(program), None)
    module, name = sys.modules.get(target.__module__), target.__qualname__
    found = module
    for part in name.split("."):
        found = getattr(found, part, None)
    if found is not target or inspect.ismethod(program):
        return None  # defined inside of a function, or in a cell that was run again
    if init_args is None:
        init_args = arguments(program)
        if init_args is None:
            return None
        init_args = {
            k: _plain(v) for k, v in init_args.items() if k not in _GIVEN and v is not None
        }
        if None in init_args.values():
            return None
    package = target.__module__.split(".")
    if package[:2] in (["pvae", "models"], ["pvae", "guides"]):
        path = f"pvae.{package[1]}.{name}"
    elif target.__module__ == "__main__" or package[0].startswith("pvae_file_"):
        file = getattr(module, "__file__", None)
        if file is None or not Path(file).is_file():
            return None
        path = f"{file}:{name}"
    else:
        path = f"{target.__module__}.{name}"
    return {"class_path": path, "init_args": init_args}


def _plain(value: Any) -> Any:
    """Returns numbers, strings, lists of them, and what makes a head; None for anything else."""
    if isinstance(value, Head):
        return _program(value)
    if isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, tuple | list):
        parts = [_plain(part) for part in value]
        return None if None in parts else parts
    return None
