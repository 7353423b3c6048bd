"""The VAE model: generation, every likelihood, every network."""

import pyro.distributions as dist
import pytest
import torch
from pvae.models import VAE
from pyro import poutine
from torch import nn

import pvae
from pvae import PvaeError

LIKELIHOODS = [
    {"likelihood": "bernoulli"},
    {"likelihood": "continuous_bernoulli"},
    {"likelihood": "gaussian", "scale": 0.3},
    {"likelihood": "gaussian", "scale": "learned"},
    {"likelihood": "gaussian", "scale": "network"},
]


@pytest.mark.parametrize("network", ["dense", "conv"])
@pytest.mark.parametrize("options", LIKELIHOODS, ids=str)
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 10, 12)])
def test_generates_encodes_reconstructs_and_is_bounded(shape, options, network):
    torch.manual_seed(0)
    model = VAE(shape, latent_dim=3, network=network, hidden_dims=[8], channels=[4, 4], **options)
    guide = pvae.guides.MeanField(shape, 3, network=network, hidden_dims=[8], channels=[4, 4])
    assert model(size=5).shape == (5, *shape)
    x = torch.rand(6, *shape)
    x = x.round() if options["likelihood"] == "bernoulli" else x
    assert pvae.reconstruct(model, guide, x).shape == x.shape
    assert pvae.encode(guide, x)["z"].shape == (6, 3)
    assert pvae.generate(model, 4).shape == (4, *shape)
    assert pvae.decode(model, {"z": torch.zeros(2, 3)}).shape == (2, *shape)
    fit = pvae.fit(model, guide, x, epochs=3, batch_size=3, progress=False)
    assert len(fit.history) == 3
    result = pvae.evaluate(model, guide, x, num_samples=30, progress=False)
    assert result.strategy == "plate"  # our networks work in a particle plate
    assert result.caveat is None
    assert (result.elbo < result.log_px).all()


def test_the_joint_is_what_the_docstring_says():
    torch.manual_seed(0)
    model = VAE((6,), latent_dim=2, hidden_dims=[4], likelihood="gaussian", scale=0.5)
    x, z = torch.randn(3, 6), torch.randn(3, 2)
    trace = poutine.trace(poutine.condition(model, {"z": z})).get_trace(x)
    expected = dist.Normal(0.0, 1.0).log_prob(z).sum() + (
        dist.Normal(model.decoder(z), 0.5).log_prob(x).sum()
    )
    torch.testing.assert_close(trace.log_prob_sum(), expected)


def test_learned_scale_is_learned_and_positive():
    torch.manual_seed(0)
    model = VAE((6,), latent_dim=2, likelihood="gaussian", scale="learned")
    guide = pvae.guides.MeanField((6,), latent_dim=2)
    x = 0.01 * torch.randn(64, 6)
    pvae.fit(model, guide, x, epochs=120, batch_size=16, lr=3e-2, progress=False)
    assert 0 < model.scale.item() < 0.5


def test_a_network_of_ones_own():
    decoder = nn.Linear(2, 6)
    model = VAE((6,), latent_dim=2, likelihood="gaussian", decoder=decoder)
    z = torch.randn(5, 2)
    torch.testing.assert_close(model.likelihood(z).mean, decoder(z))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"likelihood": "poisson"}, "likelihood='poisson'"),
        ({"likelihood": "gaussian", "scale": -1.0}, "scale=-1"),
        ({"likelihood": "gaussian", "scale": "big"}, "scale='big'"),
        ({"network": "conv"}, r"not \(6,\)"),
        ({"network": "transformer"}, "network='transformer'"),
    ],
)
def test_bad_arguments(options, said):
    with pytest.raises(PvaeError, match=said):
        VAE((6,), **options)


def test_convolutional_pair_is_near_the_dense_one_on_digits():
    data = pvae.data.load("digits")
    bounds = {}
    for network in ("dense", "conv"):
        torch.manual_seed(0)
        model = VAE(data.event_shape, latent_dim=8, network=network)
        guide = pvae.guides.MeanField(data.event_shape, latent_dim=8, network=network)
        pvae.fit(model, guide, data, epochs=15, progress=False)
        result = pvae.evaluate(model, guide, data, num_samples=100, progress=False)
        bounds[network] = result.log_px.mean()
    assert bounds["conv"] > bounds["dense"] - 2  # on 8×8 images it need only be near
