"""The linear Gaussian guide."""

import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO

import pvae
from pvae import PvaeError
from pvae.guides import LinearGaussian
from pvae.models import PPCA


@pytest.fixture(autouse=True)
def _clean_store():
    """Pairs that are called as they are share parameters of one name, as always in Pyro."""
    pyro.clear_param_store()
    yield
    pyro.clear_param_store()


def test_the_density_is_that_of_a_shared_covariance():
    torch.manual_seed(0)
    guide, x = LinearGaussian((1, 2, 3), 2), torch.randn(5, 1, 2, 3)
    with torch.no_grad():
        guide.scale_tril.set(torch.tensor([[0.5, 0.0], [0.3, 2.0]]))
    site = poutine.trace(guide).get_trace(x).nodes["z"]
    covariance = guide.scale_tril() @ guide.scale_tril().T
    expected = torch.distributions.MultivariateNormal(guide.mean(x.flatten(1)), covariance)
    torch.testing.assert_close(
        site["fn"].log_prob(site["value"]), expected.log_prob(site["value"]), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("strategy", ["plate", "tile", "loop"])
def test_weights_are_the_same_in_every_layout(strategy):
    torch.manual_seed(0)
    model, guide, x = PPCA((6,), 2), LinearGaussian((6,), 2), torch.randn(9, 6)
    log_w = pvae.log_weights(model, guide, x, num_samples=1000, strategy=strategy)
    exact = model.log_px(x)
    error = log_w.logsumexp(0) - torch.tensor(1000.0).log() - exact
    assert error.abs().mean() < 0.2


def test_steps_are_recorded(uncompiled):
    torch.manual_seed(0)
    model, guide = PPCA((6,), 2), LinearGaussian((6,), 2)
    svi = pvae.SVI(model, guide, torch.optim.Adam, Trace_ELBO(), mode="compiled")
    for _ in range(3):
        svi.step(torch.randn(8, 6))
    assert svi.why_eager is None
    assert svi.compiled
    assert len(uncompiled) == 1


def test_bad_latent_dim():
    with pytest.raises(PvaeError, match="latent_dim=0"):
        LinearGaussian((6,), 0)
