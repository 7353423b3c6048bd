"""Reads torch Datasets and DataLoaders as named arrays."""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import data as torch_data

from pvae.data import storage
from pvae.errors import PvaeError

__all__ = ["NUMBERS", "Rows", "fields_of", "is_dataset", "named"]

NUMBERS = "biufc"
"""NumPy's kinds of numbers."""

_CPU = torch.device("cpu")
_BATCH = 256


class Rows:
    """One field of a map-style Dataset, read on demand, by a slice or an array of positions.

    Attributes:
        shape: [N, *event].
        dtype: NumPy type of the rows.
        loader: The DataLoader whose workers read rows in advance, or None.
    """

    def __init__(self, items: "_Items", name: str, loader: Any) -> None:
        self._items, self._name, self.loader = items, name, loader
        first = items.first[name]
        self.shape, self.dtype = (len(items), *first.shape), first.dtype
        self.ndim, self.nbytes = len(self.shape), len(items) * first.nbytes

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: slice | np.ndarray) -> np.ndarray:
        rows = range(*index.indices(len(self))) if isinstance(index, slice) else index.tolist()
        return self._items.streamed_rows(rows)[self._name]


def is_dataset(source: object) -> bool:
    """Whether a source is a Dataset or a DataLoader, or is indexed like a Dataset."""
    if isinstance(source, torch_data.Dataset | torch_data.DataLoader):
        return True
    return (
        hasattr(source, "__getitem__")
        and hasattr(source, "__len__")
        and not isinstance(source, Mapping | Sequence)
        and not hasattr(source, "__array__")
        and not hasattr(source, "columns")
    )


def fields_of(source: Any, where: str, loader: Any = None) -> dict[str, Any]:
    """Returns the fields of a Dataset or a DataLoader: arrays, or `Rows` if they do not fit.

    A map-style Dataset is read once, in its order; fields that do not fit in memory are read again
    on demand, by as many workers as a DataLoader has. An iterable Dataset has to fit.
    """
    if isinstance(source, torch_data.DataLoader):
        return _of_loader(source, where)
    if isinstance(source, torch_data.TensorDataset):
        return named(source.tensors)
    if isinstance(source, torch_data.IterableDataset):
        return _collected(torch_data.DataLoader(source, batch_size=_BATCH), where)
    items = _Items(source, where)
    used = 0
    for name, row in sorted(items.first.items(), key=lambda item: item[1].nbytes):
        used += len(items) * row.nbytes
        if not storage._fits(used, _CPU):
            items.streamed.append(name)
    whole = [name for name in items.first if name not in items.streamed]
    read = items.read(range(len(items)), whole) if whole else {}
    items.warn_if_random()
    return {name: read[name] if name in read else Rows(items, name, loader) for name in items.first}


def named(item: Any) -> dict[str, Any]:
    """Names the values of an item or a batch: x; x and y; or 0, 1, 2 … for three or more."""
    if hasattr(item, "_asdict"):
        return item._asdict()
    if isinstance(item, Mapping):
        return {str(name): value for name, value in item.items()}
    values = item if isinstance(item, tuple | list) else (item,)
    names = ("x", "y") if len(values) <= 2 else map(str, range(len(values)))
    return dict(zip(names, values, strict=False))


def _plain(value: Any) -> np.ndarray | None:
    """Returns numbers as an array, and None for other values, such as text."""
    if isinstance(value, Tensor):
        value = value.detach().cpu()
        return (value.float() if value.dtype is torch.bfloat16 else value).numpy()
    try:
        array = np.asarray(value)
    except ValueError as error:  # parts of several shapes
        raise PvaeError(
            f"A field is a {type(value).__name__} whose parts have different shapes. Name each of "
            "them in a dict, or pad them to one shape."
        ) from error
    if hasattr(value, "getbands") and array.ndim < 4:  # a Pillow image, [H, W] or [H, W, C]
        array = array[None] if array.ndim == 2 else np.moveaxis(array, -1, 0)
    return array if array.dtype.kind in NUMBERS else None


def _of_loader(loader: torch_data.DataLoader, where: str) -> dict[str, Any]:
    dataset, batches = loader.dataset, loader.batch_sampler
    if isinstance(dataset, torch_data.IterableDataset):
        return _collected(loader, where)
    sampler = loader.sampler if batches is None else getattr(batches, "sampler", None)
    in_turn = torch_data.SequentialSampler, torch_data.RandomSampler
    if (
        type(batches) not in (torch_data.BatchSampler, type(None))
        or type(sampler) not in in_turn
        or getattr(sampler, "replacement", False)
        or len(sampler) != len(dataset)
    ):
        raise PvaeError(
            f"A custom sampler chooses the data of {where}, but pvae orders and shuffles data "
            "itself. Give the dataset, or torch.utils.data.Subset(dataset, indices)."
        )
    if loader.collate_fn in (torch_data.default_collate, torch_data.default_convert):
        return fields_of(dataset, where, loader if loader.num_workers else None)
    size = loader.batch_size or 1
    rows = (range(i, min(i + size, len(dataset))) for i in range(0, len(dataset), size))
    return _collected((loader.collate_fn([dataset[j] for j in piece]) for piece in rows), where)


def _collected(batches: Iterable[Any], where: str) -> dict[str, np.ndarray]:
    """Reads all batches into memory."""
    parts: dict[str, list[np.ndarray]] = {}
    used = 0
    with torch.random.fork_rng([]):  # a loader seeds its workers from the global generator
        for batch in batches:
            for name, value in _numbers(batch).items():
                if not value.ndim:
                    raise PvaeError(
                        f"The batches of {where} hold one number as {name}, not a row for each "
                        f"datum. Give tensors of leading size B, or leave {name} out."
                    )
                parts.setdefault(name, []).append(value)
                used += value.nbytes
            if not storage._fits(used, _CPU):
                raise PvaeError(
                    f"All data of {where} are read at once, and they do not fit in memory. Save "
                    "them as a .npy file, or give a Dataset with __len__ and __getitem__, whose "
                    "rows are read on demand."
                )
    if not parts:
        raise PvaeError(f"There are no data in {where}. Give at least two.")
    for name, pieces in parts.items():
        shapes = {piece.shape[1:]: None for piece in pieces}
        if len(shapes) > 1:
            raise _ragged(name, *list(shapes)[:2], where)
    return {name: np.concatenate(pieces) for name, pieces in parts.items()}


def _numbers(item: Any) -> dict[str, np.ndarray]:
    found = {name: _plain(value) for name, value in named(item).items()}
    return {name: value for name, value in found.items() if value is not None}


def _ragged(name: str, a: tuple[int, ...], b: tuple[int, ...], where: str) -> PvaeError:
    return PvaeError(
        f"The field {name} of {where} has data of shape {list(a)} and of shape {list(b)}. Pad them "
        "to one shape, and add a field with their lengths."
    )


class _Items:
    """The items of a map-style Dataset as named arrays."""

    def __init__(self, dataset: Any, where: str) -> None:
        self._dataset, self._where = dataset, where
        try:
            self._size = len(dataset)
        except TypeError as error:
            raise PvaeError(
                f"The length of {where} is not known. Define __len__, or make it an "
                "IterableDataset."
            ) from error
        if not self._size:
            raise PvaeError(f"There are no data in {where}. Give at least two.")
        first = dataset[0]
        self.first = _numbers(first)
        if not self.first:
            raise PvaeError(f"The items of {where} hold no numbers. Give arrays or tensors.")
        if "x" in (items := named(first)) and "x" not in self.first:
            raise PvaeError(
                f"x, the first value of an item of {where}, is a {type(items['x']).__name__}, not "
                "numbers. Give each item as a dict of named arrays or tensors."
            )
        self.streamed: list[str] = []
        self._last: tuple[list[int], dict[str, np.ndarray]] = ([], {})

    def __len__(self) -> int:
        return self._size

    def streamed_rows(self, rows: Sequence[int]) -> dict[str, np.ndarray]:
        """Returns rows of the fields that are not in memory; keeps the last rows read."""
        rows = list(rows)
        if rows != self._last[0]:
            self._last = rows, self.read(rows, self.streamed)
        return self._last[1]

    def warn_if_random(self) -> None:
        """Warns if an item differs when it is read again."""
        with torch.random.fork_rng([]):
            again = self.read([0], list(self.first))
        if all(
            np.array_equal(again[name][0], a, equal_nan=a.dtype.kind in "fc")
            for name, a in self.first.items()
        ):
            return
        warnings.warn(
            f"Item 0 of {self._where} differs each time it is read, as with a random transform. "
            "Data that fit in memory are read once: training and evaluation use this one draw. "
            "Draw random changes in the model and the guide, or leave the transform out.",
            stacklevel=2,
        )

    def read(self, rows: Sequence[int], names: Sequence[str]) -> dict[str, np.ndarray]:
        """Returns rows [B, *event] of these fields."""
        found = {n: np.empty((len(rows), *(a := self.first[n]).shape), a.dtype) for n in names}
        for i, row in enumerate(rows):
            item = _numbers(self._dataset[row])
            if more := [name for name in item if name not in self.first]:
                raise PvaeError(
                    f"Item {row} of {self._where} has a field {more[0]}, but item 0 does not. Give "
                    "all items the same fields; use NaN or -1 for missing values."
                )
            for name in names:
                value, first = item.get(name), self.first[name]
                if value is None or value.dtype != first.dtype:
                    has = "no" if value is None else f"a {value.dtype}"
                    raise PvaeError(
                        f"Item {row} of {self._where} has {has} field {name}, but in item 0 it is "
                        f"{first.dtype}. Give all items the same fields, of the same types."
                    )
                if value.shape != first.shape:
                    raise _ragged(name, first.shape, value.shape, self._where)
                found[name][i] = value
        return found
