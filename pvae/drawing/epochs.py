"""The objective over the epochs of training."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pvae.drawing.colours import Look
from pvae.drawing.histogram import finite
from pvae.drawing.naming import key, named, plain

__all__ = ["column", "draw_epochs", "draw_trainings", "epochs_of", "is_cut"]

Series = NDArray[np.float64]
History = Sequence[dict[str, Any]]


def column(history: History, key: str) -> Series:
    """Returns one number for each epoch, NaN where there is none."""

    def value(row: dict[str, Any]) -> float:
        try:
            return float(row[key])
        except (KeyError, TypeError, ValueError):
            return math.nan

    return np.array([value(row) for row in history])


def epochs_of(history: History) -> Series:
    """Returns the number of each epoch, from 1 where there is none."""
    epoch = column(history, "epoch")
    return np.where(np.isfinite(epoch), epoch, np.arange(1, len(epoch) + 1))


def is_cut(history: History) -> bool:
    """Returns whether the first tenth of training is so far below the rest that it is cut off."""
    every, late = _values(history), _values(history, late=True)
    return len(late) > 8 and bool(np.ptp(every) > 2.5 * np.ptp(late) > 0)


def _values(history: History, late: bool = False) -> Series:
    start = math.ceil(len(history) / 10) if late else 0
    return finite([column(history, name)[start:] for name in ("elbo", "validation_elbo")])


def draw_epochs(ax: Any, history: History, *, look: Look) -> None:
    """Draws the objective of the training data, and of the validation data, over the epochs.

    Args:
        ax: The axes.
        history: One dict for each epoch, as in `history.csv`.
        look: The colours.
    """
    epoch, train, held = epochs_of(history), *_both(history)
    known, dot = np.isfinite(held), _dots(epoch)
    ax.plot(epoch, train, color=look.accent, label="training", **dot)
    if known.any():
        ax.plot(epoch[known], held[known], color=look.second, label="validation", **dot)
        key(ax, 2)
    _finish(ax, [history], look)


def draw_trainings(ax: Any, histories: Mapping[str, History], *, look: Look) -> None:
    """Draws several trainings: validation data as solid lines, training data as dashed ones.

    Args:
        ax: The axes.
        histories: One dict for each epoch, by the name of the training.
        look: The colours.
    """
    some = False
    for (name, history), colour in zip(histories.items(), itertools.cycle(look.series)):
        epoch, train, held = epochs_of(history), *_both(history)
        known, dot = np.isfinite(held), _dots(epoch)
        if known.any():
            ax.plot(epoch[known], held[known], color=colour, label=name, **dot)
        label = None if known.any() else name
        dashes = (3, 2) if known.any() else (1, 0)
        ax.plot(epoch, train, color=colour, dashes=dashes, linewidth=1.3, label=label)
        some |= bool(known.any())
    if some:
        ax.plot([], [], color=look.muted, label="validation")
        ax.plot([], [], color=look.muted, dashes=(3, 2), linewidth=1.3, label="training")
    ax.legend(facecolor=look.paper, edgecolor="none", framealpha=0.8)
    _finish(ax, [*histories.values()], look)


def _both(history: History) -> tuple[Series, Series]:
    return column(history, "elbo"), column(history, "validation_elbo")


def _dots(epoch: Series) -> dict[str, Any]:
    return {"marker": "o", "markersize": 4} if len(epoch) <= 20 else {}


def _finish(ax: Any, histories: Sequence[History], look: Look) -> None:
    """Names the axes, and cuts off the first epochs where they would flatten the rest."""
    if any(map(is_cut, histories)):
        late = np.concatenate([_values(history, late=True) for history in histories])
        ax.set_ylim(late.min() - 0.05 * np.ptp(late), late.max() + 0.1 * np.ptp(late))
    plain(ax.yaxis)
    named(ax, across="" if look.page else "epoch", up="nats per datum", look=look)
