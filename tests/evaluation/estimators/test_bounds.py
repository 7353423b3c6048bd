"""Bounds from log weights, against plain arithmetic and a Gaussian oracle."""

import math

import numpy as np
import pytest
from arrays import of_arrays
from scipy.special import logsumexp

from pvae.evaluation.estimators import bounds as module

bounds, cubo, effective_sample_size, log_mean_exp, log_px_se = map(
    of_arrays,
    (
        module.bounds,
        module.cubo,
        module.effective_sample_size,
        module.log_mean_exp,
        module.log_px_se,
    ),
)


def bound(log_w, num_samples):
    return bounds(log_w, [num_samples])[num_samples][0]


def bound_se(log_w, num_samples):
    return bounds(log_w, [num_samples])[num_samples][1]


def test_bound_uses_every_block():
    rng = np.random.default_rng(0)
    log_w = rng.normal(size=(3, 12))
    expected = np.log(np.exp(log_w).reshape(3, 3, 4).mean(-1)).mean(-1)
    np.testing.assert_allclose(bound(log_w, 4), expected)
    np.testing.assert_allclose(bound(log_w, 5), bound(log_w[:, :10], 5))
    np.testing.assert_allclose(bound(log_w, 1), log_w.mean(1))
    np.testing.assert_allclose(bound(log_w - 2000, 12), bound(log_w, 12) - 2000)


def test_block_average_has_lower_variance_than_the_first_samples():
    rng = np.random.default_rng(0)
    log_w = rng.normal(size=(2000, 100))
    assert bound(log_w, 10).var() < 0.2 * bound(log_w[:, :10], 10).var()


def test_effective_sample_size():
    assert effective_sample_size(np.zeros((1, 7)))[0] == pytest.approx(7)
    assert effective_sample_size(np.array([[0.0, -1e9, -np.inf]]))[0] == pytest.approx(1)
    assert np.isnan(effective_sample_size(np.full((1, 3), -np.inf)))[0]


def test_standard_error_is_that_of_replications():
    """Log-normal weights with mean one: the spread of many estimates is the stated error."""
    rng = np.random.default_rng(0)
    log_w = rng.normal(-0.125, 0.5, size=(4000, 200))
    estimates = bound(log_w, 200)
    assert log_px_se(log_w).mean() == pytest.approx(estimates.std(), rel=0.05)
    inside = np.abs(estimates) < 1.96 * log_px_se(log_w)
    assert 0.93 < inside.mean() < 0.97
    expected = math.sqrt((math.exp(0.25) - 1) / 200)
    assert estimates.std() == pytest.approx(expected, rel=0.1)


def test_no_error_from_one_sample():
    assert np.isnan(log_px_se(np.zeros((2, 1)))).all()
    assert (log_px_se(np.zeros((2, 5))) == 0).all()


@pytest.mark.parametrize("num_samples", [1, 7, 30, 200])
def test_log_mean_exp_is_scipys(num_samples):
    log_w = np.random.default_rng(0).normal(scale=300, size=(4, 9, num_samples))
    log_w[0, 0] = -np.inf
    log_w[1, :, 0] = -np.inf
    expected = logsumexp(log_w, axis=-1) - math.log(num_samples)
    np.testing.assert_allclose(log_mean_exp(log_w), expected, rtol=1e-13)


def test_bounds_share_work_and_nothing_else():
    """Each K sees its own blocks, whether or not a smaller K divides it."""
    log_w = np.random.default_rng(0).normal(scale=3, size=(6, 1003))
    log_w[0, 3] = -np.inf
    found = bounds(log_w, [500, 1, 5, 7, 50, 1003, 5])
    assert list(found) == [1, 5, 7, 50, 500, 1003]
    for k, (value, se) in found.items():
        cut = log_w[:, : 1003 // k * k].reshape(6, -1, k)
        blocks = logsumexp(cut, axis=-1) - math.log(k)
        np.testing.assert_allclose(value, blocks.mean(-1), rtol=1e-12)
        np.testing.assert_allclose(value, bound(log_w, k), rtol=1e-12)
        np.testing.assert_allclose(se, bound_se(log_w, k), rtol=1e-10)
    assert found[1][0][0] == -np.inf
    assert np.isnan(found[1][1][0])
    assert np.isfinite(found[5][1]).all()


@pytest.mark.parametrize("num_samples", [1, 5, 40, 100, 160])
def test_standard_error_of_the_bound_is_that_of_replications(num_samples):
    """160 of 200 samples are one block, whose error the other 40 must not shrink."""
    log_w = np.random.default_rng(0).normal(-0.125, 0.5, size=(4000, 200))
    spread, se = bound(log_w, num_samples).std(), bound_se(log_w, num_samples)
    assert math.sqrt((se**2).mean()) == pytest.approx(spread, rel=0.06)
    if num_samples == 160:
        np.testing.assert_array_equal(se, log_px_se(log_w[:, :160]))


def test_no_error_of_a_bound_from_one_sample():
    assert np.isnan(bound_se(np.zeros((2, 1)), 1)).all()


def test_cubo_is_an_upper_bound_that_is_approached_from_below():
    """Log-normal weights with mean one: half the log of their second moment is σ² / 2."""
    rng = np.random.default_rng(0)
    many = cubo(rng.normal(-0.125, 0.5, size=(20, 50_000)))
    np.testing.assert_allclose(many, 0.125, atol=0.02)
    assert cubo(rng.normal(-0.125, 0.5, size=(20_000, 5))).mean() < 0.11
    np.testing.assert_allclose(cubo(np.log([[1.0, 7.0, 0.5]])), 0.5 * math.log(50.25 / 3))


@pytest.mark.filterwarnings("error")
def test_zero_weights():
    log_w = np.array([[-np.inf] * 4, [0.0, -np.inf, -np.inf, -np.inf]])
    assert list(bound(log_w, 4)) == [-np.inf, pytest.approx(-math.log(4))]
    assert list(bound(log_w, 2)) == [-np.inf, -np.inf]
    assert np.isnan(bound_se(log_w, 2)).all()
    assert list(cubo(log_w)) == [-np.inf, pytest.approx(-math.log(4) / 2)]
    assert list(log_px_se(log_w)) == [pytest.approx(np.nan, nan_ok=True), pytest.approx(1.0)]


def test_shifts_and_permutations():
    rng = np.random.default_rng(0)
    log_w = rng.normal(scale=2, size=(5, 60))
    shuffled = rng.permuted(log_w.reshape(5, 3, 20), axis=-1).reshape(5, 60)
    for estimate in (cubo, lambda w: bound(w, 20), lambda w: bound(w, 60)):
        np.testing.assert_allclose(estimate(log_w - 2000), estimate(log_w) - 2000, atol=1e-11)
        np.testing.assert_allclose(estimate(shuffled), estimate(log_w), atol=1e-12)
    for spread in (effective_sample_size, log_px_se, lambda w: bound_se(w, 20)):
        np.testing.assert_allclose(spread(log_w - 2000), spread(log_w), rtol=1e-10)
        np.testing.assert_allclose(spread(shuffled), spread(log_w), rtol=1e-12)
