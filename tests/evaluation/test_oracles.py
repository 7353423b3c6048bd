"""evaluate() against exact values: bounds, error bars and diagnostics of every oracle."""

import math
from functools import cache

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from oracles import (
    ORACLES,
    SUMS,
    ambiguous_mixture,
    categorical,
    decoder,
    gamma_poisson,
    linear_gaussian,
    mixture,
)
from scipy.stats import nbinom

import pvae
from pvae.evaluation.estimators import bounds

K = 500
DATA, REPLICATIONS = 80, 50  # 4,000 intervals for each coverage


@cache
def _evaluation(name):
    model, guide, batch, exact = ORACLES[name]()
    seed = list(ORACLES).index(name)  # one seed would give different oracles the same draws
    result = pvae.evaluate(model, guide, batch, num_samples=K, seed=seed, progress=False)
    return result, exact.numpy()


def _se(values):
    return values.std(ddof=1) / math.sqrt(values.size)


@pytest.mark.parametrize("name", ORACLES)
def test_intervals_cover_the_exact_value_as_often_as_they_say(name):
    model, guide, batch, exact = ORACLES[name]()
    batch, exact = tuple(tensor[:DATA] for tensor in batch), exact[:DATA].numpy()
    torch.manual_seed(0)
    log_w = pvae.log_weights(model, guide, *batch, num_samples=K * REPLICATIONS)
    log_w = log_w.reshape(REPLICATIONS, K, DATA).swapaxes(1, 2).reshape(-1, K)
    error = bounds.bounds(log_w, [K])[K][0].numpy() - np.tile(exact, REPLICATIONS)
    se = bounds.log_px_se(log_w).numpy()
    assert 0.93 < np.mean(np.abs(error) < 1.96 * se) < 0.97
    # The log of an unbiased mean is too low by half its variance, which 4,000 estimates show.
    assert abs((error + se**2 / 2).mean()) < 3 * _se(error)


def test_intervals_of_evaluate_cover_the_exact_value():
    results = [_evaluation(name) for name in ORACLES]
    error = np.concatenate([result.log_px - exact for result, exact in results])
    se = np.concatenate([result.log_px_se for result, _ in results])
    assert 0.93 < np.mean(np.abs(error) < 1.96 * se) < 0.97
    assert abs((error + se**2 / 2).mean()) < 3 * _se(error)


@pytest.mark.parametrize("name", ORACLES)
def test_bounds_are_bounds_and_rise_with_the_samples(name):
    result, exact = _evaluation(name)
    assert list(result.bounds) == [1, 5, 50, K]
    for values in (result.elbo, *result.bounds.values()):
        assert values.mean() <= exact.mean() + 3 * _se(values - exact)
    pairs = zip(list(result.bounds.values())[:-1], list(result.bounds.values())[1:], strict=True)
    for fewer, more in pairs:
        assert (more - fewer).mean() >= -3 * _se(more - fewer)
    # The guides are wrong: the first steps up are seen, beyond the draws' noise.
    for lower, higher in ((result.elbo, exact), (result.bounds[1], result.bounds[5])):
        assert (higher - lower).mean() > 3 * _se(higher - lower)


@pytest.mark.parametrize("name", ORACLES)
def test_khat_lets_wide_guides_pass(name):
    result, _ = _evaluation(name)
    assert (result.khat > result.khat_threshold).mean() < 0.02
    assert np.median(result.khat) < 0.3
    assert (result.ess > 0.5 * K).all()


@pytest.mark.parametrize("name", ORACLES)
def test_khat_finds_guides_that_are_too_narrow(name):
    model, guide, batch, _ = ORACLES[name](narrow=True)
    batch = tuple(tensor[:100] for tensor in batch)
    result = pvae.evaluate(model, guide, batch, num_samples=1000, progress=False)
    assert (result.khat > result.khat_threshold).mean() > 0.6
    assert "cannot be trusted" in result.verdict
    assert "no sign" not in result.verdict


@pytest.mark.parametrize("name", SUMS)
def test_a_sum_over_all_values_has_no_error(name):
    model, guide, batch, exact = SUMS[name]()
    log_w = pvae.log_weights(model, guide, *batch, num_samples=7)
    assert (log_w - exact).abs().max() < 1e-10
    result = pvae.evaluate(model, guide, batch, num_samples=100, progress=False)
    assert np.abs(result.log_px - exact.numpy()).max() < 1e-10
    assert (result.khat == -np.inf).all()
    assert (result.log_px_se < 1e-10).all()
    np.testing.assert_allclose(result.ess, 100)
    assert "cannot be trusted" not in result.verdict


def test_block_averages_vary_less_than_the_first_samples():
    """L_50 of 1000 samples is a mean of 20 blocks: a twentieth of the variance of one."""
    model, guide, (x,), _ = linear_gaussian()
    copies, data = 250, 4
    x = x[:data].repeat(copies, 1)
    options = {"progress": False, "strategy": "plate"}
    blocks = pvae.evaluate(model, guide, x, num_samples=1000, **options).bounds[50]
    first = pvae.evaluate(model, guide, x, num_samples=50, seed=1, **options).bounds[50]
    blocks, first = (values.reshape(copies, data) for values in (blocks, first))
    assert blocks.var(0, ddof=1).mean() < first.var(0, ddof=1).mean() / 10
    gap = first.mean(0) - blocks.mean(0)
    assert (np.abs(gap) < 4 * first.std(0) / math.sqrt(copies)).all()


def test_a_mode_that_the_guide_never_visits_is_invisible_to_khat():
    model, guide, batch, exact = ambiguous_mixture()
    result = pvae.evaluate(model, guide, batch, num_samples=1000, progress=False)
    assert len(exact) >= 20
    assert (result.khat < result.khat_threshold).all()
    assert "no sign" in result.verdict
    assert "cannot exclude a mode" in result.verdict
    error = result.log_px - exact.numpy()
    assert (error < -10 * result.log_px_se).all()
    assert -1.7 < error.min() < error.max() < -0.2  # the log of the mode's share
    covering = ambiguous_mixture(missed=False)[1]
    right = pvae.evaluate(model, covering, batch, num_samples=1000, progress=False)
    assert (np.abs(right.log_px - exact.numpy()) < 4 * right.log_px_se).all()


@pytest.mark.parametrize("name", [*ORACLES, *SUMS])
def test_the_elbo_is_reconstruction_minus_kl(name):
    if name in SUMS:
        model, guide, batch, _ = SUMS[name]()
        result = pvae.evaluate(model, guide, batch, num_samples=30, progress=False)
    else:
        result, _ = _evaluation(name)
    np.testing.assert_allclose(result.elbo, result.reconstruction - result.kl, rtol=0, atol=1e-9)
    # A site's KL may be in closed form, where that of the ELBO is by its samples.
    of_sites = sum(site["kl"] for site in result.sites.values())
    assert of_sites == pytest.approx(result.kl.mean(), abs=0.02)


def test_parts_of_the_elbo_of_a_sum_in_the_guide():
    model, guide, (x,), _ = SUMS["sum_in_guide"]()
    result = pvae.evaluate(model, guide, x, num_samples=3, progress=False)
    means = torch.tensor([-2.0, 0.0, 3.0], dtype=torch.float64)
    prior = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
    log_q = (-0.3 * (x[:, None] - means) ** 2).log_softmax(-1)
    kl = (log_q.exp() * (log_q - prior.log())).sum(-1)
    reconstruction = (log_q.exp() * dist.Normal(means, 1.0).log_prob(x[:, None])).sum(-1)
    np.testing.assert_allclose(result.kl, kl, rtol=0, atol=1e-9)
    np.testing.assert_allclose(result.reconstruction, reconstruction, rtol=0, atol=1e-9)
    np.testing.assert_allclose(result.elbo, reconstruction - kl, rtol=0, atol=1e-9)


def test_parts_of_the_elbo_of_a_gamma_guide():
    _, guide, (x,), _ = gamma_poisson()
    result, _ = _evaluation("gamma_poisson")
    q = pvae.pair.trace_guide(guide, x).nodes["z"]["fn"]
    prior = dist.Gamma(*torch.tensor([2.5, 0.8], dtype=torch.float64))
    kl = torch.distributions.kl_divergence(q, prior).numpy()
    log_z = q.concentration.digamma() - q.rate.log()  # E[log z]
    reconstruction = x.sum(-1) * log_z - 3 * q.mean - (x + 1).lgamma().sum(-1)
    for got, expected in ((result.kl, kl), (result.reconstruction, reconstruction.numpy())):
        assert abs((got - expected).mean()) < 3 * _se(got - expected)
        assert _se(got - expected) < 0.01


@pytest.mark.parametrize("part", ["log_px", "elbo", "kl", "reconstruction"])
def test_a_sum_in_the_model_is_the_mixture_distribution(part):
    """One pair in two spellings: the same draws have the same terms."""
    model, guide, batch, _ = mixture()
    summing, again, _, _ = categorical("model", biased=False)
    expected = pvae.evaluate(model, guide, batch, num_samples=20, progress=False)
    got = pvae.evaluate(summing, again, batch, num_samples=20, progress=False)
    np.testing.assert_allclose(getattr(got, part), getattr(expected, part), rtol=0, atol=1e-9)


@pytest.mark.parametrize(("latent_dim", "points"), [(1, 801), (2, 241)])
def test_the_quadrature_itself(latent_dim, points):
    """A finer grid changes nothing, and the probabilities of all x add up to one."""
    exact = decoder(latent_dim)[3]
    assert (decoder(latent_dim, points=points)[3] - exact).abs().max() < 1e-8
    bits = torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=torch.float64)] * 8)
    assert abs(decoder(latent_dim, x=bits)[3].logsumexp(0)) < 1e-8


def test_the_negative_binomial_itself():
    _, _, (x,), exact = gamma_poisson(counts=1)
    expected = nbinom(2.5, 0.8 / 1.8).logpmf(x[:, 0].numpy())
    np.testing.assert_allclose(exact, expected, rtol=1e-10)
