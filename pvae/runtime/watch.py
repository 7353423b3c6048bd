"""When work was done, how long it took, and on what device."""

import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import torch

__all__ = ["Watch", "device_in_words"]


@dataclass
class Watch:
    """Measures work that may be interrupted and continued.

    Attributes:
        device: Where the work is done.
        before: Seconds that earlier parts of the work took.

    Example:
        >>> sorted(Watch(torch.device("cpu"), before=60).read())
        ['date', 'device', 'seconds']
    """

    device: torch.device
    before: float = 0.0
    _began: float = field(default_factory=time.monotonic)

    def read(self) -> dict[str, Any]:
        """Returns the `date` (UTC) of now, the `seconds` so far, and the `device` in words."""
        return {
            "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
            "seconds": round(self.before + time.monotonic() - self._began, 1),
            "device": device_in_words(self.device),
        }


def device_in_words(device: torch.device) -> str:
    """Returns the GPU's name, or the CPU with its number of threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type != "cpu":
        return str(device)
    threads = torch.get_num_threads()
    return f"CPU, {threads} thread{'s' if threads > 1 else ''}"
