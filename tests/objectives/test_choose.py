"""Which ELBO a pair is trained with."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from programs import linear_gaussian
from pyro.infer import Trace_ELBO, TraceEnum_ELBO, TraceMeanField_ELBO
from small import small_pair

from pvae import PvaeError, check
from pvae.objectives import (
    IWAE_ELBO,
    STL_ELBO,
    Beta_ELBO,
    DReG_ELBO,
    choose_elbo,
)


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
    for name, kind in (("IWAE_ELBO", IWAE_ELBO), ("DReG_ELBO", DReG_ELBO), ("STL_ELBO", STL_ELBO)):
        chosen = choose_elbo(name, structure, 5)
        assert type(chosen) is kind
        assert chosen.num_particles == 5
    with pytest.raises(PvaeError, match="Did you mean TraceMeanField_ELBO"):
        choose_elbo("TraceMeanfield", structure)
    with pytest.raises(PvaeError, match="Did you mean IWAE_ELBO"):
        choose_elbo("IWAEELBO", structure)
    with pytest.raises(PvaeError, match="num_particles=0 is not valid: at least one sample"):
        choose_elbo("IWAE_ELBO", structure, 0)


def test_a_number_of_particles_is_said_once():
    structure = check(*small_pair(), torch.zeros(4, 1, 8, 8))
    with pytest.raises(PvaeError, match="num_particles=5, and the loss is a Beta_ELBO with num_p"):
        choose_elbo(Beta_ELBO(2), structure, 5)
    assert choose_elbo(Beta_ELBO(2), structure).num_particles == 2
    for loss in ("IWAE_ELBO", DReG_ELBO()):
        with pytest.raises(PvaeError, match=r"weighs several samples .* num_particles=5 or more"):
            choose_elbo(loss, structure)
