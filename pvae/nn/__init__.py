"""Networks that treat every dimension left of the event as batch, and flows.

Imports `errors` alone.
"""

from pvae.nn.flows import SplineCoupling, affine_autoregressive, rational_quadratic
from pvae.nn.made_from import arguments, remember
from pvae.nn.networks import (
    MLP,
    ConvDecoder,
    ConvEncoder,
    ScaleTril,
    at_least_one,
    check_layers,
    make_decoder,
    make_encoder,
)

__all__ = [
    "MLP",
    "ConvDecoder",
    "ConvEncoder",
    "ScaleTril",
    "SplineCoupling",
    "affine_autoregressive",
    "arguments",
    "at_least_one",
    "check_layers",
    "make_decoder",
    "make_encoder",
    "rational_quadratic",
    "remember",
]
