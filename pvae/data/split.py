"""A part of a dataset: stored fields, with x observed in each minibatch or once."""

import contextlib
import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from pvae.data import storage
from pvae.data.mixed_order import mixed_order
from pvae.data.observation import observe
from pvae.data.storage import Column
from pvae.data.workers import read_ahead
from pvae.errors import PvaeError
from pvae.runtime import whole

__all__ = ["Split"]

Rows = Callable[[Sequence[Tensor]], Sequence[Tensor]]
Capture = Callable[[Rows, Sequence[Tensor]], Rows]


@dataclass(frozen=True, eq=False, repr=False)
class Split:
    """The train, validation or test part of a dataset: named fields, a row for each datum.

    A part is *fresh* if x is drawn again for each minibatch, from the global random generator of
    the device: the training part with "dynamic" and "dequantize". Every other part holds one
    observation, drawn on the CPU when it was loaded. Fields other than x are never changed.

    Args:
        fields: Stored values [N, *event] by name. An observed x is uint8 or float32; in a part
            drawn once, it is the draw. Fields that do not fit in memory are read on demand.
        observation: How x is made from its field; "grey" if it was drawn already.
        levels: The number of integer levels of x, or None.
        names: The fields of a batch, in order.
        labelled_share: The share of labelled data in a shuffled minibatch; None for that of the
            data. An epoch has N draws then: labelled data are drawn again, and unlabelled ones
            wait for another epoch.

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
    labelled_share: float | None = None

    def __len__(self) -> int:
        return len(next(iter(self.fields.values())))

    def __repr__(self) -> str:
        how = f"{self.observation} for each minibatch" if self.fresh else "drawn once"
        how = "as given" if self.observation == "as_given" else how
        return f"Split({len(self)} × {self.shape_in_words}, {how})"

    @property
    def shape_in_words(self) -> str:
        """The shape of x if there are no other fields except labels; else the fields."""
        alone = self._observes("x") and {"x", "y"}.issuperset(self.names)
        return str(list(self.raw.shape[1:])) if alone else self.in_words

    @property
    def in_words(self) -> str:
        """The fields of a batch with their shapes, and the types of those taken as given."""
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
        """The labels, even if batches do not hold them; None if there are none."""
        y = self.fields.get("y")
        return y if y is None or isinstance(y, Tensor) else y[:]

    @property
    def known(self) -> Tensor | None:
        """Whether the label of each datum is known, [N]: no −1 and no NaN. None without labels."""
        y = self.y
        if y is None:
            return None
        known = ~y.isnan() if y.is_floating_point() else y >= 0
        return known.reshape(len(known), -1).all(1)

    @property
    def labels(self) -> bool:
        """Whether batches hold y."""
        return "y" in self.names

    @property
    def fresh(self) -> bool:
        """Whether x is drawn again for each minibatch."""
        return self.observation in ("dynamic", "dequantize")

    @property
    def device(self) -> torch.device:
        """The device of the fields; the CPU for fields that are read on demand."""
        return next(iter(self.fields.values())).device

    @property
    def x(self) -> Tensor:
        """The observed x, [N, *event], of a part drawn once.

        Raises:
            PvaeError: The part is fresh and so has no single x, or it has no field x.
        """
        if self.fresh:
            raise PvaeError(
                f"The x of this part is drawn again for each minibatch ({self.observation}), so "
                "there is no single x. Take one draw with tensors(), or load the data with "
                "observation='fixed' or 'grey'."
            )
        _ = self.raw
        return self.only(("x",)).tensors()[0]

    def tensors(self) -> tuple[Tensor, ...]:
        """Returns the whole part as one minibatch; for a fresh part, a new draw.

        Raises:
            PvaeError: The part does not fit in memory.
        """
        columns = [column for _, column in self._batch]
        if any(isinstance(column, storage.Streamed) for column in columns):
            nbytes = sum(len(self) * max(c[:1].nbytes, 4 * c[:1].numel()) for c in columns)
            if not storage._fits(nbytes, self.device):
                raise PvaeError(
                    f"The {len(self)} data, {nbytes / 1e9:.3g} GB, do not fit in memory. Read "
                    "them in pieces with observe(rows) or batches(batch_size)."
                )
        return self.observe(slice(None))

    def observe(self, index: slice | Tensor | Sequence[int]) -> tuple[Tensor, ...]:
        """Returns the minibatch of these rows: a tensor for each of `names`.

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
        """SHA-256 of the shapes and values of a batch's fields, the same on every device.

        For x, it is of the observed values in a part drawn once, and of the stored values and the
        name of the observation in a fresh part. Fields on disk are read completely, in pieces.
        """
        digest = hashlib.sha256()
        for name, column in self._batch:
            observed = self._observes(name)
            if observed:
                how = f"{self.observation} of {self.levels}" if self.fresh else "observed"
                digest.update(f"{list(column.shape)} {how}".encode())
            elif isinstance(column, storage.Drawn):
                digest.update(f"{list(column.shape)} {column.kind} for each minibatch".encode())
                continue
            elif not (name == "y" and column.dtype == torch.int64 and len(column.shape) == 1):
                digest.update(f"{list(column.shape)} {column.dtype}".encode())
            for piece in storage.slabs(len(self), 4 * math.prod(column.shape[1:])):
                values = storage.take(column, piece).cpu()
                if observed and not self.fresh:
                    values = observe(values, self.observation, self.levels)
                digest.update(storage.little_endian(values))
        return digest.hexdigest()

    def take(self, positions: np.ndarray | Tensor) -> "Split":
        """Returns the part with only these rows.

        Without labelled data among them, or without others, there is no `labelled_share` any more.
        """
        index = torch.as_tensor(positions, device=self.device)
        fields = {n: c.index_select(0, index) for n, c in self.fields.items()}
        part = replace(self, fields=fields)
        if part.labelled_share is not None and len(part.known.unique()) < 2:
            part = replace(part, labelled_share=None)
        return part

    def only(self, names: Sequence[str]) -> "Split":
        """Returns the part with these fields in its batches, in this order."""
        return self if tuple(names) == self.names else replace(self, names=tuple(names))

    def to(self, device: str | torch.device) -> "Split":
        """Returns the part with its fields on a device, or unchanged if they do not fit.

        They fit if each takes less than half of the free memory there. If they do not fit,
        `batches(device=...)` streams them.
        """
        device, moved = torch.device(device), {}
        for name, column in self.fields.items():
            fresh = isinstance(column, storage.Drawn)  # drawn on the CPU, and copied by `batches`
            there = column if fresh else storage.resident(column, device)
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
        share: tuple[int, int] = (0, 1),
    ) -> Iterator[tuple[Tensor, ...]]:
        """Yields minibatches of one epoch, as `observe` does; the last may be smaller.

        If the part is on the device already, rows are gathered there. Otherwise they are read,
        copied to the device, and observed there.

        Args:
            batch_size: B, at least 1.
            device: The device of the batches; None is that of the part.
            shuffle: Whether to draw a new permutation of the data, or with `labelled_share` a new
                order of both kinds.
            generator: Draws the permutation; None is the global generator of the part's device.
            capture: Turns a function of [rows] and an example of [rows] into one launch on the
                device, such as `pvae.compile.Replay`; it observes the full minibatches of a
                permutation.
            share: (r, n) for the r-th of n parts of each minibatch: its rows r, r + n, r + 2n, ….
        """
        batch_size = whole("batch_size", batch_size)
        target = self.device if device is None else torch.device(device)
        index = None
        if shuffle:
            place = self.device if generator is None else generator.device
            if self.labelled_share is None:
                index = torch.randperm(len(self), generator=generator, device=place)
            else:
                index = mixed_order(self.known, self.labelled_share, batch_size, generator)
            index = index.to(self.device)
        elif share != (0, 1):
            index = torch.arange(len(self), device=self.device)
        rows = None
        if index is not None:
            first, step = share
            rows = [part[first::step] for part in index.split(batch_size)]
        in_memory = all(isinstance(column, Tensor) for _, column in self._batch)
        if in_memory and storage.same_device(self.device, target):
            return self._gathered(batch_size, rows, capture)
        return self._streamed(batch_size, rows, target)

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
        self, batch_size: int, rows: list[Tensor] | None, capture: Capture | None
    ) -> Iterator[tuple[Tensor, ...]]:
        if rows is None:
            for i in range(0, len(self), batch_size):
                yield self._observed(self._take(slice(i, i + batch_size)))
            return
        observe = None
        if capture is not None and len(rows) > 1 and len(rows[0]) == len(rows[1]):
            with contextlib.suppress(Exception):  # without it, operations are launched one by one
                observe = capture(lambda rows: self._observed(self._take(rows[0])), [rows[0]])
        for part in rows:
            captured = observe is not None and len(part) == len(rows[0])
            yield tuple(observe([part])) if captured else self._observed(self._take(part))

    def _streamed(
        self, batch_size: int, rows: list[Tensor] | None, device: torch.device
    ) -> Iterator[tuple[Tensor, ...]]:
        if rows is None:
            rows = torch.arange(len(self), device=self.device).split(batch_size)
        # A copy to the CPU has to block: it could be read before it is complete.
        to_gpu = device.type == "cuda"
        for stored in self._stored(rows):
            if to_gpu and self.device.type == "cpu":
                stored = tuple(a.pin_memory() for a in stored)
            yield self._observed(tuple(a.to(device, non_blocking=to_gpu) for a in stored))

    def _stored(self, rows: Sequence[Tensor]) -> Iterator[tuple[Tensor, ...]]:
        """Yields the stored values of minibatches; those on disk are read in advance by workers."""
        read = {
            name: column for name, column in self._batch
            if isinstance(column, storage.Streamed) and column.loader is not None
        }  # fmt: skip
        if not read:
            yield from map(self._take, rows)
            return
        columns = [*read.values()]
        for index, found in zip(rows, read_ahead(columns, rows, columns[0].loader), strict=True):
            ready = dict(zip(read, found, strict=True))
            yield tuple(
                ready[name] if name in ready else storage.take(column, index)
                for name, column in self._batch
            )
