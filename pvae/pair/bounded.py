"""Limits on what a program may use: memory for its draws, and a number of sites."""

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import torch
from pyro.poutine.messenger import Messenger
from pyro.poutine.subsample_messenger import _Subsample
from torch import Tensor

from pvae.errors import PvaeError, first_line
from pvae.runtime import free_memory, is_out_of_memory

try:
    import resource
except ImportError:  # Windows
    resource = None

__all__ = ["Bounded", "in_free_memory"]

_LARGE = 1 << 28  # bytes; below it memory is not asked for
_MOST_SITES = 100_000  # of one call: a trace of them takes about half a gigabyte


class Bounded(Messenger):
    """Refuses sites that do not fit in memory, before they are drawn, and endless programs.

    A site takes up its draw, and its log density before that is summed over an event.

    Raises:
        PvaeError: If a site is larger than the free memory, or one call has more than 100,000.
    """

    def __enter__(self) -> "Bounded":
        self._sites = 0
        return super().__enter__()

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        self._sites += 1
        if self._sites > _MOST_SITES:
            raise PvaeError(
                f"one call has drawn {_MOST_SITES:,} sites, the last of them {msg['name']!r}, and "
                "goes on: a loop in the program has no end. Put many draws of one kind into one "
                "site, in a plate."
            )
        fn, value = msg["fn"], msg["value"]
        if isinstance(fn, _Subsample):  # a plate, which makes the index of each of its rows
            shape = torch.Size([fn.size] if isinstance(fn.size, int) and fn.size > 0 else [])
        elif hasattr(fn, "batch_shape"):
            shape = fn.batch_shape + fn.event_shape
        else:
            return
        if isinstance(value, Tensor):
            if 4 * math.prod(shape) * value.numel() <= _LARGE:
                return
            with contextlib.suppress(RuntimeError):  # a value that does not fit is said elsewhere
                shape = torch.broadcast_shapes(shape, value.shape)
        size = 4 * math.prod(shape)
        if size > _LARGE and size > free_memory(_device_of(fn)):
            verb = "would draw" if value is None else "has a log density of"
            raise PvaeError(
                f"site {msg['name']!r} {verb} {list(shape)} values, {size / 1e9:,.0f} GB, more "
                "than there is memory. Where two of these sizes count the data, a shape [B, 1] "
                "stands where the plate has [B]: take the 1 away, or write .to_event(1)."
            )


def _device_of(fn: Any) -> torch.device:
    while hasattr(fn, "base_dist"):
        fn = fn.base_dist
    found = (v.device for v in vars(fn).values() if isinstance(v, Tensor))
    return next(found, torch.device("cpu"))


@contextlib.contextmanager
def in_free_memory(what: str) -> Iterator[None]:
    """Raises a PvaeError when memory runs out, where the system would kill the process.

    On Linux without a GPU the process may take up what is free now, and no more; elsewhere an
    allocation fails when the device says so.

    Args:
        what: What is done, for the message: "looking at the pair".

    Raises:
        PvaeError: If memory ran out.
    """
    try:
        with _limit():
            yield
    except Exception as error:
        if isinstance(error, PvaeError) or not is_out_of_memory(error):
            raise
        raise PvaeError(
            f"There is not enough memory for {what} ({first_line(error)[:200]}). Hand in fewer "
            "data, and look for tensors of the program that grow with the square of their number "
            "(shapes [B, B]), or with the product of the sites that are summed out."
        ) from error


@contextlib.contextmanager
def _limit() -> Iterator[None]:
    used = _used()
    if resource is None or used is None or torch.cuda.is_available():
        yield
        return
    before = soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    most = used + max(_LARGE, free_memory(torch.device("cpu")))
    bounds = [bound for bound in (soft, hard, most) if bound != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_DATA, (min(bounds), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


def _used() -> int | None:
    """Returns the bytes that RLIMIT_DATA counts; None if the system does not tell."""
    try:
        with open("/proc/self/status") as file:
            lines = dict(line.split(":", 1) for line in file if ":" in line)
        return int(lines["VmData"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return None
