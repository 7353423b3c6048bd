"""Whether training ended too early: a rise is found, a converged run gives no alarm."""

import numpy as np
import pytest

from pvae.report.ending import apart, ended, trend


def rows(values, held=None, **more):
    return [
        {"epoch": i + 1, "elbo": v, "kl_weight": 1.0, "learning_rate": 1e-3, **more}
        | ({} if held is None else {"validation_elbo": held[i]})
        for i, v in enumerate(values)
    ]


def noise(rng, n, rho):
    """Stationary noise of variance one whose neighbours have the correlation rho."""
    e, y = rng.standard_normal(n), rng.standard_normal(n)
    for i in range(1, n):
        y[i] = rho * y[i - 1] + (1 - rho**2) ** 0.5 * e[i]
    return y


@pytest.mark.parametrize(("n", "rho"), [(25, 0.0), (100, 0.0), (100, 0.3), (300, 0.5)])
def test_a_converged_run_is_rarely_called_rising(n, rho):
    rng = np.random.default_rng(0)
    found = [trend(rows(-80 + noise(rng, n, rho))).verdict for _ in range(300)]
    assert found.count("rising") <= 0.04 * 300
    assert found.count("falling") <= 0.04 * 300


def test_a_rise_is_found_and_measured():
    rng = np.random.default_rng(1)
    drift = 0.5 * np.arange(100)
    found = [trend(rows(-80 + drift + noise(rng, 100, 0.3))) for _ in range(100)]
    assert sum(each.verdict == "rising" for each in found) >= 95
    rises = np.array([each.rise for each in found])
    assert abs(rises.mean() - 0.5 * 19) < 4 * rises.std() / 10


def test_the_line_and_its_error_are_those_of_least_squares():
    y = np.array([0.0, 2.0, 1.0, 3.0, 2.5])
    found = trend(rows(y - 80))
    t = np.arange(5) - 2.0
    slope = (t @ y) / 10
    left = y - y.mean() - slope * t
    assert found.rise == pytest.approx(4 * slope)
    assert found.se == pytest.approx(4 * np.sqrt((left**2).sum() / 3 / 10))  # ρ is negative here


def test_a_rise_of_nothing_is_level_also_without_noise():
    assert trend(rows(-80 + 0.01 * np.arange(30))).verdict == "level"
    assert trend(rows(-80 + 0.1 * np.arange(30))).verdict == "rising"
    assert trend(rows(-0.5 + 0.005 * np.arange(30))).verdict == "rising", "1% of a small bound"


def test_validation_decides_and_the_warm_up_does_not_count():
    y = -80 + np.arange(30.0)
    found = trend(rows(y, held=-y - 160))
    assert (found.series, found.verdict) == ("validation", "falling")
    assert "best epoch" in ended(found, rows(y, held=-y), "ELBO")
    assert trend(rows(y, kl_weight=0.5)) is None
    assert trend(rows(y[:4])) is None
    assert trend([]) is None


def test_a_small_learning_rate_is_no_sign_of_convergence():
    flat = rows(np.full(30, -80.0))
    assert "learning rate" not in ended(trend(flat), flat, "ELBO")
    flat[-1]["learning_rate"] = 3e-5
    assert "had come down to 3.0% by then" in ended(trend(flat), flat, "ELBO")


def test_training_against_validation_at_the_best_epoch():
    history = rows([-90.0, -80.0, -70.0], held=[-92.0, -85.0, -88.0])
    said = apart(history, "ELBO", -100.0, 1)
    for words in ("−80.0 nats on training", "best epoch, 2,", "−85.0 on validation", "+5.0"):
        assert words in said
    said = apart(rows([-90.0, -80.0]), "ELBO", -83.5, 1)
    assert "last epoch" in said
    assert "−83.5 on evaluated data, difference +3.5" in said
    assert apart(rows([-90.0, -80.0]), "ELBO", None, 1) is None
