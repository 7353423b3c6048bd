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

from pvae.pair import alone
from pvae.report import charts, codes, decompositions, estimates, panels, text, trust
from pvae.report.panels import Panel, attempt
from pvae.report.subject import Subject
from pvae.runtime import atomic
from pvae.version import __version__

if TYPE_CHECKING:
    from pvae.data import Data
    from pvae.evaluation import Evaluation

__all__ = ["write_report"]


@alone
def write_report(
    path: str | os.PathLike[str],
    evaluation: "Evaluation",
    *,
    model: Callable[..., Any] | None = None,
    guide: Callable[..., Any] | None = None,
    data: "Data | tuple[Tensor, ...] | Tensor | None" = None,
    history: list[dict[str, Any]] | None = None,
    config: dict[str, Any] | None = None,
    site: str | None = None,
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
        site: The observed site that pictures show; None is that with the most values.

    Returns:
        The path of the file.

    Raises:
        PvaeError: The file cannot be written, or the model observes no such site.
    """
    loader = jinja2.PackageLoader("pvae.report", "")
    environment = jinja2.Environment(
        loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    from pvae.runtime import own_random_state

    subject = Subject(model, guide, data, site)
    with own_random_state(evaluation.seed):
        if site is not None and subject.size:
            subject.x([0])  # raises where there is no such site
        context = _context(evaluation, subject, history or [], config)
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
    code = "code" in summary
    rows = (estimates.at_code if code else estimates.bounds)(evaluation, summary)
    others = estimates.estimates(evaluation, summary)
    places = text.decimals(rows[0].se if code else rows[-1].se, summary["elbo"]["se"])
    log_px = np.asarray(evaluation.log_px)
    # Where there is no bound, nothing is drawn beside one.
    hidden = ("bounds", "khat", "log_px", "ais", "least_likely") if code else ()
    training = "log p(x, z) at the code" if code else "ELBO"
    return {
        "summary": summary,
        "evaluation": evaluation,
        "config": dict(text.flatten(config)) if config else {},
        "has_config": config is not None,
        "facts": _facts(evaluation, subject, history, config),
        "rows": rows,
        "estimates": others,
        "places": places,
        "bits": estimates.bits(evaluation, summary),
        "one_datum": _one_datum(summary, places),
        "undefined": int(np.sum(~np.isfinite(log_px))),
        "absent": {
            "estimates": estimates.absent(evaluation, "details", "prior", "quadrature"),
            "trust": estimates.absent(
                evaluation, "ais_prior", *(() if code else ("ais_guide",)), "bdmc"
            ),
            "parts": estimates.absent(evaluation, "surgery", "gap"),
        },
        "panels": {
            "bounds": attempt("Bound against K", estimates.against_k, evaluation, summary),
            "khat": attempt("Pareto k̂, datum by datum", trust.khat, evaluation),
            "log_px": attempt("log p(x), datum by datum", trust.log_px, evaluation, places),
            "ais": attempt("AIS against the bound, datum by datum", trust.ais, evaluation),
            "acceptance": attempt("Acceptance of AIS", trust.acceptance, evaluation),
            "bdmc": attempt("Bidirectional Monte Carlo, on simulated data", trust.bdmc, evaluation),
            "kl_dims": attempt("KL of each latent dimension", decompositions.kl_dims, evaluation),
            "surgery": attempt(
                "ELBO surgery: what the rate is spent on", decompositions.surgery, evaluation
            ),
            "gap": attempt(
                "Inference gap: from the ELBO to log p(x)", decompositions.gap, evaluation, summary
            ),
            "training": attempt(f"{training} over epochs", _training, history, training),
            "reconstructions": attempt(
                "Reconstructions", panels.reconstructions, subject, "Reconstructions"
            ),
            "samples": attempt("Samples", panels.samples, subject, "Samples"),
            "latent": attempt("Latent space", panels.latent, subject, "Latent space"),
            "probes": attempt(
                "Classes read from the codes", codes.probes, subject, "Classes read from the codes"
            ),
            "interpolation": attempt(
                "Interpolation", codes.interpolation, subject, "Interpolation"
            ),
            "traversal": attempt("Traversal", codes.traversal, subject, "Traversal"),
            "least_likely": attempt(
                "Least likely",
                panels.least_likely,
                subject,
                log_px,
                places,
                "Least likely",
                getattr(evaluation, "rows", None),
            ),
            **{name: Panel("", hidden=True) for name in hidden},
        },
        "versions": _versions(),
        "data_seed": getattr(subject.data, "seed", None),
        "number": text.number,
        "count": text.count,
        "decimals": text.decimals,
        "percent": text.percent,
        "plural": text.plural,
        "with_error": text.with_error,
    }


def _one_datum(summary: dict[str, Any], places: int) -> str | None:
    """Returns the Monte Carlo error of one datum's bound, as a root mean square over the data."""
    if summary["log_px_se"] is None:
        return None
    error = summary["log_px_se"] * summary["num_data"] ** 0.5
    return text.number(error, max(places, text.decimals(error)))


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


def _training(history: list[dict[str, Any]], what: str) -> Panel | None:
    if not history:
        raise panels.Missing("No training history was handed to the report.")
    drawn = charts.training(history, what)
    if drawn is None:
        return None
    note = f"{what} in nats per datum, one point for each epoch: higher is better."
    if drawn[1]:
        note += " The first epochs lie below the frame."
    if any(row.get("validation_elbo") is not None for row in history):
        note += (
            " Validation data are held out: where their line falls while the other rises, the pair "
            "overfits."
        )
    if any(row.get("kl_weight") not in (None, 1) for row in history):
        note += " Where the KL weight is not 1, training shows the objective under that weight."
    if what != "ELBO":
        note += " It is no bound on log p(x); in training a penalty of the guide is subtracted."
    return Panel(f"{what} over epochs", (drawn[0],), note)


def _versions() -> list[tuple[str, str]]:
    found = [("pvae", __version__)]
    for name in ("pyro-ppl", "torch"):
        try:
            found.append((name, importlib.metadata.version(name)))
        except importlib.metadata.PackageNotFoundError:
            continue
    return [*found, ("Python", platform.python_version())]
