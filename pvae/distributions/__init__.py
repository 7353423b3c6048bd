"""Distributions that Pyro lacks, likelihood heads, and supports.

A head turns a network's output into p(x|z). `log_prob` is -inf outside of a support.

Imports `errors` and `nn`.
"""

from pvae.distributions import heads
from pvae.distributions.autoregressive import Autoregressive, reads_values
from pvae.distributions.completed import Completed, only
from pvae.distributions.gumbel_softmax import GumbelSoftmax
from pvae.distributions.head import Head
from pvae.distributions.levels import BinomialProportion, Levels
from pvae.distributions.logistic import DiscretizedLogistic, MixtureOfDiscretizedLogistics
from pvae.distributions.make_head import Likelihood, make_head
from pvae.distributions.mixture import DiagonalMixture
from pvae.distributions.one_hot import OneHot
from pvae.distributions.softmax import CategoricalLevels
from pvae.distributions.stepwise import known_values
from pvae.distributions.support import (
    contains,
    inside,
    is_discrete,
    is_image,
    log_prob,
    peeled,
    pull_back,
    same_support,
    support_of,
    unvalidated,
)
from pvae.distributions.values import values_of

__all__ = [
    "Autoregressive",
    "BinomialProportion",
    "CategoricalLevels",
    "Completed",
    "DiagonalMixture",
    "DiscretizedLogistic",
    "GumbelSoftmax",
    "Head",
    "Levels",
    "Likelihood",
    "MixtureOfDiscretizedLogistics",
    "OneHot",
    "contains",
    "heads",
    "inside",
    "is_discrete",
    "is_image",
    "known_values",
    "log_prob",
    "make_head",
    "only",
    "peeled",
    "pull_back",
    "reads_values",
    "same_support",
    "support_of",
    "unvalidated",
    "values_of",
]
