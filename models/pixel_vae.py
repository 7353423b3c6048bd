"""The PixelVAE, whose decoder is autoregressive."""

from collections.abc import Sequence
from typing import Any, Literal

from torch import Tensor, nn

import pvae.nn as networks
from pvae.distributions import Autoregressive, Head, Likelihood
from pvae.models.vae import VAE
from pvae.nn import at_least_one, make_decoder

__all__ = ["PixelVAE"]


class PixelVAE(VAE):
    r"""A VAE whose decoder draws pixel by pixel, each given the pixels before it and the code.

    .. math::
        z &\sim \mathcal N(0, I) \\
        x \mid z &\sim \prod_i p(x_i \mid f_i(x_{<i}, g_\theta(z)))

    g is a decoder from the code to a map of features of the image's size, and f a PixelCNN that
    takes this map as its context. A deep PixelCNN explains x by its neighbours alone and ignores
    the code: its bound has a KL of zero. One that sees only a few pixels leaves the rest to the
    code (lossy codes: the code holds what the neighbours do not tell).

    Args:
        event_shape: Shape of one image, (C, H, W).
        latent_dim: Z, the size of the code.
        network: Of g: `"dense"`, one hidden layer by default, or `"conv"`.
        hidden_dims: Widths of the hidden layers of a dense g.
        channels: Channels of a convolutional g, from the code to the image.
        activation: Nonlinearity of a dense g.
        features: Features of the map and of the PixelCNN, a multiple of 2C.
        num_blocks: Residual blocks of the PixelCNN; each widens its reach by one pixel.
        kernel_size: Size of the PixelCNN's first convolution, odd; it reaches half of it.
        likelihood: The name of a head, or a head, as in `VAE`; also `"softmax"`.
        decoder: A network [..., Z] to [..., features, H, W] in place of the built-in g.
        **options: Of a head that is given by name.

    Attributes:
        head: The head.
        pixels: f, a `pvae.nn.PixelCNN`.

    Shape:
        `model(x)` takes x [B, *event_shape] and returns it; `model(size=n)` draws
        n samples [n, *event_shape] from p(x).

    Raises:
        PvaeError: If a name is not known, or a size or an option does not fit.

    Source: Gulrajani et al. 2017, *PixelVAE: A Latent Variable Model for Natural Images*
    (arXiv:1611.05013); Chen et al. 2017, *Variational Lossy Autoencoder* (arXiv:1611.02731).

    Example:
        >>> PixelVAE((1, 8, 8), latent_dim=4, features=8, num_blocks=1)(size=16).shape
        torch.Size([16, 1, 8, 8])
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        latent_dim: int = 20,
        network: Literal["dense", "conv"] = "dense",
        hidden_dims: Sequence[int] = (400,),
        channels: Sequence[int] = (64, 32),
        activation: Literal["relu", "tanh"] = "relu",
        features: int = 32,
        num_blocks: int = 2,
        kernel_size: int = 5,
        likelihood: Likelihood | Head = "bernoulli",
        decoder: nn.Module | None = None,
        **options: Any,
    ) -> None:
        at_least_one(latent_dim=latent_dim, features=features)
        shape = (features, *event_shape[1:])
        if decoder is None:
            sizes = network, hidden_dims, channels, activation
            decoder = make_decoder((latent_dim,), shape, *sizes)
        super().__init__(event_shape, latent_dim, likelihood=likelihood, decoder=decoder, **options)
        self.pixels = networks.PixelCNN(
            event_shape, self.head.out_shape, features, num_blocks, kernel_size, shape
        )

    def likelihood(self, z: Tensor) -> Autoregressive:
        """Returns p(x|z), batch shape [...] and event shape `event_shape`, for z [..., Z]."""
        return Autoregressive(self.pixels, self.head, self.decoder(z))

    def set_output_bias(self, x: Tensor) -> None:
        """Leaves the networks unchanged: no bias alone sets the mean of an image."""
