"""The competition between labels: an image, its reconstruction given each label, and log p(x|y)."""

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from pvae.drawing import HIDDEN, Panel, text
from pvae.evaluation import Evaluation
from pvae.report.images import Pictures, grid, is_image
from pvae.report.subject import Subject

__all__ = ["competition"]

_RIGHT, _WRONG, _REJECTED = 4, 3, 3
_LABELS = 12  # at most
_WIDTH = 56


def competition(subject: Subject, evaluation: Evaluation) -> Panel:
    """Draws test images with their reconstruction and log p(x|y) for each label.

    The images are the first ones whose label Bayes' rule finds, the first ones where it errs, and
    those with the lowest log p(x) that a threshold rejects.
    """
    found = evaluation.findings.get("bayes_rule")
    parts = (subject.model, subject.guide, subject.data)
    if found is None or any(part is None for part in parts) or not is_image(subject.event):
        return HIDDEN
    if len(found.labels) > _LABELS:
        return HIDDEN
    total = np.logaddexp.reduce(found.log_px + np.asarray(found.log_prior or 0.0), 1)
    wrong = found.wrong.astype(bool)
    chosen = [*np.flatnonzero(~wrong)[:_RIGHT], *np.flatnonzero(wrong)[:_WRONG]]
    rejection, at = evaluation.findings.get("rejection"), -np.inf
    if rejection is not None:
        at = rejection.thresholds()[rejection.kinds[0]]
        chosen += [i for i in np.argsort(total)[:_REJECTED] if total[i] < at]
    chosen = list(dict.fromkeys(int(i) for i in chosen))
    rows = found.datum if evaluation.rows is None else evaluation.rows[found.datum]
    look = Pictures.of(subject.x(slice(0, 1000)))
    lines = [_line(found, i, int(rows[i]), total[i], total[i] < at, subject, look) for i in chosen]
    names = Markup("").join(Markup('<th scope="col">{}</th>').format(n) for n in found.labels)
    body = Markup(
        '<div class="scroll" tabindex="0" role="region" aria-label="Competition between labels">'
        '<table class="close"><thead><tr><th scope="col">test image</th><th scope="col">log p(x)'
        "</th>{}</tr></thead><tbody>{}</tbody></table></div>"
    ).format(names, Markup("").join(lines))
    note = (
        f"The first test images that Bayes' rule labels rightly, and the first {_WRONG} of the "
        "others. Each column has the reconstruction given a label y: the mean of p(x|z, y) at the "
        "posterior mean of z. Beneath it is log p(x|y) in nats for the best label (in bold), and "
        "for the others the difference from it."
    )
    if any(total[i] < at for i in chosen):
        note += " log p(x) of an image that is rejected lies below the threshold."
    return Panel((body,), note + look.note)


def _line(
    found: object,
    i: int,
    row: int,
    log_px: float,
    rejected: bool,
    subject: Subject,
    look: Pictures,
) -> Markup:
    values, given = found.log_px[i], subject.reconstruct_given(row, found.labels)
    best, y = int(values.argmax()), found.labels[found.label[i]]
    cells = [
        Markup("<td>{}<small>{}</small></td>").format(
            _picture(look, mean, f"Test image {row} given label {label}"),
            Markup("<strong>{}</strong>").format(text.number(value, 1))
            if c == best
            else text.number(value - values[best], 1, sign=True),
        )
        for c, (label, mean, value) in enumerate(zip(found.labels, given, values, strict=True))
    ]
    x = _picture(look, subject.x([row])[0], f"Test image {row}")
    said = Markup("<br>rejected") if rejected else ""
    return Markup(
        '<tr><th scope="row">{}<small>y = {}, index {}</small></th><td>{}{}</td>{}</tr>'
    ).format(x, y, row, text.number(log_px, 1), said, Markup("").join(cells))


def _picture(look: Pictures, x: NDArray[np.float64], alt: str) -> Markup:
    return grid(look.pixels(x[None]), 1, alt, _WIDTH)
