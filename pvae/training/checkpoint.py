"""Checkpoints: everything that a run needs to continue with the same numbers."""

import contextlib
import csv
import pickle
import re
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import torch
from pyro.distributions import constraints
from torch import Tensor
from torch.distributions import SoftplusTransform
from torch.nn.parameter import is_lazy

from pvae.errors import PvaeError, first_line
from pvae.pair import Program, modules, name_of
from pvae.runtime import atomic, why
from pvae.training.schema import VERSION, check_checkpoint

__all__ = [
    "final_state",
    "of_today",
    "pair_state",
    "plain",
    "read_checkpoint",
    "restore_pair",
    "set_params",
    "write_checkpoint",
    "write_history",
]

FORMAT = f"pvae checkpoint {VERSION}"

_DAMAGED = RuntimeError, EOFError, OSError, LookupError, ValueError, TypeError, AttributeError
_IN_HEAD = ("log_scale", "fixed_scale", "log_total_count")
_CARRIED = (
    "A checkpoint holds tensors, numbers, strings and plain containers. The optimiser's state, the "
    "modules' extra state, the settings and what callbacks keep must hold nothing else."
)


def pair_state(model: Program, guide: Program, stored: set[str]) -> dict[str, Any]:
    """Copies every weight, buffer and `pyro.param` value of a pair, except uncalled lazy layers'.

    `stored` has the names of the pair's parameters in Pyro's store. Tensors that are tied (the
    same memory under two names) share their copy too.
    """
    store, copies = pyro.get_param_store(), {}
    return {
        "modules": {
            path: {
                n: _copy(value, copies)
                for n, value in module.state_dict().items()
                if not is_lazy(value)
            }
            for path, module in modules(model, guide).items()
        },
        "params": {
            name: {
                "unconstrained": _copy(store._params[name], copies),
                "constraint": _constraint_to_plain(store._constraints[name]),
            }
            for name in sorted(stored)
            if name in store._params
        },
    }


def restore_pair(model: Program, guide: Program, state: dict[str, Any], where: str) -> None:
    """Sets all weights, buffers and `pyro.param` values of a pair to a saved state.

    Raises:
        PvaeError: If the state belongs to another pair. Nothing is changed in this case.
    """
    found = modules(model, guide)
    saved = {
        path: of_today(values, found[path].state_dict().keys()) if path in found else values
        for path, values in state["modules"].items()
    }
    faults = []
    for path in sorted(found.keys() ^ saved.keys()):
        side = "the pair has no" if path in saved else "the checkpoint has no"
        faults.append(f"{side} module {path!r}")
    for path in found.keys() & saved.keys():
        ours, theirs = found[path].state_dict(), saved[path]
        # A lazy layer has no shape before its first call, and takes any.
        lazy = {name for name, value in ours.items() if is_lazy(value)}
        for name in sorted((ours.keys() - lazy) ^ (theirs.keys() - lazy)):
            side = "the pair has no" if name in theirs else "the checkpoint has no"
            faults.append(f"{side} {path}.{name}")
        faults += [
            f"{path}.{name} has shape {tuple(theirs[name].shape)} in the checkpoint, "
            f"{tuple(ours[name].shape)} in the pair"
            for name in sorted((ours.keys() & theirs.keys()) - lazy)
            if isinstance(ours[name], Tensor) and ours[name].shape != theirs[name].shape
        ]
    if faults:
        more = f"; and {len(faults) - 3} more" if len(faults) > 3 else ""
        raise PvaeError(
            f"The checkpoint in {where} belongs to another pair than {name_of(model)} and "
            f"{name_of(guide)}: {'; '.join(faults[:3])}{more}. Build the pair with the sizes it "
            "was trained with."
        )
    for path, module in found.items():
        module.load_state_dict(saved[path], strict=False)
    set_params(state["params"])


def final_state(saved: dict[str, Any]) -> dict[str, Any]:
    """Returns the state of a pair in a checkpoint: of the best epoch, averaged, or the last one."""
    return saved["best"] or saved.get("average") or saved["state"]


def set_params(params: dict[str, Any]) -> None:
    """Sets values in Pyro's store to saved ones."""
    store = pyro.get_param_store()
    for name, param in params.items():
        if name in store._params and store._params[name].shape == param["unconstrained"].shape:
            store._params[name].data.copy_(param["unconstrained"])
            continue
        constraint = _constraint_from_plain(name, param["constraint"])
        value = param["unconstrained"].clone()
        if name in store._params:
            del store[name]
        store[name] = value
        store._constraints[name] = constraint


def of_today(saved: dict[str, Any], ours: Collection[str]) -> dict[str, Any]:
    """Returns the state of an older checkpoint with the names and values of today's models."""
    named, missing = {}, set(ours) - saved.keys()
    for name, value in saved.items():
        owner, dot, last = name.rpartition(".")
        if last in _IN_HEAD and (new := f"{owner}{dot}head.{last}") in missing:
            name = new
        elif last == "logits" and (new := f"{owner}{dot}before_softplus") in missing:
            name, value = new, SoftplusTransform().inv(value.sigmoid())  # pseudo-inputs of counts
        named[name] = value
    return named


def write_checkpoint(path: Path, contents: dict[str, Any]) -> None:
    """Writes a checkpoint of plain values, whole or not at all, and reads it back.

    Raises:
        PvaeError: If it cannot be written or read back. The last good one is kept.
    """
    with atomic(path) as temporary:
        try:
            torch.save(plain({"format": FORMAT, **contents}), temporary)
        except RuntimeError as error:
            raise why(temporary, error) from error
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise PvaeError(f"{path} was not written: {first_line(error)}. {_CARRIED}") from error
        try:
            read_checkpoint(temporary)
        except PvaeError as error:
            found = re.search(r"GLOBAL (\S+)", str(error.__cause__))
            text = f"it would hold a {found[1]}" if found else str(error)
            raise PvaeError(f"{path} was not written: {text}. {_CARRIED}") from error


def plain(value: Any) -> Any:
    """Returns a value with Python's numbers and strings in place of NumPy's.

    Example:
        >>> plain({"lr": np.float64(0.5), "betas": (np.float32(0.5), 1)})
        {'lr': 0.5, 'betas': (0.5, 1)}
    """
    kind = type(value)
    if kind in (int, float, str, bool) or value is None or isinstance(value, Tensor):
        return value
    if isinstance(value, np.generic):
        return plain(value.item()) if not isinstance(value.item(), np.generic) else value
    if isinstance(value, np.ndarray) and value.dtype.kind in "biufc":
        return torch.from_numpy(np.array(value))
    if isinstance(value, dict):
        items = {plain(key): plain(item) for key, item in value.items()}
        return kind(items) if kind in (OrderedDict, Counter) else items
    if isinstance(value, list | tuple):
        return (list if isinstance(value, list) else tuple)(map(plain, value))
    if isinstance(value, str):
        return str.__str__(value)
    for each in (int, float):
        if isinstance(value, each):
            return each(value)
    return value


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Reads a checkpoint, running no code that may be in it.

    Raises:
        PvaeError: If it is missing, truncated, not written by pvae, or would run code.
    """
    if not path.exists():
        raise PvaeError(
            f"{path} does not exist: this run has no checkpoint yet, or {path.parent} is not a "
            "run folder. `pvae run --resume RUN` trains an unfinished run to its end."
        )
    try:
        with path.open("rb") as file:
            whole = zipfile.is_zipfile(file)
    except OSError as error:
        raise PvaeError(f"{path} cannot be read: {error.strerror}.") from error
    try:
        if not whole:
            raise EOFError("it is not a complete archive")
        contents = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise PvaeError(
            f"{path} was not read: it holds more than tensors, numbers and strings, and reading it "
            "could run code. pvae never writes such a file."
        ) from error
    except _DAMAGED as error:
        raise PvaeError(
            f"{path} is truncated or not a checkpoint ({first_line(error)[:120]}). "
            "Delete it and resume the run, which then starts again from the beginning."
        ) from error
    return check_checkpoint(contents, path)


def write_history(path: Path, history: list[dict[str, float]]) -> None:
    """Writes one line for each epoch, as CSV."""
    with atomic(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(history[0]) if history else ["epoch"])
        writer.writeheader()
        writer.writerows(history)


def _copy(value: Any, copies: dict[Any, Tensor]) -> Any:
    if not isinstance(value, Tensor):
        return value
    if value.layout != torch.strided or not value.numel():
        return value.detach().clone().cpu()
    same = value.data_ptr(), value.device, value.dtype, value.shape, value.stride()
    if same not in copies:
        copies[same] = value.detach().clone().cpu()
    return copies[same]


def _constraint_to_plain(constraint: Any) -> dict[str, Any] | None:
    """Returns a constraint as plain containers, or None if they cannot hold it."""
    for name in dir(constraints):
        if getattr(constraints, name) is constraint:
            return {"name": name}
    arguments = {}
    for name, value in vars(constraint).items():
        value = value.item() if isinstance(value, np.generic) else value
        if isinstance(value, constraints.Constraint):
            value = _constraint_to_plain(value)
        elif not isinstance(value, int | float | Tensor):
            return None
        arguments[name.removeprefix("_")] = value
    return {"class": type(constraint).__name__, "arguments": arguments}


def _constraint_from_plain(name: str, plain: dict[str, Any] | None) -> Any:
    if plain and "name" in plain:
        return getattr(constraints, plain["name"])
    if plain:
        with contextlib.suppress(AttributeError, TypeError, ValueError):
            arguments = {
                k: _constraint_from_plain(name, v) if isinstance(v, dict) else v
                for k, v in plain["arguments"].items()
            }
            public = plain["class"].removeprefix("_")
            for candidate in (plain["class"], public):
                with contextlib.suppress(AttributeError):
                    return getattr(torch.distributions.constraints, candidate)(**arguments)
    raise PvaeError(
        f"The checkpoint does not hold the constraint of parameter {name!r}, a custom one. Run the "
        "model and the guide once, which creates the parameter, and load again."
    )
