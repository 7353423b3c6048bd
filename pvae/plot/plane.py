"""The plane: points, and the regions of a density."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from pvae.drawing import draw_points, onto
from pvae.errors import PvaeError
from pvae.plot.pictures import array

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["MASSES", "contours", "points", "regions"]

MASSES = (0.5, 0.9, 0.99)
_POINTS = 5000


def points(
    z: Any,
    labels: Any = None,
    *,
    names: Sequence[str] = ("", ""),
    ax: "Axes | None" = None,
) -> "Axes":
    """Draws points of the plane, coloured by their labels, each class with its name.

    Args:
        z: Points [N, 2]. At most 5,000 are drawn, evenly spaced.
        labels: Classes [N]: up to ten have a colour each; other numbers have a colour bar.
        names: The names of the axes.
        ax: matplotlib axes to draw onto; None makes a figure.

    Raises:
        PvaeError: If z is not [N, 2], or there is another number of labels.

    Example:
        >>> import torch
        >>> points(torch.randn(20, 2), torch.arange(20) % 3, names=("z_1", "z_2")).get_xlabel()
        'z_1'
    """
    z = array(z)
    y = None if labels is None else array(labels)
    if z.ndim != 2 or z.shape[1] != 2 or not len(z):
        raise PvaeError(f"z has shape {list(z.shape)}, and points of the plane have [N, 2].")
    if y is not None and y.shape != (len(z),):
        raise PvaeError(f"There are {list(y.shape)} labels for {len(z)} points: give one for each.")
    every = -(-len(z) // _POINTS)
    z, y = z[::every], None if y is None else y[::every]
    ax, look = onto(ax, 4.4, 4.2)
    classes = () if y is None else np.unique(y)
    if len(classes) > len(look.classes) and np.issubdtype(y.dtype, np.number):
        shown = ax.scatter(*z.T, c=y, s=10, cmap="viridis", alpha=0.8, linewidths=0)
        ax.figure.colorbar(shown, ax=ax, fraction=0.046, pad=0.02)
        draw_points(ax, z[:0], None, tuple(names), look=look)
    else:
        draw_points(ax, z, y, tuple(names), look=look)
    return ax


def contours(
    log_density: Callable[[Tensor], Any],
    *,
    masses: Sequence[float] = MASSES,
    ax: "Axes",
) -> "Axes":
    """Draws lines around the regions of highest density that hold given shares of the mass.

    The density is computed on a grid of 241 × 241 points over the frame of the axes, widened by
    half on each side. Mass beyond this grid is not seen. The frame grows where a region leaves it.

    Args:
        log_density: log p, [N], of points of the plane [N, 2], in nats; up to a constant.
        masses: The shares, between 0 and 1.
        ax: matplotlib axes with points, such as those that `points` returns.

    Raises:
        PvaeError: If the density is not finite anywhere on the grid or has another shape, or a
            share is not between 0 and 1.

    Example:
        >>> import torch
        >>> from pvae import models, plot
        >>> x = torch.randn(100, 2)
        >>> mixture = models.GaussianMixture((2,), num_components=1).maximise(x, torch.ones(100, 1))
        >>> ax = plot.contours(mixture.log_px, ax=plot.points(x))
    """
    (left, right), (low, high) = ax.get_xlim(), ax.get_ylim()
    wide, tall = (right - left) / 2, (high - low) / 2
    return regions(log_density, (left - wide, right + wide), (low - tall, high + tall), masses, ax)


def regions(
    log_density: Callable[[Tensor], Any],
    across: tuple[float, float],
    up: tuple[float, float],
    masses: Sequence[float],
    ax: "Axes",
) -> "Axes":
    """Draws lines around the regions of highest density, seen in a box of the plane."""
    masses = sorted(set(masses))
    if not masses or not all(0 < m < 1 for m in masses):
        raise PvaeError(f"masses={masses} is not valid: give shares between 0 and 1.")
    ax, look = onto(ax)
    first, second = np.linspace(*across, 241), np.linspace(*up, 241)
    grid = np.stack(np.meshgrid(first, second), -1).reshape(-1, 2)
    log_p = array(log_density(torch.from_numpy(grid).float())).astype(np.float64)
    if log_p.shape != (len(grid),):
        raise PvaeError(
            f"log_density gives {list(log_p.shape)} for points {list(grid.shape)}: give a function "
            "that returns one number for each point."
        )
    if not np.isfinite(log_p.max()):
        raise PvaeError(f"log_density is {log_p.max()} at its largest: no region can be drawn.")
    density = np.exp(log_p - log_p.max())
    ranked = np.sort(density)[::-1]
    mass = np.cumsum(ranked) / ranked.sum()
    levels = [float(ranked[np.searchsorted(mass, m)]) for m in masses]
    words = {level: f"{m:.0%}" for level, m in zip(levels, masses, strict=True)}
    drawn = ax.contour(
        first, second, density.reshape(241, 241), levels=sorted(words), linewidths=1.0,
        colors=[look.ink], alpha=0.7, zorder=0.5,
    )  # fmt: skip
    inside = grid[density >= min(levels)]
    seen = np.concatenate([inside, *(line.get_xydata() for line in ax.lines)])
    (left, low), (right, high) = seen.min(0), seen.max(0)
    room = 0.04 * max(right - left, high - low)
    ax.set_aspect("equal", adjustable="box")
    ax.set_xlim(left - room, right + room)
    ax.set_ylim(low - room, high + room)
    ax.clabel(drawn, fmt=words, fontsize="small")
    return ax
