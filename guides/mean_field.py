"""The amortised mean-field Gaussian of Kingma & Welling."""

from collections.abc import Sequence
from typing import Literal

import pyro
import pyro.distributions as dist
import torch.nn.functional as F
from pyro.nn import PyroModule
from torch import Tensor, nn

from pvae.nn import at_least_one, make_encoder

__all__ = ["MeanField"]


class MeanField(PyroModule):
    r"""A diagonal Gaussian whose mean and scale are the output of one encoder.

    .. math:: q_\phi(z \mid x) = \mathcal N(\mu_\phi(x), \operatorname{diag} \sigma_\phi^2(x))

    Args:
        event_shape: Shape of one datum, (C, H, W) or (D,).
        latent_dim: Z, the size of the code.
        network: `"dense"`, one hidden layer by default, or `"conv"`, strided convolutions.
        hidden_dims: Widths of the dense encoder's hidden layers.
        channels: Channels of the convolutional encoder, from the image to the code.
        activation: Nonlinearity of the dense encoder.
        encoder: A network [..., *event_shape] to [..., 2, Z] in place of the built-in one
            (location, then scale before softplus).

    Shape:
        `guide(x)` takes x [B, *event_shape] and returns z [B, Z].

    Raises:
        PvaeError: If a size or the network is not valid.

    Source: Kingma & Welling 2014, *Auto-Encoding Variational Bayes* (arXiv:1312.6114).

    Example:
        >>> import torch
        >>> guide = MeanField((1, 28, 28), latent_dim=20)
        >>> loc, scale = guide.encode(torch.zeros(16, 1, 28, 28))
        >>> loc.shape, scale.shape
        (torch.Size([16, 20]), torch.Size([16, 20]))
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        latent_dim: int = 20,
        network: Literal["dense", "conv"] = "dense",
        hidden_dims: Sequence[int] = (400,),
        channels: Sequence[int] = (32, 64),
        activation: Literal["relu", "tanh"] = "relu",
        encoder: nn.Module | None = None,
    ) -> None:
        super().__init__()
        at_least_one(latent_dim=latent_dim)
        if encoder is None:
            sizes = network, hidden_dims, channels, activation
            encoder = make_encoder(event_shape, (2, latent_dim), *sizes)
        self.encoder = encoder

    def forward(self, x: Tensor) -> Tensor:
        loc, scale = self.encode(x)
        with pyro.plate("data", len(x)):
            return pyro.sample("z", dist.Normal(loc, scale).to_event(1))

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Returns location and scale of q(z|x), each [..., Z], for x [..., *event_shape]."""
        loc, raw = self.encoder(x).unbind(-2)
        return loc, F.softplus(raw) + 1e-6
