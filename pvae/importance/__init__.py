"""log w = log p(x, z) - log q(z|x), the one quantity that every bound is made of.

Imports `compile`, `pair`, `distributions`, `runtime` and `errors`.
"""

from pvae.importance.codes import sweep_size
from pvae.importance.compared import few, rows_at
from pvae.importance.density import Density, replaced
from pvae.importance.inner import find_dependent
from pvae.importance.jacobian import refuse_other_jacobian
from pvae.importance.layout import Strategy, first_right, lay_out
from pvae.importance.log_weights import log_weights
from pvae.importance.mixing import refuse_global
from pvae.importance.particles import Particles
from pvae.importance.path import AnnealingPath, CompiledEnds, slopes
from pvae.importance.sampler import Sampler
from pvae.importance.seeds import seed_unit
from pvae.importance.summed import expect, sum_beyond
from pvae.importance.terms import elbo_of, log_terms

__all__ = [
    "AnnealingPath",
    "CompiledEnds",
    "Density",
    "Particles",
    "Sampler",
    "Strategy",
    "elbo_of",
    "expect",
    "few",
    "find_dependent",
    "first_right",
    "lay_out",
    "log_terms",
    "log_weights",
    "refuse_global",
    "refuse_other_jacobian",
    "replaced",
    "rows_at",
    "seed_unit",
    "slopes",
    "sum_beyond",
    "sweep_size",
]
