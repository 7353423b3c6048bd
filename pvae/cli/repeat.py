"""The command that repeats a run, with the options that are not the defaults."""

import shlex
from typing import Any

import yaml

from pvae.cli.command_line import PLACES, parse

__all__ = ["command_of"]

_ELSEWHERE = {*PLACES, "pvae", "progress"}  # what decides no number


def command_of(config: dict[str, Any] | None, command: str = "run") -> str | None:
    """Returns the shortest command line that gives a config; None if there is none.

    Args:
        config: The content of `config.yaml`.
        command: `"run"` or `"train"`.
    """
    if not config:
        return None
    names = [f"--{side}={config[side]['class_path']}" for side in ("model", "guide")]
    names.append(f"--data={config['data']['source']}")
    try:
        usual, _ = parse(command, names)
        options = list(_differences(config, usual, ""))
        short = [each for each in names if not _is_usual(each)]
        found, _ = parse(command, short + options)
    except Exception:  # code that is not here, or options of another version
        return None
    if _compared(found) != _compared(config):
        return None
    words = [each.replace("=pvae.models.", "=").replace("=pvae.guides.", "=") for each in short]
    return shlex.join([part for each in ["pvae", command, *words, *options]
                       for part in each.split("=", 1)])  # fmt: skip


def _is_usual(option: str) -> bool:
    return option in ("--model=pvae.models.VAE", "--guide=pvae.guides.MeanField", "--data=digits")


def _compared(config: dict[str, Any]) -> dict[str, Any]:
    """Returns what decides the numbers: without places, the version and the shape of the data."""
    kept = {k: v for k, v in config.items() if k not in _ELSEWHERE and v is not None}
    for side in ("model", "guide"):
        given = kept[side].get("init_args") or {}
        inner = {k: v for k, v in given.items() if k != "event_shape" and v is not None}
        kept[side] = {"class_path": kept[side]["class_path"], "init_args": inner}
    kept["data"] = {k: v for k, v in kept["data"].items() if v is not None}
    return kept


def _differences(config: dict[str, Any], usual: dict[str, Any], prefix: str) -> list[str]:
    """Returns the options whose values differ, as `--name=value`."""
    found = []
    for key, value in config.items():
        place = not prefix and key in _ELSEWHERE
        if place or key in ("event_shape", "class_path", "source"):
            continue
        name = prefix if key == "init_args" else f"{prefix}{key}."
        before = usual.get(key)
        if (
            isinstance(value, dict)
            and isinstance(before, dict)
            and (value.get("class_path") == before.get("class_path"))
        ):
            found += _differences(value, before, name)
        elif value != before:
            found += _option(name[:-1], value)
    return found


def _option(name: str, value: Any) -> list[str]:
    if isinstance(value, dict) and "class_path" in value:
        inner = [_option(f"{name}.{k}", v) for k, v in (value.get("init_args") or {}).items()]
        return [f"--{name}={value['class_path']}", *(each for part in inner for each in part)]
    text = value if isinstance(value, str) else yaml.safe_dump(value, default_flow_style=True)
    return [f"--{name}={text.removesuffix('...' + chr(10)).strip()}"]
