"""The guide of a pair with masks: a Gaussian whose encoder takes x and the mask."""

from collections.abc import Sequence
from typing import Literal

import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from pyro.nn import PyroModule
from torch import Tensor

from pvae.errors import PvaeError
from pvae.nn import at_least_one, make_encoder

__all__ = ["MaskedMeanField"]


class MaskedMeanField(PyroModule):
    r"""A diagonal Gaussian given all of x and the mask.

    .. math::
        q_\phi(z \mid x, m) = \mathcal N(\mu_\phi(x, m), \operatorname{diag} \sigma_\phi^2(x, m))

    Its model is `pvae.models.VAEAC`.

    Args:
        event_shape: Shape of one datum, (C, H, W) or (D,).
        latent_dim: Z, the size of the code.
        network: `"dense"`, one hidden layer by default, or `"conv"`, strided convolutions.
        hidden_dims: Widths of the dense encoder's hidden layers.
        channels: Channels of the convolutional encoder, from the image to the code.
        activation: Nonlinearity of the dense encoder.

    Shape:
        `guide(x, mask)` takes x [B, *event_shape] and booleans of the same shape, and returns
        z [B, Z].

    Raises:
        PvaeError: If a size or the network is not valid, or the mask is missing.

    Source: Ivanov, Figurnov & Vetrov 2019, *Variational Autoencoder with Arbitrary Conditioning*
    (arXiv:1806.02382).

    Example:
        >>> guide = MaskedMeanField((1, 28, 28))
        >>> x = torch.zeros(5, 1, 28, 28)
        >>> guide(x, x == 0).shape
        torch.Size([5, 20])
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        latent_dim: int = 20,
        network: Literal["dense", "conv"] = "dense",
        hidden_dims: Sequence[int] = (400,),
        channels: Sequence[int] = (32, 64),
        activation: Literal["relu", "tanh"] = "relu",
    ) -> None:
        super().__init__()
        at_least_one(latent_dim=latent_dim)
        self.event_shape = tuple(event_shape)
        channel, *rest = self.event_shape
        sizes = network, hidden_dims, channels, activation
        self.encoder = make_encoder((2 * channel, *rest), (2, latent_dim), *sizes)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        loc, scale = self.encode(x, mask)
        with pyro.plate("data", len(x)):
            return pyro.sample("z", dist.Normal(loc, scale).to_event(1))

    def encode(self, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Returns location and scale of q(z|x, m), each [..., Z]."""
        if mask is None:
            raise PvaeError(
                "This is a guide of x and a mask, and no mask was given: call guide(x, mask), with "
                "a mask that is True where x is known. Data by name have masks with mask='any'."
            )
        if mask.shape != x.shape or mask.dtype != torch.bool:
            raise PvaeError(
                f"mask={mask.dtype} of shape {tuple(mask.shape)} is not valid for x of shape "
                f"{tuple(x.shape)}: give a boolean for each value, True where it is known."
            )
        both = torch.cat([x, mask.to(x.dtype)], -len(self.event_shape))
        loc, raw = self.encoder(both).unbind(-2)
        return loc, F.softplus(raw) + 1e-6
