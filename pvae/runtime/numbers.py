"""Checks numbers among the arguments and returns them as Python's."""

import math
import operator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pvae.errors import PvaeError

__all__ = ["number", "weight", "whole"]


def whole(name: str, value: Any, least: int = 1, why: str | None = None) -> int:
    """Returns an integer argument as an `int`, also if it is NumPy's or a tensor.

    Args:
        name: The argument's name, for the message.
        value: What was given.
        least: The smallest value that makes sense.
        why: The message for other values.

    Raises:
        PvaeError: If it is no integer, a truth value, or below `least`.

    Example:
        >>> whole("epochs", np.int64(3))
        3
    """
    try:
        found = None if _is_truth(value) else operator.index(value)
    except (TypeError, ValueError, RuntimeError):
        found = None
    if found is None or found < least:
        why = why or f"a whole number is needed, at least {least}"
        raise PvaeError(f"{name}={value!r}: {why}.")
    return found


def number(name: str, value: Any, *, zero: bool = False) -> float:
    """Returns a positive argument as a `float`, also if it is NumPy's or a tensor.

    Args:
        name: The argument's name, for the message.
        value: What was given.
        zero: Whether it may be zero.

    Raises:
        PvaeError: If it is negative, zero (unless it may be), NaN, infinite, or no number.

    Example:
        >>> number("lr", np.float32(0.5))
        0.5
    """
    try:
        found = math.nan if _is_truth(value) or isinstance(value, str) else float(value)
    except (TypeError, ValueError, RuntimeError):
        found = math.nan
    if not (0 <= found < math.inf and (zero or found)):
        kind = "a number that is not negative" if zero else "a positive number"
        raise PvaeError(f"{name}={value!r}: {kind} is needed.")
    return found


def weight(name: str, value: float | Tensor) -> float | Tensor:
    """Returns the weight of an objective's term as a `float`, or as the one-number tensor given.

    Raises:
        PvaeError: If it is negative, NaN, infinite, or no number.
    """
    if not isinstance(value, Tensor) or value.is_meta:
        return value if isinstance(value, Tensor) else number(name, value, zero=True)
    if value.numel() != 1 or value.dtype == torch.bool:
        raise PvaeError(f"{name}={value!r}: one number is needed.")
    number(name, value.detach(), zero=True)
    return value


def _is_truth(value: Any) -> bool:
    return isinstance(value, bool | np.bool_) or getattr(value, "dtype", None) is torch.bool
