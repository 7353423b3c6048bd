"""A chart of a sum: its parts end to end."""

import math
from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from pvae.drawing.colours import PAGE, Look
from pvae.drawing.naming import axes
from pvae.drawing.svg import chart
from pvae.drawing.text import decimals, with_error

__all__ = ["draw_steps", "steps"]

Part = tuple[str, float, float | None]


def steps(
    label: str,
    parts: Sequence[Part],
    whole: str,
    total: float,
    width: float,
    most: float | None = None,
    error: float | None = None,
) -> Markup:
    """Draws the parts of a sum end to end, and the sum beneath; parts may be negative.

    Args:
        label: What the picture shows, for screen readers.
        parts: Name, nats and standard error of each.
        whole: Name of the sum.
        total: The sum.
        width: CSS pixels.
        most: The largest possible value of the first part, log N.
        error: Standard error of the sum.
    """
    with chart(label, width, 60 + 46 * (len(parts) + 1)) as drawn:
        draw_steps(drawn.figure.subplots(), parts, whole, total, look=PAGE, most=most, error=error)
    return drawn.svg


def draw_steps(
    ax: Any,
    parts: Sequence[Part],
    whole: str,
    total: float,
    *,
    look: Look,
    most: float | None = None,
    error: float | None = None,
) -> None:
    """Draws the parts of a sum onto axes, as `steps` does."""
    places = min(3, max(2, decimals(*(se for _, _, se in parts))))
    start = 0.0
    ends = [0.0]
    for y, (name, value, se) in enumerate([*parts, (whole, total, error)]):
        last = y == len(parts)
        left = 0.0 if last else start
        colour = look.rule if last else (look.accent, look.second)[y % 2]
        ax.barh(y, value, left=left, height=0.34, color=colour, alpha=1 if last else 0.8)
        start = left + value
        spread = se if se is not None and math.isfinite(se) else 0.0
        if spread:
            ax.errorbar(start, y, xerr=spread, color=look.ink, elinewidth=1.4, capsize=3)
        if y < len(parts):
            ax.plot([start, start], [y, y + 1], color=look.rule, linewidth=1, zorder=0)
        ends += [start - spread, start + spread]
        words = " ".join([name, "", *with_error(value, se, places)]).strip()
        ax.annotate(
            words, (0, y - 0.22), xytext=(5, 0),
            xycoords=ax.get_yaxis_transform(), textcoords="offset points", va="bottom",
            color=look.ink, bbox={"fc": look.paper, "ec": "none", "pad": 1},
        )  # fmt: skip
    if most is not None:
        ax.plot([most, most], [-0.18, 0.34], color=look.ink, linewidth=1.4, dashes=(3, 2))
        ends.append(most)
        left = most >= 0.8 * max(ends)
        if not left or parts[0][1] < 0.75 * most:
            ax.annotate(
                "log N", (most, 0), (-5 if left else 5, 0), textcoords="offset points",
                ha="right" if left else "left", va="center", color=look.ink,
            )  # fmt: skip
    ax.axvline(0, color=look.ink, linewidth=1.4)
    low, high = min(ends), max(ends)
    room = 0.03 * (high - low) or 0.5
    ax.set_xlim(low - (room if low < 0 else 0), high + room)
    ax.set_ylim(len(parts) + 0.4, -0.75)
    ax.set_yticks([])
    ax.grid(True, axis="x")
    axes(ax, across="nats per datum", look=look)
