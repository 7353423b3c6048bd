"""Sites that are summed out in compiled steps: TraceEnum_ELBO has the losses of eager steps."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import TraceEnum_ELBO
from torch import nn

import pvae

SUM = {"enumerate": "parallel"}


class Pair:
    """z, a component y of the datum or of each of its four values, and x given both."""

    def __init__(self, where, kind, inner):
        torch.manual_seed(0)
        self.where, self.one_hot, self.inner = where, kind is dist.OneHotCategorical, inner
        self.kind = kind
        self.net = nn.ModuleDict({"mean": nn.Linear(3, 1), "decode": nn.Linear(2, 4)}).double()
        self.net.register_parameter("prior", nn.Parameter(torch.randn(3).double()))
        rows = 1 if inner else 4
        own = {"labels": nn.Linear(rows, 3), "encode": nn.Linear(4, 2)}
        self.own = nn.ModuleDict(own).double()

    def plates(self, size):
        data, values = pyro.plate("data", size, dim=-2), pyro.plate("values", 4, dim=-1)
        return data, values if self.inner else pyro.plate("once", 1, dim=-1)

    def model(self, x):
        pyro.module("net", self.net)
        data, values = self.plates(len(x))
        with data:
            z = pyro.sample("z", dist.Normal(x.new_zeros(1, 2), 1.0).to_event(1))
            with values:
                y = pyro.sample("y", self.kind(logits=self.net.prior), infer=SUM)
                y = y if self.one_hot else nn.functional.one_hot(y, 3).double()
                mean, loc = self.net["mean"](y), self.net["decode"](z)
                if self.inner:
                    fn = dist.Normal(mean[..., 0] + loc[..., 0, :], 1.0)
                    pyro.sample("x", fn, obs=x)
                else:
                    fn = dist.Normal(mean + loc, 1.0).to_event(1)
                    pyro.sample("x", fn, obs=x[:, None])

    def guide(self, x):
        pyro.module("own", self.own)
        data, values = self.plates(len(x))
        with data:
            loc = self.own["encode"](x)[:, None]
            pyro.sample("z", dist.Normal(loc, 0.5).to_event(1))
            if self.where == "guide":
                with values:
                    seen = x[..., None] if self.inner else x[:, None]
                    pyro.sample("y", self.kind(logits=self.own["labels"](seen)), infer=SUM)


@pytest.mark.parametrize("inner", [False, True])
@pytest.mark.parametrize("kind", [dist.Categorical, dist.OneHotCategorical])
@pytest.mark.parametrize("where", ["guide", "model"])
@pytest.mark.filterwarnings("ignore:Found vars in model but not guide")
def test_recorded_steps_are_eager_ones(where, kind, inner, uncompiled):
    batches, found = torch.randn(16, 4).double().split(4), []
    for mode in ("eager", "compiled"):
        pair = Pair(where, kind, inner)
        elbo = TraceEnum_ELBO(max_plate_nesting=2)
        svi = pvae.SVI(pair.model, pair.guide, torch.optim.Adam, elbo, mode=mode)
        torch.manual_seed(1)
        found.append([svi.step(x) for x in batches])
    assert svi.compiled, svi.why_eager
    assert len(uncompiled) == 1
    assert found[1] == pytest.approx(found[0], rel=1e-9)
    assert found[0][-1] != found[0][0]
