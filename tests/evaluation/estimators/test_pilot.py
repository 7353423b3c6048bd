"""The pilot run of annealing: its step sizes fit each datum, coordinate and temperature."""

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal

from pvae.evaluation.estimators.hmc import anneal, schedule
from pvae.evaluation.estimators.pilot import pilot_length, tune


@pytest.fixture(autouse=True)
def doubles():
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(torch.float32)


def standard(z: Tensor) -> Tensor:
    return Normal(0.0, 1.0).log_prob(z).sum(-1)


def test_tuning_fits_each_datum_and_each_coordinate():
    sd = torch.tensor([[1.0, 0.03, 1.0], [0.3, 0.3, 0.01]])

    def path(z: Tensor) -> tuple[Tensor, Tensor]:
        return standard(z), Normal(0.1, sd).log_prob(z).sum(-1)

    betas = schedule(200)
    steps = tune(path, torch.randn(16, 2, 3), betas, 1)
    assert steps.shape == (199, 2, 3)
    torch.testing.assert_close(
        steps[-1] / steps[-1].prod(-1, keepdim=True) ** (1 / 3),
        sd / sd.prod(-1, keepdim=True) ** (1 / 3),
        rtol=0.1,
        atol=0,
    )
    acceptance = anneal(path, torch.randn(200, 2, 3), betas, steps, 1)[1]
    assert ((acceptance.mean(0) > 0.55) & (acceptance.mean(0) < 0.75)).all()
    assert ((acceptance[0] - 0.65).abs() < 0.2).all()
    assert tune(path, torch.randn(1, 2, 3), betas[::20], 4).isfinite().all()


def test_a_short_pilot_serves_many_temperatures():
    """A sharp posterior with correlations, whose scales change fastest near the prior."""
    sharp, betas, ticks = 20 * torch.randn(30, 60), schedule(500), []

    def path(z):
        return standard(z), -(((z - 1) @ sharp) ** 2).sum(-1) / 2

    steps = tune(path, torch.randn(16, 1, 30), betas, 2, tick=lambda: ticks.append(1))
    assert len(ticks) == pilot_length(500) <= 100
    assert (pilot_length(1), pilot_length(2), pilot_length(100)) == (0, 1, 99)
    assert steps.shape == (499, 1, 30)
    _, acceptance, _ = anneal(path, torch.randn(32, 1, 30), betas, steps, 2)
    assert acceptance.mean() > 0.6
    assert acceptance.min() > 0.25


def test_trajectories_do_not_come_round():
    """Ten steps that are all accepted could go anywhere; they stop at a quarter of a period."""

    def path(z: Tensor) -> tuple[Tensor, Tensor]:
        return standard(z), Normal(0.0, 0.1).log_prob(z).sum(-1)

    steps = tune(path, torch.randn(16, 3, 2), schedule(50), 10)
    torch.testing.assert_close(steps[-1], torch.full((3, 2), 0.1 * math.pi / 20), rtol=0.05, atol=0)
    assert (tune(path, torch.randn(16, 3, 2), schedule(50), 20) < 0.08).all()
