"""Charts of the numbers: bounds, training, and histograms over the data."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.ticker import MaxNLocator, NullLocator
from numpy.typing import NDArray

from pvae.drawing import axes, chart, colours, finite, key, mark, plain, responsive, text

Series = NDArray[np.float64]
Marks = tuple[str, list[tuple[int, float]]]
Level = tuple[str, float]

_DASHES = ((1, 0), (1, 2), (5, 2, 1, 2))

__all__ = ["Level", "Marks", "bounds", "histogram", "num_bins", "training"]


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
    rows = [r for r in summary["log_px"] if r["mean"] is not None and math.isfinite(r["mean"])]
    if not rows:
        return None, []
    elbo = summary["elbo"]["mean"]
    frame = [r["mean"] + s * (r["se"] or 0) for r in rows for s in (-1, 1)]
    frame += [elbo] if elbo is not None and math.isfinite(elbo) else []
    low, high = min(frame), max(frame)
    room = high - low or 1.0
    # A nonsensical estimate must not flatten the curve; a level far above it is information.
    far = [name for name, points in marks
           if any(not low - room <= value <= high + room for _, value in points)]  # fmt: skip
    far += [name for name, value in levels if value < low - room]
    marks = [mark for mark in marks if mark[0] not in far]
    levels = [level for level in levels if level[0] not in far]
    return responsive(lambda width: _bounds(rows, elbo, marks, levels, width)), far


def _bounds(
    rows: list[dict[str, Any]],
    elbo: float | None,
    marks: Sequence[Marks],
    levels: Sequence[Level],
    width: float,
) -> Markup:
    k, mean = [r["num_samples"] for r in rows], np.array([r["mean"] for r in rows])
    se = np.array([r["se"] if r["se"] is not None else math.nan for r in rows], dtype=np.float64)
    with chart("Mean bound on log p(x) against the number of samples K", width, 290) as drawn:
        ax = drawn.figure.subplots()
        ax.set_xscale("log")
        if len(k) == 1:
            ax.set_xlim(k[0] / 3, k[0] * 3)
            ax.errorbar(k, mean, yerr=se if np.isfinite(se).all() else None, color=colours.ACCENT)
        else:
            ax.fill_between(k, mean - se, mean + se, color=colours.ACCENT, alpha=0.16, linewidth=0)
            ax.set_xlim(k[0] / 1.25, k[-1] * 1.25 * (k[-1] / k[0]) ** 0.1)
        for (name, value), dashes in zip(levels, itertools.cycle(_DASHES), strict=False):
            ax.axhline(value, color=colours.MUTED, linewidth=1.3, dashes=dashes, label=name)
        ax.plot(k, mean, marker="o", markersize=4.5, color=colours.ACCENT)
        for (name, points), shape in zip(marks, "^vD", strict=False):
            ax.plot(
                *zip(*points, strict=True), shape, markersize=6, markerfacecolor=colours.PAPER,
                markeredgecolor=colours.INK, markeredgewidth=1.1, label=name,
            )  # fmt: skip
        label = text.number(float(mean[-1]), text.decimals(*se))
        ax.annotate(
            label, (k[-1], mean[-1]), (10, 0), textcoords="offset points", va="center",
            color=colours.ACCENT, bbox={"fc": colours.PAPER, "ec": "none", "pad": 1},
        )  # fmt: skip
        if elbo is not None and math.isfinite(elbo):
            ax.axhline(elbo, color=colours.SECOND, linewidth=1.4, dashes=(4, 3))
            ax.annotate(
                "ELBO", (0, elbo), xycoords=ax.get_yaxis_transform(), xytext=(2, -4),
                textcoords="offset points", ha="left", va="top", color=colours.SECOND,
            )  # fmt: skip
        if marks or levels:
            key(ax, 3 if width < 500 else 6)
        ax.margins(y=0.16)
        plain(ax.yaxis)
        # A label too close to the next one would overlap it.
        close = [b < 1.7 * a for a, b in itertools.pairwise(k)] + [False]
        labels = ["" if hide else text.count(i) for i, hide in zip(k, close, strict=True)]
        ax.set_xticks(k, labels)
        ax.xaxis.set_minor_locator(NullLocator())
        ax.set_title("nats per datum")
        ax.set_xlabel("samples K →", loc="right")
    return drawn.svg


def _series(history: Sequence[dict[str, Any]], key: str) -> Series:
    def value(row: dict[str, Any]) -> float:
        try:
            return float(row[key])
        except (KeyError, TypeError, ValueError):
            return math.nan

    return np.array([value(row) for row in history])


def training(history: Sequence[dict[str, Any]], what: str = "ELBO") -> tuple[Markup, bool] | None:
    """Returns the objective over epochs, and whether early epochs lie below the frame.

    Args:
        history: One dict per epoch, as in `history.csv`.
        what: What the objective is.
    """
    train, held = _series(history, "elbo"), _series(history, "validation_elbo")
    if not np.isfinite(np.concatenate([train, held])).any():
        return None
    epoch = _series(history, "epoch")
    epoch = np.where(np.isfinite(epoch), epoch, np.arange(1, len(epoch) + 1))
    below = [
        (title, values) for title, key in (("learning rate", "learning_rate"),
                                           ("KL weight", "kl_weight"))
        if len(set(finite(values := _series(history, key)))) > 1
    ]  # fmt: skip
    everything, late = finite(np.concatenate([train, held])), _late(train, held)
    cut = len(late) > 8 and bool(np.ptp(everything) > 2.5 * np.ptp(late) > 0)
    return responsive(lambda width: _training(what, epoch, train, held, below, cut, width)), cut


def _late(train: Series, held: Series) -> Series:
    """Returns the values after the first tenth of training, which is far below the rest."""
    return finite(np.concatenate([v[math.ceil(len(v) / 10) :] for v in (train, held)]))


def _training(
    what: str,
    epoch: Series,
    train: Series,
    held: Series,
    below: list[tuple[str, Series]],
    cut: bool,
    width: float,
) -> Markup:
    with chart(f"{what} over training epochs", width, 260 + 90 * len(below)) as drawn:
        axes = drawn.figure.subplots(
            1 + len(below), sharex=True, squeeze=False, height_ratios=[2.6] + [0.6] * len(below)
        )[:, 0]
        top = axes[0]
        dot = {"marker": "o", "markersize": 4} if len(epoch) <= 20 else {}
        top.plot(epoch, train, color=colours.ACCENT, label="training", **dot)
        if np.isfinite(held).any():
            known = np.isfinite(held)
            top.plot(epoch[known], held[known], color=colours.SECOND, label="validation", **dot)
            key(top, 2)
        if cut:
            late = _late(train, held)
            top.set_ylim(late.min() - 0.05 * np.ptp(late), late.max() + 0.1 * np.ptp(late))
        plain(top.yaxis)
        top.set_title("nats per datum")
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
    parts = [(known, colours.FILL)]
    if zero:
        parts = [(known[known < 0], colours.WARN_FILL), (known[known >= 0], colours.FILL)]
    elif split is not None:
        parts = [(known[known <= split], colours.FILL), (known[known > split], colours.WARN_FILL)]
    with chart(label) as drawn:
        ax = drawn.figure.subplots()
        for part, colour in parts:
            ax.hist(part, bins=bins, color=colour, histtype="stepfilled")
        ax.margins(y=0.2)
        if zero:
            ax.axvline(0, color=colours.MUTED, linewidth=1.4, dashes=(4, 3))
        mark(ax, *line)
        axes(ax, across=across, up="data", whole="up")
    return drawn.svg


def num_bins(known: Series) -> int:
    """Returns how many bars show the shape of finite numbers [n]."""
    if np.ptp(known) == 0:
        return 1
    edges = np.histogram_bin_edges(known, "fd" if len(known) > 30 else "sturges")
    return int(np.clip(len(edges) - 1, 5, 60))
