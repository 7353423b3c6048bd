"""Schedules of the learning rate."""

import math
from collections.abc import Callable

from pvae.errors import PvaeError

__all__ = ["rate_factor"]


def rate_factor(schedule: str | Callable[[float], float]) -> Callable[[float], float]:
    """Returns the factor on the learning rate as a function of the finished share of a run.

    Raises:
        PvaeError: If there is no schedule of this name.
    """
    if callable(schedule):
        return schedule
    known = {
        "cosine": lambda share: 0.03 + 0.97 * (1 + math.cos(math.pi * share)) / 2,
        "constant": lambda share: 1.0,
        "burda": _burda,
    }
    if schedule not in known:
        raise PvaeError(
            f"schedule={schedule!r} is not valid: give 'cosine', 'constant', 'burda' or a function "
            "of the finished share of the run, from 0 to 1."
        )
    return known[schedule]


def _burda(share: float) -> float:
    """Rate 10^(−i/7) in epochs (3^i − 1) / 2 to (3^(i+1) − 1) / 2 of 3280, i = 0 … 7."""
    stage = sum(share * 3280 + 1e-6 >= (3**i - 1) / 2 for i in range(1, 8))
    return 10 ** (-stage / 7)
