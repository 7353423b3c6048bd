"""KL(q(z|x) ‖ p(z)): summed over what only the model enumerates, in closed form if there is one."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from asking import evaluate

from pvae.evaluation.estimators import posterior
from pvae.importance.sampler import Sampler
from pvae.pair import inspect

DOUBLE = {"dtype": torch.float64}
PROBS = torch.tensor([0.2, 0.5, 0.3], **DOUBLE)
MEANS = torch.tensor([-2.0, 0.0, 3.0], **DOUBLE)
ODDS = torch.tensor([0.3, 0.7], **DOUBLE)
SHIFTS = torch.tensor([-1.5, 1.0], **DOUBLE)
X = torch.randn(12, generator=torch.Generator().manual_seed(0), **DOUBLE) * 2
LABEL = {"enumerate": "parallel"}


def log_prior(*z):
    """log Σ_c p(c) Π_i p(z_i | c), with z_i ~ N(m_c, 1)."""
    each = [dist.Normal(MEANS, 1.0).log_prob(value[..., None]) for value in z]
    return (PROBS.log() + sum(each)).logsumexp(-1)


def q(x, sign=1.0):
    return dist.Normal(0.5 * sign * x, torch.tensor(0.9, **DOUBLE))


def two_labels(order=("c_1", "c_2")):
    """c_1 belongs to the prior of z, c_2 to x, and the guide knows neither."""
    probs, drawn = {"c_1": PROBS, "c_2": ODDS}, []

    def model(x):
        with pyro.plate("data", len(x)):
            c = {n: pyro.sample(n, dist.Categorical(probs[n]), infer=LABEL) for n in order}
            z = pyro.sample("z", dist.Normal(MEANS[c["c_1"]], 1.0))
            pyro.sample("x", dist.Normal(z + SHIFTS[c["c_2"]], 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            drawn.append(pyro.sample("z", q(x)))

    return model, guide, drawn


def shared_label():
    """One c for z_1 and z_2, which the guide draws apart."""
    drawn = []

    def model(x):
        with pyro.plate("data", len(x)):
            c = pyro.sample("c", dist.Categorical(PROBS), infer=LABEL)
            z_1 = pyro.sample("z_1", dist.Normal(MEANS[c], 1.0))
            z_2 = pyro.sample("z_2", dist.Normal(MEANS[c], 1.0))
            pyro.sample("x", dist.Normal(z_1 - z_2, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            drawn.append(pyro.sample("z_1", q(x)))
            drawn.append(pyro.sample("z_2", q(x, -1.0)))

    return model, guide, drawn


def draw(pair, strategy, sites):
    """One unit of draws, and the latents that it was made from, [50, B]."""
    model, guide, drawn = pair
    with Sampler(inspect(model, guide, X), strategy=strategy) as sampler:
        drawn.clear()
        draws = next(sampler.stream((X,), 50))
    return draws, *(z.reshape(50, len(X)) for z in drawn[:sites])


@pytest.mark.parametrize("order", [("c_1", "c_2"), ("c_2", "c_1")])
@pytest.mark.parametrize("strategy", ["plate", "tile"])
def test_a_label_of_the_likelihood_does_not_enter_the_rate(strategy, order):
    draws, z = draw(two_labels(order), strategy, 1)
    log_q = q(X).log_prob(z)
    torch.testing.assert_close(draws.rate, log_q - log_prior(z))
    torch.testing.assert_close(draws.kl["z"], log_q - log_prior(z))
    parts = ODDS.log() + dist.Normal(z[..., None] + SHIFTS, 1.0).log_prob(X[:, None])
    torch.testing.assert_close(draws.log_w, log_prior(z) - log_q + parts.logsumexp(-1))


@pytest.mark.parametrize("strategy", ["plate", "tile"])
def test_the_rate_of_sites_that_share_a_label_is_that_of_both_together(strategy):
    draws, z_1, z_2 = draw(shared_label(), strategy, 2)
    log_q = q(X).log_prob(z_1), q(X, -1.0).log_prob(z_2)
    torch.testing.assert_close(draws.rate, sum(log_q) - log_prior(z_1, z_2))
    torch.testing.assert_close(draws.kl["z_1"], log_q[0] - log_prior(z_1))
    torch.testing.assert_close(draws.kl["z_2"], log_q[1] - log_prior(z_2))


def integral(log_p, *fns):
    """KL of a product of distributions of X from a density, on a grid, [B]."""
    axis = torch.linspace(-12, 12, 241, **DOUBLE)
    grids = [g[..., None] for g in torch.meshgrid(*[axis] * len(fns), indexing="ij")]
    log_q = sum(fn.log_prob(g) for fn, g in zip(fns, grids, strict=True))
    kl = log_q.exp() * (log_q - log_p(*(g.squeeze(-1) for g in grids))[..., None])
    return (kl * 0.1 ** len(fns)).sum(tuple(range(len(fns)))).numpy()


def test_kl_of_an_evaluation_is_that_of_the_latents_together():
    options = {"num_samples": 3000, "prior_samples": 0, "progress": False}
    one = evaluate(*two_labels()[:2], X, **options)
    assert one.kl.mean() == pytest.approx(integral(log_prior, q(X)).mean(), abs=0.02)
    assert one.sites["z"]["kl"] == pytest.approx(one.kl.mean(), rel=1e-9)
    two = evaluate(*shared_label()[:2], X, **options)
    joint = integral(log_prior, q(X), q(X, -1.0))
    assert two.kl.mean() == pytest.approx(joint.mean(), abs=0.02)
    np.testing.assert_allclose(two.kl, joint, atol=0.15)
    np.testing.assert_allclose(two.elbo, two.reconstruction - two.kl)
    apart = [integral(log_prior, q(X, sign)).mean() for sign in (1.0, -1.0)]
    assert [two.sites[f"z_{i}"]["kl"] for i in (1, 2)] == pytest.approx(apart, abs=0.02)
    assert two.kl.mean() > sum(apart) + 0.1


def test_a_site_with_a_parent_is_not_in_closed_form_and_one_without_is():
    def model(x):
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Normal(x.new_zeros(()), 1.0))
            z = pyro.sample("z", dist.Normal(a, 1.0))
            pyro.sample("x", dist.Normal(z, 0.5), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Normal(0.4 * x, 0.9))
            pyro.sample("z", dist.Normal(0.7 * x - 0.8 * a, 0.5))

    x = torch.randn(100, generator=torch.Generator().manual_seed(0), **DOUBLE)
    options = {"num_samples": 500, "prior_samples": 0, "progress": False}
    runs = [evaluate(model, guide, x, seed=seed, **options) for seed in (0, 1)]
    found = runs[0].sites
    assert (found["a"]["closed_form"], found["z"]["closed_form"]) == (True, False)
    kl = torch.distributions.kl_divergence(dist.Normal(0.4 * x, 0.9), dist.Normal(0.0, 1.0))
    assert found["a"]["kl"] == pytest.approx(kl.mean().item(), rel=1e-6)
    # z - a is 0.7 x - 1.8 a before its own noise, with a ~ N(0.4 x, 0.9²).
    square = (0.02 * x).square() + (1.8 * 0.9) ** 2
    kl = ((0.25 + square - 1) / 2 - math.log(0.5)).mean().item()
    assert found["z"]["kl"] == pytest.approx(kl, abs=0.05)
    noise = [
        np.std(getattr(runs[0], name) - getattr(runs[1], name))
        for name in ("elbo_analytic", "elbo")
    ]
    assert noise[0] < 1.05 * noise[1]


class Tilted(dist.Normal):
    """A distribution with a density of its own, of a class that torch knows a formula for."""

    def log_prob(self, value):
        return super().log_prob(value) + 0.25


def test_a_subclass_is_not_taken_for_its_parent():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", Tilted(0.5 * x, 0.8))

    result = evaluate(model, guide, X, num_samples=50, progress=False)
    assert not result.sites["z"]["closed_form"]
    assert result.elbo_analytic is None


def test_one_code_is_looked_at_once(monkeypatch):
    """All samples of a point mass are the same; those of a Categorical are not."""

    def model(x):
        with pyro.plate("data", len(x)):
            c = pyro.sample("c", dist.Categorical(PROBS))
            pyro.sample("x", dist.Normal(MEANS[c], 1.0), obs=x)

    def guide(fn):
        def program(x):
            with pyro.plate("data", len(x)):
                pyro.sample("c", fn((x[:, None] - MEANS).abs()))

        return program

    counts, once = [], posterior._once
    monkeypatch.setattr(
        posterior, "_once", lambda s, b, num: (counts.append(num), once(s, b, num))[1]
    )
    for fn in (lambda d: dist.Delta(d.argmin(-1)), lambda d: dist.Categorical(logits=-d)):
        with Sampler(inspect(model, guide(fn), X)) as sampler:
            counts.append("new")
            posterior.site_kl(sampler, (X,))
    assert counts == ["new", 1, "new", 16]
