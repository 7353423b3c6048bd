"""Figures, and numbers as people read them: what an estimator draws for the report.

Imports `errors`.
"""

from pvae.drawing import text
from pvae.drawing.panel import HIDDEN, Missing, Panel, attempt
from pvae.drawing.steps import steps
from pvae.drawing.svg import (
    ACCENT,
    CLASSES,
    FILL,
    INK,
    MUTED,
    PAPER,
    RULE,
    SECOND,
    WARN,
    WARN_FILL,
    axes,
    chart,
    finite,
    key,
    mark,
    plain,
    responsive,
)

__all__ = [
    "ACCENT",
    "CLASSES",
    "FILL",
    "HIDDEN",
    "INK",
    "MUTED",
    "PAPER",
    "RULE",
    "SECOND",
    "WARN",
    "WARN_FILL",
    "Missing",
    "Panel",
    "attempt",
    "axes",
    "chart",
    "finite",
    "key",
    "mark",
    "plain",
    "responsive",
    "steps",
    "text",
]
