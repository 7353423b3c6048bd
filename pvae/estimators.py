"""The estimators for `pvae.evaluate(..., estimators=[AIS(100)])`, and the classes of a new one.

A short name for classes of `pvae.evaluation`.
"""

from pvae.evaluation import (
    AIS,
    BDMC,
    BayesRule,
    Classifier,
    CodeUse,
    Disentanglement,
    Estimate,
    Estimator,
    Finding,
    Gap,
    Inpainting,
    NaiveMonteCarlo,
    Quadrature,
    Rejection,
    Surgery,
    Task,
)

__all__ = [
    "AIS",
    "BDMC",
    "BayesRule",
    "Classifier",
    "CodeUse",
    "Disentanglement",
    "Estimate",
    "Estimator",
    "Finding",
    "Gap",
    "Inpainting",
    "NaiveMonteCarlo",
    "Quadrature",
    "Rejection",
    "Surgery",
    "Task",
]
