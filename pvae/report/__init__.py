"""The report of a run: one HTML file with the bounds, how far to trust them, and pictures.

Imports `evaluation`, `drawing`, `predictive`, `pair`, `data`, `runtime` and `errors`.
"""

from pvae.report.compare import write_comparison
from pvae.report.render import write_report

__all__ = ["write_comparison", "write_report"]
