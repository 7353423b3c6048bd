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
            index = torch.tensor(rows, device="cpu")
            return tuple(take(column, index) for column in self._columns)
        except Exception as error:
            known = isinstance(error, PvaeError)
            return error if known else PvaeError(f"A minibatch was not read: {reason_of(error)}")


def read_ahead(
    columns: Sequence[Column], rows: Sequence[Tensor], loader: torch_data.DataLoader
) -> Iterator[tuple[Tensor, ...]]:
    """Yields the given rows of columns, minibatch by minibatch, which workers read in advance.

    Args:
        columns: The columns.
        rows: The rows of each minibatch. They seed the random generators of the workers.
        loader: Has the number of workers and how they are started.

    Raises:
        PvaeError: If rows cannot be read, or a worker dies.
    """
    seed = sum((i + 1) * int(row) for i, row in enumerate(rows[0])) if len(rows) else 0
    with torch.device("cpu"):  # workers start on the CPU, whatever the default is
        batches = iter(
            torch_data.DataLoader(
                _Reader(columns), batch_sampler=[index.tolist() for index in rows],
                num_workers=loader.num_workers, worker_init_fn=loader.worker_init_fn,
                multiprocessing_context=loader.multiprocessing_context, timeout=loader.timeout,
                collate_fn=_unchanged, generator=torch.Generator().manual_seed(seed),
            )
        )  # fmt: skip
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
