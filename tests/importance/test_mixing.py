"""Data that are mixed, latents of all data, and auxiliary draws: what has no density of a datum."""

import math
import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoNormal
from torch import nn

import pvae
from pvae import PvaeError, log_weights
from pvae.importance.mixing import _splits
from pvae.objectives import IWAE_ELBO

N = 8
X = torch.randn(N, generator=torch.Generator().manual_seed(0))
RING = (torch.eye(N) + torch.eye(N).roll(1, 0) + torch.eye(N).roll(-1, 0)) / 3


def pair(decode=lambda z: z, encode=lambda x: 0 * x):
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
            pyro.sample("x", dist.Normal(decode(z), 0.5), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(encode(x), 1.0))

    return model, guide


def neighbours(x):
    """A convolution over a fixed graph of N data, which runs with no other number."""
    return (RING @ x[..., None])[..., 0]


def pairwise(x):
    """Data 2i and 2i + 1 see each other."""
    return x.unflatten(-1, (-1, 2)).flip(-1).flatten(-2) + x


def _last(x):
    """All data see the last one."""
    return x + x[..., -1:]


MIXERS = {
    "graph": neighbours,
    "earlier data": lambda x: x.cumsum(-1),
    "later data": lambda x: x.flip(-1).cumsum(-1).flip(-1),
    "pairs": pairwise,
    "the last one": _last,
    "the largest": lambda x: x / x.amax(-1, keepdim=True),
    "the smallest": lambda x: x / x.amin(-1, keepdim=True),
    "the mean": lambda x: x - x.mean(-1, keepdim=True),
    "batch normalisation": lambda x: x / x.std(-1, keepdim=True),
    "the number of data": lambda x: x / x.shape[-1],
}


@pytest.mark.parametrize("where", ["decode", "encode"])
@pytest.mark.parametrize("name", MIXERS)
@pytest.mark.parametrize("size", [4, 8, 12, 64])
def test_data_that_are_mixed_are_refused(name, where, size):
    if name == "graph" and size != N:
        pytest.skip("the graph has 8 data")
    x = X.repeat(8)[:size] + 0.1 * torch.arange(size)
    with pytest.raises(PvaeError, match="mixes data across the batch"):
        log_weights(*pair(**{where: MIXERS[name]}), x, num_samples=2)


@pytest.mark.parametrize("size", [2, 3, 4, 6, 7, 8, 64, 65])
def test_each_datum_is_kept_while_each_other_one_is_replaced(size):
    masks = torch.stack(list(_splits(size)))
    kept, replaced = masks[:, :, None], ~masks[:, None, :]
    assert ((kept & replaced).any(0) | torch.eye(size, dtype=torch.bool)).all()
    assert len(masks) <= 2 * math.ceil(math.log2(size))


class OwnParameters(pyro.nn.PyroModule):
    """A guide with parameters for each of N data, which depend on their places in the batch."""

    def __init__(self):
        super().__init__()
        self.loc = nn.Parameter(X / 2)

    def forward(self, x):
        with pyro.plate("data", N):
            pyro.sample("z", dist.Normal(self.loc, 1.0))


def test_parameters_of_each_place_do_not_mix_data():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        log_w = log_weights(pair()[0], OwnParameters(), X, num_samples=20_000)
    found = log_w.double().logsumexp(0) - math.log(len(log_w))
    assert found == pytest.approx(dist.Normal(0.0, math.sqrt(1.25)).log_prob(X).double(), abs=0.1)


class OneWay(dist.transforms.Transform):
    """A map with no inverse but of its own last draw."""

    domain = codomain = dist.constraints.real
    bijective = True
    sign = 1

    def __init__(self):
        super().__init__(cache_size=1)

    def _call(self, x):
        return 2 * x

    def _inverse(self, y):
        raise NotImplementedError("no inverse")

    def log_abs_det_jacobian(self, x, y):
        return torch.full_like(x, math.log(2))


@pytest.mark.parametrize("mixed", [False, True])
def test_a_guide_without_an_inverse_is_compared_by_its_draws(mixed):
    def guide(x):
        loc = x.mean() if mixed else 0 * x
        with pyro.plate("data", len(x)):
            base = dist.Normal(loc + 0 * x, 0.5)
            pyro.sample("z", dist.TransformedDistribution(base, [OneWay()]))

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        log_weights(pair()[0], guide, X, num_samples=2)
    assert any("could not be checked" in str(w.message) for w in said) == mixed


def topics(num, size, encode_with=None):
    """A global w in a plate of its own, at the dimension of the batch plate."""

    def model(x):
        with pyro.plate("topics", num):
            w = pyro.sample("w", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        with pyro.plate("cells", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
            pyro.sample("x", dist.Normal(z + w.mean((-1, -2)), 1.0), obs=x)

    def guide(x):
        with pyro.plate("topics", num):
            pyro.sample("w", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        with pyro.plate("cells", len(x)):
            pyro.sample("z", dist.Normal(0 * x, 1.0))

    return (model, guide), X.repeat(10)[:size]


@pytest.mark.parametrize("size", [1, 2, 6, 64])
@pytest.mark.parametrize("same", [False, True])
def test_a_latent_of_all_data_in_a_plate_of_any_size_is_refused(size, same):
    programs, x = topics(size if same else 3, size)
    with pytest.raises(PvaeError, match=r"(?s)'w'.*global|Which plate counts"):
        log_weights(*programs, x, num_samples=2)
    if same and size > 1:
        with pytest.raises(PvaeError, match=r"'w'.*global"):
            IWAE_ELBO(num_particles=2).loss(*programs, x)
    assert any("'w'" in fault for fault in pvae.diagnose(*programs, x).faults)


def test_plates_of_other_names_in_the_two_programs_are_one_plate():
    model, _ = pair()

    def guide(x):
        with pyro.plate("rows", len(x)):
            pyro.sample("z", dist.Normal(0 * x, 1.0))

    assert log_weights(model, guide, X, num_samples=2).shape == (2, N)


AUX = {"is_auxiliary": True}


def auxiliary(kind):
    def guide(x):
        with pyro.plate("data", len(x)):
            e = pyro.sample("e", dist.Normal(0 * x, 1.0), infer=AUX)
            if kind == "right":
                pyro.sample("z", dist.Delta(x / 2 + 0.6 * e, log_density=-math.log(0.6)))
            elif kind == "nonlinear":
                pyro.sample("z", dist.Delta(e.sinh(), log_density=-e.cosh().log()))
            elif kind == "forgotten":
                pyro.sample("z", dist.Delta(x / 2 + 0.6 * e))
            elif kind == "reversed":
                pyro.sample("z", dist.Delta(x / 2 + 0.6 * e, log_density=math.log(0.6)))
            elif kind == "two for one":
                f = pyro.sample("f", dist.Normal(0 * x, 1.0), infer=AUX)
                pyro.sample("z", dist.Delta((x + e + f) / 2))
            elif kind == "cut":
                pyro.sample("z", dist.Delta((x / 2 + e).detach()))
            elif kind == "not of it":
                pyro.sample("z", dist.Delta(x / 2))

    return guide


@pytest.mark.parametrize("kind", ["right", "nonlinear"])
def test_a_delta_that_carries_the_density_of_its_draws_is_evaluated(kind):
    log_w = log_weights(pair()[0], auxiliary(kind), X, num_samples=20_000).double()
    found = log_w.logsumexp(0) - math.log(len(log_w))
    assert found == pytest.approx(dist.Normal(0.0, math.sqrt(1.25)).log_prob(X).double(), abs=0.05)


WRONG = {
    "forgotten": r"log_density of 0 where .* is 0\.51",
    "reversed": r"log_density of -0\.51\d* where .* is 0\.51",
    "two for one": r"'e', 'f'.* 2 values for 1",
    "cut": "without a gradient",
    "not of it": "without a gradient",
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_delta_that_does_not_is_refused(kind):
    with pytest.raises(PvaeError, match=WRONG[kind]):
        log_weights(pair()[0], auxiliary(kind), X, num_samples=2)
    with pytest.raises(PvaeError, match=WRONG[kind]):
        IWAE_ELBO(num_particles=2).loss(pair()[0], auxiliary(kind), X)


def test_pyros_autonormal_carries_its_densities():
    """Two sites, one of them positive, with several values for each datum."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            s = pyro.sample("s", dist.LogNormal(0.0, 0.5))
            pyro.sample("x", dist.Normal(z.sum(-1), s), obs=x)

    guide = AutoNormal(model)
    guide(X)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        log_w = log_weights(model, guide, X, num_samples=10)
    assert log_w.isfinite().all()


def test_data_that_do_not_come_first_are_told_to():
    def model(x):
        with pyro.plate("points", x.shape[1]):
            z = pyro.sample("z", dist.Normal(torch.zeros(x.shape[1], 2), 1.0).to_event(1))
            with pyro.plate("repeats", 5, dim=-2):
                pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("points", x.shape[1]):
            pyro.sample("z", dist.Normal(x.mean(0), 1.0).to_event(1))

    with pytest.raises(
        PvaeError, match="If the plate 'points' counts the data, make it the leading"
    ):
        log_weights(model, guide, torch.randn(5, 16, 2), num_samples=3)
