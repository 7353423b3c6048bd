"""Networks that treat every dimension left of the event as batch, and flows.

`autoregressive` has networks whose output at each step depends on earlier steps alone.

Imports only `errors`.
"""

from pvae.nn.autoregressive import (
    MADE,
    CausalTransformer,
    GatedPixelCNN,
    Ordered,
    PixelCNN,
    PixelCNNPlusPlus,
    PixelRNN,
    Steps,
    TextTransformer,
    VideoPixelCNN,
    WaveNet,
    raster,
)
from pvae.nn.codebook import Codebook
from pvae.nn.flows import (
    SplineCoupling,
    affine_autoregressive,
    masked_networks,
    rational_quadratic,
)
from pvae.nn.made_from import arguments, remember
from pvae.nn.networks import MLP, ConvDecoder, ConvEncoder, make_decoder, make_encoder
from pvae.nn.residual import ResidualDecoder, ResidualEncoder
from pvae.nn.scale_tril import ScaleTril
from pvae.nn.sizes import at_least_one, check_layers, positive
from pvae.nn.skips import SkipNetwork
from pvae.nn.warp import warp

__all__ = [
    "MADE",
    "MLP",
    "CausalTransformer",
    "Codebook",
    "ConvDecoder",
    "ConvEncoder",
    "GatedPixelCNN",
    "Ordered",
    "PixelCNN",
    "PixelCNNPlusPlus",
    "PixelRNN",
    "ResidualDecoder",
    "ResidualEncoder",
    "ScaleTril",
    "SkipNetwork",
    "SplineCoupling",
    "Steps",
    "TextTransformer",
    "VideoPixelCNN",
    "WaveNet",
    "affine_autoregressive",
    "arguments",
    "at_least_one",
    "check_layers",
    "make_decoder",
    "make_encoder",
    "masked_networks",
    "positive",
    "raster",
    "rational_quadratic",
    "remember",
    "warp",
]
