"""k̂ recognises tails; the verdict claims no more than it knows."""

import numpy as np
import pytest
from arviz_stats.base import array_stats

from pvae.evaluation.bounds import log_mean_exp, log_px_se
from pvae.evaluation.pareto import khat, khat_threshold, psis


def pareto(shape: float, size: tuple[int, int]) -> np.ndarray:
    """Log weights with mean 1 / (1 - shape)."""
    return shape * np.random.default_rng(0).exponential(size=size)


@pytest.mark.parametrize("shape", [0.2, 0.5, 0.9])
def test_khat_of_pareto_weights_is_their_shape(shape):
    assert khat(pareto(shape, (40, 20_000))).mean() == pytest.approx(shape, abs=0.08)


def test_khat_looks_at_large_weights_not_at_small_ones():
    """A heavy left tail of log weights is harmless; mirrored, it is not."""
    rng = np.random.default_rng(0)
    harmless = -rng.exponential(2.0, size=(20, 5000))
    assert (khat(harmless) < 0.2).all()
    assert (khat(-harmless) > 1.0).all()


@pytest.mark.parametrize("num_samples", [25, 100, 225, 226, 240, 313, 1000, 5000])
def test_smooths_as_arviz_does(num_samples):
    """All weights go to arviz here; one outside the tail tells what it has divided by."""
    rng = np.random.default_rng(0)
    log_w = np.concatenate(
        [
            rng.normal(-90, 2, size=(3, num_samples)),
            np.where(rng.random((3, num_samples)) < 0.4, -np.inf, rng.normal(size=num_samples)),
            # Ties reach into the tail: only some of the equal weights are smoothed.
            np.maximum(pareto(0.7, (3, num_samples)), np.quantile(pareto(0.7, (1, 5000)), 0.83)),
        ]
    )
    shapes, values = psis(log_w)
    for row, shape, value in zip(log_w, shapes, values, strict=True):
        smooth, expected = array_stats.psislw(-row)
        rank = np.sort(row)[num_samples // 2], np.sort(smooth)[num_samples // 2]
        assert shape == pytest.approx(expected, rel=1e-12, nan_ok=True)
        mean = np.exp(smooth + rank[0] - rank[1] - row.max()).mean()
        assert value == pytest.approx(row.max() + np.log(mean), rel=1e-12)


def test_smoothed_estimate_of_a_known_mean():
    log_w = pareto(0.4, (200, 2000))
    estimate = psis(log_w)[1] + np.log(0.6)
    assert abs(estimate.mean()) < 0.005
    inside = np.abs(estimate) < 1.96 * log_px_se(log_w)
    assert 0.88 < inside.mean() < 0.99


def test_smoothing_tames_infinite_variance():
    log_w = pareto(0.6, (200, 2000))
    raw, smoothed = log_mean_exp(log_w) + np.log(0.4), psis(log_w)[1] + np.log(0.4)
    assert np.sqrt((smoothed**2).mean()) < 0.85 * np.sqrt((raw**2).mean())
    assert abs(smoothed.mean()) < 0.02


def test_shifts_and_permutations():
    rng = np.random.default_rng(0)
    log_w = rng.normal(scale=2, size=(4, 1000))
    shape, value = psis(log_w)
    moved_shape, moved_value = psis(log_w - 2000)
    np.testing.assert_allclose(moved_shape, shape, rtol=1e-9)
    np.testing.assert_allclose(moved_value, value - 2000, atol=1e-10)
    for same, first in zip(psis(rng.permuted(log_w, axis=1)), (shape, value), strict=True):
        np.testing.assert_allclose(same, first, atol=1e-12)


@pytest.mark.filterwarnings("error")
def test_estimate_without_a_fit_is_the_plain_one():
    rng = np.random.default_rng(0)
    log_w = np.full((4, 1000), -93.4)  # an exact guide
    log_w[1, :500] -= 3.0  # a tail of equal weights
    log_w[2] = -np.inf
    log_w[3] = -np.inf
    log_w[3, :94] = rng.normal(size=94)  # zero weights outside the tail
    shape, value = psis(log_w)
    assert shape[0] == -np.inf
    assert np.isnan(shape[1:3]).all()
    assert np.isfinite(shape[3])
    np.testing.assert_array_equal(value, log_mean_exp(log_w))
    few = rng.normal(size=(1, 24))
    assert np.isnan(psis(few)[0][0])
    assert psis(few)[1] == log_mean_exp(few)


def test_special_cases():
    constant = np.full((1, 1000), -93.4) + 1e-5 * np.random.default_rng(0).normal(size=(1, 1000))
    assert khat(constant)[0] == -np.inf  # an exact guide, up to single precision
    assert np.isnan(khat(np.zeros((1, 20)) - np.arange(20)))[0]  # too few samples
    assert np.isnan(khat(np.full((1, 100), -np.inf)))[0]
    tied = np.zeros((1, 1000))
    tied[0, :500] = -3.0  # a discrete latent: every tail value is the same
    assert np.isnan(khat(tied))[0]
    zeros = np.random.default_rng(0).normal(size=(1, 1000))
    zeros[0, :300] = -np.inf
    assert np.isfinite(khat(zeros)[0])


def test_threshold():
    assert khat_threshold(100) == pytest.approx(0.5)
    assert khat_threshold(10**6) == 0.7
    assert khat_threshold(1) == 0.0
