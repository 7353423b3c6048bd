"""Gradients along the path of the samples: their means, and their noise."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from linear_pairs import apply, copies, gradients, pair, same_mean

from pvae.objectives import IWAE_ELBO, STL_ELBO, DReG_ELBO


@pytest.fixture(autouse=True)
def own_store():
    pyro.clear_param_store()
    yield
    pyro.clear_param_store()


@pytest.mark.parametrize("name", ["one", "two", "flow", "sharing"])
@pytest.mark.parametrize("path", [DReG_ELBO, STL_ELBO])
def test_path_gradients_have_the_mean_of_plain_ones(path, name):
    plain = IWAE_ELBO(6) if path is DReG_ELBO else IWAE_ELBO(1)
    names, ours = gradients(path(6), name, 20_000, seed=1)
    _, theirs = gradients(plain, name, 40_000, seed=2)
    assert same_mean(ours, theirs)
    assert len(names) == ours.shape[1] > 10
    # The means are far enough from zero for this to say something, and the path is less noisy.
    assert (ours.mean(0).abs() > 20 * ours.std(0) / len(ours) ** 0.5).sum() > len(names) / 3


def test_dreg_under_a_kl_weight():
    _, ours = gradients(DReG_ELBO(4), "two", 20_000, weight=0.3, seed=1)
    _, theirs = gradients(IWAE_ELBO(4), "two", 40_000, weight=0.3, seed=2)
    assert same_mean(ours, theirs)
    tensor = torch.tensor(0.3, dtype=torch.float64)
    torch.testing.assert_close(gradients(DReG_ELBO(4), "two", 5, weight=tensor)[1],
                               gradients(DReG_ELBO(4), "two", 5, weight=0.3)[1])  # fmt: skip


@pytest.mark.parametrize("num", [1, 3])
@pytest.mark.parametrize("path", [DReG_ELBO, STL_ELBO])
def test_path_gradient_of_a_chain_by_hand(path, num):
    # From the definition: φ in the path and φ in the density are different leaves.
    size = 2
    names, ours = gradients(path(num), "two", size)
    model, guide, _ = pair("two", size)
    live = [guide.one.gain, guide.one.loc, guide.scale_unconstrained, guide.upper]
    live.append(torch.full((size, 2), 0.8).double().log().requires_grad_())
    held_ones = [p.detach().clone() for p in live]
    x = copies(size)
    torch.manual_seed(0)
    noise = [torch.randn(num, size, 2, dtype=torch.float64) for _ in range(2)]

    def means(phi, z_1):
        return apply(phi[0], x) + phi[1], phi[2].exp(), apply(phi[3], z_1), phi[4].exp()

    loc, scale, *_ = means(live, noise[0])
    z_1 = loc + scale * noise[0]
    *_, loc, scale = means(live, z_1)
    z_2 = loc + scale * noise[1]
    loc_1, scale_1, loc_2, scale_2 = means(held_ones, z_1)
    log_w = (
        dist.Normal(0.0, 1.0).log_prob(z_2).sum(-1)
        + dist.Normal(apply(model.upper, z_2), 0.8).log_prob(z_1).sum(-1)
        + dist.Normal(apply(model.weight, z_1) + model.bias, 0.7).log_prob(x).sum(-1)
        - dist.Normal(loc_1, scale_1).log_prob(z_1).sum(-1)
        - dist.Normal(loc_2, scale_2).log_prob(z_2).sum(-1)
    )
    share = log_w.detach().softmax(0)
    factor = share**2 if path is DReG_ELBO else torch.full_like(share, 1 / num)
    expected = torch.autograd.grad(-(factor * log_w).sum(), live)
    by_name = dict(zip(["gain", "loc", "scale_unconstrained", "upper", "lower"], expected,
                       strict=True))  # fmt: skip
    for end, gradient in by_name.items():
        columns = [i for i, n in enumerate(names) if n.startswith("guide") and n.endswith(end)]
        torch.testing.assert_close(ours[:, columns], gradient.flatten(1))


@pytest.mark.parametrize("path", [DReG_ELBO(3), STL_ELBO(3)])
def test_a_flow_in_the_guide_is_held_as_well(path):
    # z = u exp(r) + s with u ~ N(m, 0.3²): along the path, dz/dm = exp(r) dz/ds and
    # dz/dr = (z - s) dz/ds; a score that leaks breaks the first, a kept inverse both.
    names, rows = gradients(path, "flow", 5)
    columns = {n: [i for i, m in enumerate(names) if m == n] for n in names}
    base, shift = rows[:, columns["guide.base"]], rows[:, columns["guide.flow.shift"]]
    rate = torch.tensor([0.8, 0.6], dtype=torch.float64)
    torch.testing.assert_close(base, rate.exp() * shift)


def snr(rows):
    """Signal-to-noise of a gradient: the norm of its mean over its standard deviation."""
    noise = rows.var(0).sum()
    return ((rows.mean(0).square().sum() - noise / len(rows)).clamp(min=0) / noise).sqrt().item()


def slope(objective, nums, size):
    ratios = []
    for num in nums:
        names, rows = gradients(objective(num), "one", size, seed=num)
        ratios.append(snr(rows[:, [i for i, n in enumerate(names) if n.startswith("guide")]]))
    x, y = torch.tensor(nums).double().log(), torch.tensor(ratios).double().log()
    return (((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum()).item()


def test_signal_to_noise():
    # Rainforth et al. 2018; measured: -0.51 and 0.48.
    assert slope(IWAE_ELBO, [4, 16, 64], 20_000) == pytest.approx(-0.5, abs=0.1)
    assert slope(DReG_ELBO, [8, 32, 128], 5_000) == pytest.approx(0.5, abs=0.1)
