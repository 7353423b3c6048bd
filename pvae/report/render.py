"""write_report(): the page of an evaluation, with its figures."""

import dataclasses
import os
import pathlib
import re
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import numpy as np
from markupsafe import Markup
from torch import Tensor

from pvae.data import Data
from pvae.drawing import HIDDEN, Missing, Panel, attempt, text
from pvae.errors import PvaeError
from pvae.evaluation import Evaluation, read
from pvae.pair import alone
from pvae.report import charts, codes, ending, estimates, facts, panels, weights
from pvae.report.competition import competition
from pvae.report.page import write_page
from pvae.report.subject import Subject
from pvae.runtime import own_random_state

__all__ = ["write_report"]

_FLAGGED = ("bounds", "log_px", "training", "least_likely")  # what a caveat is about


@alone
def write_report(
    path: str | os.PathLike[str],
    evaluation: Evaluation,
    *,
    model: Callable[..., Any] | None = None,
    guide: Callable[..., Any] | None = None,
    data: Data | tuple[Tensor, ...] | Tensor | None = None,
    history: list[dict[str, Any]] | None = None,
    config: dict[str, Any] | None = None,
    site: str | None = None,
    trained: Mapping[str, Any] | None = None,
    command: str | None = None,
) -> pathlib.Path:
    """Writes a report as one HTML file that needs no network and no scripts.

    The page says what was not given. A figure that cannot be drawn is replaced by the reason.

    Args:
        path: The file; missing folders are made. An older report is kept until the new one is
            complete.
        evaluation: From `pvae.evaluate`, over N data.
        model: The evaluated model, for pictures.
        guide: The evaluated guide, for pictures.
        data: The evaluated data: a `pvae.data.Data` (its test part), a batch `(x,)` or
            `(x, y)`, or x.
        history: One dict per epoch, as `pvae.fit` returns them.
        config: The content of `config.yaml`.
        site: The observed site that pictures show; None is the one with the most values.
        trained: When, for how long and where the pair was trained, as `Fit.made`.
        command: The command that repeats the run.

    Returns:
        The path of the file.

    Raises:
        PvaeError: If the file cannot be written, or if the model does not observe `site`.

    Example:
        >>> import pvae, tempfile, torch
        >>> x = torch.rand(5, 4)
        >>> model, guide = pvae.models.PPCA((4,), 1), pvae.guides.LinearGaussian((4,), 1)
        >>> evaluation = pvae.evaluate(model, guide, x, num_samples=10)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = write_report(f"{folder}/report.html", evaluation)
        ...     path.stat().st_size > 10_000
        True
    """
    if not hasattr(evaluation, "findings"):
        raise PvaeError("write_report takes the path first: write_report(path, evaluation).")
    subject = Subject(model, guide, data, site)
    with own_random_state(evaluation.seed):
        if site is not None and subject.size:
            subject.x([0])  # raises if there is no such site
        context = _context(evaluation, subject, history or [], config)
        context |= {"command": command, "made": facts.made(evaluation, trained)}
    return write_page(path, "page.html", context)


def _context(
    e: Evaluation,
    subject: Subject,
    history: list[dict[str, Any]],
    config: dict[str, Any] | None,
) -> dict[str, Any]:
    summary = e.summary()
    rows = (estimates.at_code if e.code else estimates.bounds)(e, summary)
    places = text.decimals(rows[0].se if e.code else rows[-1].se, summary["elbo"]["se"])
    panels = _panels(e, summary, subject, history, places)
    by_name = {panel.name: panel for panel in panels}
    objective = "log p(x, z) at the code" if e.code else "ELBO"
    elbo = summary["elbo"]["mean"] if _trains_the_elbo(e, config, subject) else None
    trend, found = ending.trend(history), _found(e)
    absent = estimates.absent(e)
    sizes = [site["variance"] and len(site["variance"]) for site in e.sites.values()]
    units = 0 if None in sizes else sum(sizes)
    active = text.number(summary["active_units"], 0)
    others = estimates.estimates(e, summary)
    return {
        "active": f"{active} of {text.count(units)}" if units else active,
        "sections": _sections(e, by_name, found, absent, bool(others)),
        "reading": read(e),
        "glance": _glance(subject, by_name, summary),
        "trend": trend,
        "ended": ending.ended(trend, history, objective),
        "apart": ending.apart(history, objective, elbo, places),
        "summary": summary,
        "evaluation": e,
        "config": facts.applying(dict(text.flatten(config))) if config else {},
        "has_config": config is not None,
        "facts": facts.sizes(e, subject, history, config),
        "rows": rows,
        "estimates": others,
        "places": places,
        "bits": estimates.bits(e, summary),
        "one_datum": _one_datum(summary, places),
        "undefined": int(np.sum(~np.isfinite(e.log_px))),
        "absent": absent,
        "panels": by_name,
        "found": found,
        "versions": facts.versions(),
        "data_seed": getattr(subject.data, "seed", None),
    }


def _panels(
    e: Evaluation,
    summary: dict[str, Any],
    subject: Subject,
    history: list[dict[str, Any]],
    places: int,
) -> list[Panel]:
    """Returns the figures that are not those of findings."""
    objective = "log p(x, z) at the code" if e.code else "ELBO"
    figures: list[Panel] = []
    density = e.data.get("density", "p(x)")
    of_x = density.startswith("p(x")  # not p(y | x)

    def add(name: str, title: str, draw: Callable[..., Panel | None], *args: Any) -> None:
        figures.append(attempt(name, title, draw, *args, flagged=name in _FLAGGED))

    if not e.code:  # these show the bound
        add("bounds", "Bound against K", estimates.against_k, e, summary)
        add("khat", "Pareto k̂, datum by datum", weights.khat, e)
        add("log_px", "log p(x), datum by datum", weights.log_px, e, places)
        shown = subject if of_x else dataclasses.replace(subject, model=None, guide=None)
        add("least_likely", "Least likely", panels.least_likely, shown, e, places)
    add("competition", "The competition between labels", competition, subject, e)
    add("kl_dims", "KL of each latent dimension", weights.kl_dims, e)
    add("training", f"{objective} over epochs", _training, history, objective, subject)
    for name, title, draw, *args in (
        ("reconstructions", "Reconstructions", panels.reconstructions, subject),
        ("samples", "Samples", panels.samples, subject, density),
        ("latent", "Latent space", panels.latent, subject),
        ("probes", "Classes read from the codes", codes.probes, subject),
        ("interpolation", "Interpolation", codes.interpolation, subject),
        ("traversal", "Traversal", codes.traversal, subject),
    ):
        add(name, title, draw if of_x else lambda *_: HIDDEN, *args)
    return figures


def _trains_the_elbo(e: Evaluation, config: dict[str, Any] | None, subject: Subject) -> bool:
    """Returns whether the training line and the evaluated ELBO are means of the same bound."""
    loss = (config or {}).get("loss")
    plain = loss in ("auto", "Trace_ELBO", "TraceMeanField_ELBO", "STL_ELBO")
    return plain and not e.code and not e.caveat and not _safely(subject.relaxed_in_training)


def _safely(question: Callable[[], bool]) -> bool:
    try:
        return question()
    except Exception:  # a pair that cannot be run loses this sentence, and not the page
        return True


def _glance(subject: Subject, drawn: dict[str, Panel], summary: dict[str, Any]) -> list[Panel]:
    """Returns the pictures of the first screen: samples, reconstructions and the curve."""
    density = summary["data"].get("density", "p(x)")
    few = [
        attempt("few-reconstructions", "Data, and their reconstructions beneath",
                panels.reconstructions, subject, True),
        attempt("few-samples", "Samples", panels.samples, subject, density, True),
    ]  # fmt: skip
    curve = dataclasses.replace(drawn["training"], name="few-epochs")
    bodies = tuple(map(_small, curve.bodies))
    few = [] if drawn["samples"].hidden else few
    few.append(dataclasses.replace(curve, bodies=bodies))
    return [panel for panel in few if panel.bodies and not panel.missing]


def _small(body: Markup) -> Markup:
    """Returns the narrow version of a responsive chart, with ids of its own."""
    narrow = str(body).rpartition('<div class="on-phone">')[2].removesuffix("</div>")
    return Markup(re.sub(r'(\bid="|href="#|url\(#)', r"\1few-", narrow))


def _sections(
    e: Evaluation,
    drawn: dict[str, Panel],
    found: dict[str, list[list[Panel]]],
    absent: dict[str, list[str]],
    others: bool,
) -> list[tuple[str, str]]:
    """Returns the table of contents: ids and titles of the sections that the page has."""
    with_codes = not all(drawn[n].hidden for n in ("probes", "interpolation", "traversal"))
    there = {
        "code": ("At the code", e.code),
        "bounds-table": ("log p(x)" if e.exact else "Bounds", not e.code),
        "estimates": ("Estimates", bool(others or found["estimates"] or absent["estimates"])),
        "trust": ("Trust", bool(not e.code or found["trust"] or absent["trust"])),
        "parts": ("Parts of the ELBO", not e.code),
        "uses": ("Uses", bool(found["uses"] or absent["uses"])),
        "learning": ("Training", True),
        "pictures": ("Pictures", True),
        "codes": ("Codes", with_codes),
        "repeat": ("To repeat this", True),
    }
    return [(name, title) for name, (title, shown) in there.items() if shown]


def _found(e: Evaluation) -> dict[str, list[list[Panel]]]:
    """Returns for each section the figures of each finding."""
    found: dict[str, list[list[Panel]]] = {n: [] for n in ("estimates", "trust", "parts", "uses")}
    for name, each in e.in_order():
        try:
            own = each.panels(e)
        except Exception as error:  # a figure that fails never loses the page
            own = [attempt(name, each.title, _raise, error)]
        if own:
            found[each.section].append(own)
    return found


def _raise(error: Exception) -> NoReturn:
    raise error


def _one_datum(summary: dict[str, Any], places: int) -> str | None:
    """Returns the Monte Carlo error of one datum's bound, as a root mean square over the data."""
    if summary["log_px_se"] is None:
        return None
    error = summary["log_px_se"] * summary["num_data"] ** 0.5
    return text.number(error, max(places, text.decimals(error)))


def _training(history: list[dict[str, Any]], what: str, subject: Subject) -> Panel | None:
    if not history:
        raise Missing("The report was given no training history.")
    drawn = charts.training(history, what)
    if drawn is None:
        return None
    note = f"{what} in nats per datum, one point for each epoch: higher is better."
    if drawn[1]:
        note += " The first epochs lie below the frame."
    if any(row.get("validation_elbo") is not None for row in history):
        note += (
            " Validation data are held out: if their line falls while the training line rises, the "
            "pair overfits."
        )
    if any(row.get("kl_weight") not in (None, 1) for row in history):
        note += " While the KL weight is not 1, the training line is the weighted objective."
    if subject.relaxed_in_training():
        note += (
            " The training line is the ELBO of relaxed values, and no bound on log p(x); validation"
            " and evaluation are of the discrete pair."
        )
    if what != "ELBO":
        note += " It is not a bound on log p(x). In training, a penalty of the guide is subtracted."
    return Panel((drawn[0],), note)
