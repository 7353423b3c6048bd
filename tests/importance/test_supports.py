"""Outside of its support a density is zero, in every estimator."""

import math
import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch
from asking import evaluate
from bounded import NOISE, X, exact, one, pair, shifted
from pyro.distributions import TorchDistribution
from torch import nn, tensor
from torch.distributions.transforms import (
    AffineTransform,
    SigmoidTransform,
)

import pvae
from pvae import check, log_weights
from pvae.importance.density import Density
from pvae.importance.sampler import Sampler
from pvae.objectives import IWAE_ELBO, DReG_ELBO
from pvae.pair import inspect
from pvae.pair.check import look

CASES = {
    "half line under a Normal": (
        lambda: dist.Exponential(one(1.0)), lambda x: dist.Normal(0.5 * x, 1.0), (0, 30)),
    "LogNormal under a Normal": (
        lambda: dist.LogNormal(one(0.0), one(0.5)), lambda x: dist.Normal(1 + 0 * x, 1.0),
        (1e-9, 40)),
    "interval under a Normal": (
        lambda: dist.Beta(one(2.0), one(3.0)), lambda x: dist.Normal(0.4 + 0 * x, 0.5), (0, 1)),
    "shifted half line in both": (shifted, lambda x: shifted(len(x)), (1, 30)),
    "shifted half line under a Normal": (
        shifted, lambda x: dist.Normal(1.2 + 0 * x, 1.0), (1, 30)),
    "mirrored half line under a wider one": (
        lambda: shifted(by=2.0, scale=-1.0), lambda x: shifted(len(x), by=3.0, scale=-1.5),
        (-30, 2)),
    "shifted LogNormal under a Normal": (
        lambda: dist.TransformedDistribution(
            dist.LogNormal(one(0.0), one(0.5)), [AffineTransform(one(0.5), one(1.0))]),
        lambda x: dist.Normal(1.2 + 0 * x, 1.0), (0.5 + 1e-9, 30)),
    "a stretched sigmoid under a Normal": (
        lambda: dist.TransformedDistribution(
            dist.Normal(one(0.0), one(1.0)),
            [SigmoidTransform(), AffineTransform(one(-1.0), one(2.0))]),
        lambda x: dist.Normal(0.3 * x, 0.8), (-1 + 1e-9, 1 - 1e-9)),
    "one turn under a Normal": (
        lambda: dist.VonMises(one(0.0), one(0.5)), lambda x: dist.Normal(0.5 * x, 2.5),
        (-math.pi, math.pi)),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_weights_outside_are_zero_and_the_bound_is_right(name):
    prior, posterior, bounds = CASES[name]
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        log_w = log_weights(*pair(prior, posterior), X, num_samples=40_000)
    right = exact(prior, *bounds)
    ratio = (log_w - right).exp()
    error = ratio.std(0) / len(ratio) ** 0.5
    assert ((ratio.mean(0) - 1).abs() < 4 * error).all()
    assert (error < 0.03).all()


COUNTS = {
    "too many categories": (
        lambda: dist.Categorical(torch.ones(3)), lambda x: dist.Categorical(torch.ones(len(x), 5))),
    "counts without an end": (
        lambda: dist.Binomial(2, tensor(0.5)), lambda x: dist.Poisson(1 + 0 * x)),
}  # fmt: skip


@pytest.mark.parametrize("enumerate", [False, True])
@pytest.mark.parametrize("name", COUNTS)
def test_discrete_values_beyond_the_model_s_weigh_nothing(name, enumerate):
    prior, posterior = COUNTS[name]
    if enumerate and name == "counts without an end":
        pytest.skip("there is no end to enumerate")
    mark = {"enumerate": "parallel"} if enumerate else {}

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", prior())
            pyro.sample("x", dist.Normal(z.double(), NOISE), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", posterior(x), infer=mark)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        log_w = log_weights(model, guide, X, num_samples=1 if enumerate else 20_000)
    z = torch.arange(3.0)
    joint = prior().log_prob(z)[:, None] + dist.Normal(z[:, None], NOISE).log_prob(X)
    mean = log_w.exp().mean(0)
    assert mean == pytest.approx(joint.exp().sum(0), rel=1e-6 if enumerate else 0.06)


def test_fit_and_check_say_so():
    loc = nn.Parameter(torch.full((3,), 0.5, dtype=torch.double))
    model, guide = pair(
        lambda: dist.Exponential(one(1.0)),
        lambda x: dist.Normal(pyro.param("l", loc)[: len(x)], 1.0),
    )
    said = "'z': the guide's Normal draws outside the support of the model's Exponential"
    for run in (lambda: check(model, guide, X),
                lambda: pvae.fit(model, guide, X, epochs=1, batch_size=3, loss="Trace_ELBO",
                                 progress=False),
                ):  # fmt: skip
        with pytest.warns(UserWarning, match=said):
            run()


@pytest.mark.parametrize("name", ["half line under a Normal", "shifted half line in both"])
def test_every_estimator_agrees_on_bounded_latents(name):
    prior, posterior, bounds = CASES[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = evaluate(
            *pair(prior, posterior), X, num_samples=2000, prior_samples=4000, quadrature=True,
            ais=3, bdmc=3, num_chains=64, num_temperatures=20, surgery=False,
            progress=False,
        )  # fmt: skip
    right = exact(prior, *bounds).numpy()
    assert found.findings["quadrature"].log_px == pytest.approx(right, abs=1e-5)
    assert found.findings["prior"].log_px == pytest.approx(right, abs=0.3)
    assert found.log_px == pytest.approx(right, abs=0.3)
    for start in ("ais_prior", "ais_guide"):
        assert found.findings[start].log_px == pytest.approx(right, abs=0.5)
    sandwich = found.findings["bdmc"]
    assert (abs(sandwich.upper - sandwich.lower) < 0.5).all()


@pytest.mark.parametrize("name", ["interval under a Normal", "shifted half line in both"])
def test_coordinates_reach_the_support_and_nothing_else(name):
    prior, posterior, (low, high) = CASES[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sampler = Sampler(inspect(*pair(prior, posterior), X))
    with sampler:
        density = Density(sampler, (X,))
        u = torch.linspace(-9, 3, 100, dtype=torch.double)[:, None, None].expand(100, 3, 1)
        z = density.constrain(u)[0]["z"]
        assert ((z > low) & (z < high)).all()
        values = torch.tensor([low - 0.1, low + 0.1], dtype=torch.double)[:, None].expand(2, 3)
        u = density.flatten({"z": values})
    assert u[0].isnan().all()
    assert u[1].isfinite().all()


def test_a_narrower_guide_is_evaluated_where_it_draws():
    """AIS from a guide on the half line estimates the integral over the half line."""
    normal = lambda: dist.Normal(one(0.0), one(1.0))  # noqa: E731
    half_line = lambda x: dist.Exponential(one(1.0)).expand([len(x)])  # noqa: E731
    found = evaluate(
        *pair(normal, half_line), X, num_samples=5000, prior_samples=0, ais=3, num_chains=64,
        num_temperatures=20, surgery=False, progress=False,
    )  # fmt: skip
    half = exact(normal, 0, 15).numpy()
    assert found.log_px == pytest.approx(half, abs=0.1)
    assert found.findings["ais_guide"].log_px == pytest.approx(half, abs=0.5)
    whole = exact(normal, -15, 15).numpy()
    assert found.findings["ais_prior"].log_px == pytest.approx(whole, abs=0.5)


@pytest.mark.parametrize("kind", [IWAE_ELBO, DReG_ELBO])
def test_objectives_count_weights_outside_as_zero(kind):
    """L_K and its gradient from the weights that are left; the others have none."""
    torch.manual_seed(1)
    loc = nn.Parameter(torch.zeros(3, dtype=torch.double))
    model, guide = pair(
        lambda: dist.LogNormal(one(0.0), one(0.5)),
        lambda x: dist.Normal(pyro.param("loc", loc), torch.ones_like(loc)),
    )
    elbo = kind(num_particles=50)
    with warnings.catch_warnings(), pyro.validation_enabled(False):
        warnings.simplefilter("ignore")
        elbo.loss(model, guide, X)
        torch.manual_seed(2)
        loss = elbo.differentiable_loss(model, guide, X)
    (slope,) = torch.autograd.grad(loss, [loc])

    torch.manual_seed(2)
    z = loc.detach() + torch.randn(50, 3, dtype=torch.double)
    assert (z < 0).any()
    z.requires_grad_()
    log_q = dist.Normal(torch.zeros(3, dtype=torch.double), 1.0).log_prob(z)
    joint = dist.LogNormal(one(0.0), one(0.5)).log_prob(z.clamp(min=1e-9))
    log_w = joint + dist.Normal(z, NOISE).log_prob(X) - log_q
    log_w = torch.where(z > 0, log_w, -math.inf)
    bound = log_w.logsumexp(0) - math.log(50)
    assert loss.item() == pytest.approx(-bound.sum().item())
    share = log_w.detach().softmax(0)
    weight = share if kind is DReG_ELBO else 1.0
    # In z's derivative of log w, log q is held for DReG, and moves with loc in IWAE.
    path = dist.LogNormal(one(0.0), one(0.5)).log_prob(z.clamp(min=1e-9))
    path = path + dist.Normal(z, NOISE).log_prob(X)
    if kind is DReG_ELBO:
        path = path - log_q
    terms = torch.autograd.grad(torch.where(z > 0, share * path, 0.0).sum(), [z])[0]
    assert slope == pytest.approx(-(weight * terms).sum(0), rel=1e-6)


RIGHT = {
    "one support by other families": (
        lambda: dist.Gamma(one(2.0), one(1.0)), lambda x: dist.LogNormal(0 * x, 0.7), (0, 40),
        False),
    "a part of the model's": (
        lambda: dist.Uniform(one(-1.0), one(2.0)),
        lambda x: dist.Uniform(-1 + 0 * x, 2 + 0 * x), (-1, 2), True),
}  # fmt: skip


@pytest.mark.parametrize("name", RIGHT)
def test_right_supports_raise_no_alarm(name):
    prior, posterior, bounds, looked_at = RIGHT[name]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = evaluate(*pair(prior, posterior), X, num_samples=5000, progress=False)
        structure = check(*pair(prior, posterior), X)
    assert found.log_px == pytest.approx(exact(prior, *bounds).numpy(), abs=0.1)
    assert structure.remarks == ()
    assert ("z" in structure.bounded) == looked_at


def test_a_likelihood_on_an_interval_that_z_decides():
    """z ~ U(0, 2), x ~ U(0, z): p(x) = ln(2 / x) / 2."""
    x = torch.tensor([0.2, 0.9, 1.7], dtype=torch.double)

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Uniform(torch.zeros_like(x), 2.0))
            pyro.sample("x", dist.Uniform(0.0, z, validate_args=False), obs=x)

    def shifts(x):  # the same by its residual: the value moves, the support does not
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Uniform(torch.zeros_like(x), 2.0))
            pyro.sample("x", dist.Exponential(torch.ones_like(x)), obs=z - x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Uniform(torch.zeros_like(x), 2.0))

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for each, right in (
            (model, (2 / x).log() / 2),
            (shifts, (1 - (x - 2).exp()) / 2),
        ):
            log_w = log_weights(each, guide, x, num_samples=40_000)
            mean = log_w.exp().mean(0)
            assert mean == pytest.approx(right, rel=0.03)


@pytest.mark.parametrize("strategy", ["plate", "tile", "loop"])
def test_static_supports_cost_nothing(monkeypatch, strategy):
    """Data are looked at when a pair is admitted, never with the samples."""
    model = pvae.models.VAE((1, 8, 8), latent_dim=2, hidden_dims=[8])
    guide = pvae.guides.MeanField((1, 8, 8), latent_dim=2, hidden_dims=[8])
    x = torch.rand(4, 1, 8, 8).round()
    assert look(model, guide, x).bounded == frozenset()
    monkeypatch.setattr("pvae.importance.terms.log_prob", None)  # a call would fail
    assert log_weights(model, guide, x, num_samples=3, strategy=strategy).isfinite().all()


class Foreign(TorchDistribution):
    """A distribution that does not say what its support is, as pyro.contrib.zuko's."""

    has_rsample = True
    arg_constraints = {}  # noqa: RUF012

    def __init__(self, inner):
        self.inner = inner
        super().__init__(inner.batch_shape, inner.event_shape, validate_args=False)

    def expand(self, batch_shape, _instance=None):
        return Foreign(self.inner.expand(batch_shape))

    def rsample(self, sample_shape=torch.Size()):  # noqa: B008
        return self.inner.rsample(sample_shape)

    def log_prob(self, value):
        return self.inner.log_prob(value)


@pytest.mark.parametrize("where", ["model", "both", "observed"])
def test_a_distribution_that_knows_no_support(where):
    wrap = lambda fn, here: Foreign(fn) if where in here else fn  # noqa: E731

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", wrap(dist.Normal(one(0.0), one(1.0)), ("model", "both")))
            pyro.sample("x", wrap(dist.Normal(z, NOISE), ("observed",)), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", wrap(dist.Normal(0.6 * x, 0.7), ("guide", "both")))

    right = dist.Normal(0.0, math.sqrt(1 + NOISE**2)).log_prob(X).numpy()
    assert pvae.diagnose(model, guide, X).faults == []
    found = evaluate(model, guide, X, num_samples=2000, ais=3, quadrature=True, surgery=False,
                     num_chains=16, num_temperatures=10, progress=False)  # fmt: skip
    assert found.log_px == pytest.approx(right, abs=0.05)
    assert found.findings["quadrature"].log_px == pytest.approx(right, abs=1e-6)
    assert found.findings["ais_prior"].log_px == pytest.approx(right, abs=0.3)
