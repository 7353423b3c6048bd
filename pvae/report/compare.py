"""The page of a comparison: which run is better on the same data, and by how much."""

import math
import os
import pathlib
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from pvae.drawing import (
    Panel,
    attempt,
    chart,
    colours,
    finite,
    key,
    num_bins,
    plain,
    responsive,
    text,
)
from pvae.evaluation import Bound, Compared, Comparison, Difference
from pvae.report import several
from pvae.report.charts import histogram
from pvae.report.page import write_page
from pvae.version import __version__

__all__ = ["write_comparison"]

_POINTS = 2000


def write_comparison(
    path: str | os.PathLike[str],
    comparison: Comparison,
    parts: Mapping[str, Mapping[str, Any]] | None = None,
    command: str | None = None,
) -> pathlib.Path:
    """Writes a comparison as one HTML file that needs no network and no scripts.

    Args:
        path: The file; missing folders are made. An older file is kept until the new one is
            complete.
        comparison: From `pvae.evaluation.compare.compare`.
        parts: For each run what `write_report` takes of it (`model`, `guide`, `data`, `history`,
            `config`, `command`), as far as it is known: for the options that differ, the curves
            and the pictures.
        command: The command that writes this page.

    Returns:
        The path of the file.

    Raises:
        PvaeError: If the file cannot be written.
    """
    context = _context(comparison) | several.context(comparison, parts or {})
    names = " ".join(shlex.quote(run.name) for run in comparison.runs)
    return write_page(
        path, "compare.html", context | {"command": command or f"pvae compare {names}"}
    )


def _context(comparison: Comparison) -> dict[str, Any]:
    runs = comparison.runs
    return {
        "comparison": comparison,
        "reference": runs[0],
        "others": runs[1:],
        "blocks": [
            _block("L", comparison.num_samples, runs, [run.log_px for run in runs]),
            _block("ELBO", None, runs, [run.elbo for run in runs]),
        ],
        "scores": [
            _block(name, None, runs, [run.scores[name] for run in runs]) for name in runs[0].scores
        ],
        "gain": _gain([run.log_px.difference for run in runs[1:]]),
        "forest": attempt(
            "forest", "Differences and their 95% intervals", _forest_panel, comparison
        ),
        "details": [
            (
                run,
                attempt(f"histogram-{i}", "Histogram of the differences", _histogram_panel,
                        runs[0], run, i),
                attempt(f"scatter-{i}", "One run against the other", _scatter_panel,
                        runs[0], run, i),
            )
            for i, run in enumerate(runs[1:], start=2)
        ],
        "version": __version__,
    }  # fmt: skip


def _block(
    name: str, k: int | None, runs: Sequence[Compared], bounds: Sequence[Bound]
) -> dict[str, Any]:
    """Returns one table: its title, its decimals, and a row for each run."""
    return {
        "name": name,
        "k": k,
        "places": text.decimals(*(bound.se for bound in bounds)),
        "fine": text.decimals(*(b.difference.se for b in bounds if b.difference is not None)),
        "rows": list(zip(runs, bounds, strict=True)),
    }


def _gain(differences: Sequence[Difference | None]) -> str | None:
    """Returns by what factor an unpaired comparison would need more data, at least."""
    known = [d for d in differences if d is not None and d.se > 0 and d.unpaired_se > d.se]
    if not known or len(known) < len(differences):
        return None
    times = min((d.unpaired_se / d.se) ** 2 for d in known)
    return None if times < 1.5 else f"{times:.1f}" if times < 9.5 else text.count(round(times))


def _short(name: str, most: int = 40) -> str:
    return name if len(name) <= most else f"…{name[1 - most :]}"


def _forest_panel(comparison: Comparison) -> Panel | None:
    rows = [
        run for run in comparison.runs[1:]
        if run.log_px.difference and not math.isnan(run.log_px.difference.low)
    ]  # fmt: skip
    if not rows:
        return None
    reference = comparison.runs[0].name
    body = responsive(lambda width: _forest(rows, reference, comparison.num_samples, width))
    note = (
        f"Each dot is a mean difference from {reference}, the line through it its 95% interval. "
        "To the right of zero a run is better; an interval that contains zero shows no "
        "difference. The pale band is the interval without pairing: the same means, if each run "
        "had seen different data."
    )
    if left_out := len(comparison.runs) - 1 - len(rows):
        note += f" {text.plural(left_out, 'run has', 'runs have')} no interval."
    return Panel((body,), note)


def _forest(rows: Sequence[Compared], reference: str, k: int, width: float) -> Markup:
    label = "Mean differences from the reference with 95% intervals"
    with chart(label, width, 84 + 66 * len(rows)) as drawn:
        ax = drawn.figure.subplots()
        ax.axvline(0, color=colours.INK, linewidth=1.4)
        for i, run in enumerate(rows):
            log_px, elbo = run.log_px.difference, run.elbo.difference
            assert log_px is not None
            assert elbo is not None
            y = float(i)
            wide = (log_px.high - log_px.mean) * log_px.unpaired_se / log_px.se if log_px.se else 0
            ends = [log_px.mean - wide, log_px.mean + wide]
            ax.plot(ends, [y, y], color=colours.FILL, linewidth=9, alpha=0.45,
                    solid_capstyle="butt", label="unpaired" if not i else None)  # fmt: skip
            for d, colour, level, name in (
                (log_px, colours.ACCENT, y, f"L at K = {text.count(k)}"),
                (elbo, colours.SECOND, y + 0.27, "ELBO"),
            ):
                ax.plot([d.low, d.high], [level] * 2, color=colour, linewidth=2.2)
                ax.plot([d.mean], [level], "o", color=colour, markersize=5.5,
                        label=name if not i else None)  # fmt: skip
            ax.annotate(
                _short(run.name, int(width / 9)), (0, y - 0.2), xycoords=ax.get_yaxis_transform(),
                ha="left", va="bottom", color=colours.INK, parse_math=False,
            )  # fmt: skip
        ax.set_ylim(len(rows) - 0.5, -0.75)
        ax.margins(x=0.06)
        ax.set_yticks([])
        ax.grid(True, axis="x")
        plain(ax.xaxis)
        key(ax, 3)
        ax.set_xlabel(
            f"nats per datum; better than {_short(reference, int(width / 16))} →", loc="right",
            parse_math=False,
        )  # fmt: skip
    return drawn.svg


def _histogram_panel(first: Compared, run: Compared, number: int) -> Panel | None:
    d = run.log_px.difference
    assert d is not None
    known = finite(d.values)
    if not len(known):
        return None
    body = _histogram(known, d, f"Histogram of differences, run {number}")
    note = (
        f"{run.name} minus {first.name}, datum by datum: to the right of zero, in blue, are the "
        f"{text.percent(d.higher)} of the data that {run.name} explains better."
    )
    if number == 2:
        note += (
            " A mean far from zero with a narrow spread is a difference on all data; a long tail "
            "is a difference on few."
        )
    if missing := len(d.values) - len(known):
        note += f" {text.plural(missing, 'datum', 'data')} without a finite difference: not drawn."
    return Panel((body,), note)


def _histogram(known: Any, d: Difference, label: str) -> Markup:
    low, high = min(float(known.min()), 0.0), max(float(known.max()), 0.0)
    step = float(np.ptp(known)) / num_bins(known) or (high - low) / 10 or 1.0
    step = max(step, (high - low) / 60)
    # An edge on zero, so that no bar is on both of its sides.
    edges = step * np.arange(math.floor(low / step) - 1, math.ceil(high / step) + 2)
    mean = float(known.mean())
    line = mean, f"mean {text.number(mean, text.decimals(d.se), sign=True)}"
    return histogram(known, edges, label, "difference, nats", line, zero=True)


def _scatter_panel(first: Compared, run: Compared, number: int) -> Panel | None:
    both = np.stack([first.log_px.values, run.log_px.values])
    known = both[:, np.isfinite(both).all(0)]
    if not known.size:
        return None
    shown = known[:, :: math.ceil(known.shape[1] / _POINTS)]
    low, high = float(shown.min()), float(shown.max())
    pad = 0.05 * (high - low) or 1.0
    with chart(f"Bounds on log p(x) of one run against the other, run {number}") as drawn:
        ax = drawn.figure.subplots()
        ax.grid(True, axis="both")
        ax.axline((low, low), slope=1, color=colours.INK, linewidth=1.2)
        size = 4 if shown.shape[1] < 500 else 2.6
        ax.plot(*shown, "o", markersize=size, markeredgewidth=0, color=colours.ACCENT, alpha=0.55)
        ax.set_xlim(low - pad, high + pad)
        ax.set_ylim(low - pad, high + pad)
        plain(ax.xaxis)
        plain(ax.yaxis)
        ax.set_title(_short(run.name, 36), parse_math=False)
        ax.set_xlabel(f"{_short(first.name, 36)} →", loc="right", parse_math=False)
    note = (
        f"Each point is a datum: its bound under {first.name} across, under {run.name} upwards, "
        f"in nats. Above the line {run.name} is better."
    )
    if number == 2:
        note += (
            " If the points follow the line, both runs find the same data easy or hard, and "
            "pairing makes the error small."
        )
    if shown.shape[1] < known.shape[1]:
        note += f" {text.count(shown.shape[1])} of {text.count(known.shape[1])} data are drawn."
    return Panel((drawn.svg,), note)
