"""check(): buffers and random state are those of before."""

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import nn

import pvae
from pvae import guides


class Normalised(PyroModule):
    def __init__(self):
        super().__init__()
        self.decoder = nn.Sequential(nn.Linear(3, 64), nn.BatchNorm1d(64))

    def forward(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))
            logits = self.decoder(z).unflatten(-1, (1, 8, 8))
            pyro.sample("x", dist.Bernoulli(logits=logits).to_event(3), obs=x)


def test_check_leaves_running_statistics_and_the_random_state_unchanged():
    model, guide = Normalised(), guides.MeanField((1, 8, 8), latent_dim=3)
    before = [b.clone() for b in model.buffers()]
    assert model.training
    state = torch.get_rng_state()
    pvae.check(model, guide, torch.zeros(6, 1, 8, 8))
    assert torch.equal(torch.get_rng_state(), state)
    for buffer, value in zip(model.buffers(), before, strict=True):
        assert torch.equal(buffer, value)
