"""k̂ recognises tails; the verdict claims no more than it knows."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from arrays import of_arrays
from arviz_stats.base import array_stats
from asking import evaluate

from pvae.evaluation.estimators import bounds
from pvae.evaluation.estimators import pareto as module
from pvae.evaluation.estimators.pareto import khat_threshold, rounding_error

psis, log_mean_exp, log_px_se = map(of_arrays, (module.psis, bounds.log_mean_exp, bounds.log_px_se))


def khat(log_w: np.ndarray) -> np.ndarray:
    return psis(log_w)[0]


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
    """Here arviz smooths all weights; one outside the tail gives the total that it divides by."""
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
    log_w = np.full((3, 1000), -93.4)  # an exact guide
    log_w[1, :500] -= 3.0  # a tail of equal weights
    log_w[2] = -np.inf
    shape, value = psis(log_w)
    assert shape[0] == -np.inf
    assert np.isnan(shape[1:]).all()
    np.testing.assert_array_equal(value, log_mean_exp(log_w))
    few = rng.normal(size=(1, 24))
    assert np.isnan(psis(few)[0][0])
    assert psis(few)[1] == log_mean_exp(few)


def test_zero_weights_outside_the_tail_are_like_tiny_ones():
    log_w = np.full((2, 1000), -np.inf)
    log_w[:, :94] = np.random.default_rng(0).normal(size=94)
    log_w[1, 94:] = -60.0
    (shape, other), (value, its) = psis(log_w)
    assert shape == pytest.approx(other, abs=1e-12)
    assert value == pytest.approx(its, abs=1e-12)
    assert value != log_mean_exp(log_w)[0]


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


@pytest.mark.parametrize("constant", [0.0, -1e3, -1e6, 1e8, -1e9])
@pytest.mark.parametrize("scale", [0.01, 1.0, 3.0])
def test_khat_does_not_depend_on_a_constant(constant, scale):
    log_w = scale * np.random.default_rng(0).normal(size=(4, 2000))
    np.testing.assert_allclose(khat(log_w + constant), khat(log_w), atol=1e-3)


def test_single_precision_at_minus_a_million():
    """The spread of ten nats is real, although log w has steps of 1/16 there."""
    log_w = pareto(1.1, (20, 5000)) - 1e6
    assert 8 < (log_w.max(1) - log_w.min(1)).mean() < 12
    coarse = log_w.astype(np.float32)
    assert len(np.unique(coarse[0])) < 300
    np.testing.assert_allclose(khat(coarse), khat(log_w), atol=0.15)
    assert khat(coarse).mean() == pytest.approx(khat(log_w).mean(), abs=0.02)
    rounded = np.float32(-1e6) + np.float32(0.0625) * np.random.default_rng(0).integers(
        0, 5, size=(2, 1000)
    ).astype(np.float32)
    assert np.isnan(khat(rounded)).all()  # not known to be constant, and not known to differ


def test_constant_weights_are_known_by_the_rounding_of_what_was_added_up():
    """log w = -10 has the errors of log p(x, z) = -1000 and log q = -990."""
    noise = np.random.default_rng(0).normal(0, 2e-4, size=(3, 2000)) - 10
    summands = np.array([2000.0, 2000.0, 10.0])
    found = psis(noise, rounding_error(summands, np.finfo(np.float32).eps))[0]
    assert (found[:2] == -np.inf).all()
    assert np.isfinite(found[2])
    assert np.isfinite(psis(noise, rounding_error(summands, np.finfo(np.float64).eps))[0]).all()


def test_an_evaluation_far_below_zero():
    """A dead pixel adds -d² / 2 to log p(x) whatever z is, and nothing to k̂."""
    zero = torch.zeros((), dtype=torch.float64)
    x = torch.randn(5, 20, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def found(dead, scale):
        def model(x):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(zero.expand(20), 1.0).to_event(1))
                pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)
                pyro.sample("dead", dist.Normal(dead, 1.0 + zero), obs=x.new_zeros(len(x)))

        def guide(x):
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(x / 2, scale * 0.5**0.5).to_event(1))

        few = {"prior_samples": 0, "surgery": False, "progress": False}
        return evaluate(model, guide, x, num_samples=1000, **few)

    near, far = found(0.0, 0.8), found(1e4, 0.8)
    assert far.log_px.max() < -4e7
    np.testing.assert_allclose(far.khat, near.khat, atol=1e-3)
    assert far.verdict == near.verdict
    assert (found(0.0, 1.0).khat == -np.inf).all()  # the guide is the posterior
    assert (found(1e4, 1.0).khat == -np.inf).all()


def test_threshold():
    assert khat_threshold(100) == pytest.approx(0.5)
    assert khat_threshold(10**6) == 0.7
    assert khat_threshold(1) == 0.0
