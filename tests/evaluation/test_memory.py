"""Memory that runs out is no property of a pair: the error comes through as it is."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from asking import evaluate

import pvae
from pvae.importance.density import Density
from pvae.importance.sampler import Sampler
from pvae.pair import inspect

FULL = "[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"


def raising(*_):
    raise RuntimeError(FULL)


def pair(decode, draw=None):
    """z ~ N(0, I), x ~ N(decode(z), 1); `draw` replaces the guide's distribution."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(decode(z), 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            fn = (draw or dist.Normal)(0.5 * x, 0.8)
            pyro.sample("z", fn.to_event(1))

    return model, guide, torch.randn(20, 2)


def full(z):
    return raising() if z.ndim == 3 else z


class Full(dist.Normal):
    def log_prob(self, value):
        return raising() if value.ndim == 3 else super().log_prob(value)


@pytest.mark.parametrize("parts", [(full,), (lambda z: z, Full)], ids=["decoder", "density"])
def test_a_plate_that_does_not_fit_is_no_reason_for_a_tile(parts, recwarn):
    model, guide, x = pair(*parts)
    for run in (
        lambda: pvae.log_weights(model, guide, x, num_samples=3),
        lambda: evaluate(model, guide, x, num_samples=3, progress=False),
    ):
        with pytest.raises(RuntimeError, match="DefaultCPUAllocator"):
            run()
    assert not [w for w in recwarn if "uses a" in str(w.message)]


@pytest.mark.filterwarnings("ignore:AIS from the prior was left out")
def test_a_guide_that_does_not_fit_is_not_one_without_a_density(monkeypatch):
    model, guide, x = pair(lambda z: z)
    with Sampler(inspect(model, guide, x)) as sampler:
        assert Density(sampler, (x,)).no_guide is None
        monkeypatch.setattr(Density, "log_guide", raising)
        with pytest.raises(RuntimeError, match="DefaultCPUAllocator"):
            Density(sampler, (x,))
    with pytest.warns(UserWarning, match=r"AIS from the guide was left out.*DefaultCPUAllocator"):
        found = evaluate(model, guide, x, num_samples=3, ais=2, progress=False)
    assert found.missing["ais_guide"] == f"RuntimeError: {FULL}"


def test_any_other_error_is_a_property_of_the_pair():
    def bound(z):
        if z.ndim == 3:
            raise RuntimeError("only [B, D]")
        return z

    model, guide, x = pair(bound)
    with pytest.warns(UserWarning, match=r"uses a tile.*only \[B, D\]"):
        pvae.log_weights(model, guide, x, num_samples=3)
