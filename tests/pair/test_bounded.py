"""Bounds on what a program may take: draws, sites and checks that memory does not hold."""

import itertools

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO
from small import quick_fit
from torch import nn

import pvae
from pvae import PvaeError
from pvae.pair.bounded import in_free_memory
from pvae.runtime.memory import LiveBytes

X = torch.linspace(-1, 1, 24).reshape(6, 4)


def _pair(extra=lambda n: None, extra_guide=None, pixels=4):
    torch.manual_seed(0)
    encoder, decoder = nn.Linear(4, 2), nn.Linear(2, pixels)
    extra_guide = extra_guide or extra

    def model(x=None, size=None):
        pyro.module("decoder", decoder)
        n = size if x is None else len(x)
        extra(n)
        with pyro.plate("data", n):
            z = pyro.sample("z", dist.Normal(torch.zeros(n, 2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(decoder(z), 1.0).to_event(1), obs=x)

    def guide(x):
        pyro.module("encoder", encoder)
        extra_guide(len(x))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(encoder(x[:, :4]), 1.0).to_event(1))

    return model, guide


def _calls(model, guide):
    elbo = Trace_ELBO()
    return {
        "check": lambda: pvae.check(model, guide, X),
        "log_weights": lambda: pvae.log_weights(model, guide, X, num_samples=2),
        "evaluate": lambda: pvae.evaluate(model, guide, X, num_samples=10),
        "reconstruct": lambda: pvae.reconstruct(model, guide, X),
        "generate": lambda: pvae.generate(model, 3),
        "generate from x": lambda: pvae.generate(model, 3, X),
        "eager": lambda: pvae.SVI(model, guide, torch.optim.Adam, elbo, mode="eager").step(X),
        "compiled": lambda: pvae.SVI(model, guide, torch.optim.Adam, elbo, mode="compiled").step(X),
        "fit": lambda: quick_fit((model, guide), X, epochs=1),
    }


def _event(n):
    pyro.sample("wide", dist.Normal(0.0, 1.0).expand([10**12]).to_event(1))


def _plate(n):
    with pyro.plate("many", 10**12, dim=-2):
        pyro.sample("wide", dist.Normal(0.0, 1.0))


def _observed(n):
    fn = dist.Normal(0.0, 1.0).expand([10**12]).to_event(1)
    pyro.sample("wide", fn, obs=torch.zeros(1).expand(10**12))


def _pairs_of_data(n):
    fn = dist.Normal(torch.zeros(1).expand(10**6, 1), 1.0)
    with pyro.plate("a", 10**6, dim=-2), pyro.plate("b", 10**6, dim=-1):
        pyro.sample("wide", fn, obs=torch.zeros(10**6))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("site", [_event, _plate, _observed, _pairs_of_data])
@pytest.mark.parametrize("role", ["model", "guide", "both"])
def test_a_site_that_memory_does_not_hold_is_named_by_every_call(site, role):
    nothing = lambda n: None  # noqa: E731
    model, guide = _pair(*((site if role in (side, "both") else nothing) for side in _SIDES))
    pyro.set_rng_seed(0)
    for name, call in _calls(model, guide).items():
        if role == "guide" and name.startswith("generate"):
            continue
        with pytest.raises(PvaeError, match=r"'(wide|many)' .* values, 4,000 GB, more than"):
            call()
    assert "4,000 GB" in pvae.diagnose(model, guide, X).faults[0]


_SIDES = ("model", "guide")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("role", _SIDES)
def test_a_program_without_an_end_is_stopped(role, monkeypatch):
    monkeypatch.setattr("pvae.pair.bounded._MOST_SITES", 50)

    def forever(n):
        for i in itertools.count():
            pyro.sample(f"s_{i}", dist.Normal(0.0, 1.0))

    def many(n):
        for i in range(40):
            pyro.sample(f"s_{i}", dist.Normal(0.0, 1.0), obs=torch.zeros(()))

    model, guide = _pair(many, lambda n: None)
    calls = _calls(model, guide)
    for name in ("check", "reconstruct", "generate", "eager", "fit"):  # a call has its own count
        calls[name]()
    nothing = lambda n: None  # noqa: E731
    model, guide = _pair(*(forever if role == side else nothing for side in _SIDES))
    for name, call in _calls(model, guide).items():
        if role == "guide" and name.startswith("generate"):
            continue
        with pytest.raises(PvaeError, match=r"50 sites.*'s_49'|50 sites.*'s_50'|a loop in the"):
            call()


def test_a_check_that_needs_more_memory_than_is_free_says_so(monkeypatch):
    monkeypatch.setattr("pvae.pair.bounded.free_memory", lambda device: 1 << 28)

    def hungry(n):
        torch.zeros(2**28)  # a gigabyte

    model, guide = _pair(hungry, lambda n: None)
    with pytest.raises(PvaeError, match=r"not enough memory for one call of the pair.*fewer data"):
        pvae.check(model, guide, X)
    assert "not enough memory" in pvae.diagnose(model, guide, X).faults[0]
    assert len(torch.zeros(2**27)) == 2**27  # the bound ends with the call
    with pytest.raises(PvaeError, match="memory for a test"), in_free_memory("a test"):
        torch.zeros(2**28)
    with pytest.raises(KeyError), in_free_memory("a test"):
        raise KeyError("another error is not touched")
    monkeypatch.undo()
    with in_free_memory("a test"):
        assert len(torch.zeros(2**28)) == 2**28


def test_diagnose_runs_the_decoder_with_few_draws_at_once():
    """512 draws of 16 data of 4,000 pixels at once would be 131 MB in one tensor."""
    model, guide = _pair(pixels=4000)
    with LiveBytes() as live:
        found = pvae.diagnose(model, guide, torch.randn(64, 4000))
    assert found.faults == []
    assert not any("not compared" in fact for fact in found.facts)
    assert live.peak < 8e7
