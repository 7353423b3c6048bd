"""Gaussian guides with covariances."""

import pytest
import torch
from correlated import LINEAR, correlated
from programs import linear_gaussian_log_px
from pyro import poutine
from torch import nn

import pvae
from pvae import PvaeError
from pvae.guides import FullCovariance, LowRank


def density(guide, x):
    """z and log q(z|x), and the same with numpy's determinant and inverse."""
    trace = poutine.trace(guide).get_trace(x)
    trace.compute_log_prob()
    return trace.nodes["z"]["value"], trace.nodes["z"]["log_prob"]


def explicit(z, loc, covariance):
    off = z - loc
    quadratic = (off[..., None, :] @ covariance.inverse() @ off[..., None])[..., 0, 0]
    return -0.5 * (quadratic + (2 * torch.pi * covariance).logdet())


def test_full_covariance_is_what_the_docstring_says():
    torch.manual_seed(0)
    guide, x = FullCovariance((6,), 4, hidden_dims=[5]).double(), torch.randn(7, 6).double()
    assert (guide.encode(x)[1].tril(-1) == 0).all()  # begins as the mean field
    nn.init.normal_(guide.encoder.layers[-1].weight)
    loc, scale_tril = guide.encode(x)
    found = guide.encoder(x)
    scale = torch.nn.functional.softplus(found[:, 4:8]) + 1e-6
    a = torch.zeros(7, 4, 4).double()
    a[:, 1, 0], a[:, 2, 0], a[:, 2, 1] = found[:, 8], found[:, 9], found[:, 10]
    a[:, 3, :3] = found[:, 11:]
    expected = scale.diag_embed() @ (torch.eye(4).double() + a)
    torch.testing.assert_close(scale_tril, expected)
    z, log_q = density(guide, x)
    torch.testing.assert_close(log_q, explicit(z, loc, expected @ expected.mT))


def test_low_rank_is_what_the_docstring_says():
    torch.manual_seed(0)
    guide, x = LowRank((6,), 4, rank=2, hidden_dims=[5]).double(), torch.randn(7, 6).double()
    nn.init.normal_(guide.encoder.layers[-1].weight)
    found = guide.encoder(x)
    loc, scale, w = found[:, 0], torch.nn.functional.softplus(found[:, 1]) + 1e-3, found[:, 2:].mT
    core = torch.eye(4).double() + w @ w.mT
    z, log_q = density(guide, x)
    covariance = scale.diag_embed() @ core @ scale.diag_embed()
    torch.testing.assert_close(log_q, explicit(z, loc, covariance))


@pytest.mark.parametrize("make", [FullCovariance, LowRank])
def test_draws_have_the_covariance_of_the_density(make):
    torch.manual_seed(0)
    guide, x = make((6,), 2, hidden_dims=[]).double(), torch.randn(1, 6).double()
    nn.init.normal_(guide.encoder.layers[0].weight)
    with torch.no_grad():
        z, _ = density(guide, x.expand(40000, -1))
        fn = poutine.trace(guide).get_trace(x).nodes["z"]["fn"]
    torch.testing.assert_close(z.T.cov(), fn.covariance_matrix[0], rtol=0.05, atol=0.05)


@pytest.mark.parametrize("make", [FullCovariance, LowRank])
def test_holds_the_posterior_of_a_linear_gaussian_model(make):
    # There each single weight is p(x). Of two dimensions, a diagonal and one direction are enough.
    model, x, exact = correlated()
    weight, bias = model.decoder.weight.double(), model.decoder.bias.double()
    covariance = (torch.eye(2) + weight.T @ weight / 0.6**2).inverse()
    if make is FullCovariance:
        guide = make((5,), 2, **LINEAR)
        tril = torch.linalg.cholesky(covariance)
        scale, rest = tril.diagonal(), tril[1:, 0] / tril[1:, 1]
    else:
        guide = make((5,), 2, rank=1, **LINEAR)
        v = covariance.diagonal().sqrt() * covariance[0, 1].abs().sqrt()
        v = v / covariance.diagonal().prod().sqrt().sqrt() * torch.tensor([1.0, -1.0])
        scale = (covariance - v.outer(v)).diagonal().sqrt()
        rest = v / scale
    gain = covariance @ weight.T / 0.6**2
    raw = (scale - (1e-6 if make is FullCovariance else 1e-3)).expm1().log()
    layer = guide.encoder.layers[0]
    layer.weight.data = torch.cat([gain, torch.zeros(len(layer.weight) - 2, 5)])
    layer.bias.data = torch.cat([-gain @ bias, raw, rest])
    guide.double(), model.double()
    log_w = pvae.log_weights(model, guide, x.double(), num_samples=20)
    exact = linear_gaussian_log_px(x, model.decoder.weight, model.decoder.bias, model.head.scale)
    torch.testing.assert_close(log_w, exact.expand(20, -1), atol=1e-6, rtol=0)


@pytest.mark.parametrize("rank", [-1, 0, 4])
def test_a_rank_that_does_not_fit(rank):
    with pytest.raises(PvaeError, match=f"rank={rank} is not valid: give 1 to latent_dim=3"):
        LowRank((6,), 3, rank=rank)


@pytest.mark.parametrize("make", [FullCovariance, LowRank])
def test_bad_arguments(make):
    with pytest.raises(PvaeError, match="latent_dim=0: it must be at least 1"):
        make((6,), 0)
    with pytest.raises(PvaeError, match="network='resnet' is not valid: give 'dense' or 'conv'"):
        make((6,), 3, network="resnet")
