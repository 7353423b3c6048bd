"""Coordinates of latents whose support is not the whole line, under every estimator."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from asking import evaluate

X = 1 + 2 * torch.rand(40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
LOW = torch.tensor(1.0, dtype=torch.float64)


def pareto(lowest=lambda x: LOW):
    """z ~ Pareto(1, 3), x ~ N(z, ½²), and a guide whose tail is heavier."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Pareto(lowest(x), 3.0))
            pyro.sample("x", dist.Normal(z, 0.5), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Pareto(lowest(x), 1 + 2 / x))

    return model, guide, X


def log_px(x):
    """By the trapezoidal rule on a fine grid of log z."""
    u = torch.linspace(0, 3, 20_001, dtype=torch.float64)
    z = u.exp()[:, None]
    log_f = dist.Pareto(LOW, 3.0).log_prob(z) + dist.Normal(z, 0.5).log_prob(x) + u[:, None]
    return torch.trapezoid(log_f.exp(), u, dim=0).log().numpy()


def test_a_bound_that_the_plate_repeated_holds_for_any_datum():
    result = evaluate(
        *pareto(), num_samples=500, quadrature=True, ais=10, bdmc=10, num_temperatures=40,
        progress=False,
    )  # fmt: skip
    exact = log_px(X)
    assert result.missing == {}
    assert np.abs(result.findings["quadrature"].log_px - exact).max() < 1e-6
    assert (np.abs(result.log_px - exact) < 5 * result.log_px_se).all()
    for name in ("ais_prior", "ais_guide"):
        found = result.findings[name]
        error = found.log_px - exact[found.datum]
        assert (np.abs(error) < 5 * found.log_px_se + 0.05).all()
    bdmc = result.findings["bdmc"]
    assert -3 * bdmc.gap_se < bdmc.gap < 1


def test_bounds_that_differ_from_datum_to_datum_are_refused_in_words():
    model, guide, x = pareto(lambda x: 0.5 * x)
    options = {"num_samples": 20, "quadrature": True, "ais": 2, "num_temperatures": 2}
    with pytest.warns(UserWarning, match="was left out") as caught:
        result = evaluate(model, guide, x, **options, progress=False)
    assert {"quadrature", "ais_prior", "ais_guide"} <= set(result.missing)
    for reason in result.missing.values():
        assert "'z' has a support that varies" in reason
        assert any(reason in str(w.message) for w in caught)
