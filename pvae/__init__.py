"""pvae: variational autoencoders as Pyro model/guide pairs, and bounds one can trust.

The names below are loaded on first use, so that `pvae --help` answers at once.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from pvae.version import __version__ as __version__

if TYPE_CHECKING:
    from pvae import data, guides, models
    from pvae.diagnosis import diagnose
    from pvae.errors import PvaeError
    from pvae.evaluation import Evaluation, compare, evaluate
    from pvae.importance import log_weights
    from pvae.pair import check
    from pvae.predictive import decode, encode, generate, interpolate, probe, reconstruct, traverse
    from pvae.report import write_report
    from pvae.runs import load
    from pvae.training import SVI, fit, glorot

_HOME = {
    "check": "pvae.pair",
    "diagnose": "pvae.diagnosis",
    "compare": "pvae.evaluation",
    "load": "pvae.runs",
    "glorot": "pvae.training",
    "interpolate": "pvae.predictive",
    "probe": "pvae.predictive",
    "traverse": "pvae.predictive",
    "PvaeError": "pvae.errors",
    "Evaluation": "pvae.evaluation",
    "evaluate": "pvae.evaluation",
    "log_weights": "pvae.importance",
    "decode": "pvae.predictive",
    "encode": "pvae.predictive",
    "generate": "pvae.predictive",
    "reconstruct": "pvae.predictive",
    "write_report": "pvae.report",
    "SVI": "pvae.training",
    "fit": "pvae.training",
}
_MODULES = ("data", "evaluation", "guides", "models", "nn", "pair", "report")

__all__ = [
    "SVI",
    "Evaluation",
    "PvaeError",
    "check",
    "compare",
    "data",
    "decode",
    "diagnose",
    "encode",
    "evaluate",
    "fit",
    "generate",
    "glorot",
    "guides",
    "interpolate",
    "load",
    "log_weights",
    "models",
    "probe",
    "reconstruct",
    "traverse",
    "write_report",
]


def __getattr__(name: str) -> object:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    if name in _MODULES:
        return import_module(f"pvae.{name}")
    raise AttributeError(f"module 'pvae' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
