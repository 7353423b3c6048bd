"""k̂ recognises tails; the verdict claims no more than it knows."""

import numpy as np
import pytest

from pvae.evaluation.pareto import khat, khat_threshold, verdict


@pytest.mark.parametrize("shape", [0.2, 0.5, 0.9])
def test_khat_of_pareto_weights_is_their_shape(shape):
    rng = np.random.default_rng(0)
    weights = (1 - rng.random((40, 20_000))) ** -shape
    assert khat(np.log(weights)).mean() == pytest.approx(shape, abs=0.08)


def test_khat_looks_at_large_weights_not_at_small_ones():
    """A heavy left tail of log weights is harmless; mirrored, it is not."""
    rng = np.random.default_rng(0)
    harmless = -rng.exponential(2.0, size=(20, 5000))
    assert (khat(harmless) < 0.2).all()
    assert (khat(-harmless) > 1.0).all()


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


def test_verdict():
    good = verdict(np.full(10, 0.1), 0.7, 5000)
    assert "no sign" in good
    assert "cannot exclude" in good
    bad = verdict(np.full(10, 0.9), 0.7, 5000)
    assert "100.0%" in bad
    assert "not to be trusted" in bad
    assert "not available" in verdict(np.full(10, np.nan), 0.7, 20)
