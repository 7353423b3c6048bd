"""Rows read ahead by the worker processes of a DataLoader."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import data as torch_data

from pvae.data.storage import Column, take
from pvae.errors import PvaeError, reason_of

__all__ = ["read_ahead"]


class _Reader(torch_data.Dataset):
    """Reads minibatches by their rows; an error is returned, to be raised in the main process."""

    def __init__(self, columns: Sequence[Column]) -> None:
        self._columns = columns

    def __getitems__(self, rows: list[int]) -> Any:
        try:
            return tuple(take(column, torch.tensor(rows)) for column in self._columns)
        except Exception as error:
            known = isinstance(error, PvaeError)
            return error if known else PvaeError(f"A minibatch was not read: {reason_of(error)}")


def read_ahead(
    columns: Sequence[Column], rows: Sequence[Tensor], workers: int
) -> Iterator[tuple[Tensor, ...]]:
    """Yields the given rows of columns, minibatch by minibatch, which workers read in advance.

    Raises:
        PvaeError: If rows cannot be read, or a worker dies.
    """
    loader = torch_data.DataLoader(
        _Reader(columns), batch_sampler=[index.tolist() for index in rows], num_workers=workers,
        collate_fn=_unchanged, generator=torch.Generator(),
    )  # fmt: skip
    batches = iter(loader)
    for _ in rows:
        try:
            batch = next(batches)
        except RuntimeError as error:
            raise PvaeError(
                f"A worker of the DataLoader died: {reason_of(error)}. If memory ran out, use "
                "fewer workers (num_workers) or smaller minibatches."
            ) from error
        if isinstance(batch, PvaeError):
            raise batch
        yield batch


def _unchanged(batch: Any) -> Any:
    return batch
