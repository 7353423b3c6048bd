"""Charts of the numbers: bounds, training, and histograms over the data."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from pvae.drawing import (
    PAGE,
    Level,
    Marks,
    beside,
    chart,
    colours,
    column,
    draw_bound,
    draw_epochs,
    draw_histogram,
    epochs_of,
    finite,
    is_cut,
    responsive,
    rows_of,
)

Series = NDArray[np.float64]

__all__ = ["bounds", "histogram", "training"]


def bounds(
    summary: dict[str, Any], marks: Sequence[Marks] = (), levels: Sequence[Level] = ()
) -> tuple[Markup | None, list[str]]:
    """Returns the mean bound against K, with ±1 standard error over the data, and estimates.

    Args:
        summary: `Evaluation.summary()`.
        marks: Estimates at some K: name and points (K, mean).
        levels: Estimates without a K: name and mean.

    Returns:
        The chart, and the names of the estimates that are left out because they are far off.
    """
    if not rows_of(summary):
        return None, []
    marks, levels, far = beside(summary, marks, levels)

    def draw(width: float) -> Markup:
        columns = 3 if width < 500 else 6
        with chart("Mean bound on log p(x) against the number of samples K", width, 290) as drawn:
            draw_bound(drawn.figure.subplots(), summary, marks, levels, look=PAGE, columns=columns)
        return drawn.svg

    return responsive(draw), far


def training(history: Sequence[dict[str, Any]], what: str = "ELBO") -> tuple[Markup, bool] | None:
    """Returns the objective over epochs, and whether early epochs lie below the frame.

    Args:
        history: One dict per epoch, as in `history.csv`.
        what: What the objective is.
    """
    if not any(len(finite(column(history, name))) for name in ("elbo", "validation_elbo")):
        return None
    below = [
        (title, values) for title, name in (("learning rate", "learning_rate"),
                                            ("KL weight", "kl_weight"))
        if len(set(finite(values := column(history, name)))) > 1
    ]  # fmt: skip
    return responsive(lambda width: _training(what, history, below, width)), is_cut(history)


def _training(
    what: str,
    history: Sequence[dict[str, Any]],
    below: list[tuple[str, Series]],
    width: float,
) -> Markup:
    epoch = epochs_of(history)
    with chart(f"{what} over training epochs", width, 260 + 90 * len(below)) as drawn:
        axes = drawn.figure.subplots(
            1 + len(below), sharex=True, squeeze=False, height_ratios=[2.6] + [0.6] * len(below)
        )[:, 0]
        top = axes[0]
        draw_epochs(top, history, look=PAGE)
        for ax, (title, values) in zip(axes[1:], below, strict=True):
            relative = title == "learning rate" and values[0] == 1
            ax.plot(epoch, values, color=colours.MUTED, linewidth=1.4)
            ax.set_title(title + ", share of the first" if relative else title)
            ends = [0.0, max(float(np.nanmax(values)), 0.0)]
            ax.set_yticks(ends, [f"{v:.3g}" for v in ends])
            ax.set_ylim(0, ends[1] * 1.05 or 1)
        room = 0.5 if len(epoch) == 1 else 0.01 * np.ptp(epoch)
        top.set_xlim(epoch.min() - room, epoch.max() + room)
        axes[-1].xaxis.set_major_locator(MaxNLocator(8, steps=[1, 2, 5, 10], integer=True))
        if len(epoch) == 1:
            axes[-1].set_xticks(epoch)
        axes[-1].set_xlabel("epoch →", loc="right")
    return drawn.svg


def histogram(
    known: Series,
    bins: int | Series,
    label: str,
    across: str,
    line: tuple[float, str],
    split: float | None = None,
    zero: bool = False,
) -> Markup:
    """Returns a histogram of numbers over the data, with a line that has a name.

    Args:
        known: Finite numbers [n].
        bins: How many bars, or their edges.
        label: What the picture shows, for screen readers.
        across: What grows to the right.
        line: The position of the line, and its name.
        split: Bars above it have the warning colour.
        zero: Whether to draw a dashed line at zero, and bars below it in the warning colour.
    """
    with chart(label) as drawn:
        draw_histogram(
            drawn.figure.subplots(), known, bins, across, line, look=PAGE, split=split, zero=zero
        )
    return drawn.svg
