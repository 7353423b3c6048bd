"""A chain of two linear-Gaussian layers whose log p(x) and posterior are known exactly."""

import pyro.distributions as dist
import torch

from pvae.models import HierarchicalVAE
from pvae.nn.networks import MLP

__all__ = ["BOTTOM", "NOISE", "linear_chain", "set_linear"]

NOISE = 0.5
BOTTOM = torch.tensor([[1.0, 1, 0, 0], [1, -1, 0, 0], [0, 0, 2, 0]], dtype=torch.float64)


def set_linear(net: MLP, weight: torch.Tensor, loc: torch.Tensor, scale: torch.Tensor) -> None:
    """Makes a network without hidden layers give weight·h + loc and a constant scale."""
    with torch.no_grad():
        (layer,) = net.layers
        layer.weight.copy_(torch.cat([weight, torch.zeros_like(weight)]))
        layer.bias.copy_(torch.cat([loc, scale.expm1().log()]))


def linear_chain(size=50):
    """z_2 ~ N(0, I), z_1 ~ N(A z_2 + a, S), x ~ N(W z_1 + b, σ² I), with Wᵀ W and A diagonal.

    The three dimensions of z_1, each with its own of z_2, then stay independent given x.

    Returns:
        The model, data x [size, 4], log p(x) of each, z_1 by least squares and its scale, and
        loc and scale of p(z_2 | x).
    """
    torch.manual_seed(0)
    model = HierarchicalVAE(
        (4,), latent_dims=(3, 3), hidden_dims=((), ()), likelihood="gaussian", scale=NOISE
    ).double()
    bias = torch.randn(4, dtype=torch.float64)
    with torch.no_grad():
        (layer,) = model.decoder.layers
        layer.weight.copy_(BOTTOM.T)
        layer.bias.copy_(bias)
    slope, shift = torch.tensor([[0.8, -1.0, 0.5], [0.3, 0.0, -0.2]], dtype=torch.float64)
    set_linear(model.upper[0], slope.diag(), shift, torch.full((3,), 0.7, dtype=torch.float64))
    prior = model.conditional(1, torch.zeros(3, dtype=torch.float64)).stddev.detach()

    covariance = BOTTOM.T @ (slope**2 + prior**2).diag() @ BOTTOM
    covariance = covariance + NOISE**2 * torch.eye(4, dtype=torch.float64)
    exact = dist.MultivariateNormal(BOTTOM.T @ shift + bias, covariance)
    x = exact.sample((size,))

    square = BOTTOM.square().sum(1)
    seen = (x - bias) @ BOTTOM.T / square
    noise = NOISE / square.sqrt()
    precision = 1 + slope**2 / (prior**2 + noise**2)
    top = (seen - shift) * slope / (prior**2 + noise**2) / precision
    return model, x, exact.log_prob(x), (seen, noise), (top, precision.rsqrt())
