"""LatentScale and kl_warmup where the model sums a site out: behind z, behind x, or both."""

import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import TraceEnum_ELBO
from pyro.nn import PyroModule
from torch import nn

import pvae
from pvae import PvaeError
from pvae.objectives import LatentScale

SUM = {"enumerate": "parallel"}
PROBS, MEANS = torch.tensor([0.2, 0.8]), torch.tensor([-1.0, 2.0])


class Model(PyroModule):
    """x ~ N(z + b, 1), with a mixture behind z, behind x (before or after z), or behind both."""

    def __init__(self, behind):
        super().__init__()
        self.behind, self.bias = behind, nn.Parameter(torch.tensor(0.3))

    def forward(self, x):
        with pyro.plate("data", len(x)):
            z_loc = x_loc = torch.zeros(())
            if self.behind in ("z", "x", "both", "two"):
                c = pyro.sample("c", dist.Categorical(PROBS), infer=SUM)
                z_loc = z_loc if self.behind == "x" else MEANS[c]
                x_loc = MEANS[c] if self.behind in ("x", "both") else x_loc
            z = pyro.sample("z", dist.Normal(z_loc, 1.0))
            if self.behind in ("x after z", "two"):
                x_loc = MEANS[pyro.sample("d", dist.Categorical(PROBS), infer=SUM)]
            pyro.sample("x", dist.Normal(z + x_loc + self.bias, 1.0), obs=x)


class Guide(PyroModule):
    def __init__(self):
        super().__init__()
        self.gain, self.drawn = nn.Parameter(torch.tensor(0.5)), []

    def forward(self, x):
        with pyro.plate("data", len(x)):
            self.drawn.append(pyro.sample("z", dist.Normal(self.gain * x, 0.8)))


def mixture(loc, value):
    fn = dist.Normal(loc[..., None] + MEANS, 1.0)
    return (PROBS.log() + fn.log_prob(value[..., None])).logsumexp(-1)


@pytest.mark.parametrize("weight", [0.3, torch.tensor(0.3), 1.0], ids=["number", "tensor", "one"])
@pytest.mark.parametrize("behind", ["z", "x", "x after z", "nothing"])
def test_the_weight_is_on_the_divergence_alone(behind, weight):
    torch.manual_seed(0)
    x = torch.randn(6)
    model, guide = Model(behind), Guide()
    with LatentScale(weight):
        loss = TraceEnum_ELBO(max_plate_nesting=1).differentiable_loss(model, guide, x)
    z = guide.drawn[-1]
    log_p = mixture(torch.zeros(()), z) if behind == "z" else dist.Normal(0.0, 1.0).log_prob(z)
    loc = z + model.bias
    log_x = mixture(loc, x) if "x" in behind else dist.Normal(loc, 1.0).log_prob(x)
    kl = dist.Normal(guide.gain * x, 0.8).log_prob(z) - log_p
    expected = -(log_x - weight * kl).sum()
    torch.testing.assert_close(loss, expected)
    parameters = [model.bias, guide.gain]
    ours = torch.autograd.grad(loss, parameters, retain_graph=True)
    theirs = torch.autograd.grad(expected, parameters)
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("behind", ["both", "two"])
def test_a_sum_that_holds_both_densities_is_refused_in_one_sentence(behind):
    x = torch.randn(6)
    said = r"kl_warmup.*sum over 'c'.*'z' and that of 'x'.*\.$"
    with pytest.raises(PvaeError, match=said), LatentScale(0.3):
        TraceEnum_ELBO(max_plate_nesting=1).loss(Model(behind), Guide(), x)
    with LatentScale(1.0):  # after the warm-up nothing is weighed
        assert TraceEnum_ELBO(max_plate_nesting=1).loss(Model(behind), Guide(), x) > 0


@pytest.mark.parametrize("behind", ["z", "x"])
def test_a_warm_up_of_the_kl_trains(behind):
    torch.manual_seed(0)
    options = {"epochs": 3, "batch_size": 32, "kl_warmup": 2, "progress": False}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        done = pvae.fit(Model(behind), Guide(), torch.randn(64), **options)
        assert done.loss == "TraceEnum_ELBO"
        assert len(done.history) == 3
        with pytest.raises(PvaeError, match=r"A KL weight \(kl_warmup"):
            pvae.fit(Model("both"), Guide(), torch.randn(64), **options)
