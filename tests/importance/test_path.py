"""Both ends of an annealing path as one graph: the numbers and gradients of the programs."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles import ORACLES
from programs import linear_gaussian
from pyro.nn import PyroModule
from torch import nn

import pvae
from pvae.importance import CompiledEnds, Density, Sampler, slopes
from pvae.pair import inspect

CONTINUOUS = [name for name in ORACLES if "categorical" not in name]


def gaussian():
    model, guide, x, _ = linear_gaussian()
    return model, guide, (x,)


def both(path, u):
    """Log densities and gradients of both ends."""
    with torch.enable_grad():
        u = u.detach().requires_grad_()
        log_f = path(u)
        found = [torch.zeros_like(u) if g is None else g for g in slopes(log_f, u)]
    return [*(f.detach() for f in log_f), *found]


def compare(pair, sizes, start, chains=4):
    """Compares the path of several blocks of data, compiled, with that of the programs."""
    model, guide, batch, *_ = pair
    firsts = [sum(sizes[:i]) for i in range(len(sizes))]
    blocks = [tuple(t[a : a + b] for t in batch) for a, b in zip(firsts, sizes, strict=True)]
    with Sampler(inspect(model, guide, *batch)) as sampler:
        density = Density(sampler, batch)
        some = [(density.prior(block, chains), block) for block in (blocks[0], blocks[-1])]
        compiled = CompiledEnds(density.ends(start), some)
        for block in blocks:
            u = density.prior(block, chains)
            for scale in (1, 3):
                ours = both(density.path(block, start, compiled), scale * u)
                theirs = both(density.path(block, start), scale * u)
                for a, b in zip(ours, theirs, strict=True):
                    torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)
    return compiled


@pytest.mark.parametrize("start", ["prior", "guide"])
@pytest.mark.parametrize("name", CONTINUOUS)
@pytest.mark.filterwarnings("error:Annealing runs")
def test_a_graph_is_the_path_of_every_block(name, start, uncompiled):
    graph = compare(ORACLES[name](), [9, 9, 7, 1], start)  # smaller blocks repeat their last datum
    assert len(uncompiled) == 1
    assert graph._graph is not None


@pytest.mark.filterwarnings("error:Annealing runs")
def test_data_in_columns_go_through_the_compiler(compiler):
    model, guide, (x,) = gaussian()
    assert compare((model, guide, (x.T.contiguous().T,)), [9, 5], "guide")._graph is not None


def test_other_numbers_of_chains_or_data_run_the_programs(uncompiled):
    graph = compare(gaussian(), [3, 3], "prior")
    x, u = gaussian()[2][0], torch.zeros(4, 3, 2, dtype=torch.float64)
    assert graph(u, (x[:3],)) is not None
    assert graph(u[:3], (x[:3],)) is None
    assert graph(torch.zeros(4, 5, 2, dtype=torch.float64), (x[:5],)) is None


class Switching(PyroModule):
    """A model that decides by a value, or keeps numbers of the data it saw last."""

    def __init__(self, decides):
        super().__init__()
        self.decides, self.seen, self.net = decides, None, nn.Linear(2, 5).double()

    def forward(self, x):
        if self.decides and x.mean() > 100:
            raise ValueError
        if self.seen is None or self.seen[0] is not x:
            self.seen = x, x.detach().mean(-1, keepdim=True)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2).double(), 1.0).to_event(1))
            loc = self.net(z) + (0.0 if self.decides else self.seen[1])
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)


@pytest.mark.parametrize(
    ("decides", "why"),
    [(True, "decides by the value of a tensor"), (False, "log densities differ in the graph")],
)
def test_what_no_graph_can_repeat_is_said_and_the_program_runs(decides, why, uncompiled):
    _, guide, batch = gaussian()
    with pytest.warns(UserWarning, match=f"Annealing runs without compiling the pair: .*{why}"):
        compare((Switching(decides), guide, batch), [9, 9, 9], "prior")


def test_convolutions_are_left_to_the_program_on_a_cpu(uncompiled):
    options = {"latent_dim": 2, "network": "conv", "channels": [4, 4]}
    pair = pvae.models.VAE((1, 8, 8), **options), pvae.guides.MeanField((1, 8, 8), **options)
    graph = compare((*pair, (torch.rand(6, 1, 8, 8).round(),)), [3, 3], "prior")
    assert graph._graph is None
    assert not uncompiled
