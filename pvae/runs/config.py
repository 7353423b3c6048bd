"""Reads the config of a run, complete or partial, from YAML."""

import copy
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from pvae.errors import PvaeError
from pvae.runs.names import full_name
from pvae.runs.trust import check_trust
from pvae.runtime import check_seed
from pvae.training import with_class

__all__ = ["load_yaml", "names_of", "read_config", "renamed"]

_MOVED = {"pvae.multisample": "pvae.objectives"}  # modules that older configs name


def read_config(
    run: str | os.PathLike[str], *, trust: bool = False, data: bool = True
) -> dict[str, Any]:
    """Reads the config of a run: everything that is needed to repeat it.

    Args:
        run: The folder of a run, or the path of its config.yaml.
        trust: Whether the config may name code outside of pvae, torch and Pyro. Building the pair
            runs that code.
        data: Whether the config must name data. That of a saved pair need not.

    Returns:
        `model` and `guide` (`{"class_path": str, "init_args": {...}}`), `data`, `seed` and the
        options of `pvae.fit` and `pvae.evaluate`.

    Raises:
        PvaeError: There is no config, it is incomplete, or it names code that is not trusted.
    """
    config = load_yaml(run)
    valid = {
        "model": _is_program(config.get("model")),
        "guide": _is_program(config.get("guide")),
        "data": isinstance(config.get("data"), dict) or not (data or "data" in config),
        "seed": "seed" in config,
        "pvae": "pvae" in config,  # the version, which is written last
    }
    if wrong := [key for key, is_valid in valid.items() if not is_valid]:
        raise PvaeError(
            f"The config of {run} is incomplete: {', '.join(wrong)} is missing or not valid. "
            "`pvae run` and `pvae train` write complete configs."
        )
    check_seed(config["seed"])
    if not trust:
        check_trust(names_of(config), f"The config of {run}")
    return config


def _is_program(side: Any) -> bool:
    return (
        isinstance(side, dict)
        and isinstance(side.get("class_path"), str)
        and isinstance(side.get("init_args") or {}, dict)
    )


def renamed(config: Any, rule: Callable[[str], str]) -> Any:
    """Returns a copy of plain values with `rule` applied to every class path."""
    config = copy.deepcopy(config)
    for part in with_class(config):
        part["class_path"] = rule(part["class_path"])
    return config


def names_of(config: dict[str, Any]) -> dict[str, Any]:
    """Returns the parts of a config that can name code, with the full names of model and guide."""
    sides = {
        side: {**config[side], "class_path": full_name(config[side]["class_path"], f"{side}s")}
        for side in ("model", "guide")
        if side in config
    }
    plain = ("data", "foreign", "from", "freeze", "pvae")
    return {key: value for key, value in config.items() if key not in plain} | sides


def load_yaml(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads a config file, or the config.yaml of a folder; the config may be partial."""
    path = Path(path)
    file = path / "config.yaml" if path.is_dir() else path
    try:
        config = yaml.safe_load(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        what = f"{path} has no config.yaml" if path.is_dir() else f"There is no {path}"
        raise PvaeError(f"{what}. `pvae run` and `pvae train` make run folders.") from None
    except OSError as error:
        raise PvaeError(f"Cannot read {file}: {error.strerror}.") from None
    except RecursionError:
        raise PvaeError(f"{file} is not a config of pvae: it is nested too deeply.") from None
    except (yaml.YAMLError, ValueError, IndexError, TypeError, AttributeError) as error:
        text = " ".join(str(error).split())
        raise PvaeError(f"{file} is damaged or not a config: {text}.") from None
    if not isinstance(config, dict) or not all(isinstance(key, str) for key in config):
        raise PvaeError(f"{file} is not a config of pvae: it is not a mapping of options.")
    _update(config)
    return config


def _update(config: dict[str, Any]) -> None:
    """Replaces what older versions wrote: modules that have moved, and an argument of heads."""
    for part in with_class(config):
        module, dot, name = part["class_path"].rpartition(".")
        part["class_path"] = f"{_MOVED.get(module, module)}{dot}{name}"
        init_args = part.get("init_args")
        if isinstance(init_args, dict) and init_args.get("name") == "":  # PyroModule's default
            del init_args["name"]
