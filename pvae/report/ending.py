"""How training ended: whether the bound was still rising, and training against validation."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from pvae.drawing import text

__all__ = ["Trend", "apart", "ended", "trend"]

_SHARE = 5  # the last fifth of the epochs
_LEAST = 5  # epochs
_SMALL = 0.1  # nats
_SURE = 0.99  # one-sided, so that one flat run in a hundred may be called rising


@dataclass(frozen=True)
class Trend:
    """The straight line through the last epochs of one series, in nats per datum.

    Attributes:
        series: `"validation"` or `"training"`.
        epochs: Number of epochs of the line.
        rise: From its first to its last epoch.
        se: Standard error of the rise.
        verdict: `"rising"`, `"falling"` or `"level"`.
    """

    series: Literal["validation", "training"]
    epochs: int
    rise: float
    se: float
    verdict: Literal["rising", "falling", "level"]


def trend(history: Sequence[dict[str, Any]]) -> Trend | None:
    r"""Returns whether the bound rose over the last fifth of the epochs, by a fixed rule.

    The validation ELBO decides if there is one. A straight line is fitted by least squares to the
    last n of the epochs, n a fifth of them and at least five, all at the full KL weight. With
    :math:`t_1, …, t_n` around zero and residuals r of lag-one correlation ρ,

    .. math:: \mathrm{se}(b)^2 = \frac{\sum r^2}{(n - 2) \sum t^2} \cdot
        \frac{1 + \rho}{1 - \rho}, \qquad \mathrm{rise} = b (n - 1)

    where ρ is at least 0 and corrected for its bias, :math:`(n \hat\rho + 1) / (n - 4)`
    (Marriott & Pope 1954), and at most 0.9. It is rising if the one-sided 99% interval of Student's
    t lies above zero, falling if it lies below, else level; the degrees of freedom are those of
    n (1 − ρ) / (1 + ρ) independent values, at least 2. A rise of less than 0.1 nats, or of less
    than 1% of the bound if that is smaller, is level.

    Returns:
        The line, or None if there are fewer than five such epochs.
    """
    rows = list(history)
    held, train = (
        np.array([_number(row.get(key)) for row in rows]) for key in ("validation_elbo", "elbo")
    )
    values = held if np.isfinite(held).any() else train
    n = max(_LEAST, math.ceil(len(rows) / _SHARE))
    full = [row.get("kl_weight") in (None, "", 1) for row in rows[-n:]]
    last = values[-n:]
    if len(last) < n or not all(full) or not np.isfinite(last).all():
        return None
    rise, se, freedom = _line(last)
    sure = max(float(stdtrit(freedom, _SURE)) * se, min(_SMALL, 0.01 * abs(float(last.mean()))))
    verdict = "rising" if rise > sure else "falling" if rise < -sure else "level"
    return Trend("validation" if values is held else "training", n, rise, se, verdict)


def _line(y: NDArray[np.float64]) -> tuple[float, float, float]:
    """Returns the rise of the line through y, its standard error and its degrees of freedom."""
    n = len(y)
    t = np.arange(n) - (n - 1) / 2
    slope = float(t @ y / (t @ t))
    r = y - y.mean() - slope * t
    left = float(r @ r)
    if left == 0:
        return slope * (n - 1), 0.0, n - 2.0
    seen = float(r[1:] @ r[:-1]) / left
    rho = min(0.9, max(0.0, (n * seen + 1) / (n - 4)))
    error = math.sqrt(left / (n - 2) / float(t @ t) * (1 + rho) / (1 - rho))
    return slope * (n - 1), error * (n - 1), max(2.0, n * (1 - rho) / (1 + rho) - 2)


def ended(found: Trend | None, history: Sequence[dict[str, Any]], what: str) -> str | None:
    """Says in a sentence or two whether the bound was still rising when training ended."""
    if found is None:
        return None
    name = f"validation {what}" if found.series == "validation" else f"training {what}"
    said = " ".join(text.with_error(found.rise, found.se, text.decimals(found.se), sign=True))
    over = f"over the last {found.epochs} of {text.plural(len(history), 'epoch')}"
    if found.verdict == "rising":
        first = f"The {name} was still rising when training ended: {said} nats {over}."
        return f"{first} More epochs may raise it."
    if found.verdict == "falling":
        first = f"The {name} was falling when training ended: {said} nats {over}."
        kept = " The pair has the parameters of its best epoch."
        return first + (kept if found.series == "validation" else "")
    first = f"The {name} shows no clear rise at the end of training: {said} nats {over}."
    rates = [_number(row.get("learning_rate")) for row in history]
    if math.isfinite(rates[-1]) and 0 < rates[-1] < 0.1 * max(rates):
        share = text.percent(rates[-1] / max(rates))
        first += (
            f" The learning rate had come down to {share} by then, so a longer run with a slower "
            "decay may still be better."
        )
    return first


def apart(
    history: Sequence[dict[str, Any]], what: str, evaluated: float | None, places: int
) -> str | None:
    """Says how far training data and other data are apart at the end of training.

    Args:
        history: One dict for each epoch.
        what: What the objective is.
        evaluated: The mean ELBO of the evaluated data; None if training had another objective.
        places: Decimals.
    """
    if not history or history[-1].get("kl_weight") not in (None, "", 1):
        return None
    full = [row for row in history if row.get("kl_weight") in (None, "", 1)]
    held = [_number(row.get("validation_elbo")) for row in full]
    if np.isfinite(held).any():
        at = int(np.nanargmax(held))
        train, other, name = _number(full[at].get("elbo")), held[at], "validation"
        epoch = full[at].get("epoch", at + 1)
        when = f"at the best epoch, {epoch}, whose parameters were kept"
    else:
        train, other, name = _number(full[-1].get("elbo")), _number(evaluated), "evaluated"
        when = "in the last epoch"
    if not (math.isfinite(train) and math.isfinite(other)):
        return None
    return (
        f"{what}: {text.number(train, places)} nats on training data {when} (a mean over its "
        f"steps), {text.number(other, places)} on {name} data, difference "
        f"{text.number(train - other, places, sign=True)}."
    )


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan
