"""Pyro guides q(z|x), one file a family; imported as `pvae.guides`."""

from pvae.guides.bottom_up import BottomUp
from pvae.guides.categorical import Categorical
from pvae.guides.code import Code, ContractiveCode, DenoisingCode
from pvae.guides.conditional import ConditionalMeanField
from pvae.guides.flows import IAF, SplineFlow
from pvae.guides.frames import FramesMeanField
from pvae.guides.gaussian import FullCovariance, LowRank
from pvae.guides.label_then_code import LabelThenCode
from pvae.guides.ladder import Ladder
from pvae.guides.linear import LinearGaussian
from pvae.guides.masked import MaskedMeanField
from pvae.guides.mean_field import MeanField
from pvae.guides.mixture import MixtureOfGaussians
from pvae.guides.nearest_code import NearestCode
from pvae.guides.nearest_codes import NearestCodes
from pvae.guides.no_latents import NoLatents
from pvae.guides.product_of_experts import ProductOfExperts
from pvae.guides.responsibilities import Responsibilities
from pvae.guides.semi_amortised import SemiAmortised
from pvae.guides.shared_encoder import SharedEncoder
from pvae.nn import remember

__all__ = [
    "IAF",
    "BottomUp",
    "Categorical",
    "Code",
    "ConditionalMeanField",
    "ContractiveCode",
    "DenoisingCode",
    "FramesMeanField",
    "FullCovariance",
    "LabelThenCode",
    "Ladder",
    "LinearGaussian",
    "LowRank",
    "MaskedMeanField",
    "MeanField",
    "MixtureOfGaussians",
    "NearestCode",
    "NearestCodes",
    "NoLatents",
    "ProductOfExperts",
    "Responsibilities",
    "SemiAmortised",
    "SharedEncoder",
    "SplineFlow",
]

remember(*(globals()[name] for name in __all__))
