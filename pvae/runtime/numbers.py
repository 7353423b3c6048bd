"""Checks numbers among the arguments, and returns them as Python numbers."""

import math
import operator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pvae.errors import PvaeError

__all__ = ["number", "weight", "whole"]


def whole(name: str, value: Any, least: int = 1, why: str | None = None) -> int:
    """Returns an integer argument as an `int`; NumPy integers and tensors are allowed.

    Args:
        name: The argument's name, for the message.
        value: The argument.
        least: The smallest valid value.
        why: What the message says about other values.

    Raises:
        PvaeError: The value is not an integer, is a bool, or is below `least`.

    Example:
        >>> whole("epochs", np.int64(3))
        3
    """
    try:
        found = None if _is_truth(value) else operator.index(value)
    except (TypeError, ValueError, RuntimeError):
        found = None
    if found is None or found < least:
        why = why or f"give a whole number, at least {least}"
        raise PvaeError(f"{name}={value!r} is not valid: {why}.")
    return found


def number(name: str, value: Any, *, zero: bool = False) -> float:
    """Returns a positive argument as a `float`; NumPy numbers and tensors are allowed.

    Args:
        name: The argument's name, for the message.
        value: The argument.
        zero: Whether it may be zero.

    Raises:
        PvaeError: The value is negative, zero (unless `zero`), NaN, infinite, or not a number.

    Example:
        >>> number("lr", np.float32(0.5))
        0.5
    """
    try:
        found = math.nan if _is_truth(value) or isinstance(value, str) else float(value)
    except (TypeError, ValueError, RuntimeError):
        found = math.nan
    if not (0 <= found < math.inf and (zero or found)):
        kind = "number of at least 0" if zero else "positive number"
        raise PvaeError(f"{name}={value!r} is not valid: give a finite {kind}.")
    return found


def weight(name: str, value: float | Tensor) -> float | Tensor:
    """Returns the weight of an objective's term as a `float`, or a tensor of one number unchanged.

    Raises:
        PvaeError: The value is negative, NaN, infinite, or not one number.
    """
    if not isinstance(value, Tensor) or value.is_meta:
        return value if isinstance(value, Tensor) else number(name, value, zero=True)
    if value.numel() != 1 or value.dtype == torch.bool:
        raise PvaeError(f"{name}={value!r} is not valid: give one number.")
    number(name, value.detach(), zero=True)
    return value


def _is_truth(value: Any) -> bool:
    return isinstance(value, bool | np.bool_) or getattr(value, "dtype", None) is torch.bool
