"""Turns an array into a field: checks its type and its shape, and for x and y its values."""

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pvae.data import storage
from pvae.data.storage import Column, Streamed
from pvae.data.torch_data import NUMBERS, Rows
from pvae.errors import PvaeError

__all__ = ["Range", "column", "labels", "observed"]

_LAYOUT = "Give images as [N, C, H, W] or [N, H, W] and vectors as [N, D]."


class Range(NamedTuple):
    """The range of the values of x.

    Attributes:
        integer: Whether they are integers.
        low: The smallest value.
        high: The largest value.
        binary: Whether all are 0 or 1.
        byte: Whether the source has type uint8, as 8-bit images have.
    """

    integer: bool
    low: float
    high: float
    binary: bool
    byte: bool = True


def column(a: Any, where: str, *, single: bool = True) -> Column:
    """Returns a field with its values unchanged, and a row for each datum.

    Args:
        a: A tensor, an array, or rows of a Dataset.
        where: Its name in messages.
        single: Whether floats become float32, the precision of pvae's pairs.

    Raises:
        PvaeError: The field does not hold numbers, or has no rows.
    """
    if isinstance(a, Tensor) and a.layout is torch.strided:
        found = a.detach().cpu()
    else:
        a = _array(a, where)
        if a.dtype.kind not in NUMBERS or not a.ndim:
            raise PvaeError(
                f"{where} has dtype {a.dtype} and shape {list(a.shape)}. Give numbers, with a row "
                "for each datum."
            )
        # torch cannot index wider unsigned integers.
        wide = a.dtype.kind == "u" and a.dtype.itemsize > 1
        if a.dtype == np.uint64 and isinstance(a, np.ndarray) and (a >= 2**63).any():
            raise PvaeError(f"{where} has integers of 2^63 or more, which torch cannot hold.")
        dtype = np.dtype(np.int64) if wide else a.dtype.newbyteorder("=")
        found = _stored(a, dtype, a.shape[1:])
    return found.float() if single and found.dtype.is_floating_point else found


def labels(y: Any, where: str) -> Column:
    """Returns classes as int64 [N]; other labels, such as vectors or NaN, unchanged.

    Raises:
        PvaeError: The labels are not numbers.
    """
    y = _array(y, where)
    if y.dtype.kind not in "biuf":
        raise PvaeError(
            f"{where} has {y.dtype} values. Number the classes with "
            "np.unique(y, return_inverse=True)[1]."
        )
    if y.ndim == 2 and y.shape[1] == 1 and not isinstance(y, Rows):
        y = y[:, 0]
    if isinstance(y, Rows) or y.ndim != 1 or not (y == np.floor(y)).all():
        return column(y, where)
    return torch.from_numpy(y.astype(np.int64))


def observed(a: Any, where: str, counts: bool) -> tuple[Column, Range]:
    """Returns x, uint8 or float32, and the range of its values; [N, H, W] becomes [N, 1, H, W].

    Raises:
        PvaeError: The shape, the type or a value is wrong.
    """
    a = _array(a, where)
    shape = list(a.shape)
    if a.dtype.kind not in "biuf":
        raise PvaeError(
            f"{where} has dtype {a.dtype}, but real numbers are needed. Convert it to uint8 "
            "(integers from 0 to 255) or float32."
        )
    if a.ndim < 2:
        hint = " For one column of numbers, use x.reshape(-1, 1)." if a.ndim == 1 else ""
        raise PvaeError(f"{where} has shape {shape}. {_LAYOUT}{hint}")
    if 0 in shape:
        raise PvaeError(f"{where} is empty: its shape is {shape}. {_LAYOUT}")
    if a.ndim > 3 and shape[-1] in (1, 3) and shape[-3] == shape[-2] > 4:
        axes = *range(a.ndim - 3), a.ndim - 1, a.ndim - 3, a.ndim - 2
        raise PvaeError(
            f"{where} has shape {shape}, with channels last. Give [N, C, H, W] or "
            f"[N, T, C, H, W]: x.transpose{axes} in NumPy, x.permute{axes} in torch."
        )
    values = _scan(a, where, counts)
    if values.integer and not counts and (values.low < 0 or values.high > 255):
        raise PvaeError(
            f"{where} has {a.dtype} values from {values.low} to {values.high}, but integers are "
            "levels from 0 to 255. Rescale them to uint8, or give floats: x.astype('float32'). Use "
            "observation='counts' for counts, observation='as_given' for tokens."
        )
    dtype = np.dtype(np.uint8 if values.integer and values.high <= 255 else np.float32)
    # [N, P, 2] and [N, P, 3] are points, not images.
    event = (1, *shape[1:]) if a.ndim == 3 and shape[2] > 3 else shape[1:]
    return _stored(a, dtype, tuple(event)), values


def _scan(a: np.ndarray | Rows, where: str, counts: bool) -> Range:
    """Returns the range of x, and checks every value, in slabs."""
    floats, low, high, binary, bad, first = a.dtype.kind == "f", np.inf, -np.inf, True, 0, None
    for piece in storage.slabs(len(a), a.nbytes // len(a)):
        values = np.asarray(a[piece]).reshape(piece.stop - piece.start, -1)
        if floats:
            # Values beyond the range of float32 are infinite for a model.
            with np.errstate(over="ignore"):
                values = values.astype(np.float32, copy=False)
            rows = np.flatnonzero(~np.isfinite(values).all(1))
            if len(rows):
                bad += len(rows)
                first = piece.start + int(rows[0]) if first is None else first
                continue
            broken = values[values != np.floor(values)] if counts else values[:0]
            if broken.size:
                raise PvaeError(
                    f"{where} has values that are not whole numbers, such as {broken[0]:g}, but "
                    "observation='counts' needs counts. Give counts, or use observation='grey' "
                    "for the values themselves."
                )
        low, high = min(low, values.min().item()), max(high, values.max().item())
        binary = binary and bool(((values == 0) | (values == 1)).all())
    if bad:
        rows = "1 row" if bad == 1 else f"{bad} rows"
        raise PvaeError(
            f"{where} has NaN or infinite values in {rows} of {len(a)}, the first at index "
            f"{first}. Drop or replace them: x[np.isfinite(x.reshape(len(x), -1)).all(1)]."
        )
    if counts and (low < 0 or high > 2**24):
        raise PvaeError(
            f"{where} has values from {low:g} to {high:g}, but counts are whole numbers from 0 to "
            f"{2**24:,}."
        )
    return Range(not floats, low, high, binary, a.dtype == np.uint8)


def _array(a: Any, where: str) -> np.ndarray | Rows:
    """Returns an array or a tensor as an array."""
    if isinstance(a, np.ndarray | Rows):
        return a
    if not isinstance(a, Tensor):
        if hasattr(a, "__array__"):
            return np.asarray(a)
        raise PvaeError(f"{where} is a {type(a).__name__}. Give an array or a tensor.")
    try:
        a = a.detach().cpu()
        return (a.float() if a.dtype in (torch.float16, torch.bfloat16) else a).numpy()
    except (TypeError, RuntimeError) as error:
        raise PvaeError(
            f"{where} is a {a.dtype} tensor ({a.layout}) that cannot be read as numbers. "
            "Give a dense tensor of uint8 or float32."
        ) from error


def _stored(a: np.ndarray | Rows, dtype: np.dtype, event: tuple[int, ...]) -> Column:
    """Returns rows as a tensor, or as rows that are read on demand if they do not fit."""
    if isinstance(a, Rows | np.memmap):
        nbytes = len(a) * math.prod(event) * dtype.itemsize
        if isinstance(a, Rows) or not storage._fits(nbytes, torch.device("cpu")):
            return Streamed(a, dtype, event)
        a = np.array(a, dtype)
    a = np.ascontiguousarray(a.reshape(len(a), *event), dtype)
    return torch.from_numpy(a if a.flags.writeable else a.copy())
