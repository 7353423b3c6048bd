"""The mixture of Gaussians as a prior."""

import pytest
import torch
from asking import evaluate
from programs import linear_gaussian_log_px
from torch import nn
from torch.distributions import Normal

import pvae
from pvae import PvaeError
from pvae.guides import FullCovariance
from pvae.models import MixturePriorVAE


def small(num_components=3):
    torch.manual_seed(0)
    decoder = nn.Linear(2, 4)
    model = MixturePriorVAE(
        (4,), 2, num_components, likelihood="gaussian", scale=0.5, decoder=decoder
    )
    for name, parameter in model.mixture.items():
        nn.init.normal_(parameter, 0, 0.3 if name == "log_scale" else 1.0)
    return model


def test_density_is_that_of_the_docstring():
    model, z = small(), torch.randn(5, 2)
    weight = model.mixture["logits"].softmax(-1)
    parts = Normal(model.mixture["loc"], model.mixture["log_scale"].exp())
    expected = (weight * parts.log_prob(z[:, None]).sum(-1).exp()).sum(-1).log()
    torch.testing.assert_close(model.prior().log_prob(z), expected)


def test_bounds_meet_the_exact_log_px():
    # Given its component a datum is linear-Gaussian: p(x) is a sum of three Gaussians.
    model = small()
    model.requires_grad_(False).eval()
    x = model(size=200)
    weight, bias = model.decoder.weight.detach(), model.decoder.bias.detach()
    loc, scale = model.mixture["loc"].detach(), model.mixture["log_scale"].detach().exp()
    log_parts = [
        linear_gaussian_log_px(x, weight * scale[k], bias + weight @ loc[k], 0.5) for k in range(3)
    ]
    log_px = torch.stack(log_parts, -1) + model.mixture["logits"].detach().log_softmax(-1)
    exact = log_px.logsumexp(-1).detach().numpy()
    guide = FullCovariance((4,), 2, hidden_dims=[32])
    pvae.fit(model, guide, x, epochs=80, batch_size=50, lr=2e-2, progress=False)
    found = evaluate(
        model, guide, x, num_samples=2000, quadrature=True, prior_samples=0, progress=False
    )
    assert abs(found.log_px - exact).mean() < 0.02
    assert exact.mean() - 0.5 < found.elbo.mean() < exact.mean()
    assert abs(found.findings["quadrature"].log_px - exact).max() < 1e-3


def test_finds_clusters():
    torch.manual_seed(0)
    centres = torch.tensor([[1.5, 1.0], [-1.5, 1.0]])
    x = 0.2 * torch.randn(400, 2) + centres.repeat(200, 1)
    model = MixturePriorVAE(
        (2,), 2, 2, likelihood="gaussian", scale=0.3, decoder=nn.Identity()
    )  # so that codes are data, but for noise
    guide = pvae.guides.MeanField((2,), 2, hidden_dims=[32])
    pvae.fit(model, guide, x, epochs=60, batch_size=50, lr=2e-2, progress=False)
    found = model.mixture["loc"].detach()
    found = found[found[:, 0].argsort(descending=True)]
    torch.testing.assert_close(found, centres, atol=0.1, rtol=0)
    share = model.mixture["logits"].softmax(-1)
    torch.testing.assert_close(share, torch.full((2,), 0.5), atol=0.05, rtol=0)


def test_bad_arguments():
    with pytest.raises(PvaeError, match="num_components=0: it must be at least 1"):
        MixturePriorVAE((4,), 2, num_components=0)
    with pytest.raises(PvaeError, match="latent_dim=0"):
        MixturePriorVAE((4,), 0)
