"""pvae: variational autoencoders as Pyro model/guide pairs, and bounds one can trust.

The names below are loaded on first use, so that `pvae --help` answers at once.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from pvae.version import __version__ as __version__

if TYPE_CHECKING:
    from pvae import data, guides, models
    from pvae.checking import check
    from pvae.codes import interpolate, traverse
    from pvae.errors import PvaeError
    from pvae.evaluation import Evaluation, evaluate
    from pvae.evaluation.comparison import compare
    from pvae.faults import diagnose
    from pvae.folder import load
    from pvae.importance import log_weights
    from pvae.initialisation import glorot
    from pvae.predictive import decode, encode, generate, reconstruct
    from pvae.probes import probe
    from pvae.report import write_report
    from pvae.svi import SVI
    from pvae.training import fit

_HOME = {
    "check": "pvae.checking",
    "diagnose": "pvae.faults",
    "compare": "pvae.evaluation.comparison",
    "load": "pvae.folder",
    "glorot": "pvae.initialisation",
    "interpolate": "pvae.codes",
    "probe": "pvae.probes",
    "traverse": "pvae.codes",
    "PvaeError": "pvae.errors",
    "Evaluation": "pvae.evaluation",
    "evaluate": "pvae.evaluation",
    "log_weights": "pvae.importance",
    "decode": "pvae.predictive",
    "encode": "pvae.predictive",
    "generate": "pvae.predictive",
    "reconstruct": "pvae.predictive",
    "write_report": "pvae.report",
    "SVI": "pvae.svi",
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
