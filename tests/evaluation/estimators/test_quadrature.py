"""Quadrature, against marginals in closed form."""

import math

import numpy as np
import oracles
import pyro
import pyro.distributions as dist
import pytest
import torch
from asking import evaluate
from integrals import DOUBLE, narrow, nothing, run, somewhere

from pvae.errors import PvaeError
from pvae.evaluation.estimators import grid as module
from pvae.evaluation.estimators.quadrature import Integrals

CPU = torch.device("cpu")


def linear(weight, noise, size=20, dtype=torch.float64):
    """z ~ N(0, I), x ~ N(W z, σ²)."""
    weight = torch.tensor(weight, **DOUBLE)
    z = oracles.random(size, weight.shape[1], seed=0)
    x = z @ weight.T + noise * oracles.random(size, len(weight), seed=1)

    def model(x):
        with pyro.plate("data", len(x)):
            prior = dist.Normal(torch.zeros(weight.shape[1], dtype=dtype), 1.0).to_event(1)
            z = pyro.sample("z", prior)
            loc = z @ weight.T.to(dtype)
            pyro.sample("x", dist.Normal(loc, noise).to_event(1), obs=x)

    covariance = weight @ weight.T + noise**2 * torch.eye(len(weight), **DOUBLE)
    exact = dist.MultivariateNormal(torch.zeros(len(weight), **DOUBLE), covariance).log_prob(x)
    return model, somewhere((weight.shape[1],)), (x.to(dtype),), exact


@pytest.mark.parametrize(
    "name", ["mixture", "categorical_in_guide", "categorical_in_model", "gamma_poisson"]
)
def test_oracles(name):
    run(*oracles.ORACLES[name](), tolerance=1e-8)


def test_a_network():
    run(*oracles.decoder(1), tolerance=1e-8)
    run(*oracles.decoder(2), size=4, tolerance=1e-8)


def test_a_posterior_that_neither_prior_nor_guide_ever_draws():
    run(*narrow(0.1, torch.tensor([40.0, -35.0, 0.0, 100.0], **DOUBLE)))


@pytest.mark.parametrize(
    ("a", "b"), [(2.5, 0.8), (0.3, 0.1), (0.05, 1.0), (50.0, 1e-3), (1e4, 10.0)]
)
def test_heavy_tails_negative_binomial(a, b):
    a, b = torch.tensor([a, b], **DOUBLE)
    x = torch.tensor([0.0, 1, 2, 5, 20, 100, 3000], **DOUBLE)

    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Poisson(pyro.sample("z", dist.Gamma(a, b))), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Gamma(1 + x, 1.0))

    exact = dist.GammaPoisson(a, b).log_prob(x)
    run(model, guide, (x,), exact, tolerance=1e-8)


@pytest.mark.parametrize(("a", "b"), [(1.0, 1.0), (0.5, 0.7), (30.0, 0.5)])
def test_boundaries_beta_binomial(a, b):
    a, b = torch.tensor([a, b], **DOUBLE)
    x = torch.arange(11, **DOUBLE)

    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Binomial(10, pyro.sample("z", dist.Beta(a, b))), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Beta(a + x, b + 10 - x))

    # Doubles below one end at 1 - 1e-16: log p(x, u) is rounded where u > 36.
    exact = dist.BetaBinomial(a, b, torch.tensor(10.0, **DOUBLE)).log_prob(x)
    sampled = run(model, guide, (x,))
    assert np.abs(sampled.log_px - exact.numpy()).max() < 1e-6


@pytest.mark.parametrize(
    ("weight", "noise"),
    [
        ([[0.8], [0.5]], 0.3),
        ([[1.0, 0.5], [0.2, -0.7], [0.3, 0.3]], 0.5),
        ([[1.0, 1.0], [1.0, -1.0]], 0.01),
        ([[1.0, 1.0], [1.0, 1.1]], 0.1),  # ρ = -0.994
        ([[1.0, 1.0], [1.0, 1.0]], 0.01),  # ρ = -0.99995
    ],
)
def test_linear_gaussian(weight, noise):
    run(*linear(weight, noise), tolerance=1e-8)


@pytest.mark.parametrize("strategy", ["tile", "loop"])
def test_layouts(strategy, monkeypatch):
    size = 3 if strategy == "loop" else 20
    run(*linear([[0.8], [0.5]], 0.3), size=size, strategy=strategy)


def test_single_precision():
    model, guide, batch, exact = linear([[0.8], [0.5]], 0.05, dtype=torch.float32)
    found = run(model, guide, batch, exact, tolerance=2e-5)
    assert found.error.min() > 1e-7
    run(*linear([[1.0, 1.0], [1.0, 0.0]], 0.1, dtype=torch.float32), tolerance=2e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rounding_is_no_reason_for_cells(dtype, monkeypatch):
    monkeypatch.setattr(module, "integrate", lambda *_: pytest.fail("a plain datum is in doubt"))
    run(*linear([[0.8, 0.3], [0.5, -0.6]], 0.3, dtype=dtype), tolerance=2e-5)


def test_the_error_says_when_the_grid_was_not_fine_enough(monkeypatch):
    monkeypatch.setattr(module, "_MOST", {1: 257, 2: 65})
    pair = narrow(1e-2, mirrored=True)
    assert run(*pair, tolerance=1e-6).error.max() < 1e-6, "cells go on where the grid ends"
    monkeypatch.setattr(module, "integrate", nothing)
    found = run(*pair[:3])
    error = np.abs(found.log_px - pair[3].numpy())
    assert error.max() > 1e-3
    assert (error < 10 * found.error).all()


def test_the_error_says_when_the_mass_was_not_found(monkeypatch):
    monkeypatch.setattr(module, "_MOVES", 2)
    found = run(*narrow(0.1, torch.tensor([0.0, 1000.0], **DOUBLE))[:3])
    assert found.error[1] == math.inf


def test_positions_blocks_and_memory(monkeypatch):
    pair = linear([[0.8], [0.5]], 0.3, size=40)
    everything = run(*pair, size=40)
    positions = np.array([2, 3, 20, 39])
    found = run(*pair, size=40, positions=positions)
    assert found.datum.tolist() == positions.tolist()
    np.testing.assert_allclose(found.log_px, everything.log_px[found.datum], 1e-12)
    monkeypatch.setattr("pvae.evaluation.estimators.quadrature._BLOCK", 7)
    again = run(*pair, size=40, memory=0.01)
    np.testing.assert_allclose(again.log_px, everything.log_px, 1e-12)


def test_round_trip():
    found = run(*narrow(0.1))
    again = Integrals.from_dataset(found.to_dataset())
    for name in ("datum", "log_px", "error"):
        np.testing.assert_array_equal(getattr(again, name), getattr(found, name))


def test_other_dimensions_are_refused():
    pair = linear([[1.0, 1.0, 0.0], [1.0, 0.0, 1.0]], 0.1)
    with pytest.raises(PvaeError, match=r"a datum has 3 .*importance sampling"):
        run(*pair)
    with pytest.raises(PvaeError, match=r"a datum has 0 .*exact"):
        run(*oracles.summed("guide"))


def test_nothing_to_integrate():
    model, guide, batch, _ = narrow(0.1)

    def broken(x):
        model(x)
        with pyro.plate("again", len(x)):
            pyro.factor("none", torch.where(x > 1.0, -math.inf, 0.0))

    with pytest.raises(PvaeError, match="nothing to integrate"):
        run(broken, guide, batch)


@pytest.mark.parametrize(
    ("sides", "certain"), [(1.5, True), (0.5, True), (0.1, False), (0.02, False)]
)
def test_mass_at_an_edge_is_told(sides, certain):
    """z ~ Beta(a, a), x ~ Binomial(10, z): with a small, much of p(z | x = 10) is next to 1."""
    a, n = torch.tensor(sides, **DOUBLE), torch.tensor(10.0, **DOUBLE)
    x = torch.arange(11.0, **DOUBLE)

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Beta(a.expand(len(x)), a))
            pyro.sample("x", dist.Binomial(n, z), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Beta(a + x, a + n - x))

    exact = dist.BetaBinomial(a, a, n).log_prob(x).numpy()
    found = run(model, guide, (x,))
    known = np.isfinite(found.error)
    assert known[-1] == certain  # floating point is coarse next to 1, and fine next to 0
    assert known[:-1].all()
    assert np.isnan(found.log_px[~known]).all()
    error = np.abs(found.log_px - exact)[known]
    assert (error < found.error[known] + 1e-10).all()
    assert error.max() < 1e-6


def test_angles_are_integrated_over_one_turn():
    """z ~ VonMises, whose support Pyro calls real; the decoder is not periodic."""
    zero = torch.tensor(0.0, **DOUBLE)
    x = torch.linspace(-3, 3, 8, **DOUBLE)

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.VonMises(zero.expand(len(x)), 0.7 + zero))
            pyro.sample("x", dist.Normal(z, 0.5 + zero), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.VonMises(x, 3.0 + zero))

    z = torch.linspace(-math.pi, math.pi, 20_001, **DOUBLE)[:, None]
    log_f = dist.VonMises(zero, 0.7 + zero).log_prob(z) + dist.Normal(z, 0.5).log_prob(x)
    exact = torch.trapezoid(log_f.exp(), dx=2 * math.pi / 20_000, dim=0).log()
    found = run(model, guide, (x,))
    np.testing.assert_allclose(found.log_px, exact, atol=1e-7)
    assert found.error.max() < 1e-6


def test_what_is_uncertain_is_neither_shown_nor_used():
    a, n = torch.tensor(0.02, **DOUBLE), torch.tensor(10.0, **DOUBLE)
    x = torch.tensor([10.0, 5.0, 10.0, 4.0], **DOUBLE)

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Beta(a.expand(len(x)), a))
            pyro.sample("x", dist.Binomial(n, z), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Beta(0.9 * (1 + x), 0.9 * (1 + n - x)))

    options = {"num_samples": 200, "quadrature": True, "gap": 4, "num_temperatures": 20}
    result = evaluate(model, guide, x, **options, progress=False)
    shown = result.summary()["quadrature"]
    assert (shown["num_data"], shown["unknown"]) == (2, 2)
    assert math.isfinite(shown["mean"])
    assert result.settings["gap"]["of"] != "quadrature"
    assert np.isfinite(result.findings["gap"].log_px).all()
