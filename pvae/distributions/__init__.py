"""What Pyro lacks: distributions of values in levels, and where a density is zero.

Imports `errors` alone.
"""

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
)

__all__ = [
    "BinomialProportion",
    "DiagonalMixture",
    "DiscretizedLogistic",
    "Levels",
    "MixtureOfDiscretizedLogistics",
    "contains",
    "inside",
    "is_discrete",
    "is_image",
    "log_prob",
    "peeled",
    "pull_back",
    "same_support",
    "support_of",
]
