"""Colours of charts: codes that stand for the page's CSS variables, and colours for a screen."""

from dataclasses import dataclass

__all__ = [
    "ACCENT", "CLASSES", "FILL", "INK", "MUTED", "PAGE", "PAPER", "RULE", "SECOND", "VARIABLES",
    "WARN", "WARN_FILL", "Look", "screen",
]  # fmt: skip

# matplotlib takes no CSS variables, so it draws these codes, which `chart` replaces.
INK, MUTED, RULE, ACCENT, SECOND, WARN, PAPER, FILL, WARN_FILL = (f"#0a0b0{i}" for i in range(9))
CLASSES = [f"#0a0c0{i}" for i in range(10)]

_NAMES = ("ink", "muted", "rule", "accent", "second", "warn", "paper", "fill", "warn-fill")
VARIABLES = {f"#0a0b0{i}": name for i, name in enumerate(_NAMES)} | {
    code: f"class-{i}" for i, code in enumerate(CLASSES)
}


@dataclass(frozen=True)
class Look:
    """The colours of a chart, so that one function draws for the page and for a notebook.

    Attributes:
        ink: Text and lines that mark a value.
        muted: Names of axes.
        rule: Grids and frames.
        accent: The first curve.
        second: The second curve, told apart from the first by the colour-blind.
        paper: The background.
        fill: Bars.
        warn_fill: Bars that warn.
        classes: Colours of classes.
        series: The same colours in another order, for curves, of which there are few.
        page: Whether it is the page of a report, which names axes by its own style.
    """

    ink: str
    muted: str
    rule: str
    accent: str
    second: str
    paper: str
    fill: str
    warn_fill: str
    classes: tuple[str, ...]
    series: tuple[str, ...]
    page: bool = False


_SERIES = 0, 6, 4, 8, 2, 1, 5, 9, 7, 3  # those that show best on white come first

PAGE = Look(
    INK,
    MUTED,
    RULE,
    ACCENT,
    SECOND,
    PAPER,
    FILL,
    WARN_FILL,
    tuple(CLASSES),
    tuple(CLASSES[i] for i in _SERIES),
    page=True,
)

# Petroff 2021, "Accessible Color Sequences for Data Visualization" (arXiv:2107.02270).
# style.css has the same, with two of them lighter on a dark page.
_PETROFF = (
    "#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6",
    "#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd",
)  # fmt: skip


def screen() -> Look:
    """Returns colours for a notebook; text and background are those of the user's style."""
    import matplotlib

    rc = matplotlib.rcParams
    return Look(
        ink=rc["text.color"], muted=rc["axes.labelcolor"], rule=rc["grid.color"],
        accent=_PETROFF[0], second=_PETROFF[6], paper=rc["axes.facecolor"],
        fill=_PETROFF[0], warn_fill=_PETROFF[6], classes=_PETROFF,
        series=tuple(_PETROFF[i] for i in _SERIES),
    )  # fmt: skip
