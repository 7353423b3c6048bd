"""AIS and bidirectional Monte Carlo of Pyro pairs whose log p(x) is known."""

import dataclasses

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from asking import evaluate, task
from oracles import ORACLES, SUMS, ambiguous_mixture
from pyro.distributions.transforms import Planar

import pvae
from pvae import PvaeError
from pvae.evaluation.estimators import AIS, BDMC
from pvae.evaluation.estimators.bdmc import _simulate
from pvae.evaluation.work import Work
from pvae.importance.density import Density
from pvae.importance.sampler import Sampler
from pvae.pair import inspect
from pvae.pair.tensors import TensorSplit

CPU = torch.device("cpu")


def _estimate(kind, pair, num=30, **options):
    model, guide, batch, exact = pair
    options = {"start": "prior", "num_chains": 20, "num_temperatures": 40, "num_leapfrog": 4,
               **options}  # fmt: skip
    with Sampler(inspect(model, guide, *batch)) as sampler:
        positions = np.arange(min(num, len(batch[0])))
        found = kind(num, **options).estimate(task(sampler, batch, positions))
    return found, exact.numpy()[positions]


@pytest.mark.parametrize("start", ["prior", "guide"])
@pytest.mark.parametrize("name", ORACLES)
def test_ais_is_right_within_its_error(name, start):
    # Chains move side by side, up to 1024 of all data; temperatures follow one another.
    options = {"start": start, "num_temperatures": 50, "num_chains": 34}
    found, exact = _estimate(AIS, ORACLES[name](), **options)
    error = found.log_px - exact
    assert error.std() < 0.5
    assert np.abs(error).max() < 2
    # The log of a mean is low by half its relative variance; beyond that there is no bias.
    bias = error.mean() + (found.log_px_se**2).mean() / 2
    assert abs(bias) < 4 * np.sqrt((found.log_px_se**2).mean() / len(error)) + 0.003
    assert error.mean() < 3 * error.std() / np.sqrt(len(error))
    assert found.acceptance.mean() > 0.5
    assert len(found.acceptance) == 49


@pytest.mark.parametrize("name", ORACLES)
def test_bidirectional_monte_carlo_holds_the_exact_value(name):
    pair = ORACLES[name]()
    model, guide, batch, _ = pair
    found, _ = _estimate(BDMC, pair, num=40, num_temperatures=20, num_chains=25)
    assert found.gap > -3 * found.gap_se
    assert found.gap < 2
    with Sampler(inspect(model, guide, *batch)) as sampler:
        from pvae.evaluation.work import take
        from pvae.importance.seeds import seed_unit

        density = Density(sampler, batch, discrete=True)
        seed_unit(0, 0, 4)
        simulated, _ = _simulate(sampler, density, take(TensorSplit(batch), np.arange(40), CPU))
    again = pvae.log_weights(model, guide, *simulated, num_samples=20_000)
    truth = (again.logsumexp(0) - np.log(20_000)).numpy()
    for side, sign in ((found.lower, 1), (found.upper, -1)):
        error = sign * (side - truth)
        assert error.mean() < 3 * error.std() / np.sqrt(len(error)) + 0.005


@pytest.mark.parametrize("kind", [AIS, BDMC])
def test_long_annealing_of_many_blocks_is_compiled_once(kind, monkeypatch, uncompiled):
    pair, found = ORACLES["hierarchy"](), []
    for worth in (10**9, 1):
        monkeypatch.setattr("pvae.evaluation.estimators.annealing._WORTH_COMPILING", worth)
        found.append(_estimate(kind, pair, num=45, num_chains=34, num_temperatures=9)[0])
    name = "log_px" if kind is AIS else "upper"
    ours, theirs = (getattr(each, name) for each in found)
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)
    assert len(uncompiled) == 1


def test_ais_from_the_prior_finds_the_mode_that_the_guide_misses():
    model, guide, batch, exact = ambiguous_mixture(missed=True)
    result = evaluate(
        model, guide, batch, num_samples=1000, prior_samples=0, ais=20,
        num_temperatures=60, num_leapfrog=4, progress=False,
    )  # fmt: skip
    at = result.findings["ais_prior"].datum
    error = result.findings["ais_prior"].log_px - exact.numpy()[at]
    assert abs(error.mean()) < 0.1
    assert (exact.numpy() - result.log_px).mean() > 0.3  # what the guide's samples do not show
    guide = result.findings["ais_guide"]  # chains that start at its mode stay there
    assert (guide.log_px - exact.numpy()[guide.datum]).mean() < -0.5
    assert "leaves out part of their posterior" in result.verdict
    whole = ambiguous_mixture(missed=False)
    right = evaluate(
        *whole[:3], num_samples=1000, prior_samples=0, ais=20, num_temperatures=60,
        num_leapfrog=4, progress=False,
    )  # fmt: skip
    assert "agrees" in right.verdict
    assert f"The other {len(right) - 20:,} data were not checked" in right.verdict


def _gaussian(noise=0.3, said=False):
    """z ~ N(0, I), x ~ N(z, σ²) and its posterior; `said`: the mean of x as a deterministic."""
    posterior = (1 + noise**-2) ** -0.5

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros_like(x[0]), 1.0).to_event(1))
            loc = pyro.deterministic("loc", 1 * z, event_dim=1) if said else z
            pyro.sample("x", dist.Normal(loc, noise).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            loc = x * (posterior / noise) ** 2
            pyro.sample("z", dist.Normal(loc, posterior).to_event(1))

    x = torch.randn(40, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return model, guide, (x,), dist.Normal(0.0, (1 + noise**2) ** 0.5).log_prob(x).sum(-1)


def test_from_a_guide_that_is_the_posterior_every_chain_weighs_the_same():
    model, guide, x, exact = _gaussian()
    found = evaluate(
        model, guide, x, num_samples=5, prior_samples=0, ais=20, num_chains=200,
        num_temperatures=1, progress=False,
    ).findings  # fmt: skip
    prior, guide = found["ais_prior"], found["ais_guide"]
    np.testing.assert_allclose(guide.log_px, exact.numpy()[guide.datum], rtol=1e-6)
    np.testing.assert_allclose(guide.ess, 200, rtol=1e-6)
    assert guide.ess.mean() > 3 * prior.ess.mean()


def test_the_standard_error_is_that_of_the_estimates():
    pair = ORACLES["gamma_poisson"]()
    found, exact = _estimate(AIS, pair, num=100, num_temperatures=30)
    z = (found.log_px - exact) / found.log_px_se
    assert 0.6 < z.std() < 1.6


@pytest.mark.parametrize("name", SUMS)
def test_nothing_to_anneal(name):
    with pytest.raises(PvaeError, match="nothing to anneal"):
        _estimate(AIS, SUMS[name]())


def test_a_likelihood_without_gradient_only_makes_annealing_slower():
    """The prior still has one, and any force keeps the estimate unbiased."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z.detach(), 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.5 * x, 0.8).to_event(1))

    x = torch.randn(30, 1, generator=torch.Generator().manual_seed(0))
    exact = dist.Normal(0.0, 2**0.5).log_prob(x)[:, 0]
    found, exact = _estimate(AIS, (model, guide, (x,), exact), num_temperatures=100)
    assert np.abs(found.log_px - exact).max() < 5 * found.log_px_se.max() + 0.05
    assert abs((found.log_px - exact).mean()) < 0.1


def test_annealing_is_cut_so_that_processes_can_share_it():
    model, guide, batch, _ = ORACLES["gamma_poisson"]()
    sizes = []

    class Recording(Work):
        def map(self, name, blocks, compute):
            sizes.append([len(block) for block in blocks])
            return super().map(name, blocks, compute)

    with Sampler(inspect(model, guide, *batch)) as sampler:
        own = task(sampler, batch, np.arange(100))
        own = dataclasses.replace(own, work=Recording(None, {}, False))
        AIS(100, num_temperatures=5, start="prior").estimate(own)
    assert sizes == [[50, 50]]


def test_a_guide_without_an_inverse_starts_from_the_prior():
    torch.manual_seed(0)
    flow = Planar(2)

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 0.5).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            base = dist.Normal(0.8 * x, 0.5).to_event(1)
            pyro.sample("z", dist.TransformedDistribution(base, [flow]))

    x = torch.randn(30, 2) * 1.1
    exact = dist.Normal(0.0, 1.25**0.5).log_prob(x).sum(-1)
    with (
        pytest.warns(UserWarning, match="Start from the prior instead"),
        pytest.warns(UserWarning, match="uses a tile: a particle plate .* cannot be checked"),
        pytest.warns(UserWarning, match="surgery was left out"),
    ):
        result = evaluate(
            model, guide, x, num_samples=200, ais=10, num_temperatures=50, progress=False
        )
    assert "Start from the prior" in result.missing["ais_guide"]
    assert "surgery" in result.missing
    found = result.findings["ais_prior"]
    assert np.abs(found.log_px - exact.numpy()[found.datum]).max() < 0.3


def test_data_that_cannot_be_simulated_say_why():
    def reads_x(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            loc = torch.cat([torch.zeros_like(x[:, :1]), x[:, :-1]], -1) + z
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)

    def changes_x(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            loc = z.expand(*z.shape[:-1], 3)
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=2 * x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x.mean(-1, keepdim=True), 1.0).to_event(1))

    x = torch.randn(10, 3)
    with pytest.raises(PvaeError, match="changes with the data themselves"):
        _estimate(BDMC, (reads_x, guide, (x,), x[:, 0]))
    with pytest.raises(PvaeError, match="'x' is not one of the arguments"):
        _estimate(BDMC, (changes_x, guide, (x,), x[:, 0]))


def test_data_are_simulated_around_what_is_deterministic():
    plain, _ = _estimate(BDMC, _gaussian())
    found, _ = _estimate(BDMC, _gaussian(said=True))
    np.testing.assert_array_equal(found.lower, plain.lower)
    np.testing.assert_array_equal(found.upper, plain.upper)
    assert found.gap > -3 * found.gap_se


def test_coordinates_go_round():
    for name in ORACLES:
        model, guide, batch, _ = ORACLES[name]()
        with Sampler(inspect(model, guide, *batch)) as sampler:
            density = Density(sampler, batch, discrete=True)
            u = density.posterior(batch, 3)
            values, _ = density.constrain(u)
            np.testing.assert_allclose(density.flatten(values), u, atol=1e-9, err_msg=name)
            assert u.shape == (3, len(batch[0]), density.dim)


def test_gradients_in_chunks_are_the_whole_gradients():
    model, guide, batch, _ = ORACLES["hierarchy"]()
    batch = tuple(t[:10] for t in batch)
    found = []
    for rows in (10_000, 30):
        with Sampler(inspect(model, guide, *batch)) as sampler:
            sampler.gradient_chunks.rows = rows
            density = Density(sampler, batch, discrete=True)
            torch.manual_seed(0)
            u = density.posterior(batch, 8)
            with torch.enable_grad():
                u.requires_grad_()
                log_f = density.path(batch, "guide")(u)
                found.append([torch.autograd.grad(f.sum(), u, retain_graph=True)[0] for f in log_f])
    for whole, parts in zip(*found, strict=True):
        torch.testing.assert_close(whole, parts)
        assert whole.abs().min() > 0


def test_the_upper_bound_averages_inverse_weights(monkeypatch):
    import pvae.evaluation.estimators.bdmc as module

    weights = torch.tensor([[1.0], [3.0]], dtype=torch.float64)
    monkeypatch.setattr(module, "anneal_back", lambda *_, **__: weights.log().expand(2, 5))
    found, _ = _estimate(BDMC, ORACLES["linear_gaussian"](), num=5, num_chains=2)
    np.testing.assert_allclose(found.upper, -np.log((1 + 1 / 3) / 2))


@pytest.mark.parametrize("kind", [AIS, BDMC])
def test_the_progress_bar_counts_every_temperature(kind, monkeypatch):
    found = []

    def ticks(self, number):
        found.append([number, 0])

        def tick():
            found[-1][1] += 1

        return tick

    monkeypatch.setattr(Work, "ticks", ticks)
    _estimate(
        kind,
        ORACLES["linear_gaussian"](),
        num=2,
        num_chains=2,
        num_temperatures=230,
        num_leapfrog=1,
    )
    assert found
    assert all(number == counted > 229 for number, counted in found)
