"""Classification: how well class probabilities predict known labels, for any classifier."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from pvae.drawing import Panel, attempt, axes, chart, colours, text
from pvae.evaluation.finding import Finding, Known
from pvae.evaluation.numbers import finite, mean_and_se

__all__ = ["Classification"]

_BINS = 15


@dataclass(frozen=True)
class Classification(Finding, kind="Classification"):
    r"""How well class probabilities p(y|x) predict the known labels of n data.

    .. math:: \text{error} = \frac1n \sum_i \mathbb 1[\arg\max_c p(c|x_i) \ne y_i], \qquad
        \text{calibration error} = \sum_b \frac{n_b}{n} | \text{accuracy}_b - \text{confidence}_b |

    The confidence is max_c p(c|x), and b runs over 15 bins of equal width between 0 and 1. The
    calibration error is never negative, and so is too large on few data.

    Attributes:
        log_probs: log p(c|x) for each of C classes, [n, C], nats; NaN for a datum that is
            impossible under every class, which counts as wrong.
        label: The known labels, 0 … C − 1, [n].

    Source: Guo, Pleiss, Sun & Weinberger 2017, *On Calibration of Modern Neural Networks*
    (arXiv:1706.04599).
    """

    title, section, order = "Classification by q(y|x)", "parts", 65
    by: ClassVar[str] = "q(y|x)"

    log_probs: np.ndarray
    label: np.ndarray

    @property
    def wrong(self) -> np.ndarray:
        """Whether the most probable class is not the label, 0 or 1, [n]."""
        wrong = (self.log_probs.argmax(1) != self.label) | np.isnan(self.log_probs).any(1)
        return wrong.astype(np.float64)

    @property
    def nll(self) -> np.ndarray:
        """Minus the log probability of the label, [n], nats."""
        found = self.log_probs[np.arange(len(self)), self.label].astype(np.float64)
        return np.where(np.isnan(found), np.inf, -found)

    def bins(self) -> list[dict[str, float]]:
        """Returns for each bin that is not empty `confidence`, `accuracy` and `num_data`."""
        confidence = np.nan_to_num(np.exp(self.log_probs.max(1).astype(np.float64)))
        right = 1 - self.wrong
        place = np.minimum((confidence * _BINS).astype(int), _BINS - 1)
        return [
            {
                "confidence": float(confidence[place == b].mean()),
                "accuracy": float(right[place == b].mean()),
                "num_data": int((place == b).sum()),
            }
            for b in np.unique(place)
        ]

    def summary(self, known: Known) -> dict[str, Any]:
        bins = self.bins()
        gaps = [b["num_data"] * abs(b["accuracy"] - b["confidence"]) for b in bins]
        return {
            "num_data": len(self),
            "num_classes": self.log_probs.shape[1],
            **self._means(),
            "calibration_error": finite(sum(gaps) / len(self)),
            "bins": bins,
            "classes": [
                {"label": int(c), "num_data": int(of.sum()), "error": mean_and_se(self.wrong[of])}
                for c in np.unique(self.label)
                if (of := self.label == c).any()
            ],
        }

    def _means(self) -> dict[str, dict[str, float | None]]:
        return {"error": mean_and_se(self.wrong), "nll": mean_and_se(self.nll)}

    def line(self, summary: dict[str, Any]) -> str:
        places = text.decimals(100 * (summary["error"]["se"] or math.nan))
        error, se = text.with_error(*(_percent(v) for v in summary["error"].values()), places)
        nll, nll_se = text.with_error(*summary["nll"].values(), 3)
        return (
            f"labels by {self.by}: error {error}{f' {se}' * bool(se)} %, log loss {nll}"
            f"{f' {nll_se}' * bool(nll_se)} nats, calibration error "
            f"{text.number(_percent(summary['calibration_error']), 1)} %, on "
            f"{summary['num_data']} labelled data"
        )

    def scores(self) -> dict[str, np.ndarray]:
        return {f"error of {self.by}": self.wrong, f"log loss of {self.by}": self.nll}

    def panels(self, known: Known) -> list[Panel]:
        return [attempt(f"labels-{self.kind}", self.title, _draw, self)]


def _percent(value: float | None) -> float | None:
    return None if value is None else 100 * value


def _draw(found: Classification) -> Panel:
    bins, classes = found.bins(), np.unique(found.label)
    with chart("Accuracy against confidence") as drawn:
        ax = drawn.figure.subplots()
        ax.axline((0, 0), slope=1, color=colours.INK, linewidth=1.2, dashes=(4, 3))
        x, y, n = (np.array([b[k] for b in bins]) for k in ("confidence", "accuracy", "num_data"))
        ax.bar(x, n / n.sum(), width=0.03, color=colours.FILL)
        ax.errorbar(x, y, np.sqrt(y * (1 - y) / n), fmt="o-", color=colours.ACCENT, markersize=4,
                    linewidth=1.4)  # fmt: skip
        axes(ax, across="confidence, max p(y|x)", up="accuracy")
        ax.set_xlim(0, 1.02)
        ax.set_ylim(0, 1.02)
    with chart("Error of each class") as by_class:
        ax = by_class.figure.subplots()
        ax.bar(classes, [100 * found.wrong[found.label == c].mean() for c in classes],
               color=colours.ACCENT)  # fmt: skip
        axes(ax, across="class", up="error, %", whole="across")
        ax.set_ylim(0)
    summary = found.summary(None)
    note = (
        f"{found.line(summary)[0].upper()}{found.line(summary)[1:]}. Left: the accuracy of data "
        "whose confidence is similar, ±1 standard error, and their share (bars). On the dashed "
        "line the confidence is right; below it the classifier is too sure. Right: the error of "
        "the data of each class."
    )
    return Panel(bodies=(drawn.svg, by_class.svg), note=note)
