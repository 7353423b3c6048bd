"""Seeds, and the state of the global random generators."""

import contextlib
import hashlib
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyro
import torch

from pvae.errors import PvaeError
from pvae.runtime.numbers import whole

__all__ = [
    "check_seed",
    "noise_state",
    "own_random_state",
    "random_state",
    "restore_noise",
    "restore_random_state",
    "seed_noise",
]


def noise_state() -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Returns the state of torch's generators, which draw the noise of a training step."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    return torch.get_rng_state(), cuda


def restore_noise(state: tuple[torch.Tensor, list[torch.Tensor]]) -> None:
    """Sets torch's generators to a state that `noise_state` returned."""
    torch.set_rng_state(state[0])
    if state[1]:
        torch.cuda.set_rng_state_all(state[1])


@contextlib.contextmanager
def own_random_state(seed: int) -> Iterator[None]:
    """Seeds the global generators for the block, and restores their state after it.

    Raises:
        PvaeError: The seed is not an integer from 0 to 2^32 - 1.
    """
    seed, before = check_seed(seed), random_state()
    pyro.set_rng_seed(seed)
    try:
        yield
    finally:
        restore_random_state(before)


def seed_noise(seed: int, rank: int, step: int = 0) -> None:
    """Seeds the global generators of one of several processes; process 0 has the seed itself."""
    if rank or step:
        digest = hashlib.sha256(f"{seed} {rank} {step}".encode()).digest()
        seed = int.from_bytes(digest[:4], "big")
    pyro.set_rng_seed(seed)


def check_seed(seed: int) -> int:
    """Returns a seed as an `int` that every generator accepts.

    Raises:
        PvaeError: The seed is not an integer from 0 to 2^32 - 1.
    """
    why = f"give an integer from 0 to {2**32 - 1:,}"
    found = whole("seed", seed, 0, why)
    if found >= 2**32:
        raise PvaeError(f"seed={seed!r} is not valid: {why}.")
    return found


def random_state() -> dict[str, Any]:
    """Returns the state of the global generators of torch, Python and NumPy."""
    version, inner, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "python": [version, list(inner), gauss],
        "numpy": [name, keys.tolist(), position, has_gauss, cached],
    }


def restore_random_state(state: dict[str, Any]) -> None:
    """Sets the global generators to a state that `random_state` returned."""
    torch.set_rng_state(state["torch"])
    if torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
    version, inner, gauss = state["python"]
    random.setstate((version, tuple(inner), gauss))
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), position, has_gauss, cached))
