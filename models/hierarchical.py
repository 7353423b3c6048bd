"""The hierarchical VAE: a chain of Gaussian codes."""

from collections.abc import Sequence
from typing import Any, Literal

import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pvae.models.vae import VAE
from pvae.nn import MLP, check_layers

__all__ = ["HierarchicalVAE"]


class HierarchicalVAE(VAE):
    r"""A VAE with several layers of codes, each a diagonal Gaussian given the layer above.

    .. math::
        z_L &\sim \mathcal N(0, I) \\
        z_l \mid z_{l+1} &\sim \mathcal N(\mu_l(z_{l+1}), \operatorname{diag}
            \sigma_l^2(z_{l+1})), \qquad l = L - 1, \dots, 1 \\
        x \mid z_1 &\sim p(x \mid f_\theta(z_1))

    The defaults are the two layers of Burda et al., from the top 50-100-100-100 and
    100-200-200-784, with tanh. Their guide is `BottomUp`. Sønderby et al. use the same model with
    the guide `Ladder`.

    Args:
        event_shape: Shape of one datum, (C, H, W) or (D,).
        latent_dims: Sizes of z_1 … z_L; z_1 is next to the data.
        hidden_dims: For each layer, widths of the hidden layers of the network below its code,
            in the order of an encoder, from the data upwards. With ((200, 200), (100, 100)) the
            network of x given z_1 has 200 and 200 units, that of z_1 given z_2 100 and 100.
        network: `"dense"`, or `"conv"` for transposed convolutions from z_1 to an image.
        channels: Channels of the convolutions, from the code to the image.
        activation: Nonlinearity of the dense networks.
        **options: `likelihood`, its options and `decoder`, as in `VAE`.

    Shape:
        `model(x)` takes x [B, *event_shape] and returns it; `model(size=n)` draws
        n samples [n, *event_shape] from p(x).

    Raises:
        PvaeError: If there is no layer, or the layers and hidden_dims differ in number; see also
            `VAE`.

    Source: Burda, Grosse & Salakhutdinov 2016, *Importance Weighted Autoencoders*, section 5
    (arXiv:1509.00519); Sønderby et al. 2016, *Ladder Variational Autoencoders*
    (arXiv:1602.02282).

    Example:
        >>> model = HierarchicalVAE((1, 28, 28), latent_dims=(100, 50))
        >>> model(size=16).shape
        torch.Size([16, 1, 28, 28])
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        latent_dims: Sequence[int] = (100, 50),
        hidden_dims: Sequence[Sequence[int]] = ((200, 200), (100, 100)),
        network: Literal["dense", "conv"] = "dense",
        channels: Sequence[int] = (64, 32),
        activation: Literal["relu", "tanh"] = "tanh",
        **options: Any,
    ) -> None:
        latent_dims, hidden_dims = check_layers(latent_dims, hidden_dims)
        super().__init__(
            event_shape,
            latent_dim=latent_dims[0],
            network=network,
            hidden_dims=hidden_dims[0][::-1],
            channels=channels,
            activation=activation,
            **options,
        )
        self.latent_dims, self.hidden_dims = latent_dims, hidden_dims
        self.upper = nn.ModuleList(
            MLP((above,), (2, here), widths[::-1], activation)
            for here, above, widths in zip(
                latent_dims, latent_dims[1:], hidden_dims[1:], strict=False
            )
        )
        self.register_buffer("zeros", torch.zeros(latent_dims[-1]), persistent=False)

    def forward(self, x: Tensor | None = None, *, size: int = 1) -> Tensor:
        with pyro.plate("data", size if x is None else len(x)):
            top = len(self.latent_dims)
            z = pyro.sample(f"z_{top}", self.prior())
            for layer in range(top - 1, 0, -1):
                z = pyro.sample(f"z_{layer}", self.conditional(layer, z))
            return pyro.sample("x", self.likelihood(z), obs=x)

    def conditional(self, layer: int, above: Tensor) -> dist.Independent:
        """Returns p(z_l | z_{l+1}) for l = `layer` below L; `prior()` is p(z_L)."""
        loc, raw = self.upper[layer - 1](above).unbind(-2)
        return dist.Normal(loc, F.softplus(raw) + 1e-4).to_event(1)
