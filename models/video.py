"""A model of videos without latent variables, whose log p(x) is exact."""

from collections.abc import Sequence
from typing import Any

import pvae.nn as networks
from pvae.distributions import Head, Likelihood, make_head
from pvae.models.explicit import Explicit, num_values_of

__all__ = ["VideoPixelCNN"]


class VideoPixelCNN(Explicit):
    r"""A Gated PixelCNN of each frame, given the frames before it.

    .. math:: p(x) = \prod_t \prod_i p(x_{t,i} \mid f_i(x_{t,<i}, c(x_{t-m}, \ldots, x_{t-1})))

    over the frames, and over the pixels of a frame row by row. It has no latent variables, and its
    guide is `pvae.guides.NoLatents`. `pvae.nn.VideoPixelCNN` describes the network.

    As the prior of the codes of a `VQVAE` of videos, trained on `pvae.codes(run)`, it sees the
    codes of the frames before. `pvae.complete` draws the next frames of a video.

    Args:
        event_shape: Shape of one video, (T, C, H, W), or (T, h, w) of the codes of one.
        memory: m, the number of frames that a frame sees; 0 for independent frames.
        channels: Features of the convolutions, a multiple of C.
        num_layers: Number of gated layers.
        num_blocks: Number of residual blocks of c.
        kernel_size: Size of the gated convolutions, odd.
        likelihood: The name of a head, or a head (see `VAE`), also `"softmax"`: any probability
            for each of `levels` values between 0 and 1; `"categorical"`: of `levels` integers.
        **options: `scale` and `levels` of a head that is given by name.

    Attributes:
        head: The head.
        network: The network.

    Shape:
        `model(x)` takes x [B, *event_shape] and returns it; `model(size=n)` draws
        n samples [n, *event_shape] from p(x).

    Raises:
        PvaeError: If a name is not known, or a size or an option does not fit.

    Source: Kalchbrenner et al. 2016, *Video Pixel Networks* (arXiv:1610.00527); of codes: Walker,
    Razavi & van den Oord 2021, *Predicting Video with VQVAE* (arXiv:2103.01950).

    Example:
        >>> VideoPixelCNN((5, 1, 8, 8), channels=8, num_layers=2)(size=3).shape
        torch.Size([3, 5, 1, 8, 8])
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        memory: int = 4,
        channels: int = 64,
        num_layers: int = 8,
        num_blocks: int = 4,
        kernel_size: int = 3,
        likelihood: Likelihood | Head = "bernoulli",
        **options: Any,
    ) -> None:
        head = make_head(likelihood, event_shape, **options)
        sizes = memory, channels, num_layers, num_blocks, kernel_size
        network = networks.VideoPixelCNN(event_shape, head.out_shape, *sizes, num_values_of(head))
        super().__init__(head, network)
