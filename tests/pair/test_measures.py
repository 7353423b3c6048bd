"""Reference measures: densities and probabilities of one site are not compared."""

import math
import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch
from asking import evaluate
from bounded import X, one, pair
from torch import nn, tensor

import pvae
from pvae import PvaeError, check, log_weights
from pvae.objectives import IWAE_ELBO


def relaxed_pair(kind):
    def model(x):
        with pyro.plate("data", len(x)):
            if kind == "bit":
                z = pyro.sample("z", dist.Bernoulli(torch.full((1,), 0.5)).to_event(1))
            else:
                z = pyro.sample("z", dist.OneHotCategorical(torch.ones(2)))[..., :1]
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    class Guide(pyro.nn.PyroModule):
        def __init__(self):
            super().__init__()
            self.net = nn.Linear(1, 2)

        def forward(self, x):
            with pyro.plate("data", len(x)):
                if kind == "bit":
                    fn = dist.RelaxedBernoulli(tensor(0.5), logits=self.net(x)[:, :1]).to_event(1)
                elif kind == "straight-through":
                    fn = dist.RelaxedOneHotCategoricalStraightThrough(
                        tensor(0.5), logits=self.net(x)
                    )
                else:
                    fn = dist.RelaxedOneHotCategorical(tensor(0.5), logits=self.net(x))
                pyro.sample("z", fn)

    return model, Guide()


@pytest.mark.parametrize("kind", ["bit", "one-hot", "straight-through"])
def test_a_relaxed_guide_trains_and_bounds_nothing(kind):
    torch.manual_seed(0)
    model, guide = relaxed_pair(kind=kind)
    x = torch.randn(20, 1)
    said = r"'z': the guide's Relaxed\w+ has a density, the model's \w+ has prob.*give the guide"
    with pytest.warns(UserWarning, match=said):
        check(model, guide, x)
    for run in (lambda: log_weights(model, guide, x, num_samples=2),
                lambda: evaluate(model, guide, x, num_samples=2, progress=False)):  # fmt: skip
        with pytest.raises(PvaeError, match=said):
            run()
    before = guide.net.weight.detach().clone()
    with pytest.warns(UserWarning, match=said):
        pvae.fit(model, guide, x, epochs=1, batch_size=20, loss="Trace_ELBO", progress=False)
    assert not torch.equal(before, guide.net.weight)
    assert any("has probabilities" in fault for fault in pvae.diagnose(model, guide, x).faults)
    if kind != "straight-through":
        with warnings.catch_warnings(), pyro.validation_enabled(False):
            warnings.simplefilter("ignore")
            assert math.isfinite(IWAE_ELBO(num_particles=3).loss(model, guide, x))


def test_probabilities_in_the_guide_alone_are_refused():
    model, guide = pair(lambda: dist.Normal(one(0.0), one(1.0)),
                        lambda x: dist.Bernoulli(torch.full_like(x, 0.5)))  # fmt: skip
    with pytest.raises(PvaeError, match=r"'z'.*Bernoulli has probabilities.*Normal has a density"):
        log_weights(model, guide, X, num_samples=2)
