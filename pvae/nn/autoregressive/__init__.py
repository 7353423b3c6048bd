"""Networks from x to f whose output at each step depends on earlier steps alone.

`pvae.distributions.Autoregressive` makes a distribution of one of them and a head.
"""

from pvae.nn.autoregressive.gated import GatedPixelCNN
from pvae.nn.autoregressive.made import MADE
from pvae.nn.autoregressive.ordered import Ordered, Steps, raster
from pvae.nn.autoregressive.pixelcnn import PixelCNN
from pvae.nn.autoregressive.plusplus import PixelCNNPlusPlus
from pvae.nn.autoregressive.recurrent import PixelRNN
from pvae.nn.autoregressive.text import TextTransformer
from pvae.nn.autoregressive.transformer import CausalTransformer
from pvae.nn.autoregressive.video import VideoPixelCNN
from pvae.nn.autoregressive.wavenet import WaveNet

__all__ = [
    "MADE",
    "CausalTransformer",
    "GatedPixelCNN",
    "Ordered",
    "PixelCNN",
    "PixelCNNPlusPlus",
    "PixelRNN",
    "Steps",
    "TextTransformer",
    "VideoPixelCNN",
    "WaveNet",
    "raster",
]
