"""Six pairs, 200 steps: eager steps are pyro.infer.SVI's, and compiled ones are the eager ones."""

import copy

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.distributions.transforms import affine_autoregressive
from pyro.infer import RenyiELBO, Trace_ELBO, TraceMeanField_ELBO
from pyro.nn import PyroModule
from torch import nn
from torch.nn.functional import softplus

import pvae
from pvae.objectives import IWAE_ELBO

SHAPE = (1, 8, 8)


class Chain(PyroModule):
    """z_2 ~ N(0, I), z_1 ~ N(f(z_2), g(z_2)), x ~ Bernoulli(h(z_1))."""

    def __init__(self):
        super().__init__()
        self.top, self.bottom = nn.Linear(2, 6), nn.Linear(3, 64)

    def forward(self, x):
        with pyro.plate("data", len(x)):
            z_2 = pyro.sample("z_2", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            loc, raw = self.top(z_2).chunk(2, -1)
            z_1 = pyro.sample("z_1", dist.Normal(loc, softplus(raw)).to_event(1))
            logits = self.bottom(z_1).unflatten(-1, SHAPE)
            pyro.sample("x", dist.Bernoulli(logits=logits).to_event(3), obs=x)


class ChainGuide(PyroModule):
    def __init__(self):
        super().__init__()
        self.up, self.higher = nn.Linear(64, 6), nn.Linear(3, 4)

    def forward(self, x):
        with pyro.plate("data", len(x)):
            loc, raw = self.up(x.flatten(1)).chunk(2, -1)
            z_1 = pyro.sample("z_1", dist.Normal(loc, softplus(raw)).to_event(1))
            loc, raw = self.higher(z_1).chunk(2, -1)
            pyro.sample("z_2", dist.Normal(loc, softplus(raw)).to_event(1))


class FlowGuide(PyroModule):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Linear(64, 6)
        self.flow = affine_autoregressive(3, hidden_dims=[8])

    def forward(self, x):
        loc, raw = self.encoder(x.flatten(1)).chunk(2, -1)
        with pyro.plate("data", len(x)):
            base = dist.Normal(loc, softplus(raw)).to_event(1)
            pyro.sample("z", dist.TransformedDistribution(base, [self.flow]))


def _vae(**options):
    return pvae.models.VAE(SHAPE, 3, hidden_dims=[16], **options)


def _mean_field():
    return pvae.guides.MeanField(SHAPE, 3, hidden_dims=[16])


def _conv():
    options = {"network": "conv", "channels": (4, 8)}
    guide = pvae.guides.MeanField(SHAPE, 3, **options)
    return pvae.models.VAE(SHAPE, 3, network="conv", channels=(8, 4)), guide


PAIRS = {
    "dense": (lambda: (_vae(), _mean_field()), TraceMeanField_ELBO(), TraceMeanField_ELBO()),
    "convolutional": (_conv, TraceMeanField_ELBO(), TraceMeanField_ELBO()),
    "chain": (lambda: (Chain(), ChainGuide()), Trace_ELBO(), Trace_ELBO()),
    "flow": (lambda: (_vae(), FlowGuide()), Trace_ELBO(), Trace_ELBO()),
    "iwae": (
        lambda: (_vae(), _mean_field()),
        IWAE_ELBO(5),
        RenyiELBO(alpha=0, num_particles=5, vectorize_particles=True),
    ),
    "learned_scale": (
        lambda: (_vae(likelihood="gaussian", scale="learned"), _mean_field()),
        TraceMeanField_ELBO(),
        TraceMeanField_ELBO(),
    ),
}


pytestmark = pytest.mark.usefixtures("unvalidated")


def _data(name, dtype):
    x = torch.rand(16, *SHAPE, generator=torch.Generator().manual_seed(0))
    return (x if name == "learned_scale" else x.round()).to(dtype)


def _run(pair, loss, x, mode, steps):
    svi = pvae.SVI(*pair, pyro.optim.Adam({"lr": 1e-3}), loss, mode=mode)
    torch.manual_seed(1)
    losses = [svi.step(x) for _ in range(steps)]
    assert mode == "eager" or svi.compiled, svi.why_eager
    return torch.tensor(losses, dtype=torch.float64)


def _pair(name, dtype):
    torch.manual_seed(0)
    return tuple(module.to(dtype) for module in PAIRS[name][0]())


@pytest.mark.parametrize("name", PAIRS)
def test_eager_steps_are_those_of_pyro(name):
    _, ours, theirs = PAIRS[name]
    x = _data(name, torch.float64)
    model, guide = copy.deepcopy(_pair(name, torch.float64))
    # Parameters of the same name would be one in Pyro's store.
    model._pyro_name, guide._pyro_name = "model", "guide"
    reference = pyro.infer.SVI(model, guide, pyro.optim.Adam({"lr": 1e-3}), theirs)
    reference.evaluate_loss(x)  # the first call of some draws more, to count plates
    torch.manual_seed(1)
    expected = torch.tensor([reference.step(x) for _ in range(200)], dtype=torch.float64)
    pyro.clear_param_store()
    found = _run(_pair(name, torch.float64), ours, x, "eager", 200)
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=0)
    assert expected[-20:].mean() < expected[:20].mean()


@pytest.mark.parametrize("name", PAIRS)
def test_compiled_steps_are_the_eager_ones(name, compiler):
    loss = PAIRS[name][1]
    x = _data(name, torch.float64)
    expected = _run(_pair(name, torch.float64), loss, x, "eager", 200)
    found = _run(_pair(name, torch.float64), loss, x, "compiled", 200)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)


def test_the_first_step_in_single_precision(compiler):
    loss = PAIRS["dense"][1]
    x = _data("dense", torch.float32)
    expected = _run(_pair("dense", torch.float32), loss, x, "eager", 1)
    found = _run(_pair("dense", torch.float32), loss, x, "compiled", 1)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=0)
