"""Codes of two dimensions as points, coloured by their labels."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pvae.drawing.colours import Look
from pvae.drawing.naming import named

__all__ = ["classes_of", "draw_points", "square"]


def classes_of(labels: NDArray[Any] | None, look: Look) -> NDArray[Any]:
    """Returns the classes that colours can tell apart; none if there are too many, or only one."""
    classes = np.unique(labels) if labels is not None else np.empty(0)
    return classes if 2 <= len(classes) <= len(look.classes) else np.empty(0)


def square(ax: Any) -> None:
    """Makes a unit as long across as upwards, with a grid and few ticks."""
    from matplotlib.ticker import MaxNLocator

    # Axes that share both limits with others cannot change them alone.
    groups = ax.get_shared_x_axes(), ax.get_shared_y_axes()
    shared = all(len(group.get_siblings(ax)) > 1 for group in groups)
    ax.set_aspect("equal", adjustable="box" if shared else "datalim")
    ax.grid(True, axis="both")
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))


def draw_points(
    ax: Any,
    z: NDArray[Any],
    labels: NDArray[Any] | None,
    names: tuple[str, str],
    *,
    look: Look,
) -> None:
    """Draws points, with the name of each class at its median.

    Args:
        ax: The axes.
        z: Points [N, 2].
        labels: Classes [N], or None; more than ten are not coloured.
        names: The names of the axes.
        look: The colours.
    """
    square(ax)
    classes = classes_of(labels, look)
    coloured = bool(len(classes))
    size = 4.5 if len(z) < 500 else 3
    for i, group in enumerate(classes if coloured else [None]):
        points = z[labels == group] if coloured else z
        colour = look.classes[i] if coloured else look.accent
        ax.plot(*points.T, "o", markersize=size, markeredgewidth=0, color=colour, alpha=0.65)
    for i, group in enumerate(classes):
        x, y = np.median(z[labels == group], axis=0)
        ax.annotate(
            f"{group:g}" if np.issubdtype(classes.dtype, np.number) else str(group), (x, y),
            ha="center", va="center", color=look.ink, fontsize=13 if look.page else "medium",
            fontweight="bold",
            bbox={"boxstyle": "circle,pad=0.22", "fc": look.paper, "lw": 1.6,
                  "ec": look.classes[i]},
        )  # fmt: skip
    named(ax, across=names[0], up=names[1], look=look)
