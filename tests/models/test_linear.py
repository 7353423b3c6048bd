"""Probabilistic PCA: its exact log p(x), its closed form, and the pairs that it is half of."""

import math

import numpy as np
import pyro
import pytest
import torch
from scipy.linalg import subspace_angles
from sklearn.decomposition import PCA

import pvae
from pvae import PvaeError
from pvae.guides import Code, LinearGaussian
from pvae.models import PPCA


@pytest.fixture(autouse=True)
def _clean_store():
    """Pairs that are called as they are share parameters of one name, as always in Pyro."""
    pyro.clear_param_store()
    yield
    pyro.clear_param_store()


@pytest.fixture(scope="module")
def x():
    """Digits, the borders left out, whose variance is zero."""
    return pvae.data.load("digits", observation="grey").train.tensors()[0][:, :, 1:7, 1:7]


def _cosine(share):
    return (1 + math.cos(math.pi * share)) / 2


def test_log_px_is_that_of_the_full_covariance():
    torch.manual_seed(0)
    model = PPCA((2, 3), 2, scale=0.7).double()
    x = torch.randn(5, 2, 3, dtype=torch.float64)
    covariance = model.weight @ model.weight.T + 0.7**2 * torch.eye(6)
    exact = torch.distributions.MultivariateNormal(model.bias, covariance.double())
    torch.testing.assert_close(model.log_px(x), exact.log_prob(x.flatten(1)))
    assert model.log_px(x[None].expand(3, -1, -1, -1)).shape == (3, 5)


def test_the_posterior_is_bayes_rule():
    torch.manual_seed(0)
    model = PPCA((6,), 2, scale=0.7).double()
    x = torch.randn(5, 6, dtype=torch.float64)
    loc, scale_tril = model.posterior(x)
    z = torch.randn(2, dtype=torch.float64)
    posterior = torch.distributions.MultivariateNormal(loc, scale_tril=scale_tril)
    prior = torch.distributions.Normal(torch.zeros(2, dtype=torch.float64), 1.0)
    given = torch.distributions.Normal(model.weight @ z + model.bias, model.scale)
    joint = prior.log_prob(z).sum() + given.log_prob(x).sum(-1)
    torch.testing.assert_close(joint - posterior.log_prob(z), model.log_px(x))


def test_the_closed_form_is_scikit_learns(x):
    model = PPCA((1, 6, 6), 5).maximise(x)
    peer = PCA(5, svd_solver="covariance_eigh").fit(x.flatten(1).double().numpy())
    # scikit-learn divides the covariance by N - 1.
    noise = peer.noise_variance_ * (len(x) - 1) / len(x)
    assert model.scale.item() ** 2 == pytest.approx(noise, rel=1e-4)
    ours, theirs = model.log_px(x).mean().item(), peer.score(x.flatten(1).double().numpy())
    assert ours == pytest.approx(theirs, abs=1e-3)
    angles = subspace_angles(model.weight.detach().numpy(), peer.components_.T)
    assert np.degrees(angles).max() < 0.1


@pytest.mark.parametrize("scale", ["learned", 0.3])
def test_the_closed_form_is_a_maximum(x, scale):
    model = PPCA((1, 6, 6), 5, scale=scale).maximise(x)
    best = model.log_px(x).mean()
    best.backward()
    gradients = [p.grad for p in model.parameters()]
    assert all(g.abs().max() < 2e-3 for g in gradients)
    torch.manual_seed(0)
    for parameter in model.parameters():
        with torch.no_grad():
            before = parameter.clone()
            parameter += 0.01 * torch.randn_like(parameter)
            assert model.log_px(x).mean() < best
            parameter.copy_(before)


def test_the_bound_of_the_exact_posterior_is_log_px(x):
    torch.manual_seed(0)
    model, guide = PPCA((1, 6, 6), 5).maximise(x), LinearGaussian((1, 6, 6), 5)
    with torch.no_grad():
        # The mean is linear in x: its values at 0 and at the unit vectors say all.
        bias, scale_tril = model.posterior(torch.zeros(1, 1, 6, 6))
        guide.mean.bias.copy_(bias[0])
        guide.mean.weight.copy_((model.posterior(torch.eye(36).view(-1, 1, 6, 6))[0] - bias).T)
        guide.scale_tril.set(scale_tril)
        log_w = pvae.log_weights(model, guide, x[:50], num_samples=8)
        torch.testing.assert_close(log_w, model.log_px(x[:50]).expand(8, -1), atol=2e-3, rtol=0)


def test_svi_reaches_the_closed_form(x):
    best = PPCA((1, 6, 6), 4).maximise(x).log_px(x).mean()
    torch.manual_seed(0)
    model, guide = PPCA((1, 6, 6), 4), LinearGaussian((1, 6, 6), 4)
    options = {"schedule": _cosine, "mode": "eager", "progress": False}
    pvae.fit(model, guide, x, epochs=40, lr=5e-2, batch_size=150, **options)
    found = model.log_px(x).mean()
    assert best - 0.05 < found <= best + 1e-4
    evaluation = pvae.evaluate(model, guide, x[:300], num_samples=20, progress=False)
    exact = model.log_px(x[:300]).mean().item()
    assert evaluation.elbo.mean() == pytest.approx(exact, abs=0.02)


def test_the_linear_autoencoder_is_pca(x):
    flat = x.flatten(1).double().numpy()
    peer = PCA(4, svd_solver="covariance_eigh").fit(flat)
    best = ((flat - peer.inverse_transform(peer.transform(flat))) ** 2).sum(1).mean()
    torch.manual_seed(0)
    model, guide = PPCA((1, 6, 6), 4, scale=0.1), Code((1, 6, 6), 4, hidden_dims=())
    options = {"schedule": _cosine, "mode": "eager", "progress": False}
    pvae.fit(model, guide, x, epochs=60, lr=5e-2, batch_size=100, **options)
    error = (pvae.reconstruct(model, guide, x) - x).square().sum((1, 2, 3)).mean().item()
    assert best * (1 - 1e-6) < error < 1.001 * best
    angles = subspace_angles(model.weight.detach().numpy(), peer.components_.T)
    assert np.degrees(angles).mean() < 2


def test_generates_what_log_px_says():
    torch.manual_seed(0)
    model = PPCA((1, 2, 3), 2, scale=0.5)
    x = model(size=20_000).flatten(1)
    covariance = model.weight @ model.weight.T + 0.25 * torch.eye(6)
    torch.testing.assert_close(x.T.cov(), covariance.detach(), atol=0.05, rtol=0)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"latent_dim": 0}, "latent_dim=0.*1 to 5"),
        ({"latent_dim": 6}, "latent_dim=6.*6 dimensions"),
        ({"latent_dim": 2, "scale": 0.0}, "scale=0"),
        ({"latent_dim": 2, "scale": "big"}, "scale='big'"),
    ],
)
def test_bad_arguments(options, said):
    with pytest.raises(PvaeError, match=said):
        PPCA((6,), **options)
