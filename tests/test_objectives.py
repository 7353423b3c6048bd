"""Which ELBO `auto` chooses, and that it is a right one."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from programs import linear_gaussian
from pyro.infer import Trace_ELBO, TraceEnum_ELBO, TraceMeanField_ELBO

from pvae import PvaeError, check
from pvae.objectives import choose_elbo


def _two(order_of_guide, discrete=False, enumerate_=None):
    infer = {"enumerate": enumerate_} if enumerate_ else {}

    def model(x):
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Normal(0.0, 1.0))
            fn = dist.Bernoulli(0.5) if discrete else dist.Normal(a, 1.0)
            b = pyro.sample("b", fn)
            pyro.sample("x", dist.Normal(a + b, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            for name in order_of_guide:
                fn = dist.Normal(0.0, 1.0)
                if name == "b" and discrete:
                    pyro.sample("b", dist.Bernoulli(0.5), infer=infer)
                else:
                    pyro.sample(name, fn)

    return check(model, guide, torch.zeros(4))


def test_auto():
    model, guide, x, _ = linear_gaussian()
    assert type(choose_elbo("auto", check(model, guide, x))) is TraceMeanField_ELBO
    assert type(choose_elbo("auto", _two("ab"))) is TraceMeanField_ELBO
    assert type(choose_elbo("auto", _two("ba"))) is Trace_ELBO
    assert type(choose_elbo("auto", _two("ab", discrete=True))) is Trace_ELBO
    enumerated = _two("ab", discrete=True, enumerate_="parallel")
    assert type(choose_elbo("auto", enumerated)) is TraceEnum_ELBO


def test_names_and_instances():
    structure = _two("ab")
    own = Trace_ELBO(num_particles=7)
    assert choose_elbo(own, structure) is own
    assert choose_elbo("Trace_ELBO", structure, 5).num_particles == 5
    with pytest.raises(PvaeError, match="Did you mean TraceMeanField_ELBO"):
        choose_elbo("TraceMeanfield", structure)
