"""A dataset's parts: values as stored, observed in minibatches or once and for all."""

import contextlib
import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from pvae.data import storage
from pvae.data.observation import observe
from pvae.errors import PvaeError

__all__ = ["Data", "Split"]

Rows = Callable[[Sequence[Tensor]], Sequence[Tensor]]
Capture = Callable[[Rows, Sequence[Tensor]], Rows]


@dataclass(frozen=True, eq=False, repr=False)
class Split:
    """The train, validation or test part of a dataset.

    A part is *fresh* if its observation is drawn anew for each minibatch, from the global random
    generator of the device: the training part under "dynamic" and "dequantize". Every other part
    holds one observation, drawn on the CPU when it was loaded.

    Args:
        raw: Stored values [N, *event], uint8 or float32; in a part drawn once, what was drawn. An
            `np.memmap` where they do not fit into memory.
        y: Labels, int64 [N], or None.
        observation: How x comes from `raw`; "grey" where it has been drawn already.
        levels: The number of integer levels of `raw`, or None for floats.
        labels: Whether batches are `(x, y)` instead of `(x,)`.
        rows: Which rows of an `np.memmap` make up the part; None for all.

    Example:
        >>> import pvae
        >>> test = pvae.data.load("digits").test
        >>> test
        Split(297 × [1, 8, 8], drawn once)
        >>> test.x.shape
        torch.Size([297, 1, 8, 8])
    """

    raw: Tensor | np.memmap
    y: Tensor | None
    observation: str
    levels: int | None
    labels: bool = False
    rows: Tensor | None = None

    def __len__(self) -> int:
        return len(self.raw) if self.rows is None else len(self.rows)

    def __repr__(self) -> str:
        how = f"{self.observation} for each minibatch" if self.fresh else "drawn once"
        return f"Split({len(self)} × {list(self.raw.shape[1:])}, {how})"

    @property
    def fresh(self) -> bool:
        """Whether x is drawn anew for each minibatch."""
        return self.observation in ("dynamic", "dequantize")

    @property
    def device(self) -> torch.device:
        """Where `raw` is; the CPU for what is on disk."""
        return self.raw.device if isinstance(self.raw, Tensor) else torch.device("cpu")

    @property
    def x(self) -> Tensor:
        """The observed x, float32 [N, *event], of a part drawn once.

        Raises:
            PvaeError: The part is fresh and so has no single x.
        """
        if self.fresh:
            raise PvaeError(
                f"This part is drawn anew for each minibatch ({self.observation}), so it has no "
                "single x. Take one draw with tensors(), or load it with observation='fixed' or "
                "'grey'."
            )
        return self.observe(slice(None))[0]

    def tensors(self) -> tuple[Tensor, ...]:
        """Returns the whole part observed, `(x,)` or `(x, y)`; of a fresh part, a new draw."""
        return self.observe(slice(None))

    def observe(self, index: slice | Tensor | Sequence[int]) -> tuple[Tensor, ...]:
        """Returns the observed minibatch, `(x,)` or `(x, y)`, of these positions.

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
        """SHA-256 of shape and values, the same on every platform and device.

        Of the observed x in a part drawn once; of `raw` and the observation's name in a fresh one.
        With `labels`, y counts too.
        """
        how = f"{self.observation} of {self.levels}" if self.fresh else "observed"
        shape = [len(self), *self.raw.shape[1:]]
        digest = hashlib.sha256(f"{shape} {how}".encode())
        for piece in storage.slabs(len(self), 4 * math.prod(shape[1:])):
            values = storage.take(self.raw, self.rows, piece).cpu()
            if not self.fresh:
                values = observe(values, self.observation, self.levels)
            little = values.numpy().astype(values.numpy().dtype.newbyteorder("<"), copy=False)
            digest.update(np.ascontiguousarray(little))
        if self.labels:
            digest.update(np.ascontiguousarray(self.y.cpu().numpy().astype("<i8")))
        return digest.hexdigest()

    def take(self, positions: np.ndarray) -> "Split":
        """Returns the part that has these rows alone."""
        index = torch.from_numpy(positions)
        y = None if self.y is None else self.y[index]
        if isinstance(self.raw, Tensor):
            return replace(self, raw=self.raw[index], y=y)
        return replace(self, rows=index if self.rows is None else self.rows[index], y=y)

    def to(self, device: str | torch.device) -> "Split":
        """Returns the part with `raw` and `y` on a device, if it fits.

        It fits if `raw` takes less than half of the free memory there. Otherwise the part comes
        back as it is, and `batches(device=...)` streams it.
        """
        device = torch.device(device)
        raw = storage.resident(self.raw, self.rows, device)
        if raw is None or raw is self.raw:
            return self
        return replace(self, raw=raw, rows=None, y=None if self.y is None else self.y.to(device))

    def batches(
        self,
        batch_size: int,
        *,
        device: str | torch.device | None = None,
        shuffle: bool = False,
        generator: torch.Generator | None = None,
        capture: Capture | None = None,
    ) -> Iterator[tuple[Tensor, ...]]:
        """Yields minibatches `(x,)` or `(x, y)` of one epoch; the last may be smaller.

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
        if isinstance(self.raw, Tensor) and storage.same_device(self.device, target):
            return self._gathered(batch_size, index, capture)
        return self._streamed(batch_size, index, target)

    def _take(self, index: slice | Tensor) -> tuple[Tensor, ...]:
        raw = storage.take(self.raw, self.rows, index)
        if isinstance(index, slice) and raw.dtype == torch.float32:
            # Grey floats are observed as they are, and a slice would share memory with the data.
            raw = raw.clone()
        return (raw, self.y[index].clone()) if self.labels else (raw,)

    def _observed(self, stored: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        x = observe(stored[0], self.observation, self.levels)
        return (x, *stored[1:])

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


@dataclass(frozen=True, eq=False)
class Data:
    """A dataset: its parts and how they are observed.

    Args:
        name: The dataset's or the file's name, without its folder.
        observation: "dynamic", "fixed", "threshold", "grey", "dequantize" or "counts".
        seed: The data seed, of everything drawn once.
        levels: The number of integer levels of the source, or None for floats.
        event_shape: The shape of one x, such as (1, 28, 28).
        support: What values x takes: "binary" (0 or 1), "unit_interval" (0 to 1), "counts"
            (whole numbers) or "real". A Bernoulli likelihood is a likelihood on the first alone.
        train: The training part.
        validation: The part held out of training, or None.
        test: The test part.
        source: The name or path that the data were loaded by, or None for arrays.
        asked_levels: The number of levels that was asked for, if it was.
    """

    name: str
    observation: str
    seed: int
    levels: int | None
    event_shape: tuple[int, ...]
    support: Literal["binary", "unit_interval", "counts", "real"]
    train: Split
    validation: Split | None
    test: Split
    source: str | None = None
    asked_levels: int | None = None

    @property
    def in_words(self) -> str:
        """What the data are and how x comes from them, in one line.

        Example:
            >>> import pvae
            >>> pvae.data.load("digits", observation="threshold").in_words
            'digits, 1500 training and 297 test data [1, 8, 8]; x is 1 where k / 16 > 0.5, else 0'
        """
        p = "the value" if self.levels is None else f"k / {self.levels - 1}"
        binary = self.levels == 2 or self.support == "binary"
        how = {
            "dynamic": f"x is 1 with probability {p}, else 0, drawn for each training minibatch",
            "fixed": f"x is 1 with probability {p}, else 0, drawn once",
            "threshold": f"x is 1 where {p} > 0.5, else 0",
            "grey": "x is the value itself, 0 or 1" if binary else f"x is {p}",
            "dequantize": f"x is (k + u) / {self.levels}, u uniform on [0, 1)",
            "counts": "x is the count itself",
        }[self.observation]
        held_out = f", {len(self.validation)} validation" if self.validation else ""
        sizes = f"{len(self.train)} training{held_out} and {len(self.test)} test data"
        return f"{self.name}, {sizes} {list(self.event_shape)}; {how}"
