"""Pairs with x ~ N(z, 0.8²) and any prior, and their log p(x) by the midpoint rule."""

import pyro
import pyro.distributions as dist
import torch
from torch import tensor
from torch.distributions.transforms import (
    AffineTransform,
)

X = torch.tensor([-0.6, 0.4, 1.3], dtype=torch.double)
NOISE = 0.8


def one(value):
    return tensor(value, dtype=torch.double)


def shifted(n=None, by=1.0, scale=1.0):
    base = dist.Exponential(one(1.0)) if n is None else dist.Exponential(one(1.0)).expand([n])
    return dist.TransformedDistribution(base, [AffineTransform(one(by), one(scale))])


def pair(prior, posterior):
    """x ~ N(z, 0.8²) and a latent of any kind."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", prior())
            pyro.sample("x", dist.Normal(z, NOISE), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", posterior(x))

    return model, guide


def exact(prior, low, high, x=X):
    """log ∫ p(z) p(x|z) dz by the midpoint rule, over where p(z) has a density."""
    edges = torch.linspace(low, high, 200_001, dtype=torch.double)
    z, width = (edges[1:] + edges[:-1]) / 2, edges[1] - edges[0]
    joint = prior().log_prob(z)[:, None] + dist.Normal(z[:, None], NOISE).log_prob(x)
    return joint.logsumexp(0) + width.log()
