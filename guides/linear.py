"""The linear-Gaussian guide, which contains the posterior of a linear-Gaussian model."""

import math
from collections.abc import Sequence

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import Tensor, nn

from pvae.nn import ScaleTril, at_least_one

__all__ = ["LinearGaussian"]


class LinearGaussian(PyroModule):
    r"""A Gaussian whose mean is linear in x and whose covariance is the same for all x.

    .. math:: q_\phi(z \mid x) = \mathcal N(V x + c, L L^\top)

    with L lower triangular. The posterior of `pvae.models.PPCA` has this form.

    Args:
        event_shape: Shape of one datum, (C, H, W) or (D,).
        latent_dim: Z, the size of the code.

    Shape:
        `guide(x)` takes x [B, *event_shape] and returns z [B, Z].

    Raises:
        PvaeError: If latent_dim is below 1.

    Source: Tipping & Bishop 1999, *Probabilistic Principal Component Analysis*, section 3
    (doi:10.1111/1467-9868.00196).

    Example:
        >>> guide = LinearGaussian((1, 28, 28), latent_dim=20)
        >>> guide(torch.zeros(16, 1, 28, 28)).shape
        torch.Size([16, 20])
    """

    def __init__(self, event_shape: Sequence[int], latent_dim: int = 20) -> None:
        super().__init__()
        at_least_one(latent_dim=latent_dim)
        self.event_shape, self.latent_dim = tuple(event_shape), latent_dim
        self.mean = nn.Linear(math.prod(self.event_shape), latent_dim)
        self.scale_tril = ScaleTril(torch.eye(latent_dim))

    def forward(self, x: Tensor) -> Tensor:
        loc = self.mean(x.flatten(x.ndim - len(self.event_shape)))
        with pyro.plate("data", len(x)):
            return pyro.sample("z", dist.MultivariateNormal(loc, scale_tril=self.scale_tril()))
