"""OneHot: a distribution over integers whose values are in one-hot form."""

import itertools

import pyro.distributions as dist
import pytest
import torch

from pvae import models
from pvae.distributions import OneHot, is_discrete, log_prob
from pvae.errors import PvaeError

K = 3


@pytest.fixture
def base():
    torch.manual_seed(0)
    return dist.Categorical(logits=torch.randn(2, 2, K)).to_event(2)


def every(places=4):
    return torch.tensor(list(itertools.product(range(K), repeat=places))).view(-1, 2, 2)


def one_hot(k):
    return torch.nn.functional.one_hot(k, K).float()


def test_it_is_the_base_in_another_form(base):
    p, k = OneHot(base, K), every()
    assert p.event_shape == (2, 2, K)
    assert torch.equal(p.log_prob(one_hot(k)), base.log_prob(k))
    assert p.log_prob(one_hot(k)).exp().sum().item() == pytest.approx(1, abs=1e-5)
    peer = dist.OneHotCategorical(logits=base.base_dist.logits).to_event(2)
    assert torch.allclose(p.log_prob(one_hot(k)), peer.log_prob(one_hot(k)))
    assert torch.allclose(p.mean, peer.mean)
    assert torch.equal(p.mode, one_hot(base.base_dist.probs.argmax(-1)))
    assert is_discrete(p)


def test_samples_have_its_frequencies(base):
    torch.manual_seed(1)
    z = OneHot(base, K).expand((5,)).sample((4000,))
    assert z.shape == (4000, 5, 2, 2, K)
    assert torch.equal(z.sum(-1), torch.ones(4000, 5, 2, 2))
    assert torch.allclose(z.mean((0, 1)), base.base_dist.probs, atol=0.02)


def test_an_autoregressive_base():
    torch.manual_seed(0)
    density = models.GatedPixelCNN(
        (2, 2), channels=4, num_layers=1, likelihood="categorical", levels=K
    )
    p = OneHot(density.distribution(), K)
    log_p = p.log_prob(one_hot(every()))
    assert log_p.exp().sum().item() == pytest.approx(1, abs=1e-5)
    z = p.expand((3,)).sample((2,))
    assert z.shape == (2, 3, 2, 2, K)
    with pytest.raises(NotImplementedError):
        _ = p.mean


def test_values_that_are_not_one_hot_have_probability_zero(base):
    wrong = torch.full((2, 2, K), 1 / K)
    assert log_prob(OneHot(base, K, validate_args=False), wrong) == -torch.inf
    with pytest.raises(ValueError, match="support"):
        OneHot(base, K, validate_args=True).log_prob(wrong)


def test_another_base_is_refused(base):
    with pytest.raises(PvaeError, match="integers 0 to 2, and there are 5 codes"):
        OneHot(base, 5)
    with pytest.raises(PvaeError, match="Bernoulli is not a distribution over integers"):
        OneHot(dist.Bernoulli(torch.ones(2, 2)).to_event(2), K)
