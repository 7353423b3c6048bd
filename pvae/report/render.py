"""Puts a report together: numbers and figures into the template, the page into a file."""

import importlib.metadata
import os
import pathlib
import platform
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jinja2
import numpy as np
from torch import Tensor

import pvae
from pvae.files import atomic
from pvae.report import charts, panels, text
from pvae.report.panels import Panel, attempt
from pvae.report.subject import Subject

if TYPE_CHECKING:
    from pvae.data import Data
    from pvae.evaluation import Evaluation

__all__ = ["write_report"]


def write_report(
    path: str | os.PathLike[str],
    evaluation: "Evaluation",
    *,
    model: Callable[..., Any] | None = None,
    guide: Callable[..., Any] | None = None,
    data: "Data | tuple[Tensor, ...] | Tensor | None" = None,
    history: list[dict[str, Any]] | None = None,
    config: dict[str, Any] | None = None,
) -> pathlib.Path:
    """Writes a report as one HTML file that needs no network and no scripts.

    What is not handed in is left out, and the page says so. A figure that cannot be drawn
    leaves its reason in its place.

    Args:
        path: The file; missing folders are made. An older report stays as it is until the new
            one is complete.
        evaluation: From `pvae.evaluate`, over N data.
        model: The evaluated model, for pictures.
        guide: The evaluated guide, for pictures.
        data: What was evaluated: a `pvae.data.Data` (its test part), a batch `(x,)` or
            `(x, y)`, or x.
        history: One dict per epoch, as `pvae.fit` returns them.
        config: What `config.yaml` holds.

    Returns:
        The path of the file.

    Raises:
        PvaeError: The file cannot be written.
    """
    loader = jinja2.PackageLoader("pvae.report", "")
    environment = jinja2.Environment(
        loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    from pvae.environment import own_random_state

    with own_random_state(evaluation.seed):
        context = _context(evaluation, Subject(model, guide, data), history or [], config)
    page = environment.get_template("page.html").render(context)
    with atomic(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return pathlib.Path(path)


def _context(
    evaluation: "Evaluation",
    subject: Subject,
    history: list[dict[str, Any]],
    config: dict[str, Any] | None,
) -> dict[str, Any]:
    summary = evaluation.summary()
    last = summary["log_px"][-1] if summary["log_px"] else {"mean": None, "se": None}
    places = text.decimals(last["se"], summary["elbo"]["se"])
    log_px, khat = np.asarray(evaluation.log_px), np.asarray(evaluation.khat)
    return {
        "summary": summary,
        "evaluation": evaluation,
        "config": dict(text.flatten(config)) if config else {},
        "has_config": config is not None,
        "facts": _facts(evaluation, subject, history, config),
        "last": last,
        "rows": _rows(evaluation, summary),
        "mc": _monte_carlo(evaluation, places),
        "places": places,
        "khat": _khat(khat, float(evaluation.khat_threshold)),
        "undefined": int(np.sum(~np.isfinite(log_px))),
        "log_px": log_px,
        "panels": {
            "bounds": attempt("Bound against K", _bounds, summary),
            "training": attempt("ELBO over epochs", _training, history),
            "log_px": attempt("log p(x), datum by datum", _log_px, log_px, places),
            "khat": attempt("Pareto k̂, datum by datum", _khat_panel, evaluation),
            "reconstructions": attempt(
                "Reconstructions", panels.reconstructions, subject, "Reconstructions"
            ),
            "samples": attempt("Samples", panels.samples, subject, "Samples"),
            "latent": attempt("Latent space", panels.latent, subject, "Latent space"),
            "least_likely": attempt(
                "Least likely", panels.least_likely, subject, log_px, places, "Least likely"
            ),
        },
        "zero_weights": summary.get("zero_weights"),
        "versions": _versions(),
        "data_seed": getattr(subject.data, "seed", None),
        "number": text.number,
        "count": text.count,
        "percent": text.percent,
        "plural": text.plural,
    }


def _facts(
    evaluation: "Evaluation",
    subject: Subject,
    history: list[dict[str, Any]],
    config: dict[str, Any] | None,
) -> list[tuple[str, str]]:
    parts = subject.data if hasattr(subject.data, "train") else None
    held = getattr(parts, "validation", None)
    config = config or {}
    facts = {
        "model sizes": _sizes(config.get("model")),
        "guide sizes": _sizes(config.get("guide")),
        "observation": evaluation.data.get("observation"),
        "one x": text.shape(subject.event) if subject.size else None,
        "training data": text.count(len(parts.train)) if parts else None,
        "validation data": text.count(len(held)) if held is not None else None,
        "evaluated data": text.count(len(evaluation.log_px)),
        "epochs": text.count(len(history)) if history else config.get("epochs"),
        "batch size": config.get("batch_size"),
        "parameters": text.count(n) if (n := subject.parameters()) else None,
        "training seed": config.get("seed"),
    }
    return [(name, str(value)) for name, value in facts.items() if value is not None]


def _sizes(part: Any) -> str | None:
    """Returns what a model or a guide was built with, but for the data's shape."""
    given = part.get("init_args") if isinstance(part, dict) else None
    sizes = [
        f"{name} {value}" for name, value in (given or {}).items()
        if value is not None and name != "event_shape" and not isinstance(value, dict)
    ]  # fmt: skip
    return ", ".join(sizes) or None


def _rows(evaluation: "Evaluation", summary: dict[str, Any]) -> list[dict[str, Any]]:
    rows = [{"name": "ELBO", "k": None, **summary["elbo"], "mc": None}]
    for row in summary["log_px"]:
        rows.append({"name": "L", "k": row["num_samples"], **row, "mc": None})
    rows[-1]["mc"] = _mean(evaluation.log_px_se) if len(rows) > 1 else None
    return rows


def _mean(values: Any) -> float | None:
    known = np.asarray(values, dtype=np.float64)
    known = known[np.isfinite(known)]
    return float(known.mean()) if known.size else None


def _monte_carlo(evaluation: "Evaluation", places: int) -> str | None:
    """Returns the Monte Carlo error of the mean over data; data have samples of their own."""
    errors = np.asarray(evaluation.log_px_se, dtype=np.float64)
    if not errors.size or not np.isfinite(errors).all():
        return None
    error = float(np.sqrt((errors**2).sum()) / len(errors))
    return text.number(error, max(places, text.decimals(error)))


def _khat(khat: np.ndarray, threshold: float) -> dict[str, int]:
    return {
        "constant": int(np.isneginf(khat).sum()),
        "unknown": int(np.isnan(khat).sum()),
        "above": int((khat > threshold).sum()),
    }


def _bounds(summary: dict[str, Any]) -> Panel | None:
    body = charts.bounds(summary)
    note = "The mean of each bound over the data, against its number of samples"
    if summary["elbo"]["mean"] is not None:
        note += ", beside the ELBO"
    if any(row["se"] is not None for row in summary["log_px"]):
        note += (
            ". The band is ±1 standard error over the data; all points share the same data, so "
            "the rise from one K to the next is known better than the band suggests"
        )
    return Panel("Bound against K", (body,), note + ".") if body else None


def _training(history: list[dict[str, Any]]) -> Panel | None:
    if not history:
        raise panels.Missing("No training history was handed to the report.")
    drawn = charts.training(history)
    if drawn is None:
        return None
    note = "ELBO in nats per datum, one point for each epoch: higher is better."
    if drawn[1]:
        note += " The first epochs lie below the frame."
    if any(row.get("validation_elbo") is not None for row in history):
        note += (
            " Validation data are held out: where their line falls while the other rises, the pair "
            "overfits."
        )
    if any(row.get("kl_weight") not in (None, 1) for row in history):
        note += " Where the KL weight is not 1, training shows the objective under that weight."
    return Panel("ELBO over epochs", (drawn[0],), note)


def _log_px(log_px: np.ndarray, places: int) -> Panel | None:
    label = "Histogram of log p(x) over the data"
    body = charts.histogram(log_px, label, places)
    note = "How many data have which bound on log p(x), at the largest K. The tail on the left "
    note += "is what the pair finds unlikely."
    if missing := int(np.sum(~np.isfinite(log_px))):
        note += f" {text.plural(missing, 'datum', 'data')} without a finite value: not drawn."
    return Panel("log p(x), datum by datum", (body,), note) if body else None


def _khat_panel(evaluation: "Evaluation") -> Panel | None:
    khat = np.asarray(evaluation.khat)
    counts = _khat(khat, float(evaluation.khat_threshold))
    without = []
    if counts["constant"]:
        n = text.plural(counts["constant"], "datum has", "data have")
        without.append(f"{n} constant weights (k̂ = −∞, as with an exact guide)")
    if counts["unknown"]:
        n = text.plural(counts["unknown"], "datum has", "data have")
        without.append(f"{n} no k̂ (too few samples or degenerate weights)")
    body = charts.khat_histogram(khat, float(evaluation.khat_threshold))
    if body is None:
        raise panels.Missing(f"There is no k̂ to draw: {'; '.join(without) or 'no data'}.")
    note = (
        "k̂ estimates how heavy the tail of a datum's importance weights is. Up to the "
        "threshold the weights give no reason to doubt the Monte Carlo error; above it a few "
        "samples carry the estimate, so the bound may lie far below log p(x) and its error is "
        "understated."
    )
    if without:
        note += f" Not drawn: {'; '.join(without)}."
    return Panel("Pareto k̂, datum by datum", (body,), note)


def _versions() -> list[tuple[str, str]]:
    found = [("pvae", pvae.__version__)]
    for name in ("pyro-ppl", "torch"):
        try:
            found.append((name, importlib.metadata.version(name)))
        except importlib.metadata.PackageNotFoundError:
            continue
    return [*found, ("Python", platform.python_version())]
