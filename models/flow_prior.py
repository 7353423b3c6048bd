"""The variational autoencoder with an autoregressive flow as its prior."""

from collections.abc import Sequence
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pvae.models.vae import VAE
from pvae.nn import affine_autoregressive, masked_networks

__all__ = ["FlowPriorVAE"]


class FlowPriorVAE(VAE):
    r"""A VAE whose prior is a learned masked autoregressive flow.

    .. math::
        \epsilon &= (T_1 \circ \dots \circ T_L)(z) \sim \mathcal N(0, I), \qquad
            T_l(z)_i = \mu_{l,i}(z_{<i}) + e^{s_{l,i}(z_{<i})} z_i \\
        x \mid z &\sim p(x \mid f_\theta(z))

    where :math:`z_{<i}` are the coordinates before i; each step reverses their order. A masked
    network for each step gives μ and s. The flow maps z to noise: log p(z), which training and
    evaluation need, takes one pass for each step, and a sample takes Z passes.

    Args:
        event_shape: Shape of one datum, (C, H, W) or (D,).
        latent_dim: Z, the size of the code.
        num_steps: L, autoregressive steps.
        flow_hidden_dims: Widths of each masked network's hidden layers, not below Z.
        **options: `network`, `hidden_dims`, `likelihood` and the other options of `VAE`.

    Shape:
        `model(x)` takes x [B, *event_shape] and returns it; `model(size=n)` draws
        n samples [n, *event_shape] from p(x).

    Raises:
        PvaeError: If there is no step, or a masked network is too narrow; see also `VAE`.

    Source: Chen et al. 2017, *Variational Lossy Autoencoder*, section 3.2 (arXiv:1611.02731);
    Papamakarios, Pavlakou & Murray 2017, *Masked Autoregressive Flow for Density Estimation*
    (arXiv:1705.07057); the network is MADE, Germain et al. 2015 (arXiv:1502.03509).

    Example:
        >>> model = FlowPriorVAE((1, 28, 28), latent_dim=20, num_steps=2)
        >>> model.prior().sample((3,)).shape
        torch.Size([3, 20])
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        latent_dim: int = 20,
        num_steps: int = 2,
        flow_hidden_dims: Sequence[int] = (100,),
        **options: Any,
    ) -> None:
        super().__init__(event_shape, latent_dim, **options)
        self.networks, self.orders = masked_networks(latent_dim, num_steps, flow_hidden_dims)

    def prior(self) -> dist.Distribution:
        """Returns p(z), batch shape [] and event shape [Z]."""
        noise = dist.Normal(self.zeros, 1.0).to_event(1)
        steps = zip(self.networks, self.orders, strict=True)
        steps = [_step(network, order, noise.mean.dtype).inv for network, order in steps]
        return dist.TransformedDistribution(noise, steps)


def _step(network: nn.Module, order: list[int], dtype: torch.dtype) -> dist.transforms.Transform:
    def shift_and_log_scale(z: Tensor) -> tuple[Tensor, Tensor]:
        loc, raw = network(z)
        return loc, 3 * (raw / 3).tanh()  # scales from e^-3 to e^3

    return affine_autoregressive(shift_and_log_scale, order, dtype)
