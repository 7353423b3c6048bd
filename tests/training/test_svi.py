"""SVI: pyro.infer.SVI's interface and numbers."""

import copy

import pyro
import pytest
import torch
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO

import pvae
from pvae import SVI, PvaeError


def _pair():
    torch.manual_seed(0)
    return (
        pvae.models.VAE((1, 8, 8), latent_dim=3, hidden_dims=[8]),
        pvae.guides.MeanField((1, 8, 8), latent_dim=3, hidden_dims=[8]),
    )


@pytest.mark.parametrize("elbo", [Trace_ELBO, TraceMeanField_ELBO])
def test_steps_equal_those_of_pyro(elbo):
    """Same draws, same optimiser: the same losses and the same parameters, step by step."""
    x = torch.rand(32, 1, 8, 8).round()
    ours, theirs = _pair(), copy.deepcopy(_pair())
    pyro.clear_param_store()
    reference = pyro.infer.SVI(*theirs, pyro.optim.Adam({"lr": 1e-2}), elbo())
    svi = SVI(*ours, pyro.optim.Adam({"lr": 1e-2}), elbo())
    losses = []
    for run in (svi, reference):
        torch.manual_seed(1)
        losses.append([run.step(x) for _ in range(30)])
    pyro.clear_param_store()
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    for a, b in zip(ours, theirs, strict=True):
        for p, q in zip(a.parameters(), b.parameters(), strict=True):
            torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-5)


def test_evaluate_loss_changes_nothing():
    x = torch.rand(16, 1, 8, 8).round()
    model, guide = _pair()
    svi = SVI(model, guide, None, Trace_ELBO())
    before = [p.clone() for p in (*model.parameters(), *guide.parameters())]
    assert svi.evaluate_loss(x) > 0
    after = (*model.parameters(), *guide.parameters())
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_parameters_that_appear_later_are_taken_up():
    calls = []

    def model(x):
        calls.append(1)
        a = pyro.param("a", torch.tensor(0.0))
        b = pyro.param("b", torch.tensor(0.0)) if len(calls) > 3 else 0.0
        with pyro.plate("data", len(x)):
            pyro.sample("x", pyro.distributions.Normal(a + b, 1.0), obs=x)

    svi = SVI(model, lambda x: None, torch.optim.SGD, Trace_ELBO())
    for _ in range(6):
        svi.step(torch.ones(4))
    assert set(svi.own.parameters) == {"a", "b"}
    assert pyro.param("b").item() != 0


def test_a_pair_without_parameters_is_said():
    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("x", pyro.distributions.Normal(torch.zeros((), requires_grad=True), 1.0),
                        obs=x)  # fmt: skip

    with pytest.raises(PvaeError, match=r"no parameter.*pyro\.module"):
        SVI(model, lambda x: None, None, Trace_ELBO()).step(torch.ones(4))


def test_a_loss_that_is_no_elbo():
    with pytest.raises(PvaeError, match="expected an ELBO"):
        SVI(*_pair(), None, "ELBO")


def test_parameters_that_no_program_registers_are_named():
    decoder, encoder = torch.nn.Linear(2, 3), torch.nn.Linear(3, 2)
    normal = pyro.distributions.Normal

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", normal(decoder(z), 1.0).to_event(1), obs=x)

    def guide(x):
        pyro.module("encoder", encoder)
        with pyro.plate("data", len(x)):
            pyro.sample("z", normal(encoder(x), 1.0).to_event(1))

    with pytest.warns(UserWarning, match=r"not trained.*model\.decoder\.weight.*pyro\.module"):
        SVI(model, guide, None, Trace_ELBO()).step(torch.randn(4, 3))


def test_keyword_arguments_reach_both_programs_also_when_a_loss_is_not_finite():
    normal = pyro.distributions.Normal
    pyro.clear_param_store()

    def model(x, bias=0.0):
        loc = pyro.param("loc", torch.tensor(0.0))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", normal(torch.zeros(len(x)), 1.0))
            pyro.sample("x", normal(z + loc + bias, 1.0), obs=x)

    def guide(x, bias=0.0):
        with pyro.plate("data", len(x)):
            pyro.sample("z", normal(x * 0.0, 1.0))

    svi = SVI(model, guide, torch.optim.SGD, Trace_ELBO())
    assert svi.step(torch.zeros(4), bias=100.0) > svi.step(torch.zeros(4))
    said = "log density of site 'x' in the model"
    with pyro.validation_enabled(False), pytest.raises(PvaeError, match=said):
        svi.step(torch.zeros(4), bias=float("nan"))
