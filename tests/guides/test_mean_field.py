"""The mean-field guide."""

import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import nn

from pvae import PvaeError
from pvae.guides import MeanField


def test_the_density_is_that_of_a_diagonal_gaussian():
    torch.manual_seed(0)
    guide = MeanField((1, 8, 8), latent_dim=3)
    x = torch.rand(5, 1, 8, 8)
    loc, scale = guide.encode(x)
    assert (scale > 0).all()
    trace = poutine.trace(guide).get_trace(x)
    z = trace.nodes["z"]["value"]
    assert z.shape == (5, 3)
    expected = dist.Normal(loc, scale).log_prob(z).sum()
    torch.testing.assert_close(trace.log_prob_sum(), expected)


def test_an_encoder_of_ones_own():
    encoder = nn.Sequential(nn.Linear(6, 4), nn.Unflatten(-1, (2, 2)))
    guide = MeanField((6,), latent_dim=2, encoder=encoder)
    x = torch.randn(7, 6)
    loc, scale = guide.encode(x)
    torch.testing.assert_close(loc, encoder(x)[:, 0])
    torch.testing.assert_close(scale, torch.nn.functional.softplus(encoder(x)[:, 1]) + 1e-6)


def test_bad_network():
    with pytest.raises(PvaeError, match="network='resnet'"):
        MeanField((6,), network="resnet")
