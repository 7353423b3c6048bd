"""A part of a dataset: fields as stored, x observed in minibatches or once and for all."""

import contextlib
import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from pvae.data import storage
from pvae.data.observation import observe
from pvae.data.storage import Column
from pvae.errors import PvaeError

__all__ = ["Split"]

Rows = Callable[[Sequence[Tensor]], Sequence[Tensor]]
Capture = Callable[[Rows, Sequence[Tensor]], Rows]


@dataclass(frozen=True, eq=False, repr=False)
class Split:
    """The train, validation or test part of a dataset: named fields, a row for each datum.

    A part is *fresh* if x is drawn anew for each minibatch, from the global random generator of
    the device: the training part under "dynamic" and "dequantize". Every other part holds one
    observation, drawn on the CPU when it was loaded. Fields other than x are never changed.

    Args:
        fields: Stored values [N, *event] by name. An observed x is uint8 or float32; in a part
            drawn once, it is what was drawn. What does not fit in memory is read on demand.
        observation: How x comes from its field; "grey" where it has been drawn already.
        levels: The number of integer levels of x, or None.
        names: The fields of a batch, in order.

    Example:
        >>> import pvae
        >>> test = pvae.data.load("digits").test
        >>> test
        Split(297 × [1, 8, 8], drawn once)
        >>> test.x.shape
        torch.Size([297, 1, 8, 8])
    """

    fields: Mapping[str, Column]
    observation: str
    levels: int | None = None
    names: tuple[str, ...] = ("x",)

    def __len__(self) -> int:
        return len(next(iter(self.fields.values())))

    def __repr__(self) -> str:
        how = f"{self.observation} for each minibatch" if self.fresh else "drawn once"
        how = "as given" if self.observation == "as_given" else how
        return f"Split({len(self)} × {self.shape_in_words}, {how})"

    @property
    def shape_in_words(self) -> str:
        """The shape of x, where there is nothing else but labels; else the fields."""
        alone = self._observes("x") and {"x", "y"}.issuperset(self.names)
        return str(list(self.raw.shape[1:])) if alone else self.in_words

    @property
    def in_words(self) -> str:
        """The fields of a batch, the type of each that is taken as given, and its shape."""
        return ", ".join(
            f"{name} {'' if self._observes(name) else f'{column.dtype} '}{list(column.shape[1:])}"
            for name, column in self._batch
        ).replace("torch.", "")

    @property
    def _batch(self) -> list[tuple[str, Column]]:
        return [(name, self.fields[name]) for name in self.names]

    @property
    def raw(self) -> Column:
        """The stored values of x."""
        if "x" not in self.fields:
            raise PvaeError(f"There is no field x; the fields are {', '.join(self.fields)}.")
        return self.fields["x"]

    @property
    def y(self) -> Tensor | None:
        """The labels, in the batches or not; None where there are none."""
        y = self.fields.get("y")
        return y if y is None or isinstance(y, Tensor) else y[:]

    @property
    def labels(self) -> bool:
        """Whether y is in the batches."""
        return "y" in self.names

    @property
    def fresh(self) -> bool:
        """Whether x is drawn anew for each minibatch."""
        return self.observation in ("dynamic", "dequantize")

    @property
    def device(self) -> torch.device:
        """Where the fields are; the CPU for what is read on demand."""
        return next(iter(self.fields.values())).device

    @property
    def x(self) -> Tensor:
        """The observed x, [N, *event], of a part drawn once.

        Raises:
            PvaeError: The part is fresh and so has no single x, or it has no field x.
        """
        if self.fresh:
            raise PvaeError(
                f"This part is drawn anew for each minibatch ({self.observation}), so it has no "
                "single x. Take one draw with tensors(), or load it with observation='fixed' or "
                "'grey'."
            )
        _ = self.raw
        return self.only(("x",)).tensors()[0]

    def tensors(self) -> tuple[Tensor, ...]:
        """Returns the whole part observed; of a fresh part, a new draw.

        Raises:
            PvaeError: It does not fit in memory.
        """
        columns = [column for _, column in self._batch]
        if any(isinstance(column, storage.Streamed) for column in columns):
            nbytes = sum(len(self) * max(c[:1].nbytes, 4 * c[:1].numel()) for c in columns)
            if not storage._fits(nbytes, self.device):
                raise PvaeError(
                    f"The {len(self)} data, {nbytes / 1e9:.3g} GB, do not fit in memory. Take "
                    "them in pieces: observe(rows) or batches(batch_size)."
                )
        return self.observe(slice(None))

    def observe(self, index: slice | Tensor | Sequence[int]) -> tuple[Tensor, ...]:
        """Returns the minibatch of these positions: a tensor for each of `names`.

        Args:
            index: A slice, or positions [B] within the part.

        Example:
            >>> import pvae
            >>> (x,) = pvae.data.load("digits").train.observe([3, 1, 4])
            >>> x.shape
            torch.Size([3, 1, 8, 8])
        """
        if not isinstance(index, slice):
            index = torch.as_tensor(index, device=self.device)
            index = index.nonzero()[:, 0] if index.dtype == torch.bool else index.long()
        return self._observed(self._take(index))

    @cached_property
    def hash(self) -> str:
        """SHA-256 of shapes and values of the fields of a batch, the same on every device.

        Of the observed x in a part drawn once; of its stored values and the observation's name in
        a fresh one. What is read on demand is read in pieces, all of it, once.
        """
        digest = hashlib.sha256()
        for name, column in self._batch:
            observed = self._observes(name)
            if observed:
                how = f"{self.observation} of {self.levels}" if self.fresh else "observed"
                digest.update(f"{list(column.shape)} {how}".encode())
            elif not (name == "y" and column.dtype == torch.int64 and len(column.shape) == 1):
                digest.update(f"{list(column.shape)} {column.dtype}".encode())
            for piece in storage.slabs(len(self), 4 * math.prod(column.shape[1:])):
                values = storage.take(column, piece).cpu()
                if observed and not self.fresh:
                    values = observe(values, self.observation, self.levels)
                digest.update(storage.little_endian(values))
        return digest.hexdigest()

    def take(self, positions: np.ndarray | Tensor) -> "Split":
        """Returns the part that has these rows alone."""
        index = torch.as_tensor(positions, device=self.device)
        return replace(self, fields={n: c.index_select(0, index) for n, c in self.fields.items()})

    def only(self, names: Sequence[str]) -> "Split":
        """Returns the part with these fields in its batches, in this order."""
        return self if tuple(names) == self.names else replace(self, names=tuple(names))

    def to(self, device: str | torch.device) -> "Split":
        """Returns the part with its fields on a device, if they fit.

        They fit if each takes less than half of the memory that is free there. Otherwise the part
        comes back as it is, and `batches(device=...)` streams it.
        """
        device, moved = torch.device(device), {}
        for name, column in self.fields.items():
            there = storage.resident(column, device)
            if there is None:
                return self
            moved[name] = there
        if all(moved[name] is column for name, column in self.fields.items()):
            return self
        return replace(self, fields=moved)

    def batches(
        self,
        batch_size: int,
        *,
        device: str | torch.device | None = None,
        shuffle: bool = False,
        generator: torch.Generator | None = None,
        capture: Capture | None = None,
    ) -> Iterator[tuple[Tensor, ...]]:
        """Yields minibatches of one epoch, as `observe` does; the last may be smaller.

        Where the part is on the device already, rows are gathered there. Else they are streamed,
        copied, and observed on the device.

        Args:
            batch_size: B, at least 1.
            device: Where batches go; None is where the part is.
            shuffle: Whether to go through a new permutation.
            generator: Draws the permutation; None is the global generator of the part's device.
            capture: Makes a function of [rows] and a first [rows] one launch on the device, such
                as `pvae.compile.Replay`; it observes the whole minibatches of a permutation.
        """
        if batch_size < 1:
            raise PvaeError(f"batch_size is {batch_size}; it should be at least 1.")
        target = self.device if device is None else torch.device(device)
        index = None
        if shuffle:
            place = self.device if generator is None else generator.device
            index = torch.randperm(len(self), generator=generator, device=place).to(self.device)
        in_memory = all(isinstance(column, Tensor) for _, column in self._batch)
        if in_memory and storage.same_device(self.device, target):
            return self._gathered(batch_size, index, capture)
        return self._streamed(batch_size, index, target)

    def _observes(self, name: str) -> bool:
        return name == "x" and self.observation != "as_given"

    def _take(self, index: slice | Tensor) -> tuple[Tensor, ...]:
        return tuple(storage.take(column, index) for _, column in self._batch)

    def _observed(self, stored: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(
            observe(values, self.observation, self.levels) if self._observes(name) else values
            for name, values in zip(self.names, stored, strict=True)
        )

    def _gathered(
        self, batch_size: int, index: Tensor | None, capture: Capture | None
    ) -> Iterator[tuple[Tensor, ...]]:
        observe = None
        if index is not None and capture is not None and len(index) >= 2 * batch_size:
            with contextlib.suppress(Exception):  # then each of its operations is launched
                observe = capture(
                    lambda rows: self._observed(self._take(rows[0])), [index[:batch_size]]
                )
        for i in range(0, len(self), batch_size):
            part = slice(i, i + batch_size) if index is None else index[i : i + batch_size]
            whole = observe is not None and len(part) == batch_size
            yield tuple(observe([part])) if whole else self._observed(self._take(part))

    def _streamed(
        self, batch_size: int, index: Tensor | None, device: torch.device
    ) -> Iterator[tuple[Tensor, ...]]:
        index = torch.arange(len(self), device=self.device) if index is None else index
        loader = DataLoader(
            _Minibatches(self),
            sampler=index.split(batch_size),
            batch_size=None,
            pin_memory=device.type == "cuda" and self.device.type == "cpu",
            # A loader seeds its workers from the global generator unless it has its own; that
            # would make streamed training differ from resident training.
            generator=torch.Generator(),
        )
        # To the CPU, a copy that does not block could be read before it is there.
        free = device.type == "cuda"
        for stored in loader:
            yield self._observed(tuple(a.to(device, non_blocking=free) for a in stored))


class _Minibatches(Dataset):
    """Stored minibatches by their index tensors."""

    def __init__(self, part: Split) -> None:
        self.part = part

    def __getitem__(self, index: Tensor) -> tuple[Tensor, ...]:
        return self.part._take(index)
