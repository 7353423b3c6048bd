"""The bottom-up guide of a hierarchical VAE."""

from collections.abc import Sequence
from typing import Literal

import pyro
import pyro.distributions as dist
import torch.nn.functional as F
from pyro.nn import PyroModule
from torch import Tensor, nn

from pvae.nn import check_layers, make_encoder

__all__ = ["BottomUp"]


class BottomUp(PyroModule):
    r"""A diagonal Gaussian for each layer, given a sample of the layer below.

    .. math:: q_\phi(z \mid x) = q(z_1 \mid x) \prod_{l=2}^L q(z_l \mid z_{l-1}), \qquad
        q(z_l \mid h) = \mathcal N(\mu_l(h), \operatorname{diag} \sigma_l^2(h))

    The defaults are the two layers of Burda et al., 784-200-200-100 and 100-100-100-50, with
    tanh.

    Args:
        event_shape: Shape of one datum, (C, H, W) or (D,).
        latent_dims: Sizes of z_1 … z_L; z_1 is next to the data.
        hidden_dims: For each layer, widths of the hidden layers of its network.
        network: `"dense"`, or `"conv"` for strided convolutions from an image to z_1.
        channels: Channels of the convolutions, from the image to the code.
        activation: Nonlinearity of the dense networks.

    Shape:
        `guide(x)` takes x [B, *event_shape] and returns z_L [B, Z_L].

    Raises:
        PvaeError: If there is no layer, the layers and hidden_dims differ in number, or a size
            is not valid.

    Source: Burda, Grosse & Salakhutdinov 2016, *Importance Weighted Autoencoders*, section 5
    (arXiv:1509.00519).

    Example:
        >>> import torch
        >>> guide = BottomUp((1, 28, 28), latent_dims=(100, 50))
        >>> guide(torch.zeros(16, 1, 28, 28)).shape
        torch.Size([16, 50])
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        latent_dims: Sequence[int] = (100, 50),
        hidden_dims: Sequence[Sequence[int]] = ((200, 200), (100, 100)),
        network: Literal["dense", "conv"] = "dense",
        channels: Sequence[int] = (32, 64),
        activation: Literal["relu", "tanh"] = "tanh",
    ) -> None:
        super().__init__()
        latent_dims, hidden_dims = check_layers(latent_dims, hidden_dims)
        self.encoders = nn.ModuleList()
        below = tuple(event_shape)
        for latent_dim, widths in zip(latent_dims, hidden_dims, strict=True):
            encoder = make_encoder(below, (2, latent_dim), network, widths, channels, activation)
            self.encoders.append(encoder)
            below, network = (latent_dim,), "dense"

    def forward(self, x: Tensor) -> Tensor:
        z = x
        with pyro.plate("data", len(x)):
            for layer, encoder in enumerate(self.encoders, start=1):
                loc, raw = encoder(z).unbind(-2)
                z = pyro.sample(f"z_{layer}", dist.Normal(loc, F.softplus(raw) + 1e-6).to_event(1))
        return z
