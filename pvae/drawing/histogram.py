"""Histograms of numbers over the data, with a line that has a name."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pvae.drawing.colours import Look
from pvae.drawing.naming import axes, mark

__all__ = ["draw_histogram", "edges_at", "finite", "num_bins"]

Series = NDArray[np.float64]


def finite(values: Any) -> Series:
    """Returns the finite values of an array as a vector, [n]."""
    array = np.asarray(values, dtype=np.float64).ravel()
    return array[np.isfinite(array)]


def num_bins(known: Series) -> int:
    """Returns how many bars show the shape of finite numbers [n]."""
    if np.ptp(known) == 0:
        return 1
    edges = np.histogram_bin_edges(known, "fd" if len(known) > 30 else "sturges")
    return int(np.clip(len(edges) - 1, 5, 60))


def edges_at(known: Series, threshold: float) -> Series:
    """Returns edges of bars of which one is the threshold, so that no bar is on both its sides."""
    low = min(float(known.min()), threshold - 0.3)
    high = max(float(known.max()), threshold + 0.3)
    width = (high - low) / min(50, max(12, int(math.sqrt(len(known)) * 2)))
    below = math.ceil((threshold - low) / width)
    return threshold + width * np.arange(-below, math.ceil((high - threshold) / width) + 1)


def draw_histogram(
    ax: Any,
    known: Series,
    bins: int | Series,
    across: str,
    line: tuple[float, str],
    *,
    look: Look,
    split: float | None = None,
    zero: bool = False,
) -> None:
    """Draws a histogram of numbers over the data, with a line that has a name.

    Args:
        ax: The axes.
        known: Finite numbers [n].
        bins: How many bars, or their edges.
        across: What grows to the right.
        line: The position of the line, and its name.
        look: The colours.
        split: Bars above it have the warning colour.
        zero: Whether to draw a dashed line at zero, and bars below it in the warning colour.
    """
    parts = [(known, look.fill)]
    if zero:
        parts = [(known[known < 0], look.warn_fill), (known[known >= 0], look.fill)]
    elif split is not None:
        parts = [(known[known <= split], look.fill), (known[known > split], look.warn_fill)]
    for part, colour in parts:
        ax.hist(part, bins=bins, color=colour, histtype="stepfilled")
    ax.margins(y=0.2)
    if zero:
        ax.axvline(0, color=look.muted, linewidth=1.4, dashes=(4, 3))
    mark(ax, *line, look)
    up = "data" if look.page else "number of data"
    axes(ax, across=across, up=up, whole="up", look=look)
