"""Several runs on one page: how they differ, the spread of seeds, curves and pictures."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from pvae.drawing import HIDDEN, Panel, attempt, chart, colours, key, plain, responsive, text
from pvae.evaluation import Compared, Comparison
from pvae.report import panels
from pvae.report.facts import applying
from pvae.report.subject import Subject

__all__ = ["context"]

Parts = Mapping[str, Mapping[str, Any]]

_NO_DESIGN = ("seed", "device", "progress", "pvae", "memory", "mode", "out")
_DASHES = ((1, 0), (5, 2), (1, 1.5), (5, 1.5, 1, 1.5))
_MOST = 8  # curves


def context(comparison: Comparison, parts: Parts) -> dict[str, Any]:
    """Returns what the page says about the runs beside their bounds."""
    runs = comparison.runs
    configs = {run.name: _options(parts.get(run.name, {}).get("config")) for run in runs}
    return {
        "options": _differences(configs),
        "same": all(configs.values()) and len(runs) > 1,
        "designs": _designs(runs, configs),
        "curves": attempt("curves", "ELBO over epochs", _curves, runs, parts),
        "pictures": _pictures(runs, parts),
        "commands": [
            (run.name, command) for run in runs
            if (command := parts.get(run.name, {}).get("command"))
        ],
    }  # fmt: skip


def _options(config: Mapping[str, Any] | None) -> dict[str, str]:
    return applying(dict(text.flatten(config))) if config else {}


def _differences(configs: Mapping[str, Mapping[str, str]]) -> list[tuple[str, list[str]]]:
    """Returns the options that are not the same in all runs, with the value in each run."""
    if not all(configs.values()):
        return []
    names = dict.fromkeys(name for config in configs.values() for name in config)
    rows = [(name, [c.get(name, text.NONE) for c in configs.values()]) for name in names]
    return [(name, values) for name, values in rows if len(set(values)) > 1 and name != "pvae"]


def _designs(
    runs: Sequence[Compared], configs: Mapping[str, Mapping[str, str]]
) -> list[dict[str, Any]]:
    """Returns the runs grouped by their options without seeds, if one group has several seeds.

    The spread is the standard deviation of the mean bound over the seeds.
    """
    groups: dict[tuple[tuple[str, str], ...], list[Compared]] = {}
    for run in runs:
        if not configs[run.name]:
            return []
        design = {k: v for k, v in configs[run.name].items() if k not in _NO_DESIGN}
        groups.setdefault(tuple(sorted(design.items())), []).append(run)
    if all(len({configs[r.name].get("seed") for r in group}) < 2 for group in groups.values()):
        return []
    rows = [_design(group, [configs[r.name].get("seed", text.NONE) for r in group])
            for group in groups.values()]  # fmt: skip
    first = rows[0]
    for row in rows[1:]:
        row["difference"] = row["mean"] - first["mean"]
        terms = [each["spread"] ** 2 / len(each["names"]) for each in (first, row)]
        row["error"] = math.sqrt(sum(terms))  # NaN if one of them has one seed
    return rows


def _design(group: Sequence[Compared], seeds: Sequence[str]) -> dict[str, Any]:
    means = np.array([run.log_px.mean for run in group])
    return {
        "names": [run.name for run in group],
        "what": f"{group[0].model} with {group[0].guide}",
        "seeds": ", ".join(seeds),
        "mean": float(means.mean()),
        "spread": float(means.std(ddof=1)) if len(means) > 1 else math.nan,
        "low": float(means.min()),
        "high": float(means.max()),
        "difference": None,
        "error": None,
    }


def _curves(runs: Sequence[Compared], parts: Parts) -> Panel:
    """Draws the ELBO of each run over its epochs: of validation data, else of training data."""
    lines, held = [], 0
    for run in runs[:_MOST]:
        history = parts.get(run.name, {}).get("history") or []
        y = _values(history, "validation_elbo")
        held += bool(np.isfinite(y).any())
        y = y if np.isfinite(y).any() else _values(history, "elbo")
        if np.isfinite(y).any():
            lines.append((run.name, np.arange(1, len(y) + 1), y))
    if not lines:
        return HIDDEN
    what = {0: "training", len(lines): "validation"}.get(held, "validation, or training")
    late = np.concatenate([y[len(y) // 10 :] for _, _, y in lines])
    low, high = float(np.nanmin(late)), float(np.nanmax(late))
    body = responsive(lambda width: _draw(lines, (low, high), what, width))
    note = (
        f"The ELBO of {what} data over the epochs of each run, in nats per datum: higher is "
        "better. The first tenth of the epochs may lie below the frame."
    )
    if len(runs) > _MOST:
        note += f" The first {_MOST} runs are drawn."
    return Panel((body,), note)


def _values(history: Sequence[Mapping[str, Any]], key: str) -> NDArray[np.float64]:
    def value(row: Mapping[str, Any]) -> float:
        try:
            return float(row.get(key))  # type: ignore[arg-type]
        except (TypeError, ValueError):
            return math.nan

    return np.array([value(row) for row in history], dtype=np.float64)


def _draw(
    lines: Sequence[tuple[str, NDArray[Any], NDArray[Any]]],
    frame: tuple[float, float],
    what: str,
    width: float,
) -> Markup:
    names = ", ".join(name for name, *_ in lines)
    with chart(f"ELBO of {what} data over epochs, of {names}", width, 300) as drawn:
        ax = drawn.figure.subplots()
        for i, (name, x, y) in enumerate(lines):
            dot = {"marker": "o", "markersize": 4} if len(x) <= 20 else {}
            ax.plot(x, y, color=colours.CLASSES[i], dashes=_DASHES[i % 4],
                    label=name if len(name) <= 24 else f"…{name[-23:]}", **dot)  # fmt: skip
        pad = 0.06 * (frame[1] - frame[0]) or 1.0
        ax.set_ylim(frame[0] - pad, frame[1] + pad)
        plain(ax.yaxis)
        plain(ax.xaxis, True)
        key(ax, 4 if width > 500 else 1)
        ax.set_title("nats per datum")
        ax.set_xlabel("epoch →", loc="right")
    return drawn.svg


def _pictures(runs: Sequence[Compared], parts: Parts) -> list[tuple[str, list[Panel]]]:
    """Returns samples and reconstructions of each run, of the same test data."""
    found = []
    for i, run in enumerate(runs, start=1):
        own = parts.get(run.name, {})
        model, guide, data = (own.get(name) for name in ("model", "guide", "data"))
        if model is None or guide is None or data is None:
            continue
        subject = Subject(model, guide, data, own.get("site"))
        drawn = [
            attempt(f"reconstructions-{i}", "Data, and their reconstructions beneath",
                    panels.reconstructions, subject, True),
            attempt(f"samples-{i}", "Samples", panels.samples, subject,
                    own.get("density", "p(x)"), True),
        ]  # fmt: skip
        found.append((run.name, [p for p in drawn if p.bodies or p.missing]))
    return found
