"""The finding of inpainting: log p(x_missing | x_known), and the error of completions."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from pvae.drawing import Panel, attempt, axes, chart, colours, text
from pvae.evaluation.finding import Finding, Known
from pvae.evaluation.numbers import Mean, finite, mean_and_se

__all__ = ["Inpainted", "psnr"]

_NAMES = {"pair": "the pair", "mean": "mean of training", "nearest": "nearest in training"}


def psnr(error: np.ndarray, num: np.ndarray, peak: float) -> Mean:
    r"""Returns the peak signal-to-noise ratio of all missing values, and its standard error, in dB.

    .. math:: 10 \log_{10} \left( \text{peak}^2 \Big/
        \frac{\sum_i n_i e_i}{\sum_i n_i} \right)

    Args:
        error: e, the mean squared error over the missing values of each datum, [n].
        num: The number of missing values of each datum, [n]; data without any do not count.
        peak: The range of the values, 1 for pixels between 0 and 1.
    """
    total, rows = np.where(num > 0, num * error, 0.0), len(num)
    mean = total.sum() / num.sum()
    if not mean > 0:
        return {"mean": None, "se": None}
    se = math.nan
    if rows > 1:  # of a ratio of two means
        spread = (total - mean * num).std(ddof=1) / math.sqrt(rows)
        se = 10 / math.log(10) * spread / (mean * num.mean())
    return {"mean": 10 * math.log10(peak**2 / mean), "se": finite(se)}


@dataclass(frozen=True)
class Inpainted(Finding, kind="Inpainted"):
    r"""The missing values of x given the known ones: their density, and the error of their means.

    For a pair of p(x), the density is a difference of two importance-weighted bounds:

    .. math:: \log p(x_{\text{missing}} \mid x_{\text{known}})
        \approx L_K(x) - L_K(x_{\text{known}})

    It is **no bound**: each term is too low. It is a lower bound where the second one is exact,
    because all latents are summed out. What a term is too low is about
    :math:`\frac12 (1/\text{ESS} - 1/K)` nats, while the effective sample size is large. A pair
    of p(x_missing | x_known), such as `pvae.models.VAEAC`, has this density as its own bound, and
    the finding holds the errors alone.

    Attributes:
        log_px_known: L_K(x_known), [n], nats; None for a pair of p(x_missing | x_known).
        log_px_missing: L_K(x) − L_K(x_known), [n], nats; None as above.
        ess: The effective number of the K samples for x_known, [n]; None as above.
        gap: ½(1/ESS − 1/K) for x minus that for x_known, [n]: about what has to be added to
            `log_px_missing`, where the effective sample sizes are large; None as above.
        num_missing: Number of missing values, [n].
        error: Mean squared error of E[x_missing | x_known], [n]; NaN if nothing is missing; None if
            the pair cannot draw x.
        error_mean: The same for the mean of the training data; None without training data.
        error_nearest: The same for the training datum with the nearest known values.
        peak: The range of the values of x, for the PSNR.
        exact: Whether `log_px_known` is exact.
        of: Which values are known, in words.
        num_samples: K for x_known.
    """

    title, section, order = "Inpainting", "parts", 70

    log_px_known: np.ndarray | None
    log_px_missing: np.ndarray | None
    ess: np.ndarray | None
    gap: np.ndarray | None
    num_missing: np.ndarray
    error: np.ndarray | None
    error_mean: np.ndarray | None
    error_nearest: np.ndarray | None
    peak: float
    exact: bool
    of: str
    num_samples: int

    def summary(self, known: Known) -> dict[str, Any]:
        found: dict[str, Any] = {
            "num_data": len(self),
            "known": self.of,
            "num_missing": float(self.num_missing.mean()),
        }
        if self.log_px_missing is not None:
            found |= {
                "log_px_missing": mean_and_se(self.log_px_missing),
                "log_px_known": mean_and_se(self.log_px_known),
                "is_bound": self.exact,
                "ess": {"median": finite(np.median(self.ess)), "least": finite(self.ess.min())},
                "gap": finite(self.gap.mean()),
            }
        errors = {"pair": self.error, "mean": self.error_mean, "nearest": self.error_nearest}
        there = {name: e for name, e in errors.items() if e is not None}
        if there and self.num_missing.any():
            found["psnr"] = {n: psnr(e, self.num_missing, self.peak) for n, e in there.items()}
        return found

    def line(self, summary: dict[str, Any]) -> str:
        return "\n".join(filter(None, [self._density(summary), self._psnr(summary)]))

    def verdict(self, known: Known) -> str | None:
        if self.ess is None or self.exact or np.median(self.ess) >= 10:
            return None
        return (
            f"log p(x_missing | x_known) may be far too high: L_K(x_known) has few effective "
            f"samples (median {text.number(np.median(self.ess), 1)} of "
            f"{text.count(self.num_samples)}), and is too low where they are few. Raise "
            "num_samples, num_chains or num_steps of Inpainting."
        )

    def panels(self, known: Known) -> list[Panel]:
        summary = self.summary(known)
        if "psnr" not in summary:
            return []
        return [attempt("inpainting", self.title, _draw, self, summary)]

    def _density(self, summary: dict[str, Any]) -> str | None:
        if self.log_px_missing is None:
            return None
        value, se = text.with_error(*summary["log_px_missing"].values(), 2)
        kind = (
            "a lower bound, because log p(x_known) is exact"
            if self.exact
            else "a difference of two lower bounds, which is no bound"
        )
        ess = text.number(summary["ess"]["median"], 1)
        samples = "" if self.exact else f"; median ESS of x_known {ess}"
        return f"log p(x_missing | x_known), {self.of}: {value} {se} nats, {kind}{samples}".replace(
            "−", "-"
        )

    def _psnr(self, summary: dict[str, Any]) -> str | None:
        if "psnr" not in summary:
            return None
        each = ", ".join(
            f"{_NAMES[name]} {' '.join(text.with_error(*found.values(), 2))}"
            for name, found in summary["psnr"].items()
        )
        return f"PSNR of the missing values, {self.of}, in dB: {each}"


def _draw(found: Inpainted, summary: dict[str, Any]) -> Panel:
    shown = {n: v for n, v in summary["psnr"].items() if v["mean"] is not None}
    with chart("PSNR of the missing values") as drawn:
        ax = drawn.figure.subplots()
        means, errors = ([v[key] or 0.0 for v in shown.values()] for key in ("mean", "se"))
        ax.bar([_NAMES[name] for name in shown], means, yerr=errors, color=colours.ACCENT)
        axes(ax, across="", up="PSNR, dB")
    density = found._density(summary)
    note = (
        "The peak signal-to-noise ratio of E[x_missing | x_known] over all missing values together "
        f"({found.of}), ±1 standard error, beside the mean of the training data and the training "
        "datum whose known values are nearest. More is better."
    )
    note += "" if density is None else f" {density.replace('-', '−')}."
    return Panel(bodies=(drawn.svg,), note=note)
