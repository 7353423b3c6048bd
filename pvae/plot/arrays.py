"""Numbers as curves, histograms and bars."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from pvae.drawing import finite, mark, named, num_bins, onto, plain
from pvae.errors import PvaeError
from pvae.plot.pictures import array

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["bars", "curves", "histogram"]

_DASHES = ("-", (0, (5, 2)), (0, (1.2, 1.4)), (0, (5, 2, 1, 2)))


def curves(
    values: Any,
    x: Any = None,
    *,
    band: Literal["se", "sd", "range"] | None = "se",
    across: str = "",
    up: str = "",
    log: Literal["", "x", "y", "xy"] = "",
    ax: "Axes | None" = None,
) -> "Axes":
    """Draws named curves, those of repeated runs with a band.

    Args:
        values: By the name of the curve, numbers [T], or the numbers of R runs [R, T], of which
            the mean is drawn; or the numbers of a single curve.
        x: Where they are, [T], or by the name of the curve; None is 1 … T.
        band: Of R runs, ±1 standard error of their mean, ±1 standard deviation, or from the
            lowest to the highest.
        across: What grows to the right, with its unit.
        up: What grows upwards, with its unit.
        log: The axes that are logarithmic.
        ax: matplotlib axes to draw onto; None makes a figure.

    Raises:
        PvaeError: If a curve has another shape, or another number of points than x.

    Example:
        >>> from pvae import plot
        >>> ax = plot.curves({"IWAE": [3.0, 1.0]}, [2, 8], across="K", up="variance", log="xy")
        >>> ax.lines[0].get_xydata().tolist()
        [[2.0, 3.0], [8.0, 1.0]]
    """
    named_values = values if isinstance(values, Mapping) else {"": values}
    if band not in ("se", "sd", "range", None):
        raise PvaeError(f"band={band!r} is not valid: give 'se', 'sd', 'range' or None.")
    if not set(log) <= {"x", "y"}:
        raise PvaeError(f"log={log!r} is not valid: give 'x', 'y', 'xy' or ''.")
    from matplotlib.ticker import LogLocator, NullLocator

    ready = [(name, *_curve(str(name), each, x)) for name, each in named_values.items()]
    ax, look = onto(ax)
    before = len(ax.get_legend_handles_labels()[1])
    for i, (name, at, runs) in enumerate(ready, start=before):
        colour = look.series[i % len(look.series)]
        style = _DASHES[i // len(look.series) % len(_DASHES)]
        mean = runs.mean(0)
        dots = {"marker": "o", "markersize": 4} if len(at) <= 20 else {}
        ax.plot(at, mean, color=colour, linestyle=style, label=str(name) or None, **dots)
        if band and len(runs) > 1:
            spread = runs.std(0, ddof=1) / (np.sqrt(len(runs)) if band == "se" else 1.0)
            low, high = mean - spread, mean + spread
            if band == "range":
                low, high = runs.min(0), runs.max(0)
            ax.fill_between(at, low, high, color=colour, alpha=0.18, linewidth=0)
    if "x" in log:
        ax.set_xscale("log")
        at = np.unique(np.concatenate([at for _, at, _ in ready]))
        if len(at) <= 12:
            ax.set_xticks(at, [f"{value:g}" for value in at])
            ax.xaxis.set_minor_locator(NullLocator())
    else:
        plain(ax.xaxis)
    if "y" in log:
        ax.set_yscale("log")
        low, high = ax.get_ylim()
        if high < 300 * low:
            ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            ax.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
            ax.yaxis.set_minor_locator(NullLocator())
    else:
        plain(ax.yaxis)
    named(ax, across=across, up=up, look=look)
    if ax.get_legend_handles_labels()[1]:
        ax.legend(frameon=False)
    return ax


def _curve(name: str, values: Any, x: Any) -> tuple[NDArray[Any], NDArray[Any]]:
    """Returns where the points of a curve are, [T], and the numbers of its runs, [R, T]."""
    what = f"The curve {name!r}" if name else "The curve"
    runs = array(values).astype(np.float64)
    if runs.ndim not in (1, 2) or not runs.size:
        raise PvaeError(f"{what} has shape {list(runs.shape)}; give numbers [T] or [R, T].")
    runs = np.atleast_2d(runs)
    at = x.get(name) if isinstance(x, Mapping) else x
    at = np.arange(1, runs.shape[1] + 1) if at is None else array(at)
    if at.shape != (runs.shape[1],):
        raise PvaeError(f"{what} has {runs.shape[1]} points and x has shape {list(at.shape)}.")
    return at, runs


def histogram(
    values: Any,
    *,
    density: Callable[[NDArray[np.float64]], Any] | None = None,
    line: tuple[float, str] | None = None,
    bins: int | Sequence[float] | None = None,
    across: str = "",
    ax: "Axes | None" = None,
) -> "Axes":
    """Draws histograms of numbers on common bins, with a density or a line beside them.

    The histograms of several sets are shares of each set, so that sets of different sizes can be
    compared; of one set, counts; beside a density, areas of one. Numbers that are not finite are
    left out, and the legend says how many.

    Args:
        values: Numbers [N], or by the name of the set.
        density: A density p(x) to draw as a curve: a function of an array, or of a tensor, such
            as `lambda x: dist.Normal(0, 1).log_prob(x).exp()`.
        line: A position and its name, such as a threshold.
        bins: How many bars, or their edges.
        across: What the numbers are, with their unit.
        ax: matplotlib axes to draw onto; None makes a figure.

    Raises:
        PvaeError: If a set has no finite number.

    Example:
        >>> import numpy as np
        >>> from pvae import plot
        >>> sets = {"test": np.arange(9.0), "foreign": np.arange(5.0) - 4}
        >>> ax = plot.histogram(sets, line=(0.5, "threshold"), across="log p(x), nats")
    """
    sets = values if isinstance(values, Mapping) else {"": values}
    known = {}
    for name, each in sets.items():
        every = array(each).astype(np.float64).ravel()
        some = finite(every)
        if not len(some):
            words = f"The set {name!r}" if name else "values"
            raise PvaeError(f"{words} has no finite number, so there is nothing to draw.")
        left = f" ({len(every) - len(some)} not finite)" if len(some) < len(every) else ""
        known[f"{name}{left}".strip()] = some
    joined = np.concatenate([*known.values()])
    edges = np.histogram_bin_edges(joined, num_bins(joined) if bins is None else bins)
    ax, look = onto(ax)
    for i, (name, some) in enumerate(known.items()):
        counts = np.histogram(some, edges)[0].astype(np.float64)
        if density is not None:
            counts /= len(some) * np.diff(edges)
        elif len(known) > 1:
            counts /= len(some)
        colour = look.series[i % len(look.series)]
        ax.stairs(counts, edges, color=colour, fill=True, alpha=0.35, linewidth=0)
        ax.stairs(counts, edges, color=colour, linewidth=1.6, label=name or None)
    if density is not None:
        at = np.linspace(edges[0], edges[-1], 400)
        ax.plot(at, _density(density, at), color=look.ink, linewidth=1.6, label="density")
    ax.margins(y=0.2)
    ax.set_ylim(0)
    plain(ax.xaxis)
    plain(ax.yaxis)
    if line is not None:
        mark(ax, *line, look)
    up = "density" if density is not None else "share of the set"
    named(ax, across=across, up=up if density or len(known) > 1 else "number", look=look)
    if ax.get_legend_handles_labels()[1]:
        ax.legend(frameon=False)
    return ax


def _density(density: Callable[[Any], Any], at: NDArray[np.float64]) -> NDArray[np.float64]:
    import torch

    try:
        return array(density(at))
    except (TypeError, AttributeError, ValueError):  # a function of tensors
        return array(density(torch.from_numpy(at).float()))


def bars(
    values: Any,
    errors: Any = None,
    *,
    up: str = "",
    ax: "Axes | None" = None,
) -> "Axes":
    """Draws numbers as bars by name, from left to right; parts of a sum on top of each other.

    Args:
        values: Numbers by name; the parts of each sum by name, as a dict for each; or numbers
            [N], such as the shares of codes, whose names are 0 … N − 1.
        errors: Standard errors, given as the values are; of parts, drawn at the end of each.
        up: What grows upwards, with its unit.
        ax: matplotlib axes to draw onto; None makes a figure.

    Raises:
        PvaeError: If there is no number, or a bar lacks a part.

    Example:
        >>> from pvae import plot
        >>> gaps = {"q": {"encoder": 3, "family": 2}, "flow": {"encoder": 3, "family": 1}}
        >>> [float(bar.get_height()) for bar in plot.bars(gaps, up="nats per datum").patches]
        [3.0, 3.0, 2.0, 1.0]
    """
    names, parts, spread = _parts(values, errors)
    ax, look = onto(ax)
    at, base = np.arange(len(names)), np.zeros(len(names))
    for i, (part, heights) in enumerate(parts.items()):
        colour = look.series[i % len(look.series)]
        ax.bar(at, heights, 0.72, bottom=base, color=colour, alpha=0.85, label=part or None)
        base = base + heights
        if spread is not None:
            ax.errorbar(at, base, spread[part], fmt="none", ecolor=look.ink, capsize=3)
    ax.axhline(0, color=look.ink, linewidth=0.8)
    if isinstance(values, Mapping):
        ax.set_xticks(at, names, parse_math=False)
    plain(ax.yaxis)
    named(ax, up=up, look=look)
    if list(parts) != [""]:
        ax.legend(frameon=False)
    return ax


def _parts(values: Any, errors: Any) -> tuple[list[str], dict[str, Any], dict[str, Any] | None]:
    """Returns the names of the bars, and their numbers and errors by part."""
    if not isinstance(values, Mapping):
        values = dict(enumerate(array(values).ravel().tolist()))
        errors = None if errors is None else dict(enumerate(array(errors).ravel().tolist()))
    if not values:
        raise PvaeError("There is no number to draw.")

    def by_part(given: Mapping[Any, Any]) -> dict[str, Any]:
        rows = {n: row if isinstance(row, Mapping) else {"": row} for n, row in given.items()}
        parts = list(next(iter(rows.values())))
        for name, row in rows.items():
            if set(row) != set(parts):
                raise PvaeError(
                    f"Every bar has the same parts; {name!r} has {', '.join(map(str, row))} and "
                    f"the first has {', '.join(map(str, parts))}."
                )
        return {part: np.array([float(row[part]) for row in rows.values()]) for part in parts}

    found = by_part(values)
    if errors is None:
        return [str(name) for name in values], found, None
    if set(errors) != set(values):
        raise PvaeError("Give an error for each bar, by the same names as the values.")
    return [str(name) for name in values], found, by_part({name: errors[name] for name in values})
