"""Devices, their free memory, and the rank of this process."""

import contextlib
import os
from typing import Any

import torch

from pvae.errors import PvaeError, first_line, text_of

__all__ = ["default_device", "find_device", "free_memory", "is_out_of_memory", "processes"]


def find_device(device: str) -> torch.device:
    """Returns the device of a name; `"auto"` is the GPU if there is one, else the CPU.

    Raises:
        PvaeError: There is no such device.
    """
    if device == "auto":
        if not torch.cuda.is_available():
            return torch.device("cpu")
        if processes()[1] == 1:
            return torch.device("cuda")
        local = int(os.environ.get("LOCAL_RANK", 0)) % torch.cuda.device_count()
        torch.cuda.set_device(local)  # graphs are captured on the current device
        return torch.device("cuda", local)
    try:
        place = torch.device(device)
        torch.empty(0, device=place)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise PvaeError(
            f"device={device!r} cannot be used here ({first_line(error)}). Use 'cpu' or 'auto'."
        ) from error
    return place


def free_memory(device: torch.device) -> int:
    """Returns the free memory of a device in bytes, or an upper bound."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        with open("/proc/meminfo") as file:
            lines = dict(line.split(":", 1) for line in file)
        return int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return 1 << 62


def processes() -> tuple[int, int]:
    """Returns the rank of this process and the number of processes, which `torchrun` sets.

    Without `torchrun` they are (0, 1), also if a scheduler sets only one of `RANK` and
    `WORLD_SIZE`.

    Raises:
        PvaeError: The two are not numbers, or the rank is not below the number of processes.
    """
    texts = os.environ.get("RANK"), os.environ.get("WORLD_SIZE")
    if None in texts:
        return 0, 1
    rank, world = (int(text) if text.strip().isdecimal() else -1 for text in texts)
    if not 0 <= rank < world:
        raise PvaeError(
            f"RANK={texts[0]} and WORLD_SIZE={texts[1]} do not fit together: RANK must be from 0 "
            "to WORLD_SIZE - 1. `torchrun` sets both; without it, unset both."
        )
    return rank, world


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(
        words in text_of(error) for words in ("DefaultCPUAllocator", "std::bad_alloc")
    )


def default_device(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Returns a context in which new tensors are on a device by default."""
    return contextlib.nullcontext() if device.type == "cpu" else device
