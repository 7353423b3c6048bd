"""The mixture of Gaussians, and the gradient of its draws."""

import pyro.distributions as dist
import pytest
import torch
from pyro import poutine

from pvae import PvaeError
from pvae.distributions.mixture import DiagonalMixture
from pvae.guides import MixtureOfGaussians

F64 = {"dtype": torch.float64}


def parameters(components=3, dim=3):
    torch.manual_seed(0)
    logits = torch.randn(components, **F64)
    loc = 1.5 * torch.randn(components, dim, **F64)
    scale = 0.4 + torch.rand(components, dim, **F64)
    return [p.requires_grad_() for p in (logits, loc, scale)]


def test_density_is_that_of_the_sum():
    logits, loc, scale = parameters()
    z = torch.randn(4, 5, 3, **F64)
    parts = dist.Normal(loc, scale).log_prob(z[..., None, :]).sum(-1).exp()
    expected = (logits.softmax(-1) * parts).sum(-1).log()
    torch.testing.assert_close(DiagonalMixture(logits, loc, scale).log_prob(z), expected)


def test_draws_have_the_moments_of_the_density():
    fn = DiagonalMixture(*parameters())
    z = fn.sample((200_000,))
    torch.testing.assert_close(z.mean(0), fn.mean, atol=0.02, rtol=0)
    torch.testing.assert_close(z.var(0), fn.variance, rtol=0.02, atol=0)
    share = (z[:, 0] * z[:, 1] * z[:, 2]).mean()  # coordinates depend on each other
    expected = (fn.logits.softmax(-1) * fn.loc.prod(-1)).sum()
    torch.testing.assert_close(share, expected, atol=0.05, rtol=0)


def value(z):
    return z[..., 0].square() * z[..., 1] + z[..., 1] * z[..., 2] + (z[..., 2] - 1).square()


def expected_value(logits, loc, scale):
    """E[value(z)] in closed form: the coordinates are independent given the component."""
    m, v = loc, loc.square() + scale.square()
    each = v[:, 0] * m[:, 1] + m[:, 1] * m[:, 2] + v[:, 2] - 2 * m[:, 2] + 1
    return (logits.softmax(-1) * each).sum()


def test_gradient_of_an_expectation_is_unbiased():
    given = parameters()
    exact = torch.autograd.grad(expected_value(*given), given)
    rounds = []
    for _ in range(60):
        z = DiagonalMixture(*given).rsample((2000,))
        rounds.append(torch.autograd.grad(value(z).mean(), given))
    for found, expected in zip(map(torch.stack, zip(*rounds, strict=True)), exact, strict=True):
        error = found.std(0) / len(found) ** 0.5
        assert ((found.mean(0) - expected).abs() < 4.5 * error).all()
        assert (error < 0.15 * expected.abs().max()).all()


def test_gradient_of_one_component_is_that_of_a_normal():
    _, loc, scale = parameters(1)
    z = DiagonalMixture(torch.zeros(1, **F64), loc, scale).rsample((7,))
    noise = ((z - loc) / scale).detach()
    found = torch.autograd.grad(value(z).sum(), (loc, scale))
    expected = torch.autograd.grad(value(loc + scale * noise).sum(), (loc, scale))
    torch.testing.assert_close(found, expected)


def test_equal_components_have_the_gradient_of_one():
    _, loc, scale = parameters(1)
    four = [loc.detach().repeat(4, 1), scale.detach().repeat(4, 1)]
    four = [p.requires_grad_() for p in four]
    z = DiagonalMixture(torch.zeros(4, **F64), *four).rsample((7,))
    noise = ((z - loc) / scale).detach()
    found = torch.autograd.grad(value(z).sum(), four)
    expected = torch.autograd.grad(value(loc + scale * noise).sum(), (loc, scale))
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours.sum(0), theirs[0])


@pytest.mark.parametrize("width", [0.01, 1.0, 30.0])
def test_fifty_dimensions_in_single_precision(width):
    torch.manual_seed(0)
    loc = (width * torch.randn(16, 4, 50)).requires_grad_()
    scale = (width * (0.5 + torch.rand(16, 4, 50))).requires_grad_()
    logits = torch.randn(16, 4).requires_grad_()
    fn = DiagonalMixture(logits, loc, scale)
    z = fn.rsample((10,))
    (fn.log_prob(z).sum() + z.square().sum()).backward()
    for p in (logits, loc, scale):
        assert p.grad.isfinite().all()


def test_guide_gives_the_parameters_that_its_encoder_says():
    torch.manual_seed(0)
    guide, x = MixtureOfGaussians((6,), 2, num_components=3, hidden_dims=[5]), torch.randn(4, 6)
    logits, loc, scale = guide.encode(x)
    found = guide.encoder(x)
    torch.testing.assert_close(logits, found[:, :3])
    torch.testing.assert_close(loc[:, 1], found[:, 5:7])
    torch.testing.assert_close(scale[:, 2], torch.nn.functional.softplus(found[:, 13:15]) + 1e-6)
    site = poutine.trace(guide).get_trace(x).nodes["z"]
    expected = DiagonalMixture(logits, loc, scale).log_prob(site["value"])
    torch.testing.assert_close(site["fn"].log_prob(site["value"]), expected)


def test_bad_arguments():
    with pytest.raises(PvaeError, match="num_components=0: it must be at least 1"):
        MixtureOfGaussians((6,), 2, num_components=0)
    with pytest.raises(PvaeError, match="latent_dim=-1: it must be at least 1"):
        MixtureOfGaussians((6,), -1)
    with pytest.raises(PvaeError, match=r"not \(6,\)"):
        MixtureOfGaussians((6,), 2, network="conv")
