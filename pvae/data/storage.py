"""Rows of a tensor in memory, or of a memory-mapped file that is too big for it."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from pvae.runtime import free_memory

__all__ = ["resident", "same_device", "select", "slabs", "take"]

_SLAB = 1 << 26


def _fits(nbytes: int, device: torch.device) -> bool:
    """Returns whether so many bytes take less than half of a device's free memory."""
    return nbytes < free_memory(device) / 2


def same_device(a: torch.device, b: torch.device) -> bool:
    """Returns whether two devices are one, `cuda` being the current one."""
    if a.type != b.type or a.type != "cuda":
        return a.type == b.type
    current = torch.cuda.current_device()
    return (current if a.index is None else a.index) == (current if b.index is None else b.index)


def take(raw: Tensor | np.ndarray, rows: Tensor | None, index: slice | Tensor) -> Tensor:
    """Returns rows [B, *event] as a new or shared tensor: uint8 or float32.

    Args:
        raw: Values [N, *event]; what is not a tensor is read from disk and converted.
        rows: Which rows of `raw` make up the part; None for all.
        index: A slice or int64 positions within the part.
    """
    if rows is not None:
        index = rows[index]
    if isinstance(raw, Tensor):
        return raw[index] if isinstance(index, slice) else raw.index_select(0, index)
    dtype = np.float32 if raw.dtype.kind == "f" else np.uint8
    index = index if isinstance(index, slice) else index.cpu().numpy()
    return torch.from_numpy(np.array(raw[index], dtype))


def select(
    raw: Tensor | np.ndarray, rows: Tensor | None, index: Tensor
) -> tuple[Tensor | np.ndarray, Tensor | None]:
    """Returns (raw, rows) of a subset: a copy in memory, or an index into the same file."""
    if isinstance(raw, Tensor):
        return take(raw, rows, index), None
    return raw, index if rows is None else rows[index]


def slabs(size: int, row_bytes: int) -> Iterator[slice]:
    """Yields slices that cover `size` rows in pieces of about 64 MiB."""
    step = max(1, _SLAB // max(1, row_bytes))
    return (slice(i, min(i + step, size)) for i in range(0, size, step))


def resident(raw: Tensor | np.ndarray, rows: Tensor | None, device: torch.device) -> Tensor | None:
    """Returns all rows as one tensor on a device, or None where they do not fit.

    Raises nothing for lack of memory: what does not fit stays where it is and is streamed.
    """
    if isinstance(raw, Tensor) and rows is None and same_device(raw.device, device):
        return raw
    size = len(raw) if rows is None else len(rows)
    first = take(raw, rows, slice(0, 1))
    if not _fits(size * first.nbytes, device):
        return None
    if isinstance(raw, Tensor) and rows is None:
        return raw.to(device)
    whole = torch.empty((size, *first.shape[1:]), dtype=first.dtype, device=device)
    for piece in slabs(size, first.nbytes):
        whole[piece] = take(raw, rows, piece).to(device)
    return whole
