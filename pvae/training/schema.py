"""Checks everything in a checkpoint before anything of it is used."""

import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pyro.distributions import constraints
from torch import Tensor

from pvae.errors import PvaeError

__all__ = ["VERSION", "check_checkpoint", "fault_of_state"]

VERSION = 1
_FORMAT = "pvae checkpoint "

MIGRATIONS: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {}
"""For each older version, a function that turns its contents into those of the next one."""


def check_checkpoint(contents: Any, path: Path) -> dict[str, Any]:
    """Returns a checkpoint's contents in the form of this version.

    Raises:
        PvaeError: If pvae did not write it, if a newer version did, or if an entry is missing or
            wrong; the entry is named.
    """
    said = contents.get("format") if isinstance(contents, dict) else None
    number = said.removeprefix(_FORMAT) if isinstance(said, str) else ""
    if not number.isdecimal() or said == number:
        raise PvaeError(f"{path} is not a checkpoint that this version of pvae wrote.")
    version = int(number)
    if version > VERSION:
        raise PvaeError(
            f"{path} was written by a newer pvae (version {version} of its checkpoints; this pvae "
            f"reads version {VERSION} and older ones). Update pvae."
        )
    while version in MIGRATIONS:
        contents, version = MIGRATIONS[version](contents), version + 1
    if version != VERSION:
        raise PvaeError(
            f"{path} is a checkpoint of version {version}, which pvae no longer reads. Train "
            "again, or use an older pvae."
        )
    if fault := _fault(contents, CHECKPOINT, ""):
        raise PvaeError(
            f"{path} is not a valid checkpoint: {fault[1:]} is missing or has a wrong type, shape "
            "or value. The file was changed after pvae wrote it, or another program wrote it. Use "
            "an older copy, or train in another folder."
        )
    return contents


def fault_of_state(state: Any) -> str:
    """Returns the entry of a pair's state that is missing or wrong, or an empty string."""
    return _fault(state, _STATE, "")[1:]


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _finite(value: Any) -> bool:
    return _number(value) and math.isfinite(value)


def _count(value: Any) -> bool:
    return _number(value) and isinstance(value, int) and value >= 0


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _tensor(value: Any) -> bool:
    return isinstance(value, Tensor) and value.device.type == "cpu"


def _taken_by(set_state: Callable[[Any], object]) -> Callable[[Any], bool]:
    """Returns a check of whether a generator takes a value as its state."""

    def taken(value: Any) -> bool:
        try:
            set_state(value)
        except Exception:
            return False
        return True

    return taken


def _set_python(value: Any) -> None:
    version, inner, gauss = value
    random.Random().setstate((version, tuple(inner), gauss))


def _set_numpy(value: Any) -> None:
    name, keys, position, has_gauss, cached = value
    if not 0 <= position <= len(keys):  # NumPy does not check it
        raise ValueError
    state = name, np.array(keys, dtype=np.uint32), position, has_gauss, cached
    np.random.RandomState().set_state(state)


def _module_state(value: Any) -> bool:
    return isinstance(value, dict) and all(
        isinstance(name, str) and (_tensor(each) or name.endswith("_extra_state"))
        for name, each in value.items()
    )


def _constraint(value: Any) -> bool:
    if value is None:  # a constraint that plain values cannot express
        return True
    if not isinstance(value, dict):
        return False
    if "name" in value:
        name = value["name"]
        found = getattr(constraints, name, None) if isinstance(name, str) else None
        return isinstance(found, constraints.Constraint)
    arguments = value.get("arguments")
    return (
        isinstance(value.get("class"), str)
        and isinstance(arguments, dict)
        and all(
            isinstance(name, str) and (_number(each) or _tensor(each) or _constraint(each))
            for name, each in arguments.items()
        )
    )


def _optimiser(value: Any) -> bool:
    """The state of an optimiser of torch's; older versions kept one for each parameter."""
    if not isinstance(value, dict) or not all(map(_text, value)):
        return False
    if not ("param_groups" in value or "state" in value):
        return all(isinstance(each, dict) for each in value.values())
    groups, state = value.get("param_groups"), value.get("state")
    return (
        isinstance(groups, list)
        and all(isinstance(g, dict) and isinstance(g.get("params"), list) for g in groups)
        and all(_count(p) for g in groups for p in g["params"])
        and all(_number(g.get("lr")) or _tensor(g.get("lr")) for g in groups)
        and isinstance(state, dict)
        and all(_count(p) and isinstance(s, dict) for p, s in state.items())
    )


def _history(value: Any) -> bool:
    needed = {"epoch", "elbo", "learning_rate", "kl_weight"}
    return isinstance(value, list) and all(
        isinstance(row, dict)
        and needed <= row.keys() == value[0].keys()
        and all(map(_text, row))
        and all(map(_number, row.values()))
        for row in value
    )


def _maybe(schema: Any) -> Callable[[Any], bool]:
    return lambda value: value is None or not _fault(value, schema, "")


def _if_there(schema: Any) -> Callable[[Any], bool]:
    return lambda value: value is ... or not _fault(value, schema, "")


_STATE = {
    "modules": {str: _module_state},
    "params": {str: {"unconstrained": _tensor, "constraint": _constraint}},
}

_MADE = {"date": _text, "seconds": lambda v: _finite(v) and v >= 0, "device": _text}

_RANDOM = {
    "torch": _taken_by(lambda value: torch.Generator().set_state(value)),
    "cuda": [lambda value: _tensor(value) and value.dtype == torch.uint8],
    "python": _taken_by(_set_python),
    "numpy": _taken_by(_set_numpy),
}

CHECKPOINT = {
    "pair": (_text, _text),
    "settings": {"epochs": _count, "batch_size": _count, "seed": _count, "num_data": _count},
    "state": _STATE,
    "optimiser": _optimiser,
    "random": _RANDOM,
    "random_of_others": _if_there([_RANDOM]),
    "progress": (_count, _count, _finite, lambda value: isinstance(value, bool)),
    "history": _history,
    "best": _maybe(_STATE),
    "best_at": (_number, _count),
    "average": _if_there(_STATE),
    "callbacks": _if_there({}),
    "made": lambda value: value is ... or not _fault(value, _MADE, ""),  # older ones have none
}
"""Version 1. A dict must have these keys and may have others (`str`: all keys are strings). A list
has any number of such entries, a tuple exactly these."""


def _fault(value: Any, schema: Any, where: str) -> str:
    """Returns the path of the first entry that does not fit; empty if all fit."""
    if isinstance(schema, dict):
        if not isinstance(value, dict):
            return where or ".it"
        if str in schema:
            if not all(isinstance(key, str) for key in value):
                return where
            inner = [(value[key], schema[str], f"{where}.{key}") for key in value]
        else:
            inner = [(value.get(key, ...), schema[key], f"{where}.{key}") for key in schema]
    elif isinstance(schema, list | tuple):
        if not isinstance(value, list | tuple):
            return where or ".it"
        if isinstance(schema, tuple) and len(value) != len(schema):
            return where
        each = schema if isinstance(schema, tuple) else schema * len(value)
        inner = [(v, s, f"{where}.{i}") for i, (v, s) in enumerate(zip(value, each, strict=True))]
    else:
        return "" if schema(value) else where
    return next(filter(None, (_fault(*part) for part in inner)), "")
