"""ELBOs that Pyro lacks, as subclasses of `pyro.infer.ELBO`.

Imports `importance`, `pair`, `distributions`, `runtime` and `errors`.
"""

from pvae.objectives.base import ParticleELBO
from pvae.objectives.choose import LossName, choose_elbo, plain_elbo
from pvae.objectives.importance_weighted import IWAE_ELBO, STL_ELBO, DReG_ELBO
from pvae.objectives.kl_weight import LatentScale
from pvae.objectives.regularised import Beta_ELBO, FreeBits_ELBO, InfoVAE_ELBO
from pvae.objectives.semi_supervised import SemiSupervised_ELBO

__all__ = [
    "IWAE_ELBO",
    "STL_ELBO",
    "Beta_ELBO",
    "DReG_ELBO",
    "FreeBits_ELBO",
    "InfoVAE_ELBO",
    "LatentScale",
    "LossName",
    "ParticleELBO",
    "SemiSupervised_ELBO",
    "choose_elbo",
    "plain_elbo",
]
