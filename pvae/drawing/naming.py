"""Names, ticks, marks and legends of axes, in the style of the page or of a notebook."""

from typing import Any

from pvae.drawing.colours import PAGE, Look

__all__ = ["axes", "key", "mark", "plain"]


def plain(axis: Any, whole: bool = False) -> None:
    """Sets a few ticks, with labels in the page's number style."""
    from matplotlib.ticker import MaxNLocator

    from pvae.drawing.ticks import Number

    axis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10], integer=whole))
    axis.set_major_formatter(Number())


def axes(ax: Any, *, across: str = "", up: str = "", whole: str = "", look: Look = PAGE) -> None:
    """Names the axes of a chart and sets plain ticks; an axis without a name is unchanged.

    Args:
        ax: The axes.
        across: What grows to the right.
        up: What grows upwards.
        whole: The axis that has integers only: `"across"` or `"up"`.
        look: Where the chart is shown.
    """
    if across:
        plain(ax.xaxis, whole == "across")
    if up:
        plain(ax.yaxis, whole == "up")
    named(ax, across=across, up=up, look=look)


def named(ax: Any, *, across: str = "", up: str = "", look: Look = PAGE) -> None:
    """Names the axes of a chart: on the page with an arrow, and above the axis."""
    if across and look.page:
        ax.set_xlabel(f"{across} →", loc="right", parse_math=False)
    elif across:
        ax.set_xlabel(across)
    if up and look.page:
        ax.set_title(up, parse_math=False)
    elif up:
        ax.set_ylabel(up)


def mark(ax: Any, x: float, text: str, look: Look = PAGE) -> None:
    """Draws a vertical line with its name, on the side that has room."""
    low, high = ax.get_xlim()
    left = x > low + 0.6 * (high - low)
    ax.axvline(x, color=look.ink, linewidth=1.4)
    ax.annotate(
        text, (x, 1.0), xycoords=ax.get_xaxis_transform(), xytext=(-5 if left else 5, -2),
        textcoords="offset points", ha="right" if left else "left", va="top", color=look.ink,
    )  # fmt: skip


def key(ax: Any, columns: int) -> None:
    """Draws the legend above the frame, on the right."""
    ax.legend(
        loc="lower right", ncols=columns, bbox_to_anchor=(1, 1), borderpad=0, borderaxespad=0.3,
        handlelength=1.4, columnspacing=1.2, handletextpad=0.5, numpoints=1, frameon=False,
    )  # fmt: skip
