"""Inference gaps, against optima that are known in closed form."""

import dataclasses
import math
from types import SimpleNamespace

import numpy as np
import oracles
import pyro
import pyro.distributions as dist
import pytest
import torch
from asking import evaluate, task
from torch.distributions import kl_divergence

from pvae.errors import PvaeError
from pvae.evaluation.estimators import gap as module
from pvae.evaluation.estimators.ascent import Best
from pvae.evaluation.estimators.gap import Gap
from pvae.evaluation.estimators.gaps import Gaps
from pvae.importance.sampler import Sampler
from pvae.pair import inspect

FAST = {"num_steps": 150, "num_samples": 400}


def run(model, guide, x, exact=None, *, rows=None, strategy="auto", positions=None, **options):
    sampler = Sampler(inspect(model, guide, x), strategy=strategy)
    if rows:
        sampler.gradient_chunks.rows = rows
    known = None
    if exact is not None:
        known = SimpleNamespace(log_px=exact.double().numpy(), findings={})
    options = {"seed": 0, **FAST, **options}
    with sampler:
        own = task(sampler, x, positions, seed=options.pop("seed"), known=known)
        return Gap(len(own.positions), **options).estimate(own)


class Linear:
    """z ~ N(0, I), x ~ N(W z, σ²), its posterior N(G x, C), and guides of any kind."""

    def __init__(self, weight, noise=0.7, size=8, dtype=torch.float64) -> None:
        self.weight = torch.tensor(weight, dtype=dtype)
        self.noise, self.dtype = noise, dtype
        wide = self.weight.double()
        self.precision = torch.eye(wide.shape[1]).double() + wide.T @ wide / noise**2
        self.covariance = torch.linalg.inv(self.precision)
        self.gain = (self.covariance @ wide.T / noise**2).to(dtype)
        self.x = oracles.random(size, len(wide), seed=0).to(dtype) * 1.3
        covariance = wide @ wide.T + noise**2 * torch.eye(len(wide))
        zero = torch.zeros(len(wide)).double()
        self.exact = dist.MultivariateNormal(zero, covariance).log_prob(self.x.double())

    def model(self, x):
        with pyro.plate("data", len(x)):
            prior = dist.Normal(torch.zeros(self.weight.shape[1], dtype=self.dtype), 1.0)
            z = pyro.sample("z", prior.to_event(1))
            pyro.sample("x", dist.Normal(z @ self.weight.T, self.noise).to_event(1), obs=x)

    def guide(self, fn):
        """A guide from a function of the posterior's mean [B, Z] and scale [Z]."""

        def guide(x):
            with pyro.plate("data", len(x)):
                scale = self.covariance.diagonal().sqrt().to(self.dtype)
                pyro.sample("z", fn(x @ self.gain.T, scale))

        return guide


def wrong(loc, scale):
    """Shifted, and too wide by a factor between 1.1 and 1.9 that differs from datum to datum."""
    return dist.Normal(loc + 0.5 * scale, scale * (1.5 + 0.4 * loc.tanh())).to_event(1)


ORTHOGONAL = [[1.0, 0.5], [0.5, -1.0], [0.0, 0.0]]
CORRELATED = [[1.0, 0.8], [0.3, 0.6], [-0.5, 0.1]]


@pytest.mark.parametrize("strategy", ["plate", "tile"])
@pytest.mark.parametrize("weight", [[[0.8], [0.5]], ORTHOGONAL])
def test_a_family_that_holds_the_posterior_leaves_no_approximation_gap(weight, strategy):
    pair = Linear(weight)
    options = {"strategy": strategy, "num_samples": 2000}
    found = run(pair.model, pair.guide(wrong), pair.x, pair.exact, **options)
    assert found.own_family
    assert found.family == "z ~ Normal(loc, scale)"
    assert np.abs(found.approximation).max() < 1e-3
    loc, scale = pair.x @ pair.gain.T, pair.covariance.diagonal().sqrt()
    posterior = dist.Normal(loc, scale).to_event(1)
    kl = kl_divergence(wrong(loc, scale), posterior).numpy()
    assert (np.abs(found.amortisation - kl) < 5 * found.to_best_se + 1e-3).all()
    assert (found.to_best_se < 0.1).all()
    np.testing.assert_allclose(found.inference, found.amortisation + found.approximation)


def test_single_precision_and_a_loop():
    pair = Linear([[0.8], [0.5]], size=4, dtype=torch.float32)
    few = {"num_steps": 80, "num_particles": 8, "num_samples": 50}
    found = run(pair.model, pair.guide(wrong), pair.x, pair.exact, strategy="loop", **few)
    assert (np.abs(found.approximation) < 5 * found.elbo_best_se + 5e-3).all()
    assert (found.elbo_best_se < 0.03).all()
    found = run(pair.model, pair.guide(wrong), pair.x, pair.exact)
    assert np.abs(found.approximation).max() < 1e-3
    assert found.elbo.dtype == np.float64


def test_a_scale_that_all_data_share_belongs_to_the_family():
    pair, shift, wide = Linear(ORTHOGONAL), 0.6, 1.4

    def fn(loc, scale):
        return dist.Normal(loc + shift * scale, wide * scale).to_event(1)

    found = run(pair.model, pair.guide(fn), pair.x, pair.exact)
    assert found.family == "z ~ Normal(loc), the same scale for all data"
    kl = 2 * (wide**2 / 2 - 0.5 - math.log(wide))
    assert (np.abs(found.approximation - kl) < 5 * found.elbo_best_se + 2e-3).all()
    assert (np.abs(found.amortisation - shift**2) < 5 * found.to_best_se + 2e-3).all()


def test_a_guide_that_ignores_x_may_move_everything():
    pair = Linear([[0.8], [0.5]])

    def fn(loc, scale):
        return dist.Normal(torch.zeros_like(loc), 1.0).to_event(1)

    found = run(pair.model, pair.guide(fn), pair.x, pair.exact)
    assert found.family == "z ~ Normal(loc, scale)"
    assert np.abs(found.approximation).max() < 2e-3
    found = run(pair.model, pair.guide(wrong), pair.x[:1], pair.exact[:1])
    assert found.family == "z ~ Normal(loc, scale)"
    assert np.abs(found.approximation).max() < 2e-3


def optimal_mean_field(precision) -> float:
    """KL of the best product of Normals from a Gaussian."""
    return float(precision.diagonal().log().sum() - torch.logdet(precision)) / 2


def test_a_correlated_posterior_keeps_its_distance_from_mean_field():
    pair = Linear(CORRELATED, noise=0.5)
    found = run(pair.model, pair.guide(wrong), pair.x, pair.exact, num_samples=2000)
    kl = optimal_mean_field(pair.precision)
    assert kl > 0.1
    assert (np.abs(found.approximation - kl) < 4 * found.elbo_best_se + 2e-3).all()

    def fn(loc, scale):
        tril = torch.diag_embed(scale * (1.2 + 0.1 * loc.tanh()))
        return dist.MultivariateNormal(loc + 0.3 * scale, scale_tril=tril)

    found = run(pair.model, pair.guide(fn), pair.x, pair.exact, num_steps=300)
    assert found.family == "z ~ MultivariateNormal(loc, scale_tril)"
    assert np.abs(found.approximation).max() < 2e-3


def test_gamma():
    model, _, (x,), exact = oracles.gamma_poisson()
    x, exact = x[:8], exact[:8]

    def guide(x):
        with pyro.plate("data", len(x)):
            total = x.sum(-1)
            pyro.sample("z", dist.Gamma(2 + 0.7 * total, 3 + 0.02 * total))

    found = run(model, guide, x, exact, num_steps=400)
    assert found.family == "z ~ Gamma(concentration, rate)"
    assert np.abs(found.approximation).max() < 2e-3
    assert found.amortisation.min() > 0.01


def test_a_label_that_the_guide_enumerates():
    truth = oracles.LinearMixture(oracles.random(3, 3, seed=4))
    model, _, (x,), exact = oracles.categorical("guide")
    x, exact = x[:8], exact[:8]

    def guide(x):
        with pyro.plate("data", len(x)):
            fn = dist.Categorical(logits=0.8 * truth.log_joint(x))
            y = pyro.sample("y", fn, infer={"enumerate": "parallel"})
            loc, scale = truth.posterior(x)
            loc = loc[torch.arange(len(x)), y]
            pyro.sample(
                "z", dist.Normal(loc + 0.2, scale[y] * (1.2 + 0.1 * loc.tanh())).to_event(1)
            )

    for strategy in ("plate", "tile"):
        found = run(model, guide, x, exact, num_steps=200, strategy=strategy)
        assert found.family == "y ~ Categorical(logits); z ~ Normal(loc, scale)"
        assert np.abs(found.approximation).max() < 3e-3
        assert found.amortisation.min() > 0.02


def test_a_label_alone_needs_no_draws():
    model, guide, (x,), exact = oracles.summed("guide")
    found = run(model, guide, x[:8], exact[:8], num_steps=300)
    assert np.abs(found.approximation).max() < 1e-4
    assert (found.elbo_best_se == 0).all()
    assert found.amortisation.max() > 0.05


def test_a_hierarchy_is_compared_with_the_optimal_mean_field():
    model, guide, (x,), exact = oracles.hierarchy()
    found = run(model, guide, x[:8], exact[:8], num_samples=2000)
    assert not found.own_family
    assert found.family.startswith("gap to the optimal mean field: loc of site 'z_2'")
    assert np.isnan(found.amortisation).all()
    assert np.isfinite(found.to_best).all()
    upper, lower = oracles.random(2, 2, seed=1), oracles.random(4, 2, seed=2)
    eye = torch.eye(2).double()
    precision = torch.cat([
        torch.cat([eye / 0.36 + lower.T @ lower / 0.25, -upper / 0.36], 1),
        torch.cat([-upper.T / 0.36, eye + upper.T @ upper / 0.36], 1),
    ])  # fmt: skip
    kl = optimal_mean_field(precision)
    assert kl > 0.1
    assert (np.abs(found.approximation - kl) < 4 * found.elbo_best_se + 3e-3).all()


def test_a_flow_and_a_guide_with_a_mixture_are_compared_with_the_optimal_mean_field():
    pair = Linear(CORRELATED)

    def flow(loc, scale):
        base = dist.Normal(torch.zeros_like(loc), 1.0).to_event(1)
        return dist.TransformedDistribution(
            base, [dist.transforms.AffineTransform(loc, scale, event_dim=1)]
        )

    found = run(pair.model, pair.guide(flow), pair.x, pair.exact, num_samples=2000)
    assert "TransformedDistribution of site 'z'" in found.family
    kl = optimal_mean_field(pair.precision)
    assert (np.abs(found.approximation - kl) < 4 * found.elbo_best_se + 2e-3).all()
    model, guide, (x,), exact = oracles.categorical("model")
    found = run(model, guide, x[:8], exact[:8])
    assert "MixtureSameFamily of site 'z'" in found.family
    assert (found.approximation > -4 * found.elbo_best_se - 1e-3).all()


@pytest.mark.parametrize("sign", [1e-6, -1.0])
def test_nothing_worse_than_the_guide_is_returned(sign, monkeypatch):
    ascend = module.ascend

    def elsewhere(member, *args):
        start, best = member.parameters(), ascend(member, *args)
        moved = [a + sign * (b - a) for a, b in zip(start, best.parameters, strict=True)]
        return dataclasses.replace(best, parameters=moved)

    monkeypatch.setattr(module, "ascend", elsewhere)
    pair = Linear(ORTHOGONAL)
    found = run(pair.model, pair.guide(wrong), pair.x, pair.exact)
    assert (found.elbo_best > found.elbo - 1e-6).all()
    if sign < 0:
        assert (found.elbo_best == found.elbo).all()  # the same draws, too
        assert (found.to_best_se == 0).all()


def test_reported_draws_are_not_those_that_were_chosen_by(monkeypatch):
    """At the guide, and at a member that is no better, only noise can choose."""
    pair = Linear([[0.8], [0.5]], size=300)

    def unmoved(member, *args):
        found = [value + 0.02 * torch.randn_like(value) for value in member.parameters()]
        fine = torch.ones(member.size, dtype=torch.bool)
        return Best(found, fine, fine, 0)

    monkeypatch.setattr(module, "ascend", unmoved)

    def fn(loc, scale):
        return dist.Normal(loc + 1e-9 * loc, scale.expand_as(loc) * (1 + 1e-9 * loc)).to_event(1)

    found = run(pair.model, pair.guide(fn), pair.x, pair.exact, num_samples=20)
    moved = found.to_best != 0
    assert moved.sum() > 0
    # The guide is the posterior: fresh draws say that every other member is worse.
    t = found.to_best[moved].mean() / (found.to_best[moved].std() / math.sqrt(moved.sum()))
    assert t < 3


def test_positions_and_chunks():
    pair = Linear(ORTHOGONAL, size=40)
    positions = np.array([1, 5, 6, 39])
    args = (pair.model, pair.guide(wrong), pair.x)
    found = run(*args, pair.exact, positions=positions, num_steps=20)
    np.testing.assert_array_equal(found.log_px, pair.exact.numpy()[positions])
    assert found.datum.tolist() == positions.tolist()
    again = run(*args, positions=positions, num_steps=20, rows=9)
    np.testing.assert_allclose(again.elbo_best, found.elbo_best, 1e-9)
    assert np.isnan(again.log_px).all()
    assert np.isnan(again.approximation).all()
    other = run(*args, positions=positions, num_steps=20, seed=1)
    assert (other.elbo_best != found.elbo_best).all()
    everything = run(*args, num_steps=20)  # more than one block
    assert len(everything) == 40
    assert np.abs(everything.elbo_best[positions] - found.elbo_best).max() < 0.2


def test_round_trip():
    pair = Linear(ORTHOGONAL, size=5)
    found = run(pair.model, pair.guide(wrong), pair.x, num_steps=2, num_samples=10)
    again = Gaps.from_dataset(found.to_dataset())
    for name in ("datum", "elbo", "elbo_best", "log_px", "elbo_best_se", "to_best_se"):
        np.testing.assert_array_equal(getattr(again, name), getattr(found, name))
    for name in ("family", "own_family", "num_samples", "num_steps"):
        assert getattr(again, name) == getattr(found, name)
    assert again.own_family is True


def test_what_cannot_be_optimised_is_refused():
    model, guide, (x,), _ = oracles.categorical("sampled")
    with pytest.raises(PvaeError, match="'y' is discrete"):
        run(model, guide, x[:8])
    model, guide, (x,), _ = oracles.explicit()
    with pytest.raises(PvaeError, match="no latent sites"):
        run(model, guide, x[:8])
    pair = Linear(ORTHOGONAL)

    def masked(x):
        with pyro.poutine.mask(mask=torch.arange(len(x)) % 2 == 0):
            pair.guide(wrong)(x)

    with pytest.raises(PvaeError, match="masked"):
        run(pair.model, masked, pair.x)


def test_parameters_and_modules_are_left_alone():
    pair = Linear(ORTHOGONAL)
    net = torch.nn.Linear(2, 3).double()

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2).double(), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(net(z), 0.5).to_event(1), obs=x)

    before = net.weight.clone()
    run(model, pair.guide(wrong), pair.x, num_steps=5)
    assert net.weight.grad is None
    assert torch.equal(net.weight, before)


def test_sites_without_an_event_dimension():
    """z ~ N(0, 1), x ~ N(z, 1), both scalars."""
    x = oracles.random(10, seed=0)

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.5 * x + 0.3, 1.5 * 0.5**0.5))

    exact = dist.Normal(0.0, 2.0**0.5).log_prob(x)
    found = run(model, guide, x, exact)
    posterior = dist.Normal(0.5 * x, 0.5**0.5)
    q = dist.Normal(0.5 * x + 0.3, torch.tensor(1.5 * 0.5**0.5))
    expected = (exact - kl_divergence(q, posterior)).numpy()
    assert np.abs(found.elbo - expected).max() < 6 * 0.8 / math.sqrt(FAST["num_samples"])
    # The scale is the same for all data, and 1.5 times too wide; the location is found.
    wide = 0.5 * (1.5**2 - 1) - math.log(1.5)
    assert found.approximation.mean() == pytest.approx(wide, abs=0.05)
    assert found.amortisation.mean() == pytest.approx(0.09, abs=0.05)  # 0.3² / (2 · 0.5)


def test_a_full_covariance_finds_narrow_posteriors():
    """Its triangle moves in units of its own scales: the family holds the posterior exactly."""
    from pvae.guides import FullCovariance

    torch.manual_seed(0)
    weight = torch.randn(6, 4)

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", pyro.distributions.Normal(torch.zeros(4), 1.0).to_event(1))
            p = pyro.distributions.Normal(z @ weight.T, 0.01).to_event(1)
            pyro.sample("x", p, obs=x)

    x = torch.randn(6, 4) @ weight.T + 0.01 * torch.randn(6, 6)
    exact = torch.distributions.MultivariateNormal(
        torch.zeros(6), weight @ weight.T + 0.01**2 * torch.eye(6)
    ).log_prob(x)
    guide = FullCovariance((6,), 4)
    centre = torch.linalg.pinv(weight)
    with torch.no_grad():  # near the mean, of a scale that is several times too large
        guide.encoder = torch.nn.Linear(6, 14)
        guide.encoder.weight.mul_(1e-3)  # each datum has scales of its own, which are free then
        guide.encoder.weight[:4] = centre
        guide.encoder.bias.zero_()
        guide.encoder.bias[4:8] = -4.0
    found = evaluate(
        model, guide, x, num_samples=50, prior_samples=0, gap=6, ais=6, num_temperatures=20,
        progress=False,
    ).findings["gap"]  # fmt: skip
    assert found.own_family
    np.testing.assert_allclose(found.elbo_best, exact, atol=0.1)


def stretched(dim, condition, shift, wide, full=False, size=4):
    """A linear Gaussian pair of a posterior that is stretched, its guide, x, log p(x), the KL.

    Args:
        dim: D, of z and x.
        condition: Largest by smallest variance of the posterior.
        shift: Of the guide, in scales of the best mean field.
        wide: Scale of the guide in the same units.
        full: Whether the guide's Normal has a full covariance, which holds the posterior.
        size: Number of data.
    """
    turn = torch.linalg.qr(oracles.random(dim, dim, seed=1))[0]
    levels = (torch.logspace(0, math.log10(condition), dim).double() - 1).clamp(min=0).sqrt()
    weight = (turn * levels) @ turn.T
    precision = torch.eye(dim).double() + weight.T @ weight
    gain, scale = weight @ torch.linalg.inv(precision), precision.diagonal().rsqrt()
    marginal = dist.MultivariateNormal(
        torch.zeros(dim).double(), weight @ weight.T + torch.eye(dim).double()
    )
    x = oracles.random(size, dim, seed=2) @ torch.linalg.cholesky(marginal.covariance_matrix).T

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(dim).double(), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ weight.T, 1.0).to_event(1), obs=x)

    def guide(x):
        loc = x @ gain + shift * scale * torch.tanh(3 * x)
        width = scale * wide * torch.exp(0.3 * torch.tanh(x))
        with pyro.plate("data", len(x)):
            fn = (
                dist.MultivariateNormal(loc, scale_tril=torch.diag_embed(width))
                if full
                else dist.Normal(loc, width).to_event(1)
            )
            pyro.sample("z", fn)

    kl = 0.0 if full else optimal_mean_field(precision)
    return model, guide, x, marginal.log_prob(x), kl


@pytest.mark.parametrize("strategy", ["plate", "tile"])
@pytest.mark.parametrize(
    ("dim", "condition", "shift", "wide", "full"),
    [
        (10, 100, 10.0, 1.0, False),
        (5, 1e4, 1.0, 0.05, False),
        (10, 100, 1.0, 20.0, False),
        (10, 1e4, 1.0, 1.5, True),
        (6, 100, 30.0, 0.05, True),
    ],
)
def test_far_starts_and_stretched_posteriors(dim, condition, shift, wide, full, strategy):
    model, guide, x, exact, kl = stretched(dim, condition, shift, wide, full)
    found = run(model, guide, x, exact, strategy=strategy, num_samples=1000, num_steps=600)
    assert found.converged.all()
    assert (np.abs(found.approximation - kl) < 4 * found.elbo_best_se + 2e-3).all()
    assert found.elbo_best_se.max() < 0.03 * kl**0.5 + 0.15
    if full:
        assert found.elbo_best_se.max() < 1e-3


def test_a_mean_field_without_a_family_of_its_own_is_found_from_afar():
    model, guide, x, exact, kl = stretched(5, 1e3, 5.0, 0.1)

    def flow(x):
        with pyro.poutine.block(hide_fn=lambda site: True):
            fn = pyro.poutine.trace(guide).get_trace(x).nodes["z"]["fn"].base_dist
        base = dist.Normal(torch.zeros_like(fn.loc), 1.0).to_event(1)
        move = dist.transforms.AffineTransform(fn.loc, fn.scale, event_dim=1)
        with pyro.plate("rows", len(x)):
            pyro.sample("z", dist.TransformedDistribution(base, [move]))

    found = run(model, flow, x, exact, num_samples=1000, num_steps=600)
    assert not found.own_family
    assert found.converged.all()
    assert (np.abs(found.approximation - kl) < 4 * found.elbo_best_se + 2e-3).all()


def test_what_does_not_converge_says_so_for_its_datum():
    """Four gradients are enough for the datum whose guide is the posterior, for no other."""
    model, guide, x, exact, _ = stretched(4, 100, 3.0, 0.2, full=True)
    _, right, *_ = stretched(4, 100, 0.0, 1.0, full=True)
    posterior = run(model, right, x, exact, num_samples=1000, num_steps=600)

    found = run(model, guide, x, exact, num_steps=4)
    assert not found.converged.any()
    assert np.isposinf(found.elbo_best_se).all()
    assert (found.approximation > 0.1).all()
    assert posterior.converged.all()
    assert np.isfinite(posterior.elbo_best_se).all()


def saturated(x):
    """Data of which the first 16, or the last 24, have the same scale; a Normal posterior."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(()).double(), 1.0))
            pyro.sample("x", dist.Normal(z, 0.7), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.6 * x, (0.9 + 0.3 * x).clamp(min=0.05)))

    return model, guide, dist.Normal(0.0, math.sqrt(1.49)).log_prob(x)


@pytest.mark.parametrize("first", [16, 33])
@pytest.mark.parametrize("flipped", [False, True])
def test_what_is_free_is_decided_by_all_data(first, flipped):
    x = 0.5 * oracles.random(first + 3, seed=0)
    x[:first] -= 5
    x = x.flip(0) if flipped else x
    model, guide, exact = saturated(x)
    found = run(model, guide, x, exact, num_samples=50)
    assert found.family == "z ~ Normal(loc, scale)"
    assert np.abs(found.approximation).max() < 1e-3


def chain(kind, lengths):
    """A Gaussian chain of z_1 … z_3 with data of several lengths, the rest masked."""

    def masked(fn, name, mask, **options):
        if kind == "poutine":
            with pyro.poutine.mask(mask=mask):
                return pyro.sample(name, fn, **options)
        return pyro.sample(name, fn.mask(mask), **options)

    def model(x, n):
        with pyro.plate("data", len(x)):
            z = torch.zeros(len(x)).double()
            for t in range(3):
                z = masked(dist.Normal(0.8 * z, 0.5 if t else 1.0), f"z_{t}", t < n)
                masked(dist.Normal(z, 0.6), f"x_{t}", t < n, obs=x[..., t])

    def guide(x, n):
        with pyro.plate("data", len(x)):
            z = 0.0
            for t in range(3):
                loc = 0.6 * x[..., t] + (0.1 * z if kind == "hierarchy" else 0.0)
                z = masked(dist.Normal(loc, 0.5 + 0.1 * x[..., t].tanh()), f"z_{t}", t < n)

    x = oracles.random(len(lengths), 3, seed=3)
    powers = torch.tensor([[1.0, 0.8, 0.64], [0.8, 0.89, 0.712], [0.64, 0.712, 0.8196]]).double()
    exact, kl = [], []
    for row, n in zip(x, lengths, strict=True):
        part = powers[:n, :n]
        noisy = dist.MultivariateNormal(torch.zeros(n).double(), part + 0.36 * torch.eye(n))
        exact.append(noisy.log_prob(row[:n]))
        kl.append(optimal_mean_field(torch.linalg.inv(part) + torch.eye(n).double() / 0.36))
    return model, guide, (x, torch.tensor(lengths)), torch.stack(exact), np.array(kl)


@pytest.mark.parametrize("kind", ["distribution", "poutine", "hierarchy"])
@pytest.mark.parametrize("strategy", ["plate", "tile"])
def test_what_is_masked_in_both_programs_is_left_alone(kind, strategy):
    model, guide, (x, n), exact, kl = chain(kind, [3, 2, 1, 3])
    sampler = Sampler(inspect(model, guide, x, n), strategy=strategy)
    with sampler:
        known = SimpleNamespace(log_px=exact.numpy(), findings={})
        found = Gap(4).estimate(task(sampler, (x, n), known=known))
    assert found.own_family == (kind != "hierarchy")
    assert found.converged.all()
    assert (np.abs(found.approximation - kl) < 4 * found.elbo_best_se + 2e-3).all()
    assert found.elbo_best_se.max() < 0.05
