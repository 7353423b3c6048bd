"""Data that are given as a pair's own arguments: tensors of one leading size, other values."""

import copy
import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pvae.errors import PvaeError
from pvae.pair.arguments import Arguments
from pvae.pair.program import Program

__all__ = ["TensorSplit"]


class TensorSplit:
    """A split whose minibatches are rows of given tensors.

    Args:
        tensors: The pair's positional arguments: one or more tensors of leading size N, and any
            other values (see `pvae.pair.arguments.Arguments`).
        kwargs: Arguments of the pair by name.

    Raises:
        PvaeError: If no argument counts the data, there is no datum, or a value is not finite. NaN
            after the first tensor may stand for a missing value.

    Example:
        >>> import torch
        >>> part = TensorSplit((torch.zeros(10, 3), torch.arange(10)))
        >>> [len(x) for x, y in part.batches(4)]
        [4, 4, 2]
    """

    def __init__(self, tensors: Any, kwargs: dict[str, Any] | None = None) -> None:
        if not isinstance(tensors, tuple | list):
            tensors = (tensors,)
        arrays = [_tensor(i, t) for i, t in enumerate(tensors)]
        try:
            self._arguments = Arguments(arrays, kwargs)
        except PvaeError as error:
            if any(isinstance(t, Tensor) for t in arrays):
                raise
            kinds = ", ".join([type(t).__name__ for t in arrays[:4]] + ["…"] * (len(arrays) > 4))
            raise PvaeError(
                f"The data cannot be {kinds or 'empty'}: give a tensor, a tuple of tensors and "
                "other arguments of the programs, or the result of pvae.data.load."
            ) from error
        self._constants = self._arguments.constants()
        if not len(self):
            raise PvaeError("The data are empty: the leading size is 0. Give at least one datum.")
        self._arguments.check_finite()

    def __len__(self) -> int:
        return self._arguments.size

    @property
    def hash(self) -> str:
        """SHA-256 of shapes, types and values of all tensors, and of numbers and strings."""
        digest = hashlib.sha256()
        for value in (*self.tensors(), *self._constants):
            if isinstance(value, Tensor):
                digest.update(f"{list(value.shape)} {value.dtype}".encode())
                digest.update(_bytes(value))
            else:
                digest.update(repr(value).encode())
        return digest.hexdigest()

    def bind(self, *programs: Program) -> tuple[Program, ...]:
        """Returns programs that take the minibatches: see `Arguments.bind`."""
        return self._arguments.bind(*programs)

    def tensors(self) -> tuple[Tensor, ...]:
        """Returns the tensors of leading size N."""
        return self._arguments.batch

    def observe(self, index: slice | Tensor) -> tuple[Tensor, ...]:
        """Returns the rows of these positions."""
        return tuple(tensor[index] for tensor in self.tensors())

    def take(self, positions: np.ndarray) -> "TensorSplit":
        """Returns a split with only these rows."""
        taken = copy.copy(self)
        taken._arguments = Arguments(self.observe(torch.from_numpy(positions)))
        return taken

    @property
    def device(self) -> torch.device:
        """The tensors' device."""
        return self.tensors()[0].device

    def to(self, device: str | torch.device) -> "TensorSplit":
        """Returns the split with its tensors on a device."""
        moved = copy.copy(self)
        moved._arguments = self._arguments.to(device)
        return moved

    def batches(
        self,
        batch_size: int,
        *,
        device: str | torch.device | None = None,
        shuffle: bool = False,
        generator: torch.Generator | None = None,
        share: tuple[int, int] = (0, 1),
    ) -> Iterator[tuple[Tensor, ...]]:
        """Yields minibatches of one epoch; the last may be smaller. See `Split.batches`."""
        place = self.device
        order, (first, step) = None, share
        if shuffle:
            draws_on = place if generator is None else generator.device
            order = torch.randperm(len(self), generator=generator, device=draws_on).to(place)
        for i in range(0, len(self), batch_size):
            end = min(i + batch_size, len(self))
            rows = slice(i + first, end, step) if order is None else order[i + first : end : step]
            yield tuple(t if device is None else t.to(device) for t in self.observe(rows))


def _tensor(place: int, value: Any) -> Any:
    """Returns an array as a tensor, sharing memory if possible, and other values unchanged."""
    if not isinstance(value, np.ndarray):
        return value
    if not value.dtype.isnative or min(value.strides, default=0) < 0:
        value = np.array(value, value.dtype.newbyteorder("="))
    try:
        return torch.from_numpy(value)
    except TypeError as error:
        raise PvaeError(
            f"Argument {place} of the data is an array of dtype {value.dtype}, which torch does "
            "not have. Convert it: x.astype('float32')."
        ) from error


def _bytes(tensor: Tensor) -> np.ndarray:
    """Returns the bytes of a tensor's values."""
    tensor = tensor.dequantize() if tensor.is_quantized else tensor.detach().to_dense()
    tensor = tensor.cpu().resolve_conj().resolve_neg().contiguous()
    return tensor.reshape(-1).view(torch.uint8).numpy()
