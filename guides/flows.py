"""Amortised flows: a Gaussian that invertible maps, with a context from x, bend into shape."""

import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from pyro.nn import ConditionalAutoRegressiveNN, PyroModule
from torch import Tensor, nn

from pvae.errors import PvaeError
from pvae.nn import MLP, SplineCoupling, affine_autoregressive, make_encoder

__all__ = ["IAF", "SplineFlow"]


class IAF(PyroModule):
    r"""Inverse autoregressive flow: a Gaussian, then steps that each take one pass.

    .. math::
        \mu, \sigma, h &= \mathrm{encoder}_\phi(x), \qquad
            z_0 = \mu + \sigma \odot \epsilon, \quad \epsilon \sim \mathcal N(0, I) \\
        m_t, s_t &= \mathrm{MADE}_t(z_{t-1}, h), \qquad g_t = \operatorname{sigmoid}(s_t + 2) \\
        z_t &= g_t \odot z_{t-1} + (1 - g_t) \odot m_t \\
        \log q(z_T \mid x) &= \log \mathcal N(z_0; \mu, \operatorname{diag} \sigma^2)
            - \sum_t \sum_i \log g_{t,i}

    The i-th outputs of a masked network (MADE) depend on h and on the coordinates of z before i,
    in an order that is reversed from step to step. With m = 0 and constant g it is the mean
    field.

    The density of its own draws is known with the draw. At any other value of z (as the ELBO
    surgery, annealing from the guide and replays want it) each step has to be inverted, one
    coordinate after the other: exact as well, for Z times the price.

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
        PvaeError: If there is no step, a masked network is too narrow, a size is not positive, or
            the network is not known.

    Source: Kingma et al. 2016, *Improved Variational Inference with Inverse Autoregressive
    Flow*, algorithm 1; Germain et al. 2015, *MADE*.

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
        _check(latent_dim=latent_dim, num_steps=num_steps, context_dim=context_dim)
        if not flow_hidden_dims or min(flow_hidden_dims) < latent_dim:
            raise PvaeError(
                f"flow_hidden_dims={tuple(flow_hidden_dims)}: give one hidden layer or more, none "
                f"narrower than latent_dim={latent_dim}, or no unit is left for some coordinate."
            )
        self.sizes = [latent_dim, latent_dim, context_dim]
        self.encoder = encoder or make_encoder(event_shape, (sum(self.sizes),), **options)
        order = list(range(latent_dim))
        self.orders = [order[:: (-1) ** step] for step in range(num_steps)]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that for Z = 1 an affine map would do
            self.networks = nn.ModuleList(
                ConditionalAutoRegressiveNN(
                    latent_dim, context_dim, list(flow_hidden_dims), permutation=torch.tensor(order)
                )
                for order in self.orders
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
    r"""A Gaussian, standardised, then couplings by rational-quadratic splines.

    .. math::
        \mu, \sigma, h &= \mathrm{encoder}_\phi(x), \qquad \epsilon_0 \sim \mathcal N(0, I) \\
        \epsilon_t &= \mathrm{spline}(\epsilon_{t-1}; \theta_t(\epsilon_{t-1}^a, h)), \qquad
            z = \mu + \sigma \odot \epsilon_T

    Each step maps one half b of the coordinates by monotonic splines whose knots a network
    chooses from the other half a and h; the next step swaps the halves, and every second step
    draws new ones. Inverse and density take one pass at any z. It starts as the mean field.

    Args:
        event_shape: Shape of one datum, (C, H, W) or (D,).
        latent_dim: Z, the size of the code.
        num_steps: T; two at least, so that every coordinate is mapped, except for Z = 1.
        num_bins: Pieces of each spline on [-5, 5]; outside it is the identity.
        flow_hidden_dims: Widths of each step's network.
        context_dim: Size of h.
        encoder: A network [..., *event_shape] to [..., 2 Z + context_dim] in place of the
            built-in one: locations, scales before softplus, and h.
        **options: `network`, `hidden_dims`, `channels` and `activation` of the built-in encoder,
            as in `MeanField`.

    Shape:
        `guide(x)` takes x [B, *event_shape] and returns z [B, Z].

    Raises:
        PvaeError: If a size is not positive, or the network is not known.

    Source: Durkan, Bekasov, Murray & Papamakarios 2019, *Neural Spline Flows*.

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
        _check(
            latent_dim=latent_dim, num_steps=num_steps, num_bins=num_bins, context_dim=context_dim
        )
        self.sizes = [latent_dim, latent_dim, context_dim]
        self.encoder = encoder or make_encoder(event_shape, (sum(self.sizes),), **options)
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
    """An order whose halves are those of the even and odd, then of other bits of the position."""
    bits = max(1, (size - 1).bit_length())
    bit = number % bits
    return sorted(range(size), key=lambda i: (i >> bit & 1, i))


def _with_context(network: nn.Module, h: Tensor) -> Callable[[Tensor], Tensor]:
    def parameters(a: Tensor) -> Tensor:
        return network(torch.cat([a, h.expand(*a.shape[:-1], -1)], -1))

    return parameters


def _check(**sizes: int) -> None:
    for name, value in sizes.items():
        if value < 1:
            raise PvaeError(f"{name}={value}: it must be at least 1.")
