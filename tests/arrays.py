"""Calls functions of tensors with arrays."""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["of_arrays"]


def of_arrays(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns the function that takes and returns NumPy arrays where `function` has tensors."""

    @functools.wraps(function)
    def called(*args: Any) -> Any:
        args = [torch.from_numpy(v.copy()) if isinstance(v, np.ndarray) else v for v in args]
        return _arrays(function(*args))

    return called


def _arrays(found: Any) -> Any:
    if isinstance(found, Tensor):
        return found.numpy()
    if isinstance(found, tuple):
        return tuple(map(_arrays, found))
    return {key: _arrays(value) for key, value in found.items()}
