"""Figures of the codes: classes read from them, and x as they move."""

import numpy as np
from markupsafe import Markup

from pvae.drawing import HIDDEN, Panel, text
from pvae.report.images import Pictures, columns, grid, is_image
from pvae.report.subject import Subject

__all__ = ["interpolation", "probes", "traversal"]

_PAIRS = 5


def probes(subject: Subject) -> Panel:
    """Tabulates how well classes are read from the codes, if the data have labels."""
    labels = [getattr(getattr(subject.data, p, None), "y", None) for p in ("train", "test")]
    if subject.guide is None or any(y is None for y in labels):
        return HIDDEN
    found = subject.probe()
    head = ("features", "dimensions", "linear", f"{found.num_neighbors}-NN")
    rows = [
        (
            {"PCA": "PCA of x", "x": "x itself"}.get(row.features, row.features),
            text.count(row.dim),
            *(
                f"{text.number(a, 3)} ± {text.number(found.se(a), 3)}"
                for a in (row.linear, row.knn)
            ),
        )
        for row in found.rows
    ]
    drawn = ", drawn at random from all" if found.num_train < len(subject.data.train) else ""
    note = (
        f"Accuracy on {text.count(found.num_test)} test data ± its standard error, after learning "
        f"from {text.count(found.num_train)} training data{drawn}. Linear is logistic regression "
        f"on standardised features; {found.num_neighbors}-NN is the vote of the "
        f"{found.num_neighbors} nearest training data, by the Euclidean distance of the raw "
        "features. Codes are posterior means if these have a closed form, and the most probable "
        "values of discrete sites. For comparison: x as the pair observes it, and its PCA with as "
        "many dimensions as the codes. "
    )
    if getattr(subject.data.train, "labels", False):
        note += "The pair receives the labels, so the codes may contain them."
    else:
        note += "The pair does not receive the labels."
    return Panel((_table(head, rows),), note)


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> Markup:
    cells = Markup("").join(Markup('<th scope="col">{}</th>').format(h) for h in head)
    body = Markup("").join(
        Markup('<tr><th scope="row">{}</th>{}</tr>').format(
            first, Markup("").join(Markup("<td>{}</td>").format(cell) for cell in rest)
        )
        for first, *rest in rows
    )
    return Markup(
        '<div class="scroll" tabindex="0" role="region" aria-label="Table of probes">'
        "<table><thead><tr>{}</tr></thead><tbody>{}</tbody></table></div>"
    ).format(cells, body)


def interpolation(subject: Subject) -> Panel:
    """Draws x along the straight line between two codes, for several pairs of test data."""
    pairs = min(_PAIRS, subject.size // 2)
    if not _can_draw(subject) or not pairs:
        return HIDDEN
    across = columns(subject.event[-1])
    start, end = slice(0, 2 * pairs, 2), slice(1, 2 * pairs, 2)
    lines = subject.interpolate(start, end, across - 2)
    rows = np.concatenate([subject.x(start)[:, None], lines, subject.x(end)[:, None]], 1)
    look = Pictures.of(subject.x(slice(0, 1000)))
    alt = f"{pairs} rows of images, each from one test image to another through the codes between"
    body = grid(look.pixels(rows.reshape(-1, *rows.shape[2:])), across, alt)
    note = (
        f"The first {2 * pairs} test images in pairs, one at each end of a row. Between them is "
        f"the mean of p(x|z) at {across - 2} points, evenly spaced on the straight line between "
        "the two codes; the first and the last of these are the reconstructions."
    )
    if subject.num_sites > 1:
        note += " Each latent site moves along its own line."
    return Panel((body,), note + look.note)


def traversal(subject: Subject) -> Panel:
    """Draws x as each of the most active dimensions of one code moves."""
    if not _can_draw(subject) or subject.size < 2:
        return HIDDEN
    steps = columns(subject.event[-1])
    steps -= 1 - steps % 2  # one column is the middle
    found = subject.traverse(steps)
    look = Pictures.of(subject.x(slice(0, 1000)))
    alt = f"{len(found.dims)} rows of images, in each of which one dimension of {found.site} moves"
    x = found.x.reshape(-1, *found.x.shape[2:])
    body = grid(look.pixels(x), steps, alt)
    moving = ", ".join(
        f"{d + 1} ({text.number(v)})" for d, v in zip(found.dims, found.variance, strict=True)
    )
    most = " most" if len(found.dims) > 1 else ""
    note = (
        f"In each row one dimension of {found.site} moves from −3 (left) to 3 (right) standard "
        "deviations of the aggregate of q(z|x) over the test data, around its mean. The other "
        f"dimensions stay at the code of test datum 0. From the top: the{most} active dimensions, "
        f"numbered from 1, with the variance of their posterior means: {moving}."
    )
    if subject.num_sites > 1:
        note += (
            f" {found.site} is the first site that the model draws. The sites below it take their "
            "prior means given it, so the details of the datum that they hold are lost."
        )
    return Panel((body,), note + look.note, f"Traversal of {found.site}")


def _can_draw(subject: Subject) -> bool:
    return None not in (subject.model, subject.guide) and is_image(subject.event)
