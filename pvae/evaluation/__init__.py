"""How good a pair's bound on log p(x) is, and how far it can be trusted.

Imports `importance`, `predictive`, `pair`, `data`, `distributions`, `drawing`, `runtime` and
`errors`.
"""

from pvae.evaluation.classify import Classes, classify
from pvae.evaluation.compare import Comparison, compare, read_runs
from pvae.evaluation.compared import Bound, Compared, Difference
from pvae.evaluation.estimator import Estimator, Task
from pvae.evaluation.estimators import (
    AIS,
    BDMC,
    BayesRule,
    Classifier,
    CodeUse,
    Disentanglement,
    Gap,
    Inpainting,
    NaiveMonteCarlo,
    Quadrature,
    Rejection,
    Surgery,
    find_estimators,
)
from pvae.evaluation.estimators.importance import CUBO_KHAT
from pvae.evaluation.evaluate import evaluate
from pvae.evaluation.finding import Estimate, Finding, Known
from pvae.evaluation.identity import check_counts
from pvae.evaluation.numbers import mean_and_se
from pvae.evaluation.reading import CLOSE, Reading, read
from pvae.evaluation.result import Evaluation
from pvae.evaluation.rounded import rounded_in_words
from pvae.evaluation.shown import estimates_beside
from pvae.evaluation.work import asked_before, half_done, in_blocks

__all__ = [
    "AIS",
    "BDMC",
    "CLOSE",
    "CUBO_KHAT",
    "BayesRule",
    "Bound",
    "Classes",
    "Classifier",
    "CodeUse",
    "Compared",
    "Comparison",
    "Difference",
    "Disentanglement",
    "Estimate",
    "Estimator",
    "Evaluation",
    "Finding",
    "Gap",
    "Inpainting",
    "Known",
    "NaiveMonteCarlo",
    "Quadrature",
    "Reading",
    "Rejection",
    "Surgery",
    "Task",
    "asked_before",
    "check_counts",
    "classify",
    "compare",
    "estimates_beside",
    "evaluate",
    "find_estimators",
    "half_done",
    "in_blocks",
    "mean_and_se",
    "read",
    "read_runs",
    "rounded_in_words",
]
