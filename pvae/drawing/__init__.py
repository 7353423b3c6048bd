"""Figures, and numbers as people read them: what an estimator draws for the report.

Imports `errors`.
"""

from pvae.drawing import colours, text
from pvae.drawing.panel import HIDDEN, Missing, Panel, attempt
from pvae.drawing.steps import steps
from pvae.drawing.svg import axes, chart, finite, key, mark, plain, responsive

__all__ = [
    "HIDDEN",
    "Missing",
    "Panel",
    "attempt",
    "axes",
    "chart",
    "colours",
    "finite",
    "key",
    "mark",
    "plain",
    "responsive",
    "steps",
    "text",
]
