"""The table for a terminal shows the numbers of an evaluation, each beside what it belongs to."""

import dataclasses

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from asking import evaluate
from programs import linear_gaussian


def line(table, start):
    (found,) = [each for each in table.splitlines() if each.startswith(start)]
    return found


def row(table, name):
    """Mean, error and note of a row."""
    mean, se, *note = line(table, f"{name}  ").removeprefix(name).split(maxsplit=2)
    return mean, se, "".join(note)


@pytest.fixture(scope="module")
def e(found):
    return found()


@pytest.fixture(scope="module")
def table(e):
    return e.table()


def test_bounds_and_estimates_stand_in_rows_of_their_own(e, table):
    rows = {
        "ELBO": (e.elbo, ""),
        "ELBO, KL in closed form": (e.elbo_analytic, ""),
        "L_1": (e.bounds[1], ""),
        "L_3": (e.bounds[3], "1 samples left over"),
        "L_7": (e.log_px, ""),
        "JVI-1, K = 7": (e.jvi[1][7], "an estimate, not a bound"),
        "JVI-2, K = 7": (e.jvi[2][7], "an estimate, not a bound"),
        "PSIS": (e.psis, "an estimate, not a bound"),
    }
    for name, (values, note) in rows.items():
        error = values.std(ddof=1) / 60**0.5
        assert row(table, name) == (f"{values.mean():.2f}", f"{error:.2f}", note)
    assert "JVI-1, K = 3" not in table


def test_each_finding_has_its_difference_on_the_bound_of_the_same_data(e, table):
    beside = {
        "prior, naive": ("prior", "", -31.5),
        "AIS from the prior": ("ais_prior", "20 data, ", 0.10500001),
        "AIS from the guide": ("ais_guide", "20 data, ", 0.0),
        "quadrature": ("quadrature", "", 0.3125),
    }
    for name, (key, some, above) in beside.items():
        values = e.findings[key].log_px
        error = values.std(ddof=1) / len(values) ** 0.5
        note = f"{some}{above:+.2f} on L_7 of the same data"
        assert row(table, name) == (f"{values.mean():.2f}", f"{error:.2f}", note)


def test_the_lines_below_have_the_other_numbers(e, table):
    assert line(table, "reconstruction") == (
        f"reconstruction {e.reconstruction.mean():.2f}, KL 10.75, active units 1, median ESS 5.50"
    )
    assert line(table, "k̂: ") == "k̂: median 0.50, above 0.40 for 75.0% of the data"
    bits = [-values.mean() / 64 / np.log(2) for values in (e.log_px, e.elbo)]
    assert line(table, "bits/dim") == f"bits/dim: {bits[0]:.4f} (by the ELBO {bits[1]:.4f})"
    # Ten simulated data, -80 - i and -79.625 - i.
    assert line(table, "bidirectional") == (
        "bidirectional Monte Carlo on 10 simulated data: -84.50 to -84.12, gap 0.38 ± 0.00"
    )
    assert line(table, "inference gap") == (
        "inference gap on 10 data: amortisation 1.50 ± 0.00, approximation 2.50 ± 0.00"
    )
    assert line(table, "index-code") == (
        "index-code mutual information 3.50 (at most log N = 4.09), marginal KL 7.25"
    )
    assert table.splitlines()[-1] == e.verdict


def test_errors_are_those_over_the_data(e):
    spread = np.linspace(-1, 1, 10)
    gap, bdmc = e.findings["gap"], e.findings["bdmc"]
    findings = {
        # The best ELBO varies, and with it both gaps; the upper bound, and with it the distance.
        "gap": dataclasses.replace(gap, elbo_best=gap.elbo_best + spread),
        "bdmc": dataclasses.replace(bdmc, upper=bdmc.upper + 2 * spread),
    }
    table = dataclasses.replace(e, findings=findings).table()
    error = spread.std(ddof=1) / 10**0.5
    assert f"amortisation 1.50 ± {error:.2f}, approximation 2.50 ± {error:.2f}" in table
    assert f"gap 0.38 ± {2 * error:.2f}" in table
    other = dataclasses.replace(gap, own_family=False)
    table = dataclasses.replace(e, findings={"gap": other}).table()
    assert "gap to the optimal mean field 1.50 ± 0.00, approximation 2.50 ± 0.00" in table


def test_a_prior_that_never_explains_a_datum_has_no_difference():
    """z uniform, x = z up to 1e-3: of two draws from the prior none is ever near."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Uniform(x.new_zeros(()), 1.0))
            pyro.sample("x", dist.Uniform(z - 1e-3, z + 1e-3), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Uniform(x - 1e-3, x + 1e-3))

    x = torch.linspace(0.1, 0.9, 30)
    result = evaluate(model, guide, x, num_samples=50, prior_samples=2, progress=False)
    prior = result.summary()["prior"]
    assert np.isneginf(result.findings["prior"].log_px).any()
    assert prior["mean"] is prior["above_log_px"]["mean"] is None
    assert row(result.table(), "prior, naive") == ("–", "–", "")


def test_without_khat_the_table_has_no_line_for_it():
    model, guide, x, _ = linear_gaussian()
    few, one = (
        evaluate(model, guide, x, num_samples=k, prior_samples=0, progress=False) for k in (5, 1)
    )
    for result in (few, one):
        assert np.isnan(result.khat).all()
        assert "k̂: median" not in result.table()
        assert result.verdict.startswith("k̂ is not available")
        assert "nan" not in result.table()
    assert row(one.table(), "L_1")[0] == row(one.table(), "ELBO")[0]
