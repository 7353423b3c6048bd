"""Memory: how many bytes tensors take, and work in chunks of rows (one sample of one datum)."""

from __future__ import annotations

import functools
import math
import warnings
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pvae.errors import PvaeError
from pvae.runtime.device import is_out_of_memory

__all__ = ["Chunks", "LiveBytes", "check_memory", "keep_freed_memory"]


def check_memory(memory: float | None) -> None:
    """Checks an argument `memory`, in MiB.

    Raises:
        PvaeError: `memory` is neither None nor a finite number above zero.
    """
    number = isinstance(memory, int | float) and not isinstance(memory, bool)
    if memory is not None and not (number and 0 < memory < math.inf):
        raise PvaeError(f"memory={memory!r} is not valid: give a number of MiB above zero.")


class Chunks:
    """Runs work in chunks, and in smaller chunks after memory has run out.

    Args:
        rows: The largest number of rows (samples times data) in a chunk.
    """

    def __init__(self, rows: int) -> None:
        self.rows = rows

    def run(
        self, num: int, size: int, compute: Callable[[int, int], dict[str, Tensor]]
    ) -> dict[str, Tensor]:
        """Computes samples chunk by chunk and returns the joined results.

        Args:
            num: Number of samples.
            size: B, the number of data.
            compute: Maps (start, stop) to tensors [..., stop - start, B].

        Raises:
            PvaeError: There is not enough memory for one sample.
        """
        whole: dict[str, Tensor] = {}
        start = 0
        while start < num:
            stop = min(start + max(1, self.rows // size), num)
            try:
                part = compute(start, stop)
                if stop - start == num:
                    return part
                for name, term in part.items():
                    if name not in whole:  # all of it now: small tensors kept between chunks
                        shape = (*term.shape[:-2], num, size)  # would fragment the memory
                        whole[name] = term.new_empty(shape)
                    whole[name][..., start:stop, :] = term
                start = stop
                continue
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                if stop - start == 1:
                    raise PvaeError(
                        f"There is not enough memory for one sample of {size} data at a time. "
                        "Use device='cpu', a machine with more memory or a smaller network."
                    ) from error
            self.rows = size * ((stop - start) // 2)
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            warnings.warn(
                f"Out of memory. The work continues with {self.rows:,} rows (samples times data) "
                "at a time; the samples stay the same.",
                stacklevel=2,
            )
        return whole


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of the tensors that are made in this context.

    Attributes:
        peak: The largest number of bytes alive at one time.
        total: The bytes of all tensors made, an upper bound on what autograd keeps.
    """

    def __init__(self) -> None:
        super().__init__()
        self.peak = self.total = self._now = 0
        self._alive: dict[int, list[int]] = {}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # True would import dynamo, which takes seconds

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        old = {_storage(t) for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._watch(tensor, _storage(tensor) not in old)
        return result

    def _watch(self, tensor: Tensor, new: bool) -> None:
        key = _storage(tensor)
        if key not in self._alive:
            if not new:
                return  # a view of a tensor that is older than this context
            size = tensor.untyped_storage().nbytes()
            self._alive[key] = [0, size]
            self._now += size
            self.total += size
            self.peak = max(self.peak, self._now)
        self._alive[key][0] += 1
        weakref.finalize(tensor, self._drop, key)

    def _drop(self, key: int) -> None:
        self._alive[key][0] -= 1
        if not self._alive[key][0]:
            self._now -= self._alive.pop(key)[1]


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


@functools.cache
def keep_freed_memory() -> None:
    """Makes the C library keep up to 64 MiB of freed memory for the next tensors.

    By default, glibc returns the large temporaries of each chunk to the kernel, which costs 20 to
    33 % of the time of an evaluation on a CPU. Freeing a block just under 32 MiB raises glibc's
    thresholds for the rest of the process.
    """
    for _ in range(2):
        torch.empty(2**23 - 2**12).zero_()
