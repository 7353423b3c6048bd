"""Writes a run's config.yaml, also of a pair that was trained in Python."""

import inspect
import os
import sys
from pathlib import Path
from typing import Any

import yaml
from pyro.nn import PyroModule

from pvae.data import Data
from pvae.nn import arguments
from pvae.pair import Program
from pvae.runtime import atomic
from pvae.training.checkpoint import plain
from pvae.training.source import keep_source
from pvae.version import __version__

__all__ = ["config_of_pair", "keep_config", "write_config"]

_GIVEN = {"model", "guide"}  # arguments that building the pair fills in


def write_config(run: str | os.PathLike[str], config: dict[str, Any]) -> None:
    """Writes config.yaml into a run folder, whole or not at all.

    Raises:
        PvaeError: If the file cannot be written.
    """
    text = yaml.safe_dump({**config, "pvae": __version__}, sort_keys=False, allow_unicode=True)
    with atomic(Path(run) / "config.yaml") as temporary:
        temporary.write_text(text, encoding="utf-8")


def keep_config(
    run: Path, model: Program, guide: Program, data: Any, options: dict[str, Any]
) -> None:
    """Writes the config and the source files of a pair that is trained in Python, if possible.

    It needs data from `pvae.data.load`, by name or file, and programs that can be imported:
    module-level functions, and objects whose constructor arguments are known and plain. Of
    `options`, the arguments of `fit`, it writes the plain ones.
    """
    pair, of_data = config_of_pair(model, guide), _data(data)
    if pair is not None and of_data is not None:
        kept = {name: v for name, value in options.items() if (v := _plain(value)) is not None}
        config = {**pair, "data": of_data, **kept}
        write_config(run, config)
        keep_source(run, config)


def config_of_pair(model: Program, guide: Program, data: Any = None) -> dict[str, Any] | None:
    """Returns the parts `model`, `guide` and, if known, `data` of a config; None if not known."""
    sides = {"model": _program(model), "guide": _program(guide)}
    if None in sides.values():
        return None
    of_data = _data(data)
    return sides if of_data is None else {**sides, "data": of_data}


def _data(data: Any) -> dict[str, Any] | None:
    if not isinstance(data, Data) or data.source is None:
        return None
    how = {
        "source": data.source,
        "observation": data.observation,
        "levels": data.asked_levels,
        "validation": data.asked_validation,
        "labels": data.train.labels,
        "mask": data.mask,
        "frames": data.frames,
        "window": data.window,
        "labelled": data.labelled,
        "balanced": None if data.labelled is None else data.balanced,
        "labelled_share": data.train.labelled_share,
        "seed": data.seed,
    }
    return {k: v for k, v in how.items() if v is not None}


def _program(program: Program) -> dict[str, Any] | None:
    is_function = inspect.isfunction(program)
    target = program if is_function else type(program)
    module, name = sys.modules.get(target.__module__), target.__qualname__
    found = module
    for part in name.split("."):
        found = getattr(found, part, None)
    if found is not target or inspect.ismethod(program):
        return None  # defined inside a function, or in a cell that was run again
    given = {} if is_function else arguments(program)
    if given is None:
        return None
    init_args = {k: _plain(v) for k, v in given.items() if k not in _GIVEN and v is not None}
    if None in init_args.values():
        return None
    package = target.__module__.split(".")
    if package[:2] in (["pvae", "models"], ["pvae", "guides"]):
        path = f"pvae.{package[1]}.{name}"
    elif target.__module__ == "__main__" or package[0].startswith("pvae_file_"):
        file = getattr(module, "__file__", None)
        if not (file and Path(file).is_file()):
            return None
        path = f"{file}:{name}"
    else:
        path = f"{target.__module__}.{name}"
    return {"class_path": path, "init_args": init_args}


def _plain(value: Any) -> Any:
    """Returns a number, a string, a list of these or a part's config; None for anything else."""
    if isinstance(value, PyroModule):  # a head, or a model of codes
        return _program(value)
    value = plain(value)
    if isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, tuple | list):
        parts = [_plain(part) for part in value]
        return None if None in parts else parts
    return None
