"""Estimators of log p(x) for `pvae.evaluate(..., estimators=[AIS(100)])`, and what a new one needs.

They live in `pvae.evaluation`; this is their short name.
"""

from pvae.evaluation import (
    AIS,
    BDMC,
    Estimate,
    Estimator,
    Finding,
    Gap,
    NaiveMonteCarlo,
    Quadrature,
    Surgery,
    Task,
)

__all__ = [
    "AIS",
    "BDMC",
    "Estimate",
    "Estimator",
    "Finding",
    "Gap",
    "NaiveMonteCarlo",
    "Quadrature",
    "Surgery",
    "Task",
]
