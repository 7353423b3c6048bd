"""Charts of points and of vectors: latent means, and data that are not images."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from pvae.drawing import (
    PAGE,
    axes,
    chart,
    classes_of,
    colours,
    draw_points,
    finite,
    plain,
    responsive,
    square,
)

__all__ = ["densities", "latent", "lines", "plane"]

_POINTS = 2000
_ORDER = (colours.MUTED, colours.ACCENT, colours.SECOND)


def latent(z: NDArray[Any], labels: NDArray[Any] | None, name: str) -> tuple[Markup, bool]:
    """Returns a scatter plot of posterior means, and whether labels colour it.

    Args:
        z: Posterior means [N, 2].
        labels: Classes [N], or None; more than ten are not coloured.
        name: The latent site.
    """
    coloured = bool(len(classes_of(labels, PAGE)))
    label = f"Posterior means of {name}" + (", coloured by label" if coloured else "")
    with chart(label, 350, 350) as drawn:
        draw_points(drawn.figure.subplots(), z, labels, (f"{name}₁", f"{name}₂"), look=PAGE)
    return drawn.svg, coloured


def plane(sets: dict[str, NDArray[Any]]) -> list[Markup]:
    """Returns a chart for each set of points [N, 2], all with the same axes.

    Args:
        sets: Points by title, at most three.
    """
    every = np.concatenate(list(sets.values()))
    every = every[np.isfinite(every).all(1)]
    if not len(every):
        return []
    low, high = every.min(0), every.max(0)
    pad = 0.05 * np.maximum(high - low, 1e-6)
    return [
        _plane(title, points[np.isfinite(points).all(1)][:_POINTS], low - pad, high + pad, colour)
        for (title, points), colour in zip(sets.items(), _ORDER, strict=False)
    ]


def _plane(
    title: str, points: NDArray[Any], low: NDArray[Any], high: NDArray[Any], colour: str
) -> Markup:
    with chart(f"Scatter: {title}", 350, 300) as drawn:
        ax = drawn.figure.subplots()
        ax.plot(*points.T, "o", markersize=3, markeredgewidth=0, color=colour, alpha=0.6)
        ax.set_title(title)
        ax.set_xlim(low[0], high[0])
        ax.set_ylim(low[1], high[1])
        square(ax)
        ax.set_aspect("auto")
    return drawn.svg


def densities(sets: dict[str, NDArray[Any]], label: str) -> list[Markup]:
    """Returns histograms of single numbers on one axis, scaled to area one.

    Args:
        sets: Numbers [N] by title, at most three.
        label: What the picture shows, for screen readers.
    """
    every = finite(np.concatenate(list(sets.values())))
    if not len(every):
        return []
    edges = np.histogram_bin_edges(every, 40)

    def draw(width: float) -> Markup:
        with chart(label, width, 240) as drawn:
            ax = drawn.figure.subplots()
            for (title, values), colour in zip(sets.items(), _ORDER, strict=False):
                ax.hist(
                    finite(values), bins=edges, density=True, histtype="step", linewidth=1.8,
                    edgecolor=colour, label=title,
                )  # fmt: skip
            axes(ax, across="x", up="density")
        return drawn.svg

    return [responsive(draw)]


def lines(sets: dict[str, NDArray[Any]], titles: Sequence[str]) -> list[Markup]:
    """Returns vectors as lines over their index, a small chart for each datum on the same axes.

    Args:
        sets: Vectors [n, D] by name, the data first; all have the same n.
        titles: The title of each of the n charts.
    """
    every = finite(np.concatenate(list(sets.values())))
    if not len(every):
        return []
    pad = 0.06 * max(float(np.ptp(every)), 1e-6)
    return [
        _lines(
            {name: v[i] for name, v in sets.items()}, title, every.min() - pad, every.max() + pad
        )
        for i, title in enumerate(titles)
    ]


def _lines(vectors: dict[str, NDArray[Any]], title: str, low: float, high: float) -> Markup:
    with chart(f"{title}: {' and '.join(vectors)}", 230, 150) as drawn:
        ax = drawn.figure.subplots()
        for vector, colour in zip(vectors.values(), _ORDER, strict=False):
            dots = {"marker": "o", "markersize": 2.5} if len(vector) <= 24 else {}
            ax.plot(np.arange(len(vector)), vector, color=colour, linewidth=1.4, **dots)
        ax.set_ylim(low, high)
        ax.set_title(title)
        ax.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        plain(ax.yaxis)
    return drawn.svg
