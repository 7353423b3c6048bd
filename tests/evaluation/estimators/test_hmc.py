"""Annealed importance sampling in both directions, against normalisers that are known."""

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal

from pvae.errors import PvaeError
from pvae.evaluation.estimators.hmc import AnnealingPath, anneal, anneal_back, schedule
from pvae.evaluation.estimators.pilot import tune

GRID = torch.linspace(-12, 12, 48001, dtype=torch.float64)
C = 1.7


@pytest.fixture(autouse=True)
def doubles():
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(torch.float32)


def standard(z: Tensor) -> Tensor:
    return Normal(0.0, 1.0).log_prob(z).sum(-1)


def integral(log_f: Tensor) -> float:
    return torch.trapezoid(log_f.exp(), GRID).item()


def draw(log_f, size: int) -> Tensor:
    """Exact draws [size, 1, 1] from a one-dimensional density, by its quantiles."""
    cdf = torch.cumulative_trapezoid(log_f(GRID[:, None]).exp(), GRID)
    at = torch.searchsorted(cdf / cdf[-1], torch.rand(size)).clamp(max=len(cdf) - 1)
    return (GRID[at] + (GRID[1] - GRID[0]) * torch.rand(size))[:, None, None]


def quartic(z: Tensor) -> Tensor:
    """A skewed density with two unequal humps and light tails."""
    return (-((z**2 - 1.5) ** 2) + 0.8 * z).sum(-1)


def curved(z: Tensor) -> tuple[Tensor, Tensor]:
    return standard(z), quartic(z)


def gaussian(loc: Tensor, covariance: Tensor) -> tuple[AnnealingPath, MultivariateNormal]:
    target = MultivariateNormal(loc, covariance)
    return lambda z: (standard(z), C + target.log_prob(z)), target


def badly_scaled() -> tuple[AnnealingPath, MultivariateNormal]:
    sd = torch.logspace(0, math.log10(0.05), 10)
    rotation = torch.linalg.qr(torch.eye(10) + 0.1 * torch.randn(10, 10))[0]
    return gaussian(torch.randn(10) * 0.5, rotation @ torch.diag(sd**2) @ rotation.T)


def assert_mean(values: Tensor, expected: float, errors: float = 4) -> None:
    se = values.std() / math.sqrt(len(values))
    assert abs(values.mean() - expected) < errors * se, (values.mean(), expected, se)


def log_mean(log_w: Tensor) -> Tensor:
    return log_w.logsumexp(0) - math.log(len(log_w))


def test_schedule():
    betas = schedule(1000)
    assert betas.shape == (1001,)
    assert betas.dtype == torch.float64
    assert betas[0] == 0
    assert betas[-1] == 1
    assert (betas.diff() > 0).all()
    assert betas[1] < 2e-4
    torch.testing.assert_close(betas + betas.flip(0), torch.ones(1001))
    assert schedule(1).tolist() == [0, 1]


def test_one_temperature_is_importance_sampling():
    z = torch.randn(50, 2, 3)
    path, target = gaussian(torch.ones(3), torch.eye(3))
    steps = tune(path, z, schedule(1), 3)
    log_w, acceptance, end = anneal(path, z, schedule(1), steps, 3)
    torch.testing.assert_close(log_w, C + target.log_prob(z) - standard(z))
    torch.testing.assert_close(anneal_back(path, z, schedule(1), steps, 3), log_w)
    assert steps.shape == (0, 2, 3)
    assert acceptance.shape == (0, 2)
    assert (end == z).all()


@pytest.mark.parametrize("num_temperatures", [2, 3, 5])
@pytest.mark.parametrize("num_leapfrog", [1, 3])
def test_unbiased_with_few_temperatures(num_temperatures, num_leapfrog):
    """So few that any kernel at the wrong place, or one that is not invariant, shows."""
    true = integral(quartic(GRID[:, None]))
    betas = schedule(num_temperatures)
    steps = torch.linspace(0.7, 0.3, num_temperatures - 1)[:, None, None]
    log_w, acceptance, _ = anneal(curved, torch.randn(100_000, 1, 1), betas, steps, num_leapfrog)
    assert 0.4 < acceptance.mean() < 0.97
    assert_mean(log_w.exp(), true)
    log_w = anneal_back(curved, draw(quartic, 100_000), betas, steps, num_leapfrog)
    assert_mean((-log_w).exp(), 1 / true)


def test_back_is_the_reversal():
    """The weights of the two directions are one family: p_forward(w) w = p_back(w) E[w]."""
    betas, steps = schedule(3), torch.tensor([0.8, 0.4])[:, None, None]
    true = integral(quartic(GRID[:, None]))
    forward = anneal(curved, torch.randn(100_000, 1, 1), betas, steps, 2)[0]
    back = anneal_back(curved, draw(quartic, 100_000), betas, steps, 2)
    for test in (torch.tanh, torch.cos, lambda w: (w < 0.5).double()):
        one, other = test(forward) * forward.exp() / true, test(back)
        se = math.hypot(one.std(), other.std()) / math.sqrt(100_000)
        assert abs(one.mean() - other.mean()) < 4 * se


def test_ends_are_weighted_draws_of_the_posterior():
    betas, steps = schedule(4), torch.full((3, 1, 1), 0.4)
    log_w, _, z = anneal(curved, torch.randn(200_000, 1, 1), betas, steps, 3)
    density = quartic(GRID[:, None]).exp()
    for power in (1, 2):
        true = torch.trapezoid(density * GRID**power, GRID) / torch.trapezoid(density, GRID)
        w = log_w[:, 0].exp() / log_w.exp().mean()
        assert_mean(w * (z[:, 0, 0] ** power - true), 0)


def test_the_kernel_leaves_its_density_invariant():
    """Many transitions at one temperature, from exact draws: the moments stay."""

    def density(z: Tensor) -> Tensor:
        return 0.4 * standard(z) + 0.6 * quartic(z)

    z = draw(density, 50_000)
    before = [(z**k).mean() for k in (1, 2, 3, 4)]
    betas = torch.tensor([0.0, *[0.6] * 30, 1.0])
    end = anneal(curved, z, betas, torch.full((30, 1, 1), 0.6), 3)[2]
    weights = density(GRID[:, None]).exp()
    assert (end != z).double().mean() > 0.99
    for k, first in zip((1, 2, 3, 4), before, strict=True):
        true = torch.trapezoid(weights * GRID**k, GRID) / torch.trapezoid(weights, GRID)
        assert_mean(end[:, 0, 0] ** k, true)
        assert abs(first - true) < 0.05


@pytest.mark.parametrize("dim", [1, 10])
def test_gaussian_between_the_bounds(dim):
    if dim == 1:
        path, target = gaussian(torch.tensor([2.0]), torch.tensor([[0.04]]))
    else:
        path, target = badly_scaled()
    gaps = []
    for num_temperatures in (30, 300):
        betas = schedule(num_temperatures)
        steps = tune(path, torch.randn(16, 1, dim), betas, 2)
        log_w, acceptance, _ = anneal(path, torch.randn(1000, 1, dim), betas, steps, 2)
        back = anneal_back(path, target.sample((1000, 1)), betas, steps, 2)
        assert 0.6 < acceptance.mean() < 0.95
        lower = log_mean(log_w.reshape(20, 50).T)  # 20 estimates from 50 chains each
        upper = -log_mean(-back.reshape(20, 50).T)
        error = math.hypot(lower.std(), upper.std()) / math.sqrt(20)
        assert lower.mean() < C + 3 * error
        assert upper.mean() > C - 3 * error
        gaps.append(back.mean() - log_w.mean())
    assert_mean((log_w[:, 0] - C).exp(), 1)
    assert_mean((C - back[:, 0]).exp(), 1)
    assert abs(lower.mean() - C) < 0.2
    assert abs(upper.mean() - C) < 0.2
    assert 0 < gaps[1] < 0.3 * gaps[0]


def test_two_modes():
    """f_0 reaches both; each chain ends in one of them, and the weights give the mass of each."""

    def path(z: Tensor) -> tuple[Tensor, Tensor]:
        modes = [w + Normal(m, 0.1).log_prob(z).sum(-1) for w, m in ((0.0, -1.5), (1.0, 1.0))]
        return standard(z), torch.logaddexp(*modes)

    betas = schedule(100)
    steps = tune(path, torch.randn(16, 1, 1), betas, 5)
    log_w, _, z = anneal(path, torch.randn(3000, 1, 1), betas, steps, 5)
    w = log_w[:, 0].exp()
    assert_mean(w, 1 + math.e)
    assert_mean(w * (z[:, 0, 0] < 0), 1)
    assert (z[:, 0, 0] < 0).double().mean() > 0.1


@pytest.mark.parametrize("outside", [-math.inf, math.nan, math.inf])
def test_hard_wall(outside):
    """Half of f_0's mass lies where f_1 has none; there the gradient is NaN."""

    def path(z: Tensor) -> tuple[Tensor, Tensor]:
        log_f = C + 2 * z.sqrt().log() - z**2 / 2
        return standard(z), torch.where(z > 0, log_f, outside).sum(-1)

    betas = schedule(10)
    steps = tune(path, torch.randn(16, 1, 1), betas, 3)
    assert steps.isfinite().all()
    log_w, acceptance, z = anneal(path, torch.randn(20_000, 1, 1), betas, steps, 3)
    assert (log_w < math.inf).all()
    assert 0.4 < (log_w > -math.inf).double().mean() < 0.6
    assert (z > 0).double().mean() > 0.9  # those that began on the far side came over
    assert acceptance.isfinite().all()
    assert_mean(log_w.exp(), math.exp(C))
    rayleigh = (-2 * (1 - torch.rand(20_000, 1, 1)).log()).sqrt()
    back = anneal_back(path, rayleigh, betas, steps, 3)
    # No chain from f_1 starts in the mass of f_0 on the far side.
    assert back.isfinite().all()
    assert_mean((-back).exp(), math.exp(-C) / 2)


def test_overflowing_trajectories_are_rejected_unseen():
    def path(z: Tensor) -> tuple[Tensor, Tensor]:
        assert z.isfinite().all()
        return standard(z), -(z**4).sum(-1)

    z = torch.randn(10, 1, 2)
    log_w, acceptance, end = anneal(path, z, schedule(5), torch.full((4, 1, 1), 1e80), 6)
    assert (end == z).all()
    assert (acceptance == 0).all()
    torch.testing.assert_close(log_w, -(z**4).sum(-1) - standard(z))

    def flat(z: Tensor) -> tuple[Tensor, Tensor]:
        assert z.isfinite().all()
        return 0 * z.sum(-1), 0 * z.sum(-1)

    # Only the overflow itself is a reason to reject these.
    _, acceptance, end = anneal(flat, z, schedule(2), torch.full((1, 1, 1), 1e308), 20)
    assert acceptance < 0.2
    assert end.isfinite().all()


def test_frozen_and_repeatable():
    path, _ = badly_scaled()
    betas, ticks = schedule(20), []
    steps = tune(path, torch.randn(16, 2, 10), betas, 3, tick=lambda: ticks.append(1))
    kept, z = steps.clone(), torch.randn(8, 2, 10)
    start = z.clone()

    def both():
        torch.manual_seed(1)
        ends = anneal(path, z, betas, steps, 3, tick=lambda: ticks.append(1))
        return *ends, anneal_back(path, z, betas, steps, 3, tick=lambda: ticks.append(1))

    first = both()
    assert len(ticks) == 3 * 19
    with torch.no_grad():
        second = both()
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one, other)
        assert not one.requires_grad
    assert torch.equal(steps, kept)
    assert torch.equal(z, start)


def test_steps_given_are_the_steps_taken():
    """With a minute step nothing moves, and everything is accepted, at every temperature."""
    z = torch.randn(100, 1, 1)
    _, acceptance, end = anneal(curved, z, schedule(50), torch.full((49, 1, 1), 1e-9), 3)
    assert (acceptance > 1 - 1e-6).all()
    assert (end - z).abs().max() < 1e-6


def test_data_do_not_touch_each_other():
    def path_to(other: float) -> AnnealingPath:
        loc = torch.tensor([[0.5], [other]])
        return lambda z: (standard(z), (-(((z - loc) / 0.2) ** 2)).sum(-1))

    z, found = torch.randn(8, 2, 3), []
    for path in (path_to(0.0), path_to(30.0), path_to(math.nan)):
        torch.manual_seed(2)
        steps = tune(path, z, schedule(20), 3)
        log_w, acceptance, end = anneal(path, z, schedule(20), steps, 3)
        back = anneal_back(path, z, schedule(20), steps, 3)
        found.append([steps[:, 0], log_w[:, 0], acceptance[:, 0], end[:, 0], back[:, 0]])
    for one, two, three in zip(*found, strict=True):
        assert torch.equal(one, two)
        assert torch.equal(one, three)


def test_single_precision():
    def path(z: Tensor) -> tuple[Tensor, Tensor]:
        log_f = Normal(z.new_ones(()), z.new_full((), 0.3)).log_prob(z).sum(-1)
        return Normal(z.new_zeros(()), z.new_ones(())).log_prob(z).sum(-1), C + log_f

    z = torch.randn(16, 2, 3, dtype=torch.float32)
    steps = tune(path, z, schedule(200), 3)
    log_w, acceptance, end = anneal(path, torch.randn_like(z), schedule(200), steps, 3)
    assert steps.dtype == acceptance.dtype == end.dtype == torch.float32
    assert log_w.dtype == torch.float64
    assert (log_mean(log_w) - C).abs().max() < 0.5


def _by_numpy(z: Tensor) -> Tensor:
    return torch.from_numpy(-(z.detach().numpy() ** 2))


def _without_grad(z: Tensor) -> Tensor:
    with torch.no_grad():
        return -(z**2)


# With a parameter in the density, its gradient is there, only not that of z; else there is none.
@pytest.mark.parametrize("trained", [True, False])
@pytest.mark.parametrize("cut", [torch.round, Tensor.detach, _by_numpy, _without_grad])
def test_no_gradient_is_said_in_words(cut, trained):
    weight = torch.ones(3, requires_grad=trained)

    def path(z: Tensor) -> tuple[Tensor, Tensor]:
        log_f = (cut(z.detach()) * weight).sum(-1)
        assert log_f.requires_grad == trained
        return standard(z), log_f

    for run in (anneal, anneal_back):
        with pytest.raises(PvaeError, match="no gradient with respect to its latents"):
            run(path, torch.randn(4, 1, 3), schedule(5), torch.ones(4, 1, 1), 2)
    with pytest.raises(PvaeError, match="no gradient"):
        tune(path, torch.randn(4, 1, 3), schedule(5), 2)
