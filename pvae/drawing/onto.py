"""Axes to draw onto: the user's, or those of a new figure that a notebook shows."""

from typing import Any

from pvae.drawing.colours import Look, screen
from pvae.errors import PvaeError

__all__ = ["onto"]

_STYLE = {
    "axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True,
    "legend.frameon": False,
}  # fmt: skip


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
        with plt.rc_context(_STYLE):
            _, ax = plt.subplots(figsize=(width, height), layout="constrained")
    elif not isinstance(ax, Axes):
        raise PvaeError(
            f"ax is a {type(ax).__name__}, and one matplotlib Axes is needed: of "
            "figure, axes = plt.subplots(1, 2), give ax=axes[0]."
        )
    return ax, screen()
