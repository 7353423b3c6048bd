"""The machine: devices, precision, seeds, atomic files, locks, progress bars and memory.

Imports `errors`.
"""

from pvae.runtime.device import (
    default_device,
    find_device,
    free_memory,
    is_out_of_memory,
    processes,
)
from pvae.runtime.files import LOCK, atomic, locked, why
from pvae.runtime.group import Group, apart
from pvae.runtime.memory import Chunks, LiveBytes, check_memory, keep_freed_memory
from pvae.runtime.numbers import number, weight, whole
from pvae.runtime.precision import (
    Precision,
    backends_in,
    check_precision,
    in_float32,
    in_precision,
    rounding,
)
from pvae.runtime.progress import tqdm
from pvae.runtime.seeds import (
    check_seed,
    noise_state,
    own_random_state,
    random_state,
    restore_noise,
    restore_random_state,
    seed_noise,
)
from pvae.runtime.watch import Watch

__all__ = [
    "LOCK",
    "Chunks",
    "Group",
    "LiveBytes",
    "Precision",
    "Watch",
    "apart",
    "atomic",
    "backends_in",
    "check_memory",
    "check_precision",
    "check_seed",
    "default_device",
    "find_device",
    "free_memory",
    "in_float32",
    "in_precision",
    "is_out_of_memory",
    "keep_freed_memory",
    "locked",
    "noise_state",
    "number",
    "own_random_state",
    "processes",
    "random_state",
    "restore_noise",
    "restore_random_state",
    "rounding",
    "seed_noise",
    "tqdm",
    "weight",
    "whole",
    "why",
]
