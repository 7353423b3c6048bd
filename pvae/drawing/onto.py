"""Axes to draw onto: the user's, or those of a new figure that a notebook shows."""

from typing import Any

from pvae.drawing.colours import Look, screen
from pvae.errors import PvaeError

__all__ = ["onto"]


def onto(ax: Any = None, width: float = 5.0, height: float = 3.2) -> tuple[Any, Look]:
    """Returns axes to draw onto, and the colours that suit them.

    Args:
        ax: matplotlib axes; None makes a figure.
        width: Of a new figure, in inches.
        height: Of a new figure, in inches.

    Raises:
        PvaeError: If `ax` is something else, such as the array that `plt.subplots` returns.
    """
    import matplotlib.pyplot as plt
    from matplotlib.axes import Axes

    if ax is None:
        # Without rc_context, which would undo what a notebook's backend sets at the first figure.
        _, ax = plt.subplots(figsize=(width, height), layout="constrained")
        ax.spines[["top", "right"]].set_visible(False)
        ax.set_axisbelow(True)
    elif not isinstance(ax, Axes):
        raise PvaeError(
            f"ax is a {type(ax).__name__}, and one matplotlib Axes is needed: of "
            "figure, axes = plt.subplots(1, 2), give ax=axes[0]."
        )
    return ax, screen()
