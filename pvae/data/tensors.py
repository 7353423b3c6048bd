"""A pair's own arguments: tensors of the same leading size, used as they are."""

import copy
import hashlib
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from pvae.errors import PvaeError

__all__ = ["Tensors"]


class Tensors:
    """A part of data that observes nothing: minibatches are rows of the tensors given.

    Args:
        tensors: A tensor or several, the arguments of the pair, each of leading size N.

    Raises:
        PvaeError: If there is none, their leading sizes differ, or a value is not finite.

    Example:
        >>> import torch
        >>> part = Tensors((torch.zeros(10, 3), torch.arange(10)))
        >>> [len(x) for x, y in part.batches(4)]
        [4, 4, 2]
    """

    def __init__(self, tensors: Tensor | np.ndarray | Sequence[Tensor]) -> None:
        if not isinstance(tensors, tuple | list):
            tensors = (tensors,)
        arrays = [torch.from_numpy(t) if isinstance(t, np.ndarray) else t for t in tensors]
        kinds = ", ".join(type(t).__name__ for t in arrays)
        if not arrays or not all(isinstance(t, Tensor) and t.ndim for t in arrays):
            raise PvaeError(
                f"Data is a tensor, a tuple of tensors, or what pvae.data.load returns; this is "
                f"{kinds or 'empty'}."
            )
        sizes = [len(t) for t in arrays]
        if len(set(sizes)) > 1 or not sizes[0]:
            raise PvaeError(
                f"The tensors of the data have leading sizes {sizes}; every one must count the "
                "same data, at least one."
            )
        for i, tensor in enumerate(arrays):
            if not tensor.is_floating_point():
                continue
            # In slabs: isfinite makes a copy of what it looks at.
            slabs = [~s.isfinite().reshape(len(s), -1).all(1) for s in tensor.split(4096)]
            bad = torch.cat(slabs).nonzero()[:, 0]
            if len(bad):
                raise PvaeError(
                    f"Tensor {i} of the data holds NaN or infinite values in {len(bad)} of "
                    f"{len(tensor)} rows, the first of them row {int(bad[0])}. Remove or replace "
                    "them."
                )
        self._tensors = tuple(arrays)

    def __len__(self) -> int:
        return len(self._tensors[0])

    @property
    def hash(self) -> str:
        """SHA-256 of shapes, types and values."""
        digest = hashlib.sha256()
        for tensor in self._tensors:
            digest.update(f"{list(tensor.shape)} {tensor.dtype}".encode())
            digest.update(np.ascontiguousarray(tensor.detach().cpu().numpy()))
        return digest.hexdigest()

    def tensors(self) -> tuple[Tensor, ...]:
        """Returns the tensors."""
        return self._tensors

    def observe(self, index: slice | Tensor) -> tuple[Tensor, ...]:
        """Returns the rows of these positions."""
        return tuple(tensor[index] for tensor in self._tensors)

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self._tensors[0].device

    def to(self, device: str | torch.device) -> "Tensors":
        """Returns the part with its tensors on a device."""
        moved = copy.copy(self)
        moved._tensors = tuple(tensor.to(device) for tensor in self._tensors)
        return moved

    def batches(
        self,
        batch_size: int,
        *,
        device: str | torch.device | None = None,
        shuffle: bool = False,
        generator: torch.Generator | None = None,
    ) -> Iterator[tuple[Tensor, ...]]:
        """Yields minibatches of one epoch; the last may be smaller. See `Part.batches`."""
        place = self.device
        order = None
        if shuffle:
            draws_on = place if generator is None else generator.device
            order = torch.randperm(len(self), generator=generator, device=draws_on).to(place)
        for i in range(0, len(self), batch_size):
            rows = slice(i, i + batch_size) if order is None else order[i : i + batch_size]
            yield tuple(t if device is None else t.to(device) for t in self.observe(rows))
