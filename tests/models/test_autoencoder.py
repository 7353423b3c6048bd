"""The autoencoders' models: their joint is the classic objective."""

import math

import pyro
import pytest
import torch
from pyro import poutine
from torch.nn import functional as F

import pvae
from pvae import PvaeError
from pvae.guides import Code
from pvae.models import Autoencoder, SparseAutoencoder
from pvae.pair.traces import trace_guide, trace_model


@pytest.fixture(autouse=True)
def _clean_store():
    """Pairs that are called as they are share parameters of one name, as always in Pyro."""
    pyro.clear_param_store()
    yield
    pyro.clear_param_store()


def _joint(model, guide, x):
    return trace_model(model, trace_guide(guide, x), x).log_prob_sum()


def test_a_gaussian_is_the_squared_error_and_the_prior_the_squared_norm():
    torch.manual_seed(0)
    model = Autoencoder((1, 4, 4), 3, hidden_dims=[8, 5], likelihood="gaussian", scale=0.5)
    guide = Code((1, 4, 4), 3, hidden_dims=[5, 8])
    x = torch.rand(6, 1, 4, 4)
    z = guide.encode(x)
    error = (x - model.decoder(z)).square().sum()
    constant = 6 * (16 * math.log(0.5 * math.sqrt(2 * math.pi)) + 1.5 * math.log(2 * math.pi))
    expected = -error / (2 * 0.5**2) - z.square().sum() / 2 - constant
    torch.testing.assert_close(_joint(model, guide, x), expected)


def test_a_bernoulli_is_the_cross_entropy_and_a_laplace_prior_the_l1_norm():
    torch.manual_seed(0)
    model = SparseAutoencoder((1, 4, 4), 30, penalty=2.5, hidden_dims=[8])
    guide = Code((1, 4, 4), 30)
    x = torch.rand(6, 1, 4, 4).round()
    z = guide.encode(x)
    entropy = F.binary_cross_entropy_with_logits(model.decoder(z), x, reduction="sum")
    expected = -entropy - 2.5 * z.abs().sum() + 6 * 30 * math.log(2.5 / 2)
    torch.testing.assert_close(_joint(model, guide, x), expected)


@pytest.mark.parametrize("network", ["dense", "conv"])
@pytest.mark.parametrize("model", [Autoencoder, SparseAutoencoder])
def test_trains_generates_reconstructs_and_goes_through_check(model, network):
    torch.manual_seed(0)
    data = pvae.data.load("digits", observation="grey")
    sizes = {"network": network, "hidden_dims": [32], "channels": [8, 8]}
    model = model((1, 8, 8), 6, likelihood="gaussian", scale=0.2, **sizes)
    guide = Code((1, 8, 8), 6, **sizes)
    x = data.train.tensors()[0]
    pvae.check(model, guide, x[:10])
    before = (pvae.reconstruct(model, guide, x) - x).square().mean()
    pvae.fit(model, guide, data, epochs=4, lr=1e-2, mode="eager", progress=False)
    after = (pvae.reconstruct(model, guide, x) - x).square().mean()
    assert after < 0.6 * before
    assert model(size=4).shape == (4, 1, 8, 8)


def test_steps_are_recorded(uncompiled):
    torch.manual_seed(0)
    from pyro.infer import TraceMeanField_ELBO

    model, guide = SparseAutoencoder((6,), 3, hidden_dims=[8]), Code((6,), 3, hidden_dims=[8])
    adam = torch.optim.Adam
    svi = pvae.SVI(model, guide, adam, TraceMeanField_ELBO(), mode="compiled")
    for _ in range(3):
        svi.step(torch.rand(8, 6).round())
    assert svi.compiled
    assert svi.why_eager is None
    assert len(uncompiled) == 1


def test_the_penalty_shrinks_the_code():
    data = pvae.data.load("digits", observation="grey")
    norms = []
    for penalty in (0.1, 20.0):
        torch.manual_seed(0)
        options = {"likelihood": "gaussian", "scale": 0.3, "hidden_dims": [32]}
        model = SparseAutoencoder((1, 8, 8), 16, penalty=penalty, **options)
        guide = Code((1, 8, 8), 16, hidden_dims=[32])
        pvae.fit(model, guide, data, epochs=5, lr=3e-3, mode="eager", progress=False)
        norms.append(pvae.encode(guide, data.test.tensors()[0])["z"].abs().mean())
    assert norms[1] < 0.2 * norms[0]


def test_the_prior_generates():
    model = SparseAutoencoder((6,), 4, penalty=4.0)
    z = poutine.trace(model).get_trace(size=4000).nodes["z"]["value"]
    assert z.abs().mean().item() == pytest.approx(0.25, abs=0.01)


@pytest.mark.parametrize("penalty", [0.0, -1.0, math.nan])
def test_bad_penalty(penalty):
    with pytest.raises(PvaeError, match=r"penalty=.*positive"):
        SparseAutoencoder((6,), 3, penalty=penalty)


def test_sizes_that_differ_are_said_once():
    model, guide = Autoencoder((6,), latent_dim=3), Code((6,), latent_dim=4)
    with pytest.raises(PvaeError, match=r"event shape \(4,\).*\(3,\).*latent_dim"):
        pvae.check(model, guide, torch.zeros(5, 6))
