"""Tick labels in the page's number style."""

from typing import Any

import numpy as np
from matplotlib.ticker import Formatter

from pvae.drawing.text import number

__all__ = ["Number"]


class Number(Formatter):
    """Labels with as few decimals as distinguish the ticks."""

    def __call__(self, value: float, pos: int | None = None) -> str:
        return number(value)

    def format_ticks(self, values: Any) -> list[str]:
        ticks = np.asarray(values, dtype=np.float64)
        step = float(np.diff(ticks).min()) if len(ticks) > 1 else 1.0
        places = (p for p in range(9) if np.abs(ticks - ticks.round(p)).max() < 0.01 * step)
        decimals = next(places, 9) if len(ticks) else 0
        return [number(float(value), decimals) for value in ticks]
