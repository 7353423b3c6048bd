"""Weights: the parameters and buffers of a pair as a safetensors file, and read from any run."""

import json
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pvae.errors import PvaeError, first_line
from pvae.runtime import atomic
from pvae.training.checkpoint import final_state, read_checkpoint
from pvae.training.schema import fault_of_state

__all__ = ["WEIGHTS", "is_saved", "read_state", "read_weights", "write_weights"]

WEIGHTS = "model.safetensors"
"""The file of a saved pair; the name is the one that other tools look for."""

_FORMAT = "pvae pair "
_VERSION = 1
_TENSOR = "$tensor"  # {"$tensor": key} stands for a tensor of the file


def write_weights(path: Path, state: dict[str, Any], pair: list[str]) -> None:
    """Writes the state of a pair, whole or not at all. Tensors that are tied are written once.

    Args:
        path: The file.
        state: What `pair_state` returns.
        pair: The names of model and guide.

    Raises:
        PvaeError: If a value is neither a dense tensor nor plain, or the file cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    tensors: dict[str, Tensor] = {}
    skeleton = _without_tensors(state, (), tensors, {})
    if json.loads(json.dumps(skeleton, default=repr)) != skeleton:
        raise PvaeError(
            f"{path} was not written: the extra state of a module (get_extra_state) holds more "
            "than tensors, numbers, strings, lists and dicts with strings as keys. Return only "
            "these from it."
        )
    about = {"format": f"{_FORMAT}{_VERSION}", "pair": json.dumps(pair)}
    with atomic(path) as temporary:
        try:
            save_file(tensors, temporary, about | {"state": json.dumps(skeleton)})
        except (SafetensorError, ValueError, KeyError) as error:
            raise PvaeError(f"{path} was not written: {first_line(error)}.") from error


def read_weights(path: Path) -> tuple[dict[str, Any], list[str]]:
    """Reads what `write_weights` wrote: the state of a pair, and the names of model and guide.

    Raises:
        PvaeError: If the file is damaged, or pvae did not write it.
    """
    from safetensors import SafetensorError, safe_open

    foreign = f"{path} is not a pair that pvae.save wrote"
    try:
        with safe_open(path, framework="pt") as file:
            about = file.metadata() or {}
            version = about.get("format", "").removeprefix(_FORMAT)
            if not version.isdecimal():
                raise PvaeError(f"{foreign}: it has no names of model and guide. Load it with "
                                "safetensors.torch.load_file.")  # fmt: skip
            if int(version) > _VERSION:
                raise PvaeError(f"{path} was written by a newer pvae. Update pvae.")
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        state = _with_tensors(json.loads(about["state"]), tensors)
        pair = json.loads(about["pair"])
    except (SafetensorError, OSError) as error:
        raise PvaeError(f"{path} is damaged or cannot be read: {first_line(error)}.") from error
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise PvaeError(f"{foreign} ({type(error).__name__}: {first_line(error)}).") from error
    named = isinstance(pair, list) and list(map(type, pair)) == [str, str]
    if (fault := fault_of_state(state)) or not named:
        raise PvaeError(f"{foreign}: {fault or 'pair'} is missing or has a wrong type.")
    return state, pair


def is_saved(folder: Path) -> bool:
    """Whether a folder holds a pair that `pvae.save` wrote."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(folder / WEIGHTS, framework="pt") as file:
            return (file.metadata() or {}).get("format", "").startswith(_FORMAT)
    except (SafetensorError, OSError):
        return False


def read_state(folder: str | os.PathLike[str]) -> tuple[dict[str, Any], list[str]]:
    """Reads the best state of a run, or that of a saved pair, and the names of model and guide.

    Raises:
        PvaeError: If the folder has neither, or its file cannot be used.
    """
    folder = Path(folder)
    checkpoint, weights = folder / "checkpoint.pt", folder / WEIGHTS
    if weights.exists() and not checkpoint.exists():
        return read_weights(weights)
    saved = read_checkpoint(checkpoint)
    return final_state(saved), list(saved["pair"])


def _without_tensors(
    value: Any, path: tuple[str, ...], tensors: dict[str, Tensor], keys: dict[Any, str]
) -> Any:
    """Returns plain values with keys of `tensors`, which is filled, in place of tensors."""
    if isinstance(value, dict):
        return {
            name: _without_tensors(each, (*path, str(name)), tensors, keys)
            for name, each in value.items()
        }
    if isinstance(value, list):
        return [
            _without_tensors(each, (*path, str(i)), tensors, keys) for i, each in enumerate(value)
        ]
    if not isinstance(value, Tensor):
        return value
    key = ".".join(path[1:] if path[0] == "modules" else path)
    if value.layout != torch.strided or value.is_quantized:
        raise PvaeError(
            f"{key} was not saved: it is a sparse or quantised tensor, which safetensors does not "
            "hold. Make it dense: value.to_dense() or value.dequantize()."
        )
    same = (value.data_ptr(), value.dtype, value.shape, value.stride()) if value.numel() else key
    if same not in keys:
        while key in tensors:
            key += "_"
        keys[same] = key
        tensors[key] = value.detach().cpu().clone(memory_format=torch.contiguous_format)
    return {_TENSOR: keys[same]}


def _with_tensors(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, dict):
        if value.keys() == {_TENSOR}:
            return tensors[value[_TENSOR]]
        return {name: _with_tensors(each, tensors) for name, each in value.items()}
    return [_with_tensors(v, tensors) for v in value] if isinstance(value, list) else value
