"""Which distributions of a site in model and guide give a bound: right ones and refused ones."""

import itertools
import math
import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.distributions.transforms import AffineTransform

import pvae
from pvae.distributions import GumbelSoftmax
from pvae.errors import PvaeError
from pvae.objectives import IWAE_ELBO, STL_ELBO, DReG_ELBO

TEMPERATURE = torch.tensor(0.7)
WEIGHT = torch.tensor([[0.5, -1.0, 0.2], [1.5, 0.3, -0.7]])
X = torch.tensor([-1.0, 0.3, 2.0])


def signs(fn):
    return dist.TransformedDistribution(fn, [AffineTransform(-1.0, 2.0)])


# name: a distribution over [2, 3] from its logits [..., 2, 3], two one-hots or six bits
FAMILIES = {
    "OneHotCategorical": lambda f: dist.OneHotCategorical(logits=f),
    "OneHotCategoricalStraightThrough": lambda f: dist.OneHotCategoricalStraightThrough(logits=f),
    "GumbelSoftmax, hard": lambda f: GumbelSoftmax(0.7, f, hard=True),
    "GumbelSoftmax": lambda f: GumbelSoftmax(0.7, f),
    "RelaxedOneHotCategorical": lambda f: dist.RelaxedOneHotCategorical(TEMPERATURE, logits=f),
    "RelaxedOneHotCategoricalStraightThrough": lambda f: (
        dist.RelaxedOneHotCategoricalStraightThrough(TEMPERATURE, logits=f)
    ),
    "Bernoulli": lambda f: dist.Bernoulli(logits=f).to_event(1),
    "RelaxedBernoulli": lambda f: dist.RelaxedBernoulli(TEMPERATURE, logits=f).to_event(1),
    "RelaxedBernoulliStraightThrough": lambda f: dist.RelaxedBernoulliStraightThrough(
        TEMPERATURE, logits=f
    ).to_event(1),
    "signs": lambda f: signs(dist.Bernoulli(logits=f)).to_event(1),
    "relaxed signs": lambda f: signs(dist.RelaxedBernoulli(TEMPERATURE, logits=f)).to_event(1),
    "straight-through signs": lambda f: signs(
        dist.RelaxedBernoulliStraightThrough(TEMPERATURE, logits=f)
    ).to_event(1),
    "Normal": lambda f: dist.Normal(f, 1.0).to_event(1),
}

# the model's, and the guide's
RIGHT = [
    ("OneHotCategorical", "OneHotCategorical"),
    ("OneHotCategorical", "OneHotCategoricalStraightThrough"),
    ("OneHotCategorical", "GumbelSoftmax, hard"),
    ("Bernoulli", "Bernoulli"),
    ("signs", "signs"),
    ("RelaxedOneHotCategoricalStraightThrough", "RelaxedOneHotCategoricalStraightThrough"),
    ("RelaxedBernoulliStraightThrough", "RelaxedBernoulliStraightThrough"),
]
REFUSED = [
    ("OneHotCategorical", "RelaxedOneHotCategorical", "has a density"),
    ("OneHotCategorical", "RelaxedOneHotCategoricalStraightThrough", "has a density"),
    ("OneHotCategorical", "GumbelSoftmax", "relaxed samples and the probabilities of discrete"),
    ("GumbelSoftmax", "GumbelSoftmax", "relaxed samples and the probabilities of discrete"),
    ("Bernoulli", "RelaxedBernoulli", "has a density"),
    ("Bernoulli", "RelaxedBernoulliStraightThrough", "has a density"),
    ("signs", "relaxed signs", "has a density"),
    ("Normal", "signs", "has probabilities"),
    ("signs", "straight-through signs", "transforms straight-through samples"),
    ("straight-through signs", "straight-through signs", "transforms straight-through samples"),
    ("RelaxedOneHotCategorical", "RelaxedOneHotCategoricalStraightThrough", "gives out discrete"),
    ("RelaxedOneHotCategoricalStraightThrough", "RelaxedOneHotCategorical", "gives out discrete"),
    ("RelaxedBernoulliStraightThrough", "RelaxedBernoulli", "gives out discrete"),
    ("RelaxedBernoulli", "RelaxedBernoulliStraightThrough", "gives out discrete"),
    ("RelaxedOneHotCategoricalStraightThrough", "OneHotCategorical", "gives out discrete"),
    ("Normal", "RelaxedOneHotCategorical", "of . dimensions"),
    ("RelaxedBernoulli", "RelaxedOneHotCategorical", "of . dimensions"),
    ("RelaxedOneHotCategorical", "Normal", "of . dimensions"),
]


def pair(prior, posterior, plates):
    """Returns a pair whose two codes are one event, or stand in a plate of two."""
    prior, posterior = FAMILIES[prior], FAMILIES[posterior]
    dim = -2 if plates else -1

    def draw(fn):
        if not plates:
            return pyro.sample("z", fn.to_event(1))
        with pyro.plate("codes", 2, dim=-1):
            return pyro.sample("z", fn)

    def model(x):
        with pyro.plate("data", len(x), dim=dim):
            z = draw(prior(torch.zeros(2, 3)))
            mean = (z * WEIGHT).sum((-1, -2), keepdim=plates)
            mean = mean[..., 0] if plates else mean
            pyro.sample("x", dist.Normal(mean, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=dim):
            draw(posterior(0.3 * x.reshape(-1, 1, 1) * WEIGHT))

    return model, guide, X[:, None] if plates else X


def exact(prior):
    if "OneHot" in prior:
        values = [torch.eye(3)[list(each)] for each in itertools.product(range(3), repeat=2)]
    else:
        low = -1.0 if "signs" in prior else 0.0
        values = [torch.tensor(v).reshape(2, 3) for v in itertools.product((low, 1.0), repeat=6)]
    means = (torch.stack(values) * WEIGHT).sum((-1, -2))
    log_p = dist.Normal(means[:, None], 1.0).log_prob(X)
    return (log_p.logsumexp(0) - math.log(len(values))).double()


@pytest.mark.parametrize("plates", [False, True])
@pytest.mark.parametrize(("prior", "posterior"), RIGHT)
def test_right_pairs_have_the_exact_bound(prior, posterior, plates):
    torch.manual_seed(0)
    *programs, x = pair(prior, posterior, plates)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pvae.check(*programs, x)
        log_w = pvae.log_weights(*programs, x, num_samples=4000).double()
    bound = log_w.logsumexp(0) - math.log(4000)
    error = (log_w - bound).exp().std(0) / 4000**0.5
    assert ((bound - exact(prior)).abs() < 5 * error + 1e-4).all()


@pytest.mark.parametrize("plates", [False, True])
@pytest.mark.parametrize(("prior", "posterior", "said"), REFUSED)
def test_other_pairs_are_refused_in_evaluation_and_named_before(prior, posterior, said, plates):
    *programs, x = pair(prior, posterior, plates)
    with pytest.raises(PvaeError, match=f"'z'.*{said}"):
        pvae.log_weights(*programs, x, num_samples=3)
    with pytest.raises(PvaeError, match=f"'z'.*{said}"):
        pvae.evaluate(*programs, x, num_samples=3, progress=False)
    with pytest.warns(UserWarning, match=f"'z'.*{said}"):
        pvae.check(*programs, x)


@pytest.mark.parametrize("objective", [DReG_ELBO, STL_ELBO])
@pytest.mark.parametrize(
    ("prior", "posterior"),
    [
        ("OneHotCategorical", "OneHotCategoricalStraightThrough"),
        ("OneHotCategorical", "RelaxedOneHotCategorical"),
        ("RelaxedOneHotCategoricalStraightThrough", "RelaxedOneHotCategoricalStraightThrough"),
        ("RelaxedBernoulliStraightThrough", "RelaxedBernoulliStraightThrough"),
    ],
)
def test_path_gradients_refuse_what_is_not_the_density_of_its_samples(prior, posterior, objective):
    model, guide, x = pair(prior, posterior, False)
    with pytest.raises(PvaeError, match=r"'z'.*no density along a path.*IWAE_ELBO or Trace_ELBO"):
        objective(num_particles=2).loss(model, guide, x)
    with pyro.validation_enabled(False):
        assert math.isfinite(IWAE_ELBO(num_particles=2).loss(model, guide, x))


def test_path_gradients_take_relaxed_pairs():
    model, guide, x = pair("RelaxedOneHotCategorical", "RelaxedOneHotCategorical", False)
    assert math.isfinite(DReG_ELBO(num_particles=2).loss(model, guide, x))


@pytest.mark.parametrize(
    ("prior", "posterior"),
    [
        (lambda: dist.Dirichlet(torch.ones(3)), lambda f: dist.Dirichlet(f.exp())),
        (
            lambda: dist.MultivariateNormal(torch.zeros(3), torch.eye(3)),
            lambda f: dist.Normal(f, 1.0).to_event(1),
        ),
        (
            lambda: dist.Dirichlet(torch.ones(3)),
            lambda f: dist.TransformedDistribution(
                dist.Normal(f[..., :2], 1.0).to_event(1),
                [torch.distributions.transforms.StickBreakingTransform()],
            ),
        ),
    ],
)
def test_densities_of_one_dimension_raise_no_alarm(prior, posterior):
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", prior())
            pyro.sample("x", dist.Normal(z.sum(-1), 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", posterior(torch.zeros(len(x), 3)))

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pvae.check(model, guide, X)
        assert pvae.log_weights(model, guide, X, num_samples=5).isfinite().all()
