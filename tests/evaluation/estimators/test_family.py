"""The family that the inference gap optimises: what is free, fixed, masked or refused."""

import math
from types import SimpleNamespace

import numpy as np
import oracles
import pyro
import pyro.distributions as dist
import pytest
import torch
from asking import task
from gaps import ORTHOGONAL, Linear, optimal_mean_field, run, wrong

from pvae.errors import PvaeError
from pvae.evaluation.estimators.gap import Gap
from pvae.importance.sampler import Sampler
from pvae.pair import inspect


def test_a_scale_that_all_data_share_belongs_to_the_family():
    pair, shift, wide = Linear(ORTHOGONAL), 0.6, 1.4

    def fn(loc, scale):
        return dist.Normal(loc + shift * scale, wide * scale).to_event(1)

    found = run(pair.model, pair.guide(fn), pair.x, pair.exact)
    assert found.family == "z ~ Normal(loc), the same scale for all data"
    kl = 2 * (wide**2 / 2 - 0.5 - math.log(wide))
    assert (np.abs(found.approximation - kl) < 5 * found.elbo_best_se + 2e-3).all()
    assert (np.abs(found.amortisation - shift**2) < 5 * found.to_best_se + 2e-3).all()


def test_a_guide_that_ignores_x_may_move_everything():
    pair = Linear([[0.8], [0.5]])

    def fn(loc, scale):
        return dist.Normal(torch.zeros_like(loc), 1.0).to_event(1)

    found = run(pair.model, pair.guide(fn), pair.x, pair.exact)
    assert found.family == "z ~ Normal(loc, scale)"
    assert np.abs(found.approximation).max() < 2e-3
    found = run(pair.model, pair.guide(wrong), pair.x[:1], pair.exact[:1])
    assert found.family == "z ~ Normal(loc, scale)"
    assert np.abs(found.approximation).max() < 2e-3


def test_what_cannot_be_optimised_is_refused():
    model, guide, (x,), _ = oracles.categorical("sampled")
    with pytest.raises(PvaeError, match="'y' is discrete"):
        run(model, guide, x[:8])
    model, guide, (x,), _ = oracles.explicit()
    with pytest.raises(PvaeError, match="no latent sites"):
        run(model, guide, x[:8])
    pair = Linear(ORTHOGONAL)

    def masked(x):
        with pyro.poutine.mask(mask=torch.arange(len(x)) % 2 == 0):
            pair.guide(wrong)(x)

    with pytest.raises(PvaeError, match="masked"):
        run(pair.model, masked, pair.x)


def saturated(x):
    """Data of which the first 16, or the last 24, have the same scale; a Normal posterior."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(()).double(), 1.0))
            pyro.sample("x", dist.Normal(z, 0.7), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.6 * x, (0.9 + 0.3 * x).clamp(min=0.05)))

    return model, guide, dist.Normal(0.0, math.sqrt(1.49)).log_prob(x)


@pytest.mark.parametrize("first", [16, 33])
@pytest.mark.parametrize("flipped", [False, True])
def test_what_is_free_is_decided_by_all_data(first, flipped):
    x = 0.5 * oracles.random(first + 3, seed=0)
    x[:first] -= 5
    x = x.flip(0) if flipped else x
    model, guide, exact = saturated(x)
    found = run(model, guide, x, exact, num_samples=50)
    assert found.family == "z ~ Normal(loc, scale)"
    assert np.abs(found.approximation).max() < 1e-3


def chain(kind, lengths):
    """A Gaussian chain of z_1 … z_3 with data of several lengths, the rest masked."""

    def masked(fn, name, mask, **options):
        if kind == "poutine":
            with pyro.poutine.mask(mask=mask):
                return pyro.sample(name, fn, **options)
        return pyro.sample(name, fn.mask(mask), **options)

    def model(x, n):
        with pyro.plate("data", len(x)):
            z = torch.zeros(len(x)).double()
            for t in range(3):
                z = masked(dist.Normal(0.8 * z, 0.5 if t else 1.0), f"z_{t}", t < n)
                masked(dist.Normal(z, 0.6), f"x_{t}", t < n, obs=x[..., t])

    def guide(x, n):
        with pyro.plate("data", len(x)):
            z = 0.0
            for t in range(3):
                loc = 0.6 * x[..., t] + (0.1 * z if kind == "hierarchy" else 0.0)
                z = masked(dist.Normal(loc, 0.5 + 0.1 * x[..., t].tanh()), f"z_{t}", t < n)

    x = oracles.random(len(lengths), 3, seed=3)
    powers = torch.tensor([[1.0, 0.8, 0.64], [0.8, 0.89, 0.712], [0.64, 0.712, 0.8196]]).double()
    exact, kl = [], []
    for row, n in zip(x, lengths, strict=True):
        part = powers[:n, :n]
        noisy = dist.MultivariateNormal(torch.zeros(n).double(), part + 0.36 * torch.eye(n))
        exact.append(noisy.log_prob(row[:n]))
        kl.append(optimal_mean_field(torch.linalg.inv(part) + torch.eye(n).double() / 0.36))
    return model, guide, (x, torch.tensor(lengths)), torch.stack(exact), np.array(kl)


@pytest.mark.parametrize("kind", ["distribution", "poutine", "hierarchy"])
@pytest.mark.parametrize("strategy", ["plate", "tile"])
def test_what_is_masked_in_both_programs_is_left_alone(kind, strategy):
    model, guide, (x, n), exact, kl = chain(kind, [3, 2, 1, 3])
    sampler = Sampler(inspect(model, guide, x, n), strategy=strategy)
    with sampler:
        known = SimpleNamespace(log_px=exact.numpy(), findings={})
        found = Gap(4).estimate(task(sampler, (x, n), known=known))
    assert found.own_family == (kind != "hierarchy")
    assert found.converged.all()
    assert (np.abs(found.approximation - kl) < 4 * found.elbo_best_se + 2e-3).all()
    assert found.elbo_best_se.max() < 0.05
