"""Reads the config of a run, or a part of one, from YAML."""

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


def read_config(run: str | os.PathLike[str], *, trust: bool = False) -> dict[str, Any]:
    """Reads the config of a run: everything that is needed to repeat it.

    Args:
        run: The folder of a run, or the path of its config.yaml.
        trust: Whether it may name code outside of pvae, torch and Pyro. Building the pair runs
            that code.

    Returns:
        `model` and `guide` (`{"class_path": str, "init_args": {...}}`), `data`, `seed` and the
        options of `pvae.fit` and `pvae.evaluate`.

    Raises:
        PvaeError: There is no config, it is not complete, or it names code that is not trusted.
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


def renamed(config: Any, rule: Callable[[str], str]) -> Any:
    """Returns a copy of plain values in which a rule has changed every class path."""
    config = copy.deepcopy(config)
    for part in with_class(config):
        part["class_path"] = rule(part["class_path"])
    return config


def names_of(config: dict[str, Any]) -> dict[str, Any]:
    """Returns the parts of a config that can name code, model and guide by their full names."""
    sides = {
        side: {**config[side], "class_path": full_name(config[side]["class_path"], f"{side}s")}
        for side in ("model", "guide")
        if side in config
    }
    return {key: value for key, value in config.items() if key not in ("data", "pvae")} | sides


def load_yaml(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads a config file, or the config.yaml of a folder; it need not be complete."""
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
    """Replaces class paths of modules that have moved since."""
    for part in with_class(config):
        module, dot, name = part["class_path"].rpartition(".")
        part["class_path"] = f"{_MOVED.get(module, module)}{dot}{name}"
