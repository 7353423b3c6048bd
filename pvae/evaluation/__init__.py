"""Evaluation: how good a pair's bound on log p(x) is, and how far it can be trusted."""

from pvae.evaluation.evaluate import evaluate
from pvae.evaluation.result import Evaluation

__all__ = ["Evaluation", "evaluate"]
