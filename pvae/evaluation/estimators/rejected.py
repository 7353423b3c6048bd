"""The finding of rejection: scores of test data and of foreign data, and how they separate."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from markupsafe import Markup

from pvae.drawing import Panel, attempt, axes, chart, colours, key, mark, responsive, text
from pvae.evaluation.estimators.ranking import auroc, rejected, threshold
from pvae.evaluation.finding import Finding, Known
from pvae.evaluation.numbers import finite, show

__all__ = ["LOG_PX", "Rejected"]

LOG_PX = "log p(x)"
_BINS = 40
_SURE = 3  # standard errors below ½ before plain log p(x) is said to prefer foreign data


@dataclass(frozen=True)
class Rejected(Finding, kind="Rejection"):
    """Scores of some test data and of foreign data; a higher score is more like the test data.

    Attributes:
        test: Scores of the test data, [n, S].
        foreign: Scores of all foreign data, [m, S].
        set_of: Which foreign set each is of, [m].
        kinds: The names of the scores, S.
        sets: The names of the foreign sets.
        share: The share of test data that the threshold rejects, at most.
        num_samples: K of the bounds on log p(x).
        reference: The part whose mean of log p(x) is typical, with its `size`, `mean` and `se`;
            empty without one.
        num_labels: The number of labels that are summed out of p(x, y); 0 without labels.
    """

    title, section, order = "Rejection of foreign data", "uses", 70

    test: np.ndarray = field(metadata={"dims": ("datum", "score")})
    foreign: np.ndarray = field(metadata={"dims": ("row", "score")})
    set_of: np.ndarray = field(metadata={"dims": ("row",)})
    kinds: list[str]
    sets: list[str]
    share: float
    num_samples: int
    reference: dict[str, Any]
    num_labels: int = 0

    def of(self, name: str) -> np.ndarray:
        """Returns the scores of a foreign set, [m, S]."""
        return self.foreign[self.set_of == self.sets.index(name)]

    def thresholds(self) -> dict[str, float]:
        """Returns for each score the value below which data are rejected."""
        return {n: threshold(self.test[:, i], self.share) for i, n in enumerate(self.kinds)}

    def summary(self, known: Known) -> dict[str, Any]:
        at = self.thresholds()
        return {
            "num_data": len(self),
            "num_samples": self.num_samples,
            "share": self.share,
            "num_labels": self.num_labels,
            "typical": self.reference or None,
            "thresholds": {name: finite(value) for name, value in at.items()},
            "test_rejected": {
                name: rejected(self.test[:, i], at[name])[0] for i, name in enumerate(self.kinds)
            },
            "sets": {name: self._set(name, at) for name in self.sets},
        }

    def _set(self, name: str, at: dict[str, float]) -> dict[str, Any]:
        found, scores = self.of(name), {}
        for i, score in enumerate(self.kinds):
            area, se = auroc(self.test[:, i], found[:, i])
            share, share_se = rejected(found[:, i], at[score])
            scores[score] = {
                "auroc": area,
                "auroc_se": finite(se),
                "rejected": share,
                "rejected_se": share_se,
            }
        return {
            "num_data": len(found),
            "mean_log_px": finite(found[:, 0].mean()),
            "test_mean_log_px": finite(self.test[:, 0].mean()),
            "scores": scores,
        }

    def line(self, summary: dict[str, Any]) -> str:
        lines = []
        for name, found in summary["sets"].items():
            areas = (
                f"{score} {show(row['auroc'], 3)} ± {show(row['auroc_se'], 3)}"
                for score, row in found["scores"].items()
            )
            lines.append(f"rejection of {name}, AUROC (0.5 is chance): {', '.join(areas)}")
        return "\n".join([*lines, *preferred(summary)])

    def panels(self, known: Known) -> list[Panel]:
        return [
            attempt(
                "rejection",
                "Scores of test data and of foreign data",
                self._draw,
                known,
                flagged=True,
            )
        ]

    def _draw(self, known: Known) -> Panel:
        summary = self.summary(known)
        at = self.thresholds()
        charts = tuple(
            responsive(lambda width, i=i, name=name: self._histogram(i, name, at[name], width))
            for i, name in enumerate(self.kinds)
        )
        body = Markup("").join([_table(summary), *charts])
        return Panel((body,), self._note(summary, known.constant))

    def _note(self, summary: dict[str, Any], constant: bool) -> str:
        labels = (
            f" log p(x) is the log of Σ p(x|y) p(y) over {self.num_labels} labels."
            if self.num_labels
            else ""
        )
        said = [
            *preferred(summary),
            "AUROC is the probability that a test datum scores higher than a foreign one: ½ is "
            "chance, 1 separates the sets, below ½ the foreign data look more likely. Its standard "
            "error is DeLong's, and zero where the sets do not overlap. The threshold (the "
            f"vertical line) rejects at most {text.percent(self.share)} of the test data.{labels}",
        ]
        if not constant:
            said.append(
                f"log p(x) is the bound from {text.plural(self.num_samples, 'sample')}. It is "
                "looser where the guide has not been trained, so foreign data look less likely "
                "than they are."
            )
        if self.reference:
            said.append(
                "Typicality is minus the distance of log p(x) from its mean on "
                f"{text.count(self.reference['size'])} {self.reference['part']} data, "
                f"{text.number(self.reference['mean'], 1)} (Nalisnick et al. 2019, "
                "arXiv:1906.02994)."
            )
        if "complexity" in self.kinds:
            said.append(
                "Complexity adds the length of x under a general compressor to log p(x) (Serrà et "
                "al. 2020, arXiv:1909.11480)."
            )
        if "likelihood ratio" in self.kinds:
            said.append(
                "The likelihood ratio subtracts log p(x) of a background model (Ren et al. 2019, "
                "arXiv:1906.02845)."
            )
        return " ".join(said)

    def _histogram(self, i: int, name: str, at: float, width: float) -> Any:
        sets = {"test data": self.test[:, i]} | {each: self.of(each)[:, i] for each in self.sets}
        known = np.concatenate([values[np.isfinite(values)] for values in sets.values()])
        low, high = np.quantile(known, [0.002, 0.998]) if len(known) else (0.0, 1.0)
        bins = np.linspace(low, high if high > low else low + 1, _BINS + 1)
        with chart(f"Histogram of {name}", width, 190) as drawn:
            ax = drawn.figure.subplots()
            for j, (each, values) in enumerate(sets.items()):
                inside = values.clip(bins[0], bins[-1])  # -inf and the far tails: the last bins
                shares = np.histogram(inside, bins)[0] / len(values)
                colour = colours.CLASSES[j % len(colours.CLASSES)]
                ax.stairs(shares, bins, color=colour, fill=j == 0, alpha=0.5 if j == 0 else 1,
                          linewidth=1.6, label=each)  # fmt: skip
            axes(ax, across=f"{name}, nats", up="share of the set")
            ax.set_ylim(0)
            if np.isfinite(at) and bins[0] <= at <= bins[-1]:
                mark(ax, at, "threshold")
            key(ax, 4 if width > 400 else 2)
        return drawn.svg


def preferred(summary: dict[str, Any]) -> list[str]:
    """Returns a sentence for each foreign set that plain log p(x) prefers to the test data."""
    said = []
    for name, found in summary["sets"].items():
        row = found["scores"][LOG_PX]
        if row["auroc"] + _SURE * (row["auroc_se"] or 0) < 0.5 and row["auroc_se"] is not None:
            best = max(found["scores"], key=lambda score: found["scores"][score]["auroc"])
            area = found["scores"][best]["auroc"]
            better = "" if area <= 0.5 else f" The best score here is {best}, {area:.3f}."
            said.append(
                f"Plain log p(x) cannot reject {name}: these foreign data have a higher log p(x) "
                f"than the test data (mean {text.number(found['mean_log_px'], 1)} against "
                f"{text.number(found['test_mean_log_px'], 1)} nats, AUROC {row['auroc']:.3f}; "
                f"Nalisnick et al. 2018, arXiv:1810.09136).{better}"
            )
    return said


def _table(summary: dict[str, Any]) -> Markup:
    """Returns the areas and the rejected shares as a table."""
    names = list(summary["thresholds"])
    head = Markup("").join(Markup('<th scope="col">{}</th>').format(name) for name in names)
    rows = []
    for name, found in summary["sets"].items():
        cells = []
        for row in found["scores"].values():
            area = " ".join(filter(None, text.with_error(row["auroc"], row["auroc_se"], 3)))
            cells.append(
                Markup("<td><span>{}</span><br><small>{} rejected</small></td>").format(
                    area, text.percent(row["rejected"])
                )
            )
        size = text.plural(found["num_data"], "datum", "data")
        first = Markup('<tr><th scope="row">{}<small>{}</small></th>').format(name, size)
        rows.append(first + Markup("").join(cells) + Markup("</tr>"))
    return Markup(
        '<div class="scroll" tabindex="0" role="region" aria-label="Table of rejection">'
        '<table class="noted"><thead><tr><th scope="col">foreign data, AUROC</th>{}</tr></thead>'
        "<tbody>{}</tbody></table></div>"
    ).format(head, Markup("").join(rows))
