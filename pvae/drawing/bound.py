"""The mean bound on log p(x) against the number of samples."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pvae.drawing.colours import Look
from pvae.drawing.naming import key, named, plain
from pvae.drawing.text import count, decimals, number

__all__ = ["Level", "Marks", "beside", "draw_bound", "draw_bounds", "rows_of"]

Marks = tuple[str, list[tuple[int, float]]]
Level = tuple[str, float]

_DASHES = ((1, 0), (1, 2), (5, 2, 1, 2))


def rows_of(summary: dict[str, Any]) -> list[dict[str, Any]]:
    """Returns the bounds of a summary whose mean is finite."""
    rows = summary["log_px"]
    return [row for row in rows if row["mean"] is not None and math.isfinite(row["mean"])]


def beside(
    summary: dict[str, Any], marks: Sequence[Marks], levels: Sequence[Level]
) -> tuple[list[Marks], list[Level], list[str]]:
    """Returns the estimates that fit beside the bounds, and the names of those far off.

    A nonsensical estimate must not flatten the curve; a level far above it is information.
    """
    rows, elbo = rows_of(summary), summary["elbo"]["mean"]
    frame = [row["mean"] + s * (row["se"] or 0) for row in rows for s in (-1, 1)]
    frame += [elbo] if elbo is not None and math.isfinite(elbo) else []
    low, high = min(frame), max(frame)
    room = high - low or 1.0
    far = [name for name, points in marks
           if any(not low - room <= value <= high + room for _, value in points)]  # fmt: skip
    far += [name for name, value in levels if value < low - room]
    return (
        [mark for mark in marks if mark[0] not in far],
        [level for level in levels if level[0] not in far],
        far,
    )


def draw_bound(
    ax: Any,
    summary: dict[str, Any],
    marks: Sequence[Marks] = (),
    levels: Sequence[Level] = (),
    *,
    look: Look,
    columns: int = 3,
) -> None:
    """Draws the mean bound against K, ±1 standard error over the data, beside the ELBO.

    Args:
        ax: The axes.
        summary: `Evaluation.summary()`, with one finite bound at least.
        marks: Estimates at some K: name and points (K, mean).
        levels: Estimates without a K: name and mean.
        look: The colours.
        columns: Columns of the legend above the frame.
    """
    elbo = summary["elbo"]["mean"]
    ax.set_xscale("log")
    for (name, value), dashes in zip(levels, itertools.cycle(_DASHES), strict=False):
        ax.axhline(value, color=look.muted, linewidth=1.3, dashes=dashes, label=name)
    k, mean, se = _curve(ax, summary, look.accent)
    for (name, points), shape in zip(marks, "^vD", strict=False):
        ax.plot(
            *zip(*points, strict=True), shape, markersize=6, markerfacecolor=look.paper,
            markeredgecolor=look.ink, markeredgewidth=1.1, label=name,
        )  # fmt: skip
    value = number(float(mean[-1]), decimals(*se))
    ax.annotate(
        value, (k[-1], mean[-1]), (10, 0),
        textcoords="offset points", va="center", color=look.accent,
        bbox={"fc": look.paper, "ec": "none", "pad": 1},
    )  # fmt: skip
    if elbo is not None and math.isfinite(elbo):
        ax.axhline(elbo, color=look.second, linewidth=1.4, dashes=(4, 3))
        ax.annotate(
            "ELBO", (0, elbo), xycoords=ax.get_yaxis_transform(), xytext=(2, -4),
            textcoords="offset points", ha="left", va="top", color=look.second,
        )  # fmt: skip
    if marks or levels:
        key(ax, columns)
    _finish(ax, k, look, beside=value)


def draw_bounds(ax: Any, summaries: Mapping[str, dict[str, Any]], *, look: Look) -> None:
    """Draws the mean bounds of several evaluations against K, with their ELBOs as dashed lines.

    Args:
        ax: The axes.
        summaries: `Evaluation.summary()` by name, each with one finite bound at least.
        look: The colours.
    """
    ax.set_xscale("log")
    every: set[int] = set()
    for (name, summary), colour in zip(summaries.items(), itertools.cycle(look.series)):
        every.update(_curve(ax, summary, colour, name)[0])
        elbo = summary["elbo"]["mean"]
        if elbo is not None and math.isfinite(elbo):
            ax.axhline(elbo, color=colour, linewidth=1.2, dashes=(4, 3))
    ax.plot([], [], color=look.muted, linewidth=1.2, dashes=(4, 3), label="ELBO")
    ax.legend(facecolor=look.paper, edgecolor="none", framealpha=0.8)
    _finish(ax, sorted(every), look)


def _curve(
    ax: Any, summary: dict[str, Any], colour: str, label: str | None = None
) -> tuple[list[int], NDArray[np.float64], NDArray[np.float64]]:
    rows = rows_of(summary)
    k, mean = [row["num_samples"] for row in rows], np.array([row["mean"] for row in rows])
    se = np.array([np.nan if row["se"] is None else row["se"] for row in rows], np.float64)
    if len(k) == 1:
        ax.errorbar(k, mean, yerr=se if np.isfinite(se).all() else None, color=colour)
    else:
        ax.fill_between(k, mean - se, mean + se, color=colour, alpha=0.16, linewidth=0)
    ax.plot(k, mean, marker="o", markersize=4.5, color=colour, label=label)
    return k, mean, se


def _finish(ax: Any, k: list[int], look: Look, beside: str = "") -> None:
    """Sets the frame, with room beside the last point, and labels each K where it has room."""
    from matplotlib.ticker import NullLocator

    ax.margins(y=0.16)
    plain(ax.yaxis)
    if len(k) == 1:
        ax.set_xlim(k[0] / 3, k[0] * 3)
    else:
        share = min(0.5, _share(ax, beside, 10)) if beside else 0.0
        free = (1.25**2 * k[-1] / k[0]) ** (share / (1 - share))
        ax.set_xlim(k[0] / 1.25, k[-1] * 1.25 * free)
    labels = [count(i) for i in k]
    low, high = np.log(ax.get_xlim())
    for i, (a, b) in enumerate(itertools.pairwise(k)):
        if math.log(b / a) / (high - low) < _share(ax, labels[i] + labels[i + 1], 8) / 2:
            labels[i] = ""  # it would overlap the next one
    ax.set_xticks(k, labels)
    ax.xaxis.set_minor_locator(NullLocator())
    named(ax, across="samples K", up="nats per datum", look=look)


def _share(ax: Any, text: str, more: float) -> float:
    """Returns about how much of the axes' width a text takes, and `more` points."""
    wide = 72 * ax.get_figure().get_figwidth() * ax.get_position().width
    size = ax.xaxis.get_major_ticks()[0].label1.get_size()
    return (0.62 * size * len(text) + more) / wide
