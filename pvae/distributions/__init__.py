"""What Pyro lacks: distributions of levels, likelihood heads, and where a density is zero.

`heads` turns a network's output into p(x|z).

Imports `errors` and `nn`.
"""

from pvae.distributions import heads
from pvae.distributions.head import Head
from pvae.distributions.heads import Likelihood, make_head
from pvae.distributions.levels import (
    BinomialProportion,
    DiscretizedLogistic,
    Levels,
    MixtureOfDiscretizedLogistics,
)
from pvae.distributions.mixture import DiagonalMixture
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

__all__ = [
    "BinomialProportion",
    "DiagonalMixture",
    "DiscretizedLogistic",
    "Head",
    "Levels",
    "Likelihood",
    "MixtureOfDiscretizedLogistics",
    "contains",
    "heads",
    "inside",
    "is_discrete",
    "is_image",
    "log_prob",
    "make_head",
    "peeled",
    "pull_back",
    "same_support",
    "support_of",
    "unvalidated",
]
