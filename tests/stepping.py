"""A linear-Gaussian pair in double precision, and its eager and compiled steps compared."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule
from small import take_steps
from torch import nn


class Model(PyroModule):
    """z ~ N(0, I), x ~ N(b W z, 1)."""

    def __init__(self, *middle):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, 6), *middle, nn.Tanh(), nn.Linear(6, 4)).double()
        self.beta = 1.0
        self.power = 1

    def forward(self, x):
        with pyro.plate("data", len(x)):
            prior = dist.Normal(x.new_zeros(2), 1.0).to_event(1)
            z = pyro.sample("z", prior)
            loc = self.beta * self.net(z) ** self.power
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)


class Guide(PyroModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(4, 4).double()

    def forward(self, x):
        with pyro.plate("data", len(x)):
            loc, raw = self.net(x).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, raw.exp()).to_event(1))


X = torch.randn(8, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def fresh_pair(*middle):
    torch.manual_seed(0)
    return Model(*middle), Guide()


def steps_of(pair, mode, x=X, **options):
    return take_steps(pair, mode, x, **options)


def agree(make, before=None, **options):
    """Eager and compiled steps have the same losses and parameters; returns the compiled SVI."""
    eager, compiled = make(), make()
    expected, _ = steps_of(eager, "eager", before=before, **options)
    found, svi = steps_of(compiled, "compiled", before=before, **options)
    assert found == pytest.approx(expected, rel=1e-12)
    for a, b in zip(eager, compiled, strict=True):
        if isinstance(a, nn.Module):
            for name, value in a.state_dict().items():
                torch.testing.assert_close(value, b.state_dict()[name], rtol=1e-10, atol=1e-12)
    return svi
