"""The optimisation of the inference gap: far starts, stretched posteriors, convergence."""

import dataclasses
import math

import numpy as np
import oracles
import pyro
import pyro.distributions as dist
import pytest
import torch
from asking import evaluate
from gaps import ORTHOGONAL, Linear, optimal_mean_field, run, wrong

from pvae.evaluation.estimators import gap as module
from pvae.evaluation.estimators.ascent import Best


@pytest.mark.parametrize("sign", [1e-6, -1.0])
def test_nothing_worse_than_the_guide_is_returned(sign, monkeypatch):
    ascend = module.ascend

    def elsewhere(member, *args):
        start, best = member.parameters(), ascend(member, *args)
        moved = [a + sign * (b - a) for a, b in zip(start, best.parameters, strict=True)]
        return dataclasses.replace(best, parameters=moved)

    monkeypatch.setattr(module, "ascend", elsewhere)
    pair = Linear(ORTHOGONAL)
    found = run(pair.model, pair.guide(wrong), pair.x, pair.exact)
    assert (found.elbo_best > found.elbo - 1e-6).all()
    if sign < 0:
        assert (found.elbo_best == found.elbo).all()  # the same draws, too
        assert (found.to_best_se == 0).all()


def test_reported_draws_are_not_those_that_were_chosen_by(monkeypatch):
    """Between the guide and a member that is no better, the choice is noise."""
    pair = Linear([[0.8], [0.5]], size=300)

    def unmoved(member, *args):
        found = [value + 0.02 * torch.randn_like(value) for value in member.parameters()]
        fine = torch.ones(member.size, dtype=torch.bool)
        return Best(found, fine, fine, 0)

    monkeypatch.setattr(module, "ascend", unmoved)

    def fn(loc, scale):
        return dist.Normal(loc + 1e-9 * loc, scale.expand_as(loc) * (1 + 1e-9 * loc)).to_event(1)

    found = run(pair.model, pair.guide(fn), pair.x, pair.exact, num_samples=20)
    moved = found.to_best != 0
    assert moved.sum() > 0
    # The guide is the posterior: on fresh samples every other member is worse.
    t = found.to_best[moved].mean() / (found.to_best[moved].std() / math.sqrt(moved.sum()))
    assert t < 3


def test_a_full_covariance_finds_narrow_posteriors():
    """Its triangle moves in units of its own scales: the family holds the posterior exactly."""
    from pvae.guides import FullCovariance

    torch.manual_seed(0)
    weight = torch.randn(6, 4)

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", pyro.distributions.Normal(torch.zeros(4), 1.0).to_event(1))
            p = pyro.distributions.Normal(z @ weight.T, 0.01).to_event(1)
            pyro.sample("x", p, obs=x)

    x = torch.randn(6, 4) @ weight.T + 0.01 * torch.randn(6, 6)
    exact = torch.distributions.MultivariateNormal(
        torch.zeros(6), weight @ weight.T + 0.01**2 * torch.eye(6)
    ).log_prob(x)
    guide = FullCovariance((6,), 4)
    centre = torch.linalg.pinv(weight)
    with torch.no_grad():  # near the mean, of a scale that is several times too large
        guide.encoder = torch.nn.Linear(6, 14)
        guide.encoder.weight.mul_(1e-3)  # each datum has scales of its own, which are free then
        guide.encoder.weight[:4] = centre
        guide.encoder.bias.zero_()
        guide.encoder.bias[4:8] = -4.0
    found = evaluate(
        model, guide, x, num_samples=50, prior_samples=0, gap=6, ais=6, num_temperatures=20,
        progress=False,
    ).findings["gap"]  # fmt: skip
    assert found.own_family
    np.testing.assert_allclose(found.elbo_best, exact, atol=0.1)


def stretched(dim, condition, shift, wide, full=False, size=4):
    """A linear Gaussian pair of a posterior that is stretched, its guide, x, log p(x), the KL.

    Args:
        dim: D, of z and x.
        condition: Largest by smallest variance of the posterior.
        shift: Of the guide, in scales of the best mean field.
        wide: Scale of the guide in the same units.
        full: Whether the guide's Normal has a full covariance, which holds the posterior.
        size: Number of data.
    """
    turn = torch.linalg.qr(oracles.random(dim, dim, seed=1))[0]
    levels = (torch.logspace(0, math.log10(condition), dim).double() - 1).clamp(min=0).sqrt()
    weight = (turn * levels) @ turn.T
    precision = torch.eye(dim).double() + weight.T @ weight
    gain, scale = weight @ torch.linalg.inv(precision), precision.diagonal().rsqrt()
    marginal = dist.MultivariateNormal(
        torch.zeros(dim).double(), weight @ weight.T + torch.eye(dim).double()
    )
    x = oracles.random(size, dim, seed=2) @ torch.linalg.cholesky(marginal.covariance_matrix).T

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(dim).double(), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ weight.T, 1.0).to_event(1), obs=x)

    def guide(x):
        loc = x @ gain + shift * scale * torch.tanh(3 * x)
        width = scale * wide * torch.exp(0.3 * torch.tanh(x))
        with pyro.plate("data", len(x)):
            fn = (
                dist.MultivariateNormal(loc, scale_tril=torch.diag_embed(width))
                if full
                else dist.Normal(loc, width).to_event(1)
            )
            pyro.sample("z", fn)

    kl = 0.0 if full else optimal_mean_field(precision)
    return model, guide, x, marginal.log_prob(x), kl


@pytest.mark.parametrize("strategy", ["plate", "tile"])
@pytest.mark.parametrize(
    ("dim", "condition", "shift", "wide", "full"),
    [
        (10, 100, 10.0, 1.0, False),
        (5, 1e4, 1.0, 0.05, False),
        (10, 100, 1.0, 20.0, False),
        (10, 1e4, 1.0, 1.5, True),
        (6, 100, 30.0, 0.05, True),
    ],
)
def test_far_starts_and_stretched_posteriors(dim, condition, shift, wide, full, strategy):
    model, guide, x, exact, kl = stretched(dim, condition, shift, wide, full)
    found = run(model, guide, x, exact, strategy=strategy, num_samples=1000, num_steps=600)
    assert found.converged.all()
    assert (np.abs(found.approximation - kl) < 4 * found.elbo_best_se + 2e-3).all()
    assert found.elbo_best_se.max() < 0.03 * kl**0.5 + 0.15
    if full:
        assert found.elbo_best_se.max() < 1e-3


def test_a_mean_field_without_a_family_of_its_own_is_found_from_afar():
    model, guide, x, exact, kl = stretched(5, 1e3, 5.0, 0.1)

    def flow(x):
        with pyro.poutine.block(hide_fn=lambda site: True):
            fn = pyro.poutine.trace(guide).get_trace(x).nodes["z"]["fn"].base_dist
        base = dist.Normal(torch.zeros_like(fn.loc), 1.0).to_event(1)
        move = dist.transforms.AffineTransform(fn.loc, fn.scale, event_dim=1)
        with pyro.plate("rows", len(x)):
            pyro.sample("z", dist.TransformedDistribution(base, [move]))

    found = run(model, flow, x, exact, num_samples=1000, num_steps=600)
    assert not found.own_family
    assert found.converged.all()
    assert (np.abs(found.approximation - kl) < 4 * found.elbo_best_se + 2e-3).all()


def test_what_does_not_converge_says_so_for_its_datum():
    """Four gradients are enough for the datum whose guide is the posterior, for no other."""
    model, guide, x, exact, _ = stretched(4, 100, 3.0, 0.2, full=True)
    _, right, *_ = stretched(4, 100, 0.0, 1.0, full=True)
    posterior = run(model, right, x, exact, num_samples=1000, num_steps=600)

    found = run(model, guide, x, exact, num_steps=4)
    assert not found.converged.any()
    assert np.isposinf(found.elbo_best_se).all()
    assert (found.approximation > 0.1).all()
    assert posterior.converged.all()
    assert np.isfinite(posterior.elbo_best_se).all()
