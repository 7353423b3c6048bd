"""Compiled steps and their arguments: sizes, dtypes, floats, keywords."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO
from small import small_pair
from stepping import X, agree, fresh_pair

from pvae import SVI

pytestmark = pytest.mark.usefixtures("unvalidated")


def test_smaller_minibatches_are_eager_and_larger_ones_recorded(uncompiled):
    sizes = [8, 8, 5, 8, 5, 12, 12, 8, 5]
    x = torch.cat([X, X])
    svi = agree(fresh_pair, steps=9, x=lambda i: x[: sizes[i]])
    assert svi.why_eager is None
    assert len(uncompiled) == 2


def test_a_new_dtype_in_mid_run(uncompiled):
    pair = small_pair()
    x = torch.zeros(8, 1, 8, 8)
    svi = SVI(*pair, None, Trace_ELBO(), mode="compiled")
    svi.step(x)
    with pytest.raises(RuntimeError, match=r"[Dd]ouble"):  # as eagerly: the pair cannot take it
        svi.step(x.double())
    assert svi.step(x) > 0


def test_floats_and_keywords_among_the_arguments(uncompiled):
    def run(mode):
        model, guide = fresh_pair()

        def scaled(x, factor, *, power):
            pyro.module("net", model.net)
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
                loc = factor * model.net(z) ** power
                pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)

        def ignoring(x, factor, *, power):
            return guide(x)

        svi = SVI(scaled, ignoring, None, Trace_ELBO(), mode=mode)
        torch.manual_seed(1)
        steps = [(1.0, 1), (2.0, 1), (3.0, 2), (0.5, 2), (0.25, 1)]
        return [svi.step(X, factor, power=power) for factor, power in steps], svi.compiled

    (eager, _), (found, compiled) = run("eager"), run("compiled")
    assert found == pytest.approx(eager, rel=1e-12)
    assert compiled
    assert len(uncompiled) == 2  # one for each power: an integer is no input


def test_one_tensor_as_two_arguments_is_not_two(uncompiled):
    def run(mode):
        model, guide = fresh_pair()

        def halved(x, y):
            return model(x - 0.5 * y)

        svi = SVI(halved, lambda x, y: guide(y), None, Trace_ELBO(), mode=mode)
        torch.manual_seed(1)
        return [svi.step(X, y) for y in (X, 2 * X, X, 3 * X)]

    assert run("compiled") == pytest.approx(run("eager"), rel=1e-12)
