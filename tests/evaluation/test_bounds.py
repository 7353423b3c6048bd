"""Bounds from log weights, against plain arithmetic and a Gaussian oracle."""

import math

import numpy as np
import pytest

from pvae.evaluation.bounds import bound, effective_sample_size, log_px_se


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
