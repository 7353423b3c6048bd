from . import (
    data,
    diagnosis,
    distributions,
    estimators,
    evaluation,
    guides,
    importance,
    models,
    nn,
    objectives,
    pair,
    predictive,
    report,
    runs,
    training,
)
from .diagnosis import Diagnosis, diagnose
from .errors import PvaeError
from .evaluation import Evaluation, classify, compare, evaluate
from .importance import log_weights
from .pair import Inspection, check, inspect
from .predictive import (
    complete,
    decode,
    encode,
    generate,
    inpaint,
    interpolate,
    probe,
    reconstruct,
    traverse,
)
from .report import write_report
from .runs import codes, load
from .training import SVI, fit, glorot, warm_start
from .version import __version__

__all__ = [
    "SVI",
    "Diagnosis",
    "Evaluation",
    "Inspection",
    "PvaeError",
    "__version__",
    "check",
    "classify",
    "codes",
    "compare",
    "complete",
    "data",
    "decode",
    "diagnose",
    "diagnosis",
    "distributions",
    "encode",
    "estimators",
    "evaluate",
    "evaluation",
    "fit",
    "generate",
    "glorot",
    "guides",
    "importance",
    "inpaint",
    "inspect",
    "interpolate",
    "load",
    "log_weights",
    "models",
    "nn",
    "objectives",
    "pair",
    "predictive",
    "probe",
    "reconstruct",
    "report",
    "runs",
    "training",
    "traverse",
    "warm_start",
    "write_report",
]
