"""The reading: one plain sentence on how the bound may be quoted, before any diagnostic."""

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from pvae.drawing import text
from pvae.evaluation.finding import Estimate, Known
from pvae.evaluation.numbers import se

__all__ = ["CLOSE", "Reading", "read"]

CLOSE = 0.2
"""Nats per datum within which a checked bound is said to be log p(x)."""

_MANY = 0.1  # a larger share of data with untrusted weights makes the mean untrusted


@dataclass(frozen=True)
class Reading:
    """How a bound may be read.

    Attributes:
        level: `"good"`: quote it as log p(x); `"bad"`: do not; `"open"`: nothing here decides.
        word: The level in a word or two, for those who do not see its colour.
        sentence: What the numbers say.
    """

    level: Literal["good", "open", "bad"]
    word: str
    sentence: str

    def __str__(self) -> str:
        return f"{self.word}: {self.sentence}"


def read(known: Known) -> Reading:
    r"""Says how the mean bound may be read, by a fixed rule.

    Independent estimates of log p(x) on n of the data (quadrature, annealing from the prior) decide
    if there are any, by their mean difference d ± s from the bound on the same data:

    - **tight** if :math:`|d| + 2 s` is at most `CLOSE`, and the weights can be trusted (k̂ at most
      its threshold) for 90% of the data;
    - **loose** if :math:`d - 2 s > 0` and :math:`|d| + 2 s` is larger than `CLOSE`;
    - else it stays open. An estimate far below the bound decides nothing.

    Without such an estimate a bound whose weights cannot be trusted is called loose. Otherwise its
    distance from log p(x) is known only if the guide misses no part of the posterior: mean
    :math:`v / 2` plus twice the Monte Carlo error, v the variance of the bound of a datum, but no
    less than what the bound rose by from the last K but one.
    """
    if known.code:
        said = f"{known.guide} gives a point, which has no density: no number here bounds log p(x)."
        return Reading("bad", "No bound", said)
    if known.caveat:
        said = "These numbers are no log-likelihood of the data, and cannot be quoted as one."
        return Reading("bad", "Not a likelihood", said)
    if lost := int(np.sum(~np.isfinite(known.log_px))):
        what = "value of log p(x)" if known.exact else "bound"
        said = f"{text.plural(lost, 'datum has', 'data have')} no finite {what}, nor has the mean."
        return Reading("bad", "Not finite", said)
    if known.exact:
        said = "These values are log p(x) itself. Nothing was sampled."
        return Reading("good", "Exact", said)
    check = _check(known)
    if known.one_code:
        return _one_code(check)
    return _by_weights(known) if check is None else _by_check(known, *check)


def _check(known: Known) -> tuple[str, str, float, float] | None:
    """Returns the independent estimate of the most data: name, data, mean difference, error."""
    best, most = None, 0
    for _, found in known.in_order():
        if not isinstance(found, Estimate) or not found.independent:
            continue
        with np.errstate(invalid="ignore"):
            difference = found.log_px - known.log_px[found.datum]
        difference = difference[np.isfinite(difference)]
        n = len(difference)
        if n < 2 or n <= most:
            continue
        mean, error = float(difference.mean()), se(difference)
        if mean + 2 * error < -CLOSE:  # its chains are too short to check anything
            continue
        of = "all" if n == len(known) else f"{text.count(n)} of {text.count(len(known))}"
        best, most = (found.independent, f"{of} data", mean, error), n
    return best


def _by_check(known: Known, name: str, data: str, mean: float, error: float) -> Reading:
    within = abs(mean) + 2 * error
    shown = " ".join(text.with_error(mean, error, text.decimals(error)))
    if mean > 2 * error and within > CLOSE:
        said = (
            f"This is only a lower bound: {name} finds log p(x) {shown} nats higher, on {data}. "
            "Do not quote it as log p(x)."
        )
        return Reading("bad", "Loose", said)
    near = f"to within about {_up(within)} nats per datum, by {name} on {data}"
    untrusted = _untrusted(known)
    if untrusted > _MANY:
        said = (
            f"This is a lower bound. It agrees with log p(x) {near}, but on "
            f"{text.percent(untrusted)} of all data a few samples carry it."
        )
        return Reading("open", "Undecided", said)
    if within > CLOSE:
        said = f"This is a lower bound. It is log p(x) only {near}, which tells no more."
        return Reading("open", "Undecided", said)
    return Reading("good", "Tight", f"This bound can be read as log p(x) {near}.")


def _by_weights(known: Known) -> Reading:
    k, untrusted = text.count(known.num_samples), _untrusted(known)
    if np.isnan(known.khat).mean() > 0.5:
        said = (
            f"This is a lower bound. {text.plural(known.num_samples, 'sample')} for each datum "
            "cannot tell how far log p(x) lies above it."
        )
        return Reading("open", "Not checked", said)
    if untrusted > _MANY:
        said = (
            f"This is only a lower bound, and log p(x) may be well above it: on "
            f"{text.percent(untrusted)} of the data a few of the {k} samples carry it."
        )
        ks, rise = _last_rise(known)
        if rise >= 0.005:
            said += f" From K = {ks} it still rose by {text.number(rise)} nats."
        return Reading("bad", "Loose", said)
    trusted = known.khat <= known.khat_threshold
    error = known.log_px_se[trusted]
    error = error[np.isfinite(error)]
    if not len(error):
        return Reading(
            "open", "Not checked", "This is a lower bound, and has no Monte Carlo error."
        )
    within = np.mean(error**2) / 2 + 2 * math.sqrt(np.mean(error**2) / len(error))
    within = max(float(within), _last_rise(known, trusted)[1])
    some = "" if trusted.all() else f" on {text.percent(float(trusted.mean()))} of the data"
    said = (
        f"This lower bound is log p(x) to within about {_up(within)} nats per datum{some}, "
        "if the guide misses no part of the posterior; nothing has checked that."
    )
    return Reading("open", "Not checked", said)


def _one_code(check: tuple[str, str, float, float] | None) -> Reading:
    said = "This is a lower bound: log p(x, z(x)) at one code of each datum."
    if check is None:
        said += " Nothing has checked how far log p(x) lies above it."
        return Reading("open", "Not checked", said)
    name, data, mean, error = check
    shown = " ".join(text.with_error(mean, error, text.decimals(error)))
    said += f" By {name}, on {data}, log p(x) lies {shown} nats above it."
    return Reading("good" if abs(mean) + 2 * error <= CLOSE else "bad",
                   "Tight" if abs(mean) + 2 * error <= CLOSE else "Loose", said)  # fmt: skip


def _last_rise(known: Known, some: Any = slice(None)) -> tuple[str, float]:
    """Returns the two largest K in words, and by how much the mean bound rose between them."""
    ks = sorted(known.bounds)[-2:]
    first, last = (float(known.bounds[k][some].mean()) for k in (ks[0], ks[-1]))
    return " to ".join(map(text.count, ks)), last - first


def _untrusted(known: Known) -> float:
    """Returns the share of data whose k̂ is unknown or above the threshold."""
    return float((~(known.khat <= known.khat_threshold)).mean())


def _up(value: float) -> str:
    """Returns a number rounded up to one digit, at least 0.01.

    Example:
        >>> _up(0.0004), _up(0.021), _up(0.2), _up(3.2)
        ('0.01', '0.03', '0.2', '4')
    """
    value = max(value, 0.01)
    place = -math.floor(math.log10(value) + 1e-9)
    up = math.ceil(value * 10**place - 1e-6) / 10**place
    return text.number(up, max(0, -math.floor(math.log10(up) + 1e-9)))
