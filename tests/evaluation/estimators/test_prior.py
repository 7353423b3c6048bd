"""Naive Monte Carlo from the prior: right where it can be, and honest about its variance."""

import numpy as np
import pytest
from asking import evaluate
from oracles import ORACLES

EASY = ["mixture", "categorical_in_model", "categorical_in_guide", "categorical_sampled"]


@pytest.mark.parametrize("name", [*EASY, "gamma_poisson", "decoder_1d"])
def test_the_prior_is_right_within_its_error(name):
    model, guide, batch, exact = ORACLES[name]()
    batch, exact = tuple(t[:60] for t in batch), exact[:60].numpy()
    result = evaluate(model, guide, batch, num_samples=2, prior_samples=4000, progress=False)
    found = result.findings["prior"]
    assert found.num_samples == 4000
    easy = found.ess > 50
    assert easy.mean() > 0.5
    z = ((found.log_px - exact) / found.log_px_se)[easy]
    assert np.abs(z).max() < 5
    assert abs(z.mean()) < 4 / np.sqrt(easy.sum())
    # Var[w] / E[w]² = S / ESS - 1, nearly.
    np.testing.assert_allclose(found.relative_variance, 4000 / found.ess - 1, rtol=0.01, atol=0.01)


def test_draws_for_the_prior_are_not_those_for_the_guide():
    """A guide that is the prior would otherwise give the same numbers twice."""
    model, _, batch, _ = ORACLES["linear_gaussian"]()

    def guide(x):
        import pyro

        with pyro.poutine.block(hide=["x"]):
            model(x)

    result = evaluate(model, guide, batch, num_samples=200, prior_samples=200, progress=False)
    both = result.findings["prior"].log_px, result.log_px
    assert np.abs(both[0] - both[1]).max() > 1e-3
    assert abs((both[0] - both[1]).mean()) < 1
    assert (result.findings["prior"].ess / result.ess).mean() == pytest.approx(1, abs=0.3)


def test_none_is_asked_for():
    model, guide, batch, _ = ORACLES["gamma_poisson"]()
    result = evaluate(model, guide, batch, num_samples=2, prior_samples=0, progress=False)
    assert "prior" not in result.findings
    assert "prior" not in result.summary()
