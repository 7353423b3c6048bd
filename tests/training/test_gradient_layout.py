"""Compiled steps hand gradients to the optimiser in the memory layout of their parameters."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO
from pyro.nn import PyroModule
from torch import nn

import pvae


class Model(PyroModule):
    """A convolution whose input has its channels last in memory, and so its weight's gradient."""

    def __init__(self):
        super().__init__()
        self.decoder = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(8, 8, 3), 1.0).to_event(3))
            f = self.decoder(z.contiguous().movedim(-1, -3)).sum(-3, keepdim=True)
            pyro.sample("x", dist.Bernoulli(logits=f).to_event(3), obs=x)


class Guide(PyroModule):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Conv2d(1, 3, 3, padding=1)

    def forward(self, x):
        loc = self.encoder(x).movedim(-3, -1)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, 0.1).to_event(3))


def train(mode, optim):
    torch.manual_seed(0)
    pair = Model().double(), Guide().double()
    batches = [(torch.rand(7, 1, 8, 8, dtype=torch.double) < 0.5).double() for _ in range(3)]
    svi = pvae.SVI(*pair, optim, Trace_ELBO(), mode=mode)
    torch.manual_seed(1)
    losses = [svi.step(x) for x in batches]
    assert mode == "eager" or svi.compiled, svi.why_eager
    return losses, pair


@pytest.mark.parametrize("optim", [torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD])
def test_a_fused_optimiser_moves_every_weight_by_its_own_gradient(optim, uncompiled):
    expected, theirs = train("eager", optim)
    found, ours = train("compiled", optim)
    assert found == pytest.approx(expected, rel=1e-9)
    for a, b in zip(ours, theirs, strict=True):
        for p, q in zip(a.parameters(), b.parameters(), strict=True):
            assert torch.allclose(p, q, rtol=1e-9)
            assert p.grad is None or p.grad.stride() == p.stride()
