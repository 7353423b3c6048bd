"""How good a pair's bound on log p(x) is, and how far it can be trusted.

Imports `importance`, `predictive`, `pair`, `data`, `distributions`, `runtime` and `errors`.
"""

from pvae.evaluation.compare import Comparison, compare, read_runs
from pvae.evaluation.compared import Bound, Compared, Difference
from pvae.evaluation.estimators.active_units import ActiveUnits
from pvae.evaluation.estimators.annealed import Annealed, Sandwich
from pvae.evaluation.estimators.importance import CUBO_KHAT
from pvae.evaluation.evaluate import evaluate
from pvae.evaluation.identity import check_counts
from pvae.evaluation.result import Evaluation
from pvae.evaluation.summary import mean_and_se
from pvae.evaluation.verdict import above_bound
from pvae.evaluation.work import half_done

__all__ = [
    "CUBO_KHAT",
    "ActiveUnits",
    "Annealed",
    "Bound",
    "Compared",
    "Comparison",
    "Difference",
    "Evaluation",
    "Sandwich",
    "above_bound",
    "check_counts",
    "compare",
    "evaluate",
    "half_done",
    "mean_and_se",
    "read_runs",
]
