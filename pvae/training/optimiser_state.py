"""The state of an optimiser and of its schedule, saved and loaded."""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler

__all__ = ["TECHNICAL", "restore", "state_of"]

# Options of a group that change how a step is computed, not its result.
TECHNICAL = {"params", "initial_lr", "fused", "foreach", "capturable", "differentiable"}


def restore(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Loads an optimiser's state after a check that it belongs to the same options and shapes.

    Raises:
        KeyError: If something is missing in the state.
        ValueError: If options or shapes differ.
    """
    for ours, theirs in zip(optimizer.param_groups, state["param_groups"], strict=True):
        # PyTorch adds options that an older version did not have, and checks nothing else.
        missing, odd = ours.keys() - theirs.keys(), theirs.keys() - ours.keys()
        if missing - TECHNICAL and odd - TECHNICAL:
            raise ValueError(f"a group has other options: {', '.join(sorted(odd - TECHNICAL))}")
        if missing - TECHNICAL:
            raise ValueError(f"a group lacks {', '.join(sorted(missing - TECHNICAL))}")
        for parameter, key in zip(ours["params"], theirs["params"], strict=True):
            for name, value in state["state"].get(key, {}).items():
                if not _fits(value, parameter):
                    shapes = list(value.shape), list(parameter.shape)
                    raise ValueError(f"{name} has shape {shapes[0]}, its parameter {shapes[1]}")
    optimizer.load_state_dict(state)


def _fits(value: Any, parameter: Tensor) -> bool:
    """Whether a state tensor has its parameter's shape, or 1 in some dimensions."""
    if not isinstance(value, Tensor) or value.ndim != parameter.ndim:
        return True
    return all(a in (1, b) for a, b in zip(value.shape, parameter.shape, strict=True))


def state_of(schedule: LRScheduler) -> dict[str, Any]:
    """Returns a scheduler's state without its functions."""
    return {
        name: value
        for name, value in schedule.state_dict().items()
        if isinstance(value, int | float | str | list | bool | np.generic | None)
    }
