"""Amortised flows: a Gaussian, then invertible maps that depend on x."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from pyro.nn import PyroModule
from torch import Tensor, nn

from pvae.nn import (
    MLP,
    SplineCoupling,
    affine_autoregressive,
    at_least_one,
    make_encoder,
    masked_networks,
)

__all__ = ["IAF", "SplineFlow"]


class IAF(PyroModule):
    r"""Inverse autoregressive flow: a Gaussian, then autoregressive steps.

    .. math::
        \mu, \sigma, h &= \mathrm{encoder}_\phi(x), \qquad
            z_0 = \mu + \sigma \odot \epsilon, \quad \epsilon \sim \mathcal N(0, I) \\
        m_t, s_t &= \mathrm{MADE}_t(z_{t-1}, h), \qquad g_t = \operatorname{sigmoid}(s_t + 2) \\
        z_t &= g_t \odot z_{t-1} + (1 - g_t) \odot m_t \\
        \log q(z_T \mid x) &= \log \mathcal N(z_0; \mu, \operatorname{diag} \sigma^2)
            - \sum_t \sum_i \log g_{t,i}

    The i-th outputs of a masked network (MADE) depend on h and on the coordinates of z before i.
    Each step reverses the order of the coordinates. With m = 0 and constant g this is the mean
    field.

    A sample and its density take one pass for each step. The density of any other z (for the ELBO
    surgery, annealing from the guide, or a replay) is exact too, but inverts each step one
    coordinate at a time, which takes Z passes.

    Args:
        event_shape: Shape of one datum, (C, H, W) or (D,).
        latent_dim: Z, the size of the code.
        num_steps: T.
        flow_hidden_dims: Widths of each masked network's hidden layers, not below Z.
        context_dim: Size of h.
        encoder: A network [..., *event_shape] to [..., 2 Z + context_dim] in place of the
            built-in one: locations, scales before softplus, and h.
        **options: `network`, `hidden_dims`, `channels` and `activation` of the built-in encoder,
            as in `MeanField`.

    Shape:
        `guide(x)` takes x [B, *event_shape] and returns z [B, Z].

    Raises:
        PvaeError: If a size or the network is not valid, or a masked network is too narrow.

    Source: Kingma et al. 2016, *Improved Variational Inference with Inverse Autoregressive
    Flow*, algorithm 1 (arXiv:1606.04934); Germain et al. 2015, *MADE* (arXiv:1502.03509).

    Example:
        >>> import torch
        >>> guide = IAF((1, 28, 28), latent_dim=20, num_steps=2)
        >>> guide(torch.zeros(16, 1, 28, 28)).shape
        torch.Size([16, 20])
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        latent_dim: int = 20,
        num_steps: int = 2,
        flow_hidden_dims: Sequence[int] = (100,),
        context_dim: int = 50,
        encoder: nn.Module | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        at_least_one(latent_dim=latent_dim, context_dim=context_dim)
        self.sizes = [latent_dim, latent_dim, context_dim]
        if encoder is None:
            encoder = make_encoder(event_shape, (sum(self.sizes),), **options)
        self.encoder = encoder
        self.networks, self.orders = masked_networks(
            latent_dim, num_steps, flow_hidden_dims, context_dim
        )

    def forward(self, x: Tensor) -> Tensor:
        loc, raw, h = self.encoder(x).split(self.sizes, -1)
        start = dist.Normal(loc, F.softplus(raw) + 1e-6).to_event(1)
        steps = [
            affine_autoregressive(partial(network, context=h), order, h.dtype, stable=True)
            for network, order in zip(self.networks, self.orders, strict=True)
        ]
        with pyro.plate("data", len(x)):
            return pyro.sample("z", dist.TransformedDistribution(start, steps))


class SplineFlow(PyroModule):
    r"""A standard normal, then couplings by rational-quadratic splines, then an affine map.

    .. math::
        \mu, \sigma, h &= \mathrm{encoder}_\phi(x), \qquad \epsilon_0 \sim \mathcal N(0, I) \\
        \epsilon_t &= \mathrm{spline}(\epsilon_{t-1}; \theta_t(\epsilon_{t-1}^a, h)), \qquad
            z = \mu + \sigma \odot \epsilon_T

    Each step maps one half b of the coordinates by monotonic splines. A network chooses their
    knots from h and the other half a. The next step swaps the halves; every second step splits the
    coordinates differently. Inverse and density take one pass at any z. At the start it is the
    mean field.

    Args:
        event_shape: Shape of one datum, (C, H, W) or (D,).
        latent_dim: Z, the size of the code.
        num_steps: T; for Z > 1 at least 2, so that every coordinate is mapped.
        num_bins: Pieces of each spline on [-5, 5]; it is the identity outside.
        flow_hidden_dims: Widths of each step's network.
        context_dim: Size of h.
        encoder: A network [..., *event_shape] to [..., 2 Z + context_dim] in place of the
            built-in one: locations, scales before softplus, and h.
        **options: `network`, `hidden_dims`, `channels` and `activation` of the built-in encoder,
            as in `MeanField`.

    Shape:
        `guide(x)` takes x [B, *event_shape] and returns z [B, Z].

    Raises:
        PvaeError: If a size or the network is not valid.

    Source: Durkan, Bekasov, Murray & Papamakarios 2019, *Neural Spline Flows* (arXiv:1906.04032).

    Example:
        >>> import torch
        >>> guide = SplineFlow((1, 28, 28), latent_dim=20, num_steps=2)
        >>> guide(torch.zeros(16, 1, 28, 28)).shape
        torch.Size([16, 20])
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        latent_dim: int = 20,
        num_steps: int = 4,
        num_bins: int = 8,
        flow_hidden_dims: Sequence[int] = (100,),
        context_dim: int = 50,
        encoder: nn.Module | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        at_least_one(
            latent_dim=latent_dim, num_steps=num_steps, num_bins=num_bins, context_dim=context_dim
        )
        self.sizes = [latent_dim, latent_dim, context_dim]
        if encoder is None:
            encoder = make_encoder(event_shape, (sum(self.sizes),), **options)
        self.encoder = encoder
        orders = [_halves(latent_dim, step // 2)[:: (-1) ** step] for step in range(num_steps)]
        self.register_buffer("orders", torch.tensor(orders), persistent=False)
        half = latent_dim // 2
        outputs = (latent_dim - half, 3 * num_bins - 1)
        self.networks = nn.ModuleList(
            MLP((half + context_dim,), outputs, flow_hidden_dims) for _ in range(num_steps)
        )
        for network in self.networks:
            nn.init.zeros_(network.layers[-1].weight)
            nn.init.zeros_(network.layers[-1].bias)

    def forward(self, x: Tensor) -> Tensor:
        loc, raw, h = self.encoder(x).split(self.sizes, -1)
        noise = dist.Normal(torch.zeros_like(loc), 1.0).to_event(1)
        steps = zip(self.networks, self.orders, strict=True)
        steps = [SplineCoupling(_with_context(network, h), order) for network, order in steps]
        affine = dist.transforms.AffineTransform(loc, F.softplus(raw) + 1e-6, event_dim=1)
        with pyro.plate("data", len(x)):
            return pyro.sample("z", dist.TransformedDistribution(noise, [*steps, affine]))


def _halves(size: int, number: int) -> list[int]:
    """Returns an order with halves by one bit of the position: even and odd for number 0."""
    bits = max(1, (size - 1).bit_length())
    bit = number % bits
    return sorted(range(size), key=lambda i: (i >> bit & 1, i))


def _with_context(network: nn.Module, h: Tensor) -> Callable[[Tensor], Tensor]:
    def parameters(a: Tensor) -> Tensor:
        return network(torch.cat([a, h.expand(*a.shape[:-1], -1)], -1))

    return parameters
