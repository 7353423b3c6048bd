"""Linear-Gaussian pairs whose inference gaps are known in closed form."""

from types import SimpleNamespace

import oracles
import pyro
import pyro.distributions as dist
import torch
from asking import task

from pvae.evaluation.estimators.gap import Gap
from pvae.importance.sampler import Sampler
from pvae.pair import inspect

FAST = {"num_steps": 150, "num_samples": 400}


def run(model, guide, x, exact=None, *, rows=None, strategy="auto", positions=None, **options):
    """The inference gap of a pair whose log p(x) may be known."""
    sampler = Sampler(inspect(model, guide, x), strategy=strategy)
    if rows:
        sampler.gradient_chunks.rows = rows
    known = None
    if exact is not None:
        known = SimpleNamespace(log_px=exact.double().numpy(), findings={})
    options = {"seed": 0, **FAST, **options}
    with sampler:
        own = task(sampler, x, positions, seed=options.pop("seed"), known=known)
        return Gap(len(own.positions), **options).estimate(own)


class Linear:
    """z ~ N(0, I), x ~ N(W z, σ²), its posterior N(G x, C), and guides of any kind."""

    def __init__(self, weight, noise=0.7, size=8, dtype=torch.float64) -> None:
        self.weight = torch.tensor(weight, dtype=dtype)
        self.noise, self.dtype = noise, dtype
        wide = self.weight.double()
        self.precision = torch.eye(wide.shape[1]).double() + wide.T @ wide / noise**2
        self.covariance = torch.linalg.inv(self.precision)
        self.gain = (self.covariance @ wide.T / noise**2).to(dtype)
        self.x = oracles.random(size, len(wide), seed=0).to(dtype) * 1.3
        covariance = wide @ wide.T + noise**2 * torch.eye(len(wide))
        zero = torch.zeros(len(wide)).double()
        self.exact = dist.MultivariateNormal(zero, covariance).log_prob(self.x.double())

    def model(self, x):
        with pyro.plate("data", len(x)):
            prior = dist.Normal(torch.zeros(self.weight.shape[1], dtype=self.dtype), 1.0)
            z = pyro.sample("z", prior.to_event(1))
            pyro.sample("x", dist.Normal(z @ self.weight.T, self.noise).to_event(1), obs=x)

    def guide(self, fn):
        """A guide from a function of the posterior's mean [B, Z] and scale [Z]."""

        def guide(x):
            with pyro.plate("data", len(x)):
                scale = self.covariance.diagonal().sqrt().to(self.dtype)
                pyro.sample("z", fn(x @ self.gain.T, scale))

        return guide


def wrong(loc, scale):
    """Shifted, and too wide by a factor between 1.1 and 1.9 that differs from datum to datum."""
    return dist.Normal(loc + 0.5 * scale, scale * (1.5 + 0.4 * loc.tanh())).to_event(1)


ORTHOGONAL = [[1.0, 0.5], [0.5, -1.0], [0.0, 0.0]]
CORRELATED = [[1.0, 0.8], [0.3, 0.6], [-0.5, 0.1]]


def optimal_mean_field(precision) -> float:
    """KL of the best product of Normals from a Gaussian."""
    return float(precision.diagonal().log().sum() - torch.logdet(precision)) / 2
