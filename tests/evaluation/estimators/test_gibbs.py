"""Annealing of discrete latents by Gibbs sampling, alone and beside continuous ones."""

import itertools
import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from asking import evaluate, task

import pvae
from pvae import PvaeError, guides, models
from pvae.evaluation.estimators import AIS, BDMC
from pvae.evaluation.estimators.gibbs import sweep
from pvae.importance import Density, sweep_size
from pvae.importance.sampler import Sampler
from pvae.pair import inspect

NUM = {"categorical": 3, "one_hot": 3, "bits": 2, "binomial": 3, "plate": 3, "one_hot plate": 3}


class Pair:
    r"""Three elements y_s of n values, perhaps z ~ N(0, 1), and x ~ N(tanh(Σ_s w_s,y) + v z, 0.6).

    The guide's q(y|x) is wrong; that of z depends on y.

    Args:
        kind: The sites: vectors of elements, or a plate of them.
        continuous: Whether there is a z.
        size: B.
    """

    def __init__(self, kind, continuous=False, size=16):
        torch.manual_seed(0)
        self.kind, self.num, self.continuous = kind, NUM[kind], continuous
        n = self.num
        self.w, self.v = 1.5 * torch.randn(3, n, 2), torch.tensor([0.8, -0.5])
        self.p = torch.rand(3, n) + 0.3
        self.p = torch.ones(3, n) if kind == "binomial" else self.p
        self.x = torch.randn(size, 2)

    def elements(self, logits):
        """Draws y, from logits [..., 3, n]."""
        kind = self.kind
        if "plate" in kind:
            fn = dist.OneHotCategorical if "one_hot" in kind else dist.Categorical
            with pyro.plate("elements", 3, dim=-2):
                y = pyro.sample("y", fn(logits=logits.movedim(-2, 0)))
            y = y if "one_hot" in kind else self.hot(y)
            return y.movedim(-3, -2).unsqueeze(-4)  # [..., 1, B, 3, n]
        if kind == "categorical":
            fn = dist.Categorical(logits=logits)
        elif kind == "one_hot":
            fn = dist.OneHotCategorical(logits=logits)
        elif kind == "bits":
            fn = dist.Bernoulli(logits=logits[..., 1] - logits[..., 0])
        else:
            fn = dist.Binomial(2, logits=logits[..., 2] - logits[..., 0])
        y = pyro.sample("y", fn.to_event(1))
        return y if kind == "one_hot" else self.hot(y)

    def hot(self, y):
        return torch.nn.functional.one_hot(y.long(), self.num).to(self.w.dtype)

    def model(self, x):
        with pyro.plate("data", len(x), dim=-1):
            y = self.elements(self.p.log().expand(1, 3, self.num))
            loc = (y[..., None] * self.w).sum((-3, -2)).tanh()
            if self.continuous:
                loc = loc + pyro.sample("z", dist.Normal(0.0, 1.0))[..., None] * self.v
            pyro.sample("x", dist.Normal(loc, 0.6).to_event(1), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x), dim=-1):
            y = self.elements(0.5 * torch.einsum("snd,bd->bsn", self.w, x))
            if self.continuous:
                loc = 0.3 * x @ self.v + 0.2 * y[..., 0, 0]
                pyro.sample("z", dist.Normal(loc, 1.0))

    @property
    def exact(self):
        """log p(x), [B], a sum over all values, on a grid of z."""
        z = torch.linspace(-7, 7, 801) if self.continuous else torch.zeros(1)
        log_z = dist.Normal(0.0, 1.0).log_prob(z) + (z[1] - z[0]).log() if len(z) > 1 else z
        p = self.p.log().log_softmax(-1)
        if self.kind == "binomial":
            p = torch.tensor([0.25, 0.5, 0.25]).log().expand(3, 3)
        terms = []
        for index in itertools.product(range(self.num), repeat=3):
            loc = sum(self.w[s, v] for s, v in enumerate(index)).tanh() + z[:, None] * self.v
            seen = dist.Normal(loc[:, None], 0.6).log_prob(self.x).sum(-1)
            terms.append(sum(p[s, v] for s, v in enumerate(index)) + log_z[:, None] + seen)
        return torch.stack(terms).logsumexp((0, 1)).numpy()


def run(estimator, pair):
    with Sampler(inspect(pair.model, pair.guide, pair.x, plate="data")) as sampler:
        return estimator.estimate(task(sampler, (pair.x,), np.arange(len(pair.x))))


SETTINGS = {"num_chains": 20, "num_temperatures": 20, "num_leapfrog": 2}


@pytest.mark.parametrize("start", ["prior", "guide"])
@pytest.mark.parametrize(("kind", "continuous"), [
    *((kind, False) for kind in NUM), ("one_hot", True), ("bits", True), ("plate", True),
])  # fmt: skip
def test_ais_is_right_within_its_error(kind, continuous, start):
    pair = Pair(kind, continuous)
    found = run(AIS(None, start=start, **SETTINGS), pair)
    error = found.log_px - pair.exact
    # The log of a mean is low by half its relative variance.
    bias = error.mean() + (found.log_px_se**2).mean() / 2
    assert abs(bias) < 4 * np.sqrt((found.log_px_se**2).mean() / len(error)) + 0.003
    assert np.abs(error).max() < 0.7
    assert found.log_px_se.mean() < 0.3
    assert len(found.acceptance) == (19 if continuous else 0)


@pytest.mark.parametrize("continuous", [False, True])
def test_bidirectional_monte_carlo_is_a_sandwich(continuous):
    found = run(BDMC(None, **SETTINGS | {"num_temperatures": 5}), Pair("one_hot", continuous, 60))
    assert found.gap > -3 * found.gap_se
    assert found.gap < 0.5


def test_a_sweep_leaves_the_distribution_as_it_is():
    """π T = π for the matrix T of all transitions of two elements, each of which moves."""
    torch.manual_seed(0)
    both = torch.randn(2, 2, 3, dtype=torch.float64)
    both[0, 1, 2] = -math.inf

    def path(z):
        i = z.long()
        return tuple(f[i[..., 0], i[..., 1]] for f in both)

    target = (0.7 * both[0] + 0.3 * both[1]).flatten().softmax(0)
    states = torch.cartesian_prod(torch.arange(2), torch.arange(3)).double()
    z = sweep(path, states.expand(40_000, 6, 2), 0.3, (2, 3))
    ends = torch.nn.functional.one_hot((3 * z[..., 0] + z[..., 1]).long(), 6).double().mean(0)
    assert (target @ ends - target).abs().max() < 0.01
    assert (ends[:, target == 0] == 0).all()
    assert (ends.diagonal() < 0.9).all()


def test_an_impossible_chain_stays_where_it_is():
    def path(z):
        nothing = torch.full(z.shape[:2], -math.inf)
        return nothing, nothing

    z = torch.tensor([[[0.5, 1.0, 2.0]]])
    assert torch.equal(sweep(path, z, 0.5, (3, 4)), z)


def test_only_discrete_coordinates_are_counted():
    pair = Pair("one_hot plate", continuous=True)
    with Sampler(inspect(pair.model, pair.guide, pair.x, plate="data")) as sampler:
        density = Density(sampler, (pair.x,), discrete=True)
        assert (density.dim, density.counts) == (4, (3, 3, 3))
        assert sweep_size(sampler.structure, sampler.dim) == 9
        u = density.posterior((pair.x,), 5)
        assert torch.equal(density.flatten(density.constrain(u)[0])[..., 1:], u[..., 1:])
        with pytest.raises(PvaeError, match="'y' is discrete"):
            Density(sampler, (pair.x,))


def test_a_pair_with_one_code_is_annealed_from_the_prior():
    """log p(x) sums over all 2^4 maps of codes; the guide has one of them."""
    torch.manual_seed(0)
    made = {"channels": [2, 2], "num_blocks": 1}
    model = models.VQVAE((1, 4, 4), num_codes=3, code_dim=2, **made)
    x = (torch.rand(3, 1, 4, 4) < 0.5).float()
    guide = guides.NearestCode(model, (1, 4, 4), **made)
    options = {"ais": 3, "num_chains": 30, "num_temperatures": 20, "progress": False}
    with pytest.warns(UserWarning, match="one value of 'z'"):
        found = evaluate(model, guide, x, num_samples=1, prior_samples=0, **options)
    model.eval()
    count = math.prod(model.map_shape)
    codes = torch.cartesian_prod(*[torch.arange(3)] * count).reshape(-1, *model.map_shape)
    z = torch.nn.functional.one_hot(codes, 3).float()
    with torch.no_grad():
        log_p = model.likelihood(z[:, None]).log_prob(x).logsumexp(0) - count * math.log(3)
    of = found.findings["ais_prior"]
    assert np.abs(of.log_px - log_p[of.datum].numpy()).max() < 4 * of.log_px_se.max() + 1e-3
    assert "sums over all codes" in found.verdict
    assert "missed mode" not in found.verdict


def test_what_cannot_be_swept_is_refused():
    def unbounded(x):
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.Poisson(torch.ones(len(x))))
            pyro.sample("x", dist.Normal(y, 1.0), obs=x)

    def guess(x):
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Poisson(x.exp()))

    x = torch.randn(4)
    with pytest.warns(UserWarning, match="no finite list of the values of its Poisson"):
        found = evaluate(unbounded, guess, x, num_samples=20, ais=2, progress=False)
    assert set(found.missing) == {"ais_prior", "ais_guide"}

    model = models.CategoricalVAE((4,), num_latents=90, num_categories=50, hidden_dims=[4])
    guide = guides.Categorical((4,), num_latents=90, num_categories=50, hidden_dims=[4])
    x = (torch.rand(4, 4) < 0.5).float()
    with pytest.warns(UserWarning, match=r"4,500 times.*limit is 4,096.*num_samples"):
        pvae.evaluate(model, guide, x, num_samples=20, estimators=[AIS(2)], progress=False)
