"""Means over the data and their errors as plain numbers for JSON, and as text for a terminal."""

import math

import numpy as np

from pvae.drawing import text

__all__ = ["finite", "mean_and_se", "se", "se_of_mean", "show"]

Mean = dict[str, float | None]


def mean_and_se(values: np.ndarray) -> Mean:
    """Returns the mean over the data and its standard error, sd / √N; None if undefined."""
    if not len(values):
        return {"mean": None, "se": None}
    with np.errstate(invalid="ignore"):
        return {"mean": finite(values.mean()), "se": finite(se(values))}


def se(values: np.ndarray) -> float:
    """Returns the standard error of the mean over the data, sd / √N; NaN below two data."""
    return float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else math.nan


def se_of_mean(errors: np.ndarray | None) -> float | None:
    """Returns the Monte Carlo error of a mean over data whose samples are independent."""
    if errors is None or not len(errors):
        return None
    return finite(np.sqrt(np.mean(errors**2) / len(errors)))


def finite(value: float) -> float | None:
    """Returns a plain float; None for infinity and NaN, which JSON lacks."""
    return float(value) if math.isfinite(value) else None


def show(value: float | None, places: int = 2) -> str:
    """Returns a number as text, with the minus sign of a keyboard; a dash for None."""
    return text.number(value, places).replace("−", "-")
