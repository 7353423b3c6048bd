"""The estimators, one idea in each file, and the numerical methods that they use."""

import importlib
import inspect
import pkgutil

from pvae.evaluation.estimator import Estimator
from pvae.evaluation.estimators.ais import AIS
from pvae.evaluation.estimators.bayes_rule import BayesRule
from pvae.evaluation.estimators.bdmc import BDMC
from pvae.evaluation.estimators.classifier import Classifier
from pvae.evaluation.estimators.code_use import CodeUse
from pvae.evaluation.estimators.disentanglement import Disentanglement
from pvae.evaluation.estimators.gap import Gap
from pvae.evaluation.estimators.inpainting import Inpainting
from pvae.evaluation.estimators.prior import NaiveMonteCarlo
from pvae.evaluation.estimators.quadrature import Quadrature
from pvae.evaluation.estimators.rejection import Rejection
from pvae.evaluation.estimators.surgery import Surgery

__all__ = [
    "AIS",
    "BDMC",
    "BayesRule",
    "Classifier",
    "CodeUse",
    "Disentanglement",
    "Gap",
    "Inpainting",
    "NaiveMonteCarlo",
    "Quadrature",
    "Rejection",
    "Surgery",
    "find_estimators",
]


def find_estimators() -> list[type[Estimator]]:
    """Returns the estimators of the files in this folder, in the order of computing."""
    found = set()
    for info in pkgutil.iter_modules(__path__, f"{__name__}."):
        module = importlib.import_module(info.name)
        found |= {
            each
            for each in vars(module).values()
            if isinstance(each, type)
            and issubclass(each, Estimator)
            and each.__module__ == module.__name__
            and not inspect.isabstract(each)
        }
    return sorted(found, key=lambda each: (each.finding.order, each.__name__))
