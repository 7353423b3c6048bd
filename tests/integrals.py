"""Quadrature of a few data, and pairs to integrate."""

import math

import numpy as np
import oracles
import pyro
import pyro.distributions as dist
import torch
from asking import task

from pvae.evaluation.estimators.quadrature import Quadrature
from pvae.importance.sampler import Sampler
from pvae.pair import inspect

DOUBLE = {"dtype": torch.float64}


def run(model, guide, batch, exact=None, *, size=20, tolerance=1e-9, positions=None, **options):
    """Quadrature of the first few data, within a tolerance and its own error."""
    batch = tuple(t[:size] for t in batch)
    sampler = Sampler(inspect(model, guide, *batch), **options)
    with sampler:
        found = Quadrature().estimate(task(sampler, batch, positions))
    assert found.log_px.dtype == found.error.dtype == np.float64
    if exact is not None:
        error = np.abs(found.log_px - exact[:size].double().numpy()[found.datum])
        assert error.max() < tolerance
        assert (error < 10 * found.error + 1e-10).all()
        assert found.error.max() < tolerance
    return found


def somewhere(event=(), scale=1.0):
    """A guide that ignores the data."""

    def guide(x):
        with pyro.plate("data", len(x)):
            zero = torch.zeros(event, dtype=x.dtype)
            pyro.sample("z", dist.Normal(zero, scale).to_event(len(event)))

    return guide


def nothing(log_f, low, *_):
    """Replaces the integration in cells, with an unknown result."""
    return torch.full_like(low[:, 0], -math.inf), torch.full_like(low[:, 0], math.inf)


def narrow(noise, x=None, mirrored=False):
    """z ~ N(0, 1), x ~ N(z, σ²), perhaps with either sign: a peak at x, or at x and -x."""
    x = 1.5 * oracles.random(20, seed=0) if x is None else x

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros((), **DOUBLE), 1.0))
            if mirrored:
                signs = dist.Categorical(logits=torch.zeros(2, **DOUBLE))
                parts = dist.Normal(torch.stack([z, -z], -1), noise)
                pyro.sample("x", dist.MixtureSameFamily(signs, parts), obs=x)
            else:
                pyro.sample("x", dist.Normal(z, noise), obs=x)

    scale = torch.tensor(math.sqrt(1 + noise**2), **DOUBLE)
    return model, somewhere(), (x,), dist.Normal(0.0, scale).log_prob(x)
