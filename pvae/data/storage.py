"""Columns: one field of all data, as a tensor in memory or as rows read on demand."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pvae.runtime import free_memory

__all__ = [
    "Column",
    "Drawn",
    "Streamed",
    "little_endian",
    "resident",
    "same_device",
    "slabs",
    "take",
]

_SLAB = 1 << 26


class Streamed:
    """A field that does not fit in memory: its rows are read on demand.

    Args:
        source: An `np.memmap` [N, *], or rows of a Dataset; it is indexed by slices and arrays.
        dtype: The NumPy type that rows are converted to.
        event: The shape that rows are reshaped to.
        rows: The rows of the source that belong to the field, int64; None for all.
    """

    device = torch.device("cpu")

    def __init__(
        self, source: Any, dtype: Any, event: tuple[int, ...], rows: Tensor | None = None
    ) -> None:
        self._source, self._dtype, self._event = source, np.dtype(dtype), tuple(event)
        self._rows = rows

    @property
    def loader(self) -> Any:
        """The DataLoader whose workers read rows in advance; None without workers."""
        return getattr(self._source, "loader", None)

    def __len__(self) -> int:
        return len(self._source) if self._rows is None else len(self._rows)

    def __getitem__(self, index: slice | Tensor) -> Tensor:
        if self._rows is not None:
            index = self._rows[index]
        index = index if isinstance(index, slice) else index.cpu().numpy()
        rows = np.array(self._source[index], self._dtype)
        return torch.from_numpy(rows.reshape(len(rows), *self._event))

    @property
    def shape(self) -> torch.Size:
        """[N, *event]."""
        return torch.Size((len(self), *self._event))

    @property
    def dtype(self) -> torch.dtype:
        """The type of the rows."""
        return torch.from_numpy(np.empty(0, self._dtype)).dtype

    def float(self) -> "Streamed":
        """Returns the rows as float32, still unread."""
        return Streamed(self._source, np.float32, self._event, self._rows)

    def index_select(self, dim: int, index: Tensor) -> "Streamed":
        """Returns these rows, still unread; `dim` is 0."""
        rows = index if self._rows is None else self._rows[index]
        return Streamed(self._source, self._dtype, self._event, rows)


class Drawn(Streamed):
    """A field whose rows are drawn again whenever they are read, on the CPU.

    Args:
        draw: Returns n rows, [n, *event]; it is called once here, to refuse what is not valid.
        kind: What is drawn, in the hash of the data.
        event: Shape of one row.
        size: N, the number of rows.
    """

    def __init__(
        self, draw: Callable[[int], Tensor], kind: str, event: Sequence[int], size: int
    ) -> None:
        with torch.random.fork_rng([]):
            dtype = draw(1).numpy().dtype
        super().__init__(np.broadcast_to(np.zeros((), dtype), size), dtype, tuple(event))
        self.kind, self._draw = kind, draw

    def __getitem__(self, index: slice | Tensor) -> Tensor:
        size = len(range(*index.indices(len(self)))) if isinstance(index, slice) else len(index)
        return self._draw(size)

    def index_select(self, dim: int, index: Tensor) -> "Drawn":
        """Returns a field of as many rows as there are in the index; `dim` is 0."""
        return Drawn(self._draw, self.kind, self._event, len(index))


Column = Tensor | Streamed
"""A field of all data, [N, *event]."""


def _fits(nbytes: int, device: torch.device) -> bool:
    """Whether so many bytes take less than half of a device's free memory."""
    return nbytes < free_memory(device) / 2


def same_device(a: torch.device, b: torch.device) -> bool:
    """Whether two devices are the same; `cuda` is the current CUDA device."""
    if a.type != b.type or a.type != "cuda":
        return a.type == b.type
    current = torch.cuda.current_device()
    return (current if a.index is None else a.index) == (current if b.index is None else b.index)


def take(column: Column, index: slice | Tensor) -> Tensor:
    """Returns rows [B, *event] as a tensor that shares no memory with the column."""
    if isinstance(column, Streamed):
        return column[index]
    return column[index].clone() if isinstance(index, slice) else column.index_select(0, index)


def slabs(size: int, row_bytes: int) -> Iterator[slice]:
    """Yields slices that cover `size` rows in pieces of about 64 MiB."""
    step = max(1, _SLAB // max(1, row_bytes))
    return (slice(i, min(i + step, size)) for i in range(0, size, step))


def resident(column: Column, device: torch.device) -> Tensor | None:
    """Returns all rows as one tensor on a device, or None if they do not fit."""
    if isinstance(column, Tensor) and same_device(column.device, device):
        return column
    row = column[:1].nbytes
    if not _fits(len(column) * row, device):
        return None
    if isinstance(column, Tensor):
        return column.to(device)
    whole = torch.empty(column.shape, dtype=column.dtype, device=device)
    for piece in slabs(len(column), row):
        whole[piece] = column[piece].to(device)
    return whole


def little_endian(tensor: Tensor) -> np.ndarray:
    """Returns a tensor's values in little-endian order, with the same bytes on every platform."""
    if tensor.dtype is torch.bfloat16:  # NumPy has no such type
        tensor = tensor.view(torch.int16)
    values = tensor.detach().cpu().contiguous().numpy()
    return np.ascontiguousarray(values.astype(values.dtype.newbyteorder("<"), copy=False))
