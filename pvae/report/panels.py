"""The pictures of a report: data, reconstructions, samples and the latent plane."""

import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from pvae.drawing import HIDDEN, Missing, Panel, text
from pvae.errors import PvaeError
from pvae.evaluation import Evaluation
from pvae.predictive import code_grid, normal_quantiles
from pvae.report import clouds
from pvae.report.images import Pictures, columns, grid, is_image
from pvae.report.subject import Subject

__all__ = ["latent", "least_likely", "reconstructions", "samples"]

_MEANS = 2000
_ROWS = 20  # of labels
_WIDE, _SMALL = 720, 350  # CSS pixels
_COLOURS = ("Grey", "blue", "orange")


def _needs(subject: Subject, *parts: str) -> None:
    absent = [
        part for part in parts
        if (getattr(subject, part) is None if part != "data" else not subject.size)
    ]  # fmt: skip
    if absent:
        raise Missing(f"The report was given no {', no '.join(absent)}.")


def _few(event: tuple[int, ...]) -> int:
    """Returns how many images fill a row of the first screen, each at least 28 pixels wide."""
    return max(1, min(8, _SMALL // max(event[-1] + 2, 42)))


def _no_picture(event: tuple[int, ...]) -> Missing:
    size = " × ".join(map(str, event))
    return Missing(f"Data of shape {size} are neither images nor vectors, so there is no picture.")


def reconstructions(subject: Subject, few: bool = False) -> Panel | None:
    """Draws the first test data and their reconstructions; for the first screen, only a few."""
    _needs(subject, "data", "model", "guide")
    event = subject.event
    if is_image(event):
        n = min(_few(event) if few else columns(event[-1]), subject.size)
        x, mean = subject.x(slice(0, n)), subject.reconstruct(slice(0, n))
        look = Pictures.of(x)
        pixels = np.concatenate([look.pixels(x), look.pixels(mean)])
        alt = f"{n} test images in a row, their reconstructions in the row beneath"
        note = (
            f"Above, the first {n} test images as the pair observes them; beneath, their "
            "reconstructions: the mean of p(x|z) at the posterior mean of z." + look.note
        )
        return Panel((grid(pixels, n, alt, _SMALL if few else _WIDE),), note)
    if len(event) > 1:
        raise _no_picture(event)
    n = min((2 if few else 6) if event and event[0] > 2 else 2000, subject.size)
    x, mean = subject.x(slice(0, n)), subject.reconstruct(slice(0, n))
    return _vectors(
        "Reconstructions", {"data": x, "reconstruction": mean},
        [f"test datum {i}" for i in range(n)],
        f"The first {text.count(n)} test data, and the mean of p(x|z) at the posterior mean of z.",
    )  # fmt: skip


def samples(subject: Subject, density: str, few: bool = False) -> Panel | None:
    """Draws the means of x for z from the prior; if labels are given, a row for each label.

    For the first screen it draws only a few, and a column for each label.
    """
    _needs(subject, "model")
    given = re.search(r"\| (.*)\)", density)
    classes = subject.classes() if given and "y" in given[1].split(", ") else None
    if classes is not None and 1 < len(classes) <= _ROWS and is_image(subject.event):
        across = 2 if few else min(columns(subject.event[-1]), 10)
        y = np.tile(classes, across) if few else classes.repeat(across)
        drawn = subject.generate(across * len(classes), y)
        look = Pictures.of(subject.x(slice(0, 1000)))
        if few:
            alt = f"Samples, a column for each label from {classes[0]} to {classes[-1]}"
            return Panel((grid(look.pixels(drawn), len(classes), alt, _SMALL),))
        alt = f"{across} images of each of {len(classes)} labels"
        note = (
            "The mean of p(x|z, y) for each z drawn from the prior, without selection. Each row is "
            f"given one label, from the top: {', '.join(map(str, classes))}."
        )
        return Panel((grid(look.pixels(drawn), across, alt),), note + look.note)
    drawn = subject.generate(40)
    event = drawn.shape[1:]
    note = "The mean of p(x|z) for each z drawn from the prior, without selection."
    if given:
        note += f" Given {given[1]} of test data."
    if is_image(event):
        across = _few(event) if few else columns(event[-1])
        if few:
            drawn = drawn[: 2 * across]
        elif across != 10:
            drawn = subject.generate(4 * across)
        shown = subject.x(slice(0, 1000)) if subject.size else drawn
        look = Pictures.of(shown)
        alt = f"{len(drawn)} images generated from the prior"
        width = _SMALL if few else _WIDE
        return Panel((grid(look.pixels(drawn), across, alt, width),), note + look.note)
    if len(event) > 1:
        raise _no_picture(event)
    if event and event[0] > 2:
        n = 2 if few else 6
        return _vectors("Samples", {"sample": drawn[:n]}, [f"sample {i}" for i in range(n)], note)
    many = {"means of samples": subject.generate(2000)}
    if subject.size:
        many = {"test data": subject.x(slice(0, 2000))} | many
        note += " A mean has no observation noise, so means spread less than the data."
    return _vectors("Samples", many, [], note)


def _vectors(
    title: str, sets: dict[str, NDArray[Any]], titles: Sequence[str], note: str
) -> Panel | None:
    size = math.prod(next(iter(sets.values())).shape[1:])
    if size == 1:
        bodies = clouds.densities(sets, f"{title}: {' and '.join(sets)}")
    else:
        bodies = clouds.plane(sets) if size == 2 else clouds.lines(sets, titles)
    if size != 2 and len(sets) > 1:
        note += " " + "; ".join(f"{c}: {s}" for c, s in zip(_COLOURS, sets, strict=False)) + "."
    return Panel(tuple(bodies), note) if bodies else None


def latent(subject: Subject) -> Panel | None:
    """Draws a latent space of two dimensions: the images it decodes to, and the codes of data."""
    _needs(subject, "data", "model", "guide")
    sites = {name: z.shape[1:] for name, z in subject.encode(slice(0, 2)).items()}
    if list(sites.values()) != [(2,)]:
        return HIDDEN
    (site,) = sites
    shown = min(_MEANS, subject.size)
    z, labels = subject.encode(slice(0, shown))[site], subject.labels(slice(0, shown))
    scatter, coloured = clouds.latent(z, labels, site)
    means = f"The posterior means of {text.count(shown)} test data" + (
        ", coloured by label; a circle is at the median of its class." if coloured else "."
    )
    if not is_image(subject.event):
        return Panel((scatter,), means)
    try:
        manifold, how = _manifold(subject, site, z)
    except PvaeError as reason:
        return Panel((scatter,), f"{means} The images of the plane are not shown. {reason}")
    return Panel((manifold, scatter), f"{how} The second picture: {means[0].lower()}{means[1:]}")


def _manifold(subject: Subject, site: str, z: NDArray[Any]) -> tuple[Markup, str]:
    n = 14 if subject.event[-1] <= 16 else 15 if subject.event[-1] <= 40 else 9
    if subject.standard_normal(site):
        axes = [normal_quantiles(n)] * 2
        how = "on a grid with equal probability under the standard normal prior"
    else:
        axes = [np.linspace(*np.quantile(z[:, i], (0.02, 0.98)), n) for i in range(2)]
        how = "on an even grid over the middle 96% of the posterior means"
    mean = subject.decode(site, code_grid(*axes))
    look = Pictures.of(subject.x(slice(0, 1000)))
    alt = f"{n} by {n} images decoded over the plane of {site}"
    body = grid(look.pixels(mean), n, alt, 350, gap=False)
    how += f"; {site}₁ rises to the right, {site}₂ upwards"
    return body, f"The first picture: the mean of p(x|{site}) {how}.{look.note}"


def least_likely(subject: Subject, evaluation: Evaluation, places: int) -> Panel | None:
    """Draws the data with the lowest log p(x) beside their reconstructions."""
    _needs(subject, "data")
    log_px, rows = np.asarray(evaluation.log_px), getattr(evaluation, "rows", None)
    if rows is not None and subject.size > rows[-1]:
        every = np.full(subject.size, np.nan)
        every[rows] = log_px
        log_px = every
    if subject.size != len(log_px):
        raise Missing(
            f"{text.count(len(log_px))} data were evaluated and {text.count(subject.size)} were "
            "given to the report, so the numbers cannot be matched with the data."
        )
    known = np.flatnonzero(~np.isnan(log_px))
    worst = known[np.argsort(log_px[known], kind="stable")[:5]]
    if not len(worst):
        return Panel(missing="No datum has a value of log p(x).")
    values = [text.number(float(log_px[i]), places) for i in worst]
    both = subject.model is not None and subject.guide is not None
    mean = subject.reconstruct(worst) if both else None
    x = subject.x(worst)
    note = "Each with its index in the test data (from 0) and its own bound on log p(x) in nats"
    note += "; the reconstruction is on the right." if both else "."
    if is_image(subject.event):
        look = Pictures.of(x if not subject.size else subject.x(slice(0, 1000)))
        items = []
        for j, (i, value) in enumerate(zip(worst, values, strict=True)):
            pair = look.pixels(np.stack([x[j], mean[j]]) if both else x[j : j + 1])
            alt = f"Test image {i}" + (" and its reconstruction" if both else "")
            items.append({"body": grid(pair, 2, alt, 130), "index": int(i), "value": value})
        return Panel((), note + look.note, items=tuple(items))
    if len(subject.event) == 1 and subject.event[0] > 2:
        sets = {"data": x} | ({"reconstruction": mean} if both else {})
        titles = [f"datum {i}: {v}" for i, v in zip(worst, values, strict=True)]
        note = note.replace("; the reconstruction is on the right", "")
        return _vectors("Least likely", sets, titles, note)
    shown = [" ".join(f"{v:.4g}" for v in row.ravel()[:8]) or text.NONE for row in x]
    items = [
        {"body": f"({words})", "index": int(i), "value": value}
        for words, i, value in zip(shown, worst, values, strict=True)
    ]
    return Panel((), "Each with its index in the test data (from 0).", items=tuple(items))
