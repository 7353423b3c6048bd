"""The report of a run: one HTML file with the bounds, how far to trust them, and pictures."""

from pvae.report.render import write_report

__all__ = ["write_report"]
