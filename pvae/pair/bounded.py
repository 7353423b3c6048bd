"""Limits what a program may use: memory for its samples, and a number of sites."""

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

__all__ = ["Bounded", "device_of", "in_free_memory", "too_large"]

_LARGE = 1 << 28  # bytes; free memory is not looked up for less
_CURE = (
    "Give fewer data, and look for tensors of the program that grow with the square of their "
    "number (shapes [B, B]), or with the product of the sites that are summed out."
)
_MOST_SITES = 100_000  # of one call: a trace of them takes about half a gigabyte


def too_large(size: int, device: torch.device) -> bool:
    """Whether so many bytes are more than the free memory of a device."""
    return size > _LARGE and size > free_memory(device)


class Bounded(Messenger):
    """Refuses sites that do not fit in memory before they are drawn, and endless programs.

    A site needs memory for its sample, and for its log density before the sum over an event.

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
                f"one call has sampled {_MOST_SITES:,} sites, the last of them {msg['name']!r}, "
                "and goes on: a loop in the program may have no end. If it needs so many samples, "
                "put those of one kind into one site, in a plate."
            )
        fn, value = msg["fn"], msg["value"]
        if isinstance(fn, _Subsample):  # a plate, which makes an index of all its rows
            shape = torch.Size([fn.size] if isinstance(fn.size, int) and fn.size > 0 else [])
        elif hasattr(fn, "batch_shape"):
            shape = fn.batch_shape + fn.event_shape
        else:
            return
        if isinstance(value, Tensor):
            if 4 * math.prod(shape) * value.numel() <= _LARGE:
                return
            with contextlib.suppress(RuntimeError):  # `check` reports a value that does not fit
                shape = torch.broadcast_shapes(shape, value.shape)
        size = 4 * math.prod(shape)
        if too_large(size, device_of(fn)):
            verb = "would draw" if value is None else "has a log density of"
            raise PvaeError(
                f"site {msg['name']!r} {verb} {list(shape)} values, {size / 1e9:,.0f} GB, more "
                "than the free memory. If two of these sizes count the data, a parameter has shape "
                "[B, 1] in a plate of shape [B]: remove the 1, or write .to_event(1)."
            )


def device_of(fn: Any) -> torch.device:
    """Returns where the parameters of a distribution are."""
    while hasattr(fn, "base_dist"):
        fn = fn.base_dist
    found = (v.device for v in vars(fn).values() if isinstance(v, Tensor))
    return next(found, torch.device("cpu"))


@contextlib.contextmanager
def in_free_memory(what: str, cure: str | None = None) -> Iterator[None]:
    """Raises a PvaeError when memory runs out, before the system kills the process.

    On Linux without a GPU, the process may use only the memory that is free now. Elsewhere an
    allocation fails when the device refuses it.

    Args:
        what: What needs the memory, for the message: "a diagnosis of the pair".
        cure: What to do about it. The default names what usually grows.

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
            f"There is not enough memory for {what} ({first_line(error)[:200]}). {cure or _CURE}"
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
    """Returns the bytes that RLIMIT_DATA counts; None if they are not known."""
    try:
        with open("/proc/self/status") as file:
            lines = dict(line.split(":", 1) for line in file if ":" in line)
        return int(lines["VmData"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return None
