"""Gradient accumulation: k minibatches of B / k have the gradient of one of B."""

import functools

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO
from pyro.nn import PyroModule
from small import quick_fit
from torch import nn

import pvae
from pvae import PvaeError

X = torch.randn(50, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
SGD = functools.partial(torch.optim.SGD, lr=1e-3, momentum=0.9)


class Density(PyroModule):
    """p(x) = N(x; W m, e^s) without latent variables: its loss is not random."""

    def __init__(self, size=None):
        super().__init__()
        torch.manual_seed(1)
        self.loc, self.net = nn.Parameter(torch.ones(4).double()), nn.Linear(4, 3).double()
        self.size = size

    def forward(self, x):
        with pyro.plate("data", self.size or len(x), subsample=x if self.size else None):
            loc = self.net(self.loc.tanh())
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)


def trained(batch_size, accumulate, size=None, **options):
    model = Density(size)
    options = {"optim": SGD, "kl_warmup": 2, "clip_norm": 0.3, "lr": 1e-3} | options
    found = quick_fit(
        (model, pvae.guides.NoLatents()), X, batch_size=batch_size, accumulate=accumulate, **options
    )
    return found.history, [p.detach().clone() for p in model.parameters()]


@pytest.mark.parametrize("size", [None, 50], ids=["sum", "scaled to all data"])
def test_a_run_is_that_of_larger_minibatches(size):
    """50 data: minibatches of 16, 16, 16 and 2, or of 4 with four for each step."""
    history, parameters = trained(16, 1, size)
    again, found = trained(4, 4, size)
    assert [list(row.values()) for row in again] == [
        pytest.approx(list(row.values()), rel=1e-12) for row in history
    ]
    for ours, theirs in zip(found, parameters, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-14)
    other, _ = trained(4, 1, size)
    assert other[-1]["elbo"] != pytest.approx(history[-1]["elbo"], rel=1e-6)


@pytest.mark.parametrize("mode", ["eager", "compiled"])
def test_held_gradients_add_up(mode):
    one, several = Density(), Density()
    guide = pvae.guides.NoLatents()
    larger = pvae.SVI(one, guide, SGD, Trace_ELBO(), mode="eager", clip_norm=5.0)
    smaller = pvae.SVI(several, guide, SGD, Trace_ELBO(), mode=mode, clip_norm=5.0)
    for i in range(4):
        x = X[i : i + 24]
        expected = larger.step(x)
        found = smaller.hold(x[:8]) + smaller.hold(x[8:16]) + smaller.step(x[16:])
        assert float(found) == pytest.approx(expected, rel=1e-12)
        for ours, theirs in zip(several.parameters(), one.parameters(), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-14)
    assert smaller.compiled == (mode == "compiled")


def test_a_held_minibatch_that_is_not_finite_changes_nothing():
    model = Density()
    svi = pvae.SVI(model, pvae.guides.NoLatents(), SGD, Trace_ELBO(), mode="eager")
    before = [p.detach().clone() for p in model.parameters()]
    svi.hold(X[:8])
    with pytest.raises(PvaeError, match="not finite"):
        svi.hold(X[8:16] * 1e200)
    assert all(map(torch.equal, model.parameters(), before))
    again = Density()
    fresh = pvae.SVI(again, pvae.guides.NoLatents(), SGD, Trace_ELBO(), mode="eager")
    assert svi.step(X[:8]) == fresh.step(X[:8])
    assert all(map(torch.equal, model.parameters(), again.parameters())), "nothing was left held"


def test_accumulating_less_than_one_minibatch_is_refused():
    with pytest.raises(PvaeError, match="accumulate=0 is not valid"):
        trained(4, 0)
