"""Figures for a notebook: pictures of a pair, curves and histograms, as matplotlib axes.

A function draws onto `ax`, or makes a figure, and returns the axes, of which matplotlib does the
rest: `ax.set_title(...)`, `ax.figure.savefig(...)`. `evaluation.plot_bounds()`, `.plot_khat()`,
`.plot_log_px()`, `.plot_gap()`, `.plot_kl()` and `fit.plot()` draw a single result.

Imports `predictive`, `pair`, `data`, `drawing` and `errors`.

Example:
    >>> import pvae
    >>> digits = pvae.data.load("digits")
    >>> ax = pvae.plot.images(digits.test.x[:20], columns=10)
"""

from pvae.plot.arrays import bars, curves, histogram
from pvae.plot.codes import interpolation, latents, manifold, traversal
from pvae.plot.pictures import images
from pvae.plot.plane import contours, points
from pvae.plot.several import bounds, gaps, training

__all__ = [
    "bars",
    "bounds",
    "contours",
    "curves",
    "gaps",
    "histogram",
    "images",
    "interpolation",
    "latents",
    "manifold",
    "points",
    "training",
    "traversal",
]
