"""Small pairs, trained quickly or for some steps, and their parameters compared."""

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import Trace_ELBO
from pyro.nn import PyroModule
from torch import nn

import pvae


class Decoder(PyroModule):
    """z ~ N(0, I) in two dimensions, x ~ likelihood(x, f(z)), of four coordinates."""

    def __init__(self, likelihood=lambda x, loc: dist.Normal(loc, 1.0), net=None):
        super().__init__()
        self.net, self.likelihood = net or nn.Linear(2, 4), likelihood

    def forward(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            pyro.sample("x", self.likelihood(x, self.net(z)).to_event(1), obs=x)


class Encoder(PyroModule):
    """z ~ posterior(f(x))."""

    def __init__(self, posterior=lambda loc: dist.Normal(loc, 1.0), net=None):
        super().__init__()
        self.net, self.posterior = net or nn.Linear(4, 2), posterior

    def forward(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", self.posterior(self.net(x)).to_event(1))


def small_pair(seed=0, **options):
    torch.manual_seed(seed)
    options = {"latent_dim": 4, "hidden_dims": [16], **options}
    return (
        pvae.models.VAE((1, 8, 8), **options),
        pvae.guides.MeanField((1, 8, 8), latent_dim=4, hidden_dims=[16]),
    )


def quick_fit(pair, data, **options):
    options = {"epochs": 3, "progress": False, **options}
    return pvae.fit(*pair, data, **options)


def take_steps(
    pair, mode, x, *, steps=6, loss=None, before=None, optim=torch.optim.Adam, **options
):
    """Losses of some steps from the same noise, and the SVI; `before(i, svi)` may change something.

    `x` is the batch of every step, or a function of the step.
    """
    svi = pvae.SVI(*pair, optim, loss or Trace_ELBO(), mode=mode, **options)
    torch.manual_seed(1)
    losses = []
    for i in range(steps):
        if before is not None:
            before(i, svi)
        losses.append(svi.step(x(i) if callable(x) else x))
    return losses, svi


def state_of(pair):
    return {f"{i}.{n}": v.clone() for i, p in enumerate(pair) for n, v in p.state_dict().items()}


def same_state(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a)
