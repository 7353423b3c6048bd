"""Schedules of the learning rate: a name, a function of the share of the run, torch's classes."""

import functools
import inspect
import math
from collections.abc import Callable
from typing import Any

import torch
from torch.optim.lr_scheduler import LRScheduler

from pvae.errors import PvaeError, first_line

__all__ = ["Factor", "MakeScheduler", "rate_factor", "scheduler_class", "start_scheduler"]

Factor = Callable[[float], float]
MakeScheduler = Callable[[torch.optim.Optimizer], LRScheduler]


def scheduler_class(schedule: Any) -> type[LRScheduler] | None:
    """Returns the class of torch's that a schedule is, or that it is a partial of."""
    parts = [schedule]
    if isinstance(schedule, functools.partial):  # jsonargparse has the class among the arguments
        parts = [schedule.func, *schedule.args]
    return next((p for p in parts if isinstance(p, type) and issubclass(p, LRScheduler)), None)


def start_scheduler(make: MakeScheduler, optimizer: torch.optim.Optimizer) -> LRScheduler:
    """Returns a scheduler of an optimiser.

    Raises:
        PvaeError: If the class has other arguments.
    """
    try:
        return make(optimizer)
    except (TypeError, ValueError, AssertionError) as error:
        kind = scheduler_class(make)
        needed = [p for p in inspect.signature(kind).parameters.values() if p.default is p.empty]
        names = ", ".join(f"{p.name}=…" for p in needed if p.name != "optimizer")
        raise PvaeError(
            f"schedule: {kind.__name__} cannot be made ({first_line(error)}). Give its options, as "
            f"in functools.partial({kind.__name__}, {names or 'last_epoch=-1'}); in the shell they "
            "are --schedule.NAME."
        ) from error


def rate_factor(schedule: str | Factor | MakeScheduler) -> Factor:
    """Returns the factor on the learning rate as a function of the finished share of a run.

    It is 1 for a scheduler of torch's, which sets the rate itself.

    Raises:
        PvaeError: If there is no schedule of this name.
    """
    if scheduler_class(schedule) is not None:
        return lambda share: 1.0
    if isinstance(schedule, LRScheduler):
        name = type(schedule).__name__
        raise PvaeError(
            f"schedule={name}(…) has an optimiser already. Give the scheduler as optim, or its "
            f"class as schedule: functools.partial({name}, …)."
        )
    if callable(schedule):
        return schedule
    known = {
        "cosine": lambda share: 0.03 + 0.97 * (1 + math.cos(math.pi * share)) / 2,
        "constant": lambda share: 1.0,
        "burda": _burda,
    }
    if schedule not in known:
        raise PvaeError(
            f"schedule={schedule!r} is not valid: give 'cosine', 'constant', 'burda', a class "
            "of torch.optim.lr_scheduler, or a function of the finished share of the run, from 0 "
            "to 1."
        )
    return known[schedule]


def _burda(share: float) -> float:
    """Rate 10^(−i/7) in epochs (3^i − 1) / 2 to (3^(i+1) − 1) / 2 of 3280, i = 0 … 7."""
    stage = sum(share * 3280 + 1e-6 >= (3**i - 1) / 2 for i in range(1, 8))
    return 10 ** (-stage / 7)
