"""Pairs that run with all their data together, and with no fewer, are evaluated as a whole."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from asking import evaluate
from pyro.infer.autoguide import AutoNormal

import pvae
from pvae import PvaeError

QUICK = {"num_samples": 50, "prior_samples": 0, "progress": False}


def _pair(x):
    """z ~ N(0, 1), x ~ N(z, 0.5), and its exact posterior, with parameters for each datum."""
    loc = (x / 0.25 / 5).clone()

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 0.5), obs=x)

    def guide(x):
        with pyro.plate("data", len(loc)):
            pyro.sample("z", dist.Normal(loc, 0.2**0.5))

    return model, guide, dist.Normal(0.0, 1.25**0.5).log_prob(x).numpy()


@pytest.mark.parametrize("size", [3, 6, 48])
def test_every_datum_keeps_its_own_parameters(size):
    torch.manual_seed(0)
    x = torch.randn(size)
    model, guide, exact = _pair(x)
    options = {"ais": 2, "gap": 2, "num_chains": 4, "num_temperatures": 20, "num_leapfrog": 1}
    found = evaluate(model, guide, x, **QUICK, **options)
    np.testing.assert_allclose(found.log_px, exact, atol=1e-4)
    ais = found.findings["ais_prior"]
    assert list(ais.datum) == list(range(size))  # all of them, for they run together
    assert np.abs(ais.log_px - exact).max() < 1
    assert "gap" in found.findings
    assert "surgery" not in found.findings
    assert "all its data together" in found.missing["surgery"]


def test_more_data_than_the_pair_runs_with_are_refused():
    x = torch.randn(70)
    with pytest.raises(PvaeError, match="guide"):
        evaluate(*_pair(x[:64])[:2], x, **QUICK)


def test_an_autoguide_is_evaluated_on_its_data_and_named_when_they_are_others():
    torch.manual_seed(0)
    x = torch.randn(48)
    model, _, exact = _pair(x)
    guide = AutoNormal(model)
    found = evaluate(model, guide, x, **QUICK)
    assert (found.elbo < exact).mean() > 0.9
    for few in (x[:16], x.repeat(2)):
        with pytest.raises(PvaeError, match="AutoNormal keeps separate parameters for each of the"):
            pvae.log_weights(model, guide, few, num_samples=2)
    with pytest.raises(PvaeError, match=r"each of the 48 data of its first call.* with 16"):
        pvae.fit(model, guide, x, epochs=1, batch_size=16, progress=False)
