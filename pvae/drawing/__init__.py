"""Figures, and numbers as people read them: charts for the report and for notebooks.

A chart is one function that draws onto matplotlib axes in the colours of a `Look`: those of the
report's page, which follow its light or dark mode, or those of a notebook.

Imports `errors`.
"""

from pvae.drawing import colours, text
from pvae.drawing.bound import Level, Marks, beside, draw_bound, draw_bounds, rows_of
from pvae.drawing.card import card
from pvae.drawing.colours import PAGE, Look
from pvae.drawing.dims import MOST_DIMS, draw_dims
from pvae.drawing.epochs import column, draw_epochs, draw_trainings, epochs_of, is_cut
from pvae.drawing.histogram import draw_histogram, edges_at, finite, num_bins
from pvae.drawing.naming import axes, key, mark, named, plain
from pvae.drawing.onto import onto
from pvae.drawing.panel import HIDDEN, Missing, Panel, attempt
from pvae.drawing.pictures import Pictures, canvas, columns, is_image
from pvae.drawing.scatter import classes_of, draw_points, square
from pvae.drawing.steps import draw_steps, steps
from pvae.drawing.svg import chart, responsive

__all__ = [
    "HIDDEN",
    "MOST_DIMS",
    "PAGE",
    "Level",
    "Look",
    "Marks",
    "Missing",
    "Panel",
    "Pictures",
    "attempt",
    "axes",
    "beside",
    "canvas",
    "card",
    "chart",
    "classes_of",
    "colours",
    "column",
    "columns",
    "draw_bound",
    "draw_bounds",
    "draw_dims",
    "draw_epochs",
    "draw_histogram",
    "draw_points",
    "draw_steps",
    "draw_trainings",
    "edges_at",
    "epochs_of",
    "finite",
    "is_cut",
    "is_image",
    "key",
    "mark",
    "named",
    "num_bins",
    "onto",
    "plain",
    "responsive",
    "rows_of",
    "square",
    "steps",
    "text",
]
