"""Where a computation runs: its device, the memory there, and which process this is."""

import contextlib
import os
from typing import Any

import torch

from pvae.errors import PvaeError, first_line, text_of

__all__ = ["default_device", "find_device", "free_memory", "is_out_of_memory", "processes"]


def find_device(device: str) -> torch.device:
    """Returns the device of that name; `"auto"` is the GPU where there is one.

    Raises:
        PvaeError: If there is no such device.
    """
    if device == "auto":
        if not torch.cuda.is_available():
            return torch.device("cpu")
        local = int(os.environ.get("LOCAL_RANK", 0)) % torch.cuda.device_count()
        return torch.device("cuda", local) if processes()[1] > 1 else torch.device("cuda")
    try:
        place = torch.device(device)
        torch.empty(0, device=place)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise PvaeError(
            f"device={device!r} cannot be used here ({first_line(error)}). Use "
            "device='cpu', or 'auto'."
        ) from error
    return place


def free_memory(device: torch.device) -> int:
    """Returns the free memory of a device in bytes, as far as it can be known."""
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
    """Returns this process's number and how many there are, as `torchrun` says; else (0, 1).

    One of `RANK` and `WORLD_SIZE` alone, which schedulers and old exports leave behind, is no
    `torchrun`: the process works alone.

    Raises:
        PvaeError: If the two contradict each other or are no numbers.
    """
    texts = os.environ.get("RANK"), os.environ.get("WORLD_SIZE")
    if None in texts:
        return 0, 1
    rank, world = (int(text) if text.strip().isdecimal() else -1 for text in texts)
    if not 0 <= rank < world:
        raise PvaeError(
            f"RANK={texts[0]} and WORLD_SIZE={texts[1]} are set, where a process's number is below "
            "how many there are. `torchrun` sets both; else unset them."
        )
    return rank, world


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a device, or the machine, had no memory left."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(
        words in text_of(error) for words in ("DefaultCPUAllocator", "std::bad_alloc")
    )


def default_device(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Makes a device that of new tensors, for programs that make theirs without naming one."""
    return contextlib.nullcontext() if device.type == "cpu" else device
