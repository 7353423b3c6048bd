"""Shown: what a notebook shows of an evaluation, as figures, as a table and as a data frame."""

from typing import TYPE_CHECKING, Any

import numpy as np

from pvae.drawing import (
    beside,
    card,
    draw_bound,
    draw_dims,
    draw_histogram,
    draw_steps,
    edges_at,
    finite,
    num_bins,
    onto,
    rows_of,
    text,
)
from pvae.errors import PvaeError
from pvae.evaluation.estimators.gaps import Gaps
from pvae.evaluation.finding import Estimate, Known
from pvae.predictive import ACTIVE

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes

__all__ = ["Shown", "estimates_beside"]

_PER_DATUM = (
    "elbo", "elbo_analytic", "log_px", "log_px_se", "psis", "cubo", "khat", "ess", "kl",
    "reconstruction", "zero_weights",
)  # fmt: skip


class Shown(Known):
    """The figures and tables of an `Evaluation`."""

    if TYPE_CHECKING:
        verdict: str

        def summary(self) -> dict[str, Any]: ...
        def table(self) -> str: ...

    def plot_bounds(self, ax: "Axes | None" = None) -> "Axes":
        """Draws the mean bound L_K against K, ±1 standard error over the data, and the ELBO.

        Estimates of log p(x) on all data are beside them: jackknife and Pareto smoothing as
        marks, others as lines. `pvae.plot.bounds` draws several evaluations.

        Args:
            ax: matplotlib axes to draw onto; None makes a figure.

        Raises:
            PvaeError: If there is no bound: the guide gives a point, the values are exact, or
                none is finite.
        """
        summary = self.summary()
        self._needs_bound("L_K against K")
        if not rows_of(summary):
            raise PvaeError("No bound has a finite mean over the data, so there is none to draw.")
        marks, levels, _ = beside(summary, *estimates_beside(self, summary))
        ax, look = onto(ax)
        draw_bound(ax, summary, marks, levels, look=look)
        return ax

    def plot_khat(self, ax: "Axes | None" = None) -> "Axes":
        """Draws the histogram of k̂ over the data; bars above the threshold have another colour.

        Args:
            ax: matplotlib axes to draw onto; None makes a figure.

        Raises:
            PvaeError: If no datum has a k̂.
        """
        self._needs_bound("k̂")
        known = finite(self.khat)
        if not len(known):
            raise PvaeError(
                f"No datum has a finite k̂ from {text.plural(self.num_samples, 'sample')} each. "
                "Evaluate with more: pvae.evaluate(..., num_samples=1000)."
            )
        ax, look = onto(ax)
        at = float(self.khat_threshold)
        line = at, f"threshold {text.number(at)}"
        draw_histogram(ax, known, edges_at(known, at), "Pareto k̂", line, look=look, split=at)
        return ax

    def plot_log_px(self, ax: "Axes | None" = None) -> "Axes":
        """Draws the histogram of the bound on log p(x) at the largest K, with its mean.

        `pvae.plot.histogram` draws several: `{"test": a.log_px, "foreign": b.log_px}`.

        Args:
            ax: matplotlib axes to draw onto; None makes a figure.

        Raises:
            PvaeError: If the guide gives a point, or no value is finite.
        """
        self._needs_bound("log p(x)")
        known = finite(self.log_px)
        if not len(known):
            raise PvaeError("log p(x) is not finite for any datum, so there is nothing to draw.")
        ax, look = onto(ax)
        mean = float(known.mean())
        line = mean, f"mean {text.number(mean)}"
        density = self.data.get("density", "p(x)")
        across = f"log {density}" if self.exact else f"bound on log {density}"
        draw_histogram(ax, known, num_bins(known), f"{across}, nats", line, look=look)
        return ax

    def plot_gap(self, ax: "Axes | None" = None) -> "Axes":
        """Draws the gap between ELBO and log p(x) in its parts: amortisation and approximation.

        Args:
            ax: matplotlib axes to draw onto; None makes a figure.

        Raises:
            PvaeError: If the evaluation has no inference gap.
        """
        found = self.findings.get("gap")
        if not isinstance(found, Gaps):
            why = self.missing.get("gap")
            raise PvaeError(
                f"The inference gap was not computed. {why}"
                if why
                else "This evaluation has no inference gap. Add it with "
                "pvae.evaluate(..., estimators=[pvae.estimators.Gap(50)]), or in the shell with "
                "--gap 50."
            )
        parts, total, error = found.parts(found.summary(self))
        if total is None or any(value is None for _, value, _ in parts):
            raise PvaeError("The inference gap is not finite, so there is nothing to draw.")
        ax, look = onto(ax, height=2.6)
        draw_steps(ax, parts, "inference gap", total, look=look, error=error)
        return ax

    def plot_kl(self, site: str | None = None, ax: "Axes | None" = None) -> "Axes":
        """Draws KL(q(z|x) ‖ p(z)) of each latent dimension, sorted; active units are strong.

        Args:
            site: The latent site; None is the one with the largest KL.
            ax: matplotlib axes to draw onto; None makes a figure.

        Raises:
            PvaeError: If the KL of the site does not split into dimensions.
        """
        known = {name: each for name, each in self.sites.items() if each["kl_dims"]}
        if not known or site not in (None, *known):
            raise PvaeError(
                f"The KL of {site or 'the latent sites'} does not split into dimensions. Sites "
                f"whose KL does: {', '.join(known) or 'none'}."
            )
        name = site or max(known, key=lambda each: float(np.nansum(known[each]["kl_dims"])))
        ax, look = onto(ax)
        draw_dims(ax, name, known[name], ACTIVE, look=look)
        return ax

    def to_dataframe(self) -> "pandas.DataFrame":
        """Returns a pandas DataFrame with a row for each datum: bounds and diagnostics, in nats.

        The index, `datum`, is the row of the data. `L_K` is a column for each K below the
        largest, whose bound is `log_px`. An estimate of log p(x) by annealing or quadrature has
        the column of its name, and an inference gap has `amortisation` and `approximation`; they
        are NaN for data that were left out.

        Example:
            >>> import pvae
            >>> digits = pvae.data.load("digits")
            >>> pair = pvae.models.VAE((1, 8, 8)), pvae.guides.MeanField((1, 8, 8))
            >>> found = pvae.evaluate(*pair, digits, num_samples=100, progress=False)
            >>> found.to_dataframe()[["elbo", "log_px", "khat"]].shape
            (297, 3)
        """
        import pandas

        columns = {name: getattr(self, name) for name in _PER_DATUM}
        columns = {name: values for name, values in columns.items() if values is not None}
        for k in [k for k in self.bounds if k != self.num_samples]:
            columns[f"L_{k}"] = self.bounds[k]
        for name, found in self.in_order():
            if isinstance(found, Estimate):
                columns[name] = np.full(len(self), np.nan)
                columns[name][found.datum] = found.log_px
            if isinstance(found, Gaps):
                for part in ("amortisation", "approximation"):
                    columns[part] = np.full(len(self), np.nan)
                    columns[part][found.datum] = getattr(found, part)
        rows = np.arange(len(self)) if self.rows is None else self.rows
        return pandas.DataFrame(columns, index=pandas.Index(rows, name="datum"))

    def _repr_html_(self) -> str:
        """Returns the bounds, k̂ and the verdict for a notebook."""
        summary = self.summary()
        rows = [] if self.code else [("ELBO", summary["elbo"], "")]
        rows += [(f"L_{row['num_samples']}", row, "") for row in summary["log_px"][-1:]]
        rows += [
            (each.label or each.title, summary[name], f"{len(each)} data")
            for name, each in self.in_order() if isinstance(each, Estimate)
        ]  # fmt: skip
        lines = [
            (name, text.number(row["mean"]), f"± {text.number(row['se'])}", note)
            for name, row, note in rows
        ]
        above = summary["khat"]["above_threshold"]
        if above is not None and not self.constant:
            share = f"above {text.number(self.khat_threshold)} for {text.percent(above)}"
            lines.append(("k̂, median", text.number(summary["khat"]["median"]), "", share))
        if not self.code:
            lines.append(("reconstruction", text.number(summary["reconstruction"]), "", ""))
            lines.append(("KL", text.number(summary["kl"]), "", _units(summary)))
        words = [self.verdict, *filter(None, [self.caveat])]
        many = text.plural(len(self), "datum", "data")
        title = f"{self.model} with {self.guide} on {self.data['name']}: {many}, K = "
        title += text.count(self.num_samples)
        head = ("", "nats", "", "") if not self.caveat else ("", "no likelihood, nats", "", "")
        return card(title, lines, head=head, words=words, details=[("all numbers", self.table())])

    def _needs_bound(self, what: str) -> None:
        if self.code:
            raise PvaeError(
                f"{what} cannot be drawn: the guide gives a point, so there is no bound on "
                "log p(x). pvae.evaluate(..., estimators=[pvae.estimators.AIS(100)]) estimates "
                "log p(x) without the guide."
            )
        if self.constant and what != "log p(x)":
            raise PvaeError(
                f"{what} cannot be drawn: "
                + (
                    "nothing was sampled, so log p(x) is exact."
                    if self.exact
                    else "the guide gives one code for each datum, so every bound is the ELBO."
                )
                + " plot_log_px() draws its values."
            )


def _units(summary: dict[str, Any]) -> str:
    units = summary["active_units"]
    return "" if units is None else text.plural(units, "active unit")


def estimates_beside(e: Known, summary: dict[str, Any]) -> tuple[list[Any], list[Any]]:
    """Returns the estimates to draw beside the bounds: marks at some K, and levels without K."""
    marks = []
    for order in (1, 2):
        rows = [r for r in summary["jvi"] if r["order"] == order and r["mean"] is not None]
        if rows:
            marks.append((f"JVI-{order}", [(r["num_samples"], r["mean"]) for r in rows]))
    if summary["psis"] and summary["psis"]["mean"] is not None:
        marks.append(("PSIS", [(summary["num_samples"], summary["psis"]["mean"])]))
    levels = [
        (found.level, summary[name]["mean"]) for name, found in e.in_order()
        if isinstance(found, Estimate) and found.level and summary[name]["mean"] is not None
        and summary[name]["num_data"] == len(e)
    ]  # fmt: skip
    return marks, levels
