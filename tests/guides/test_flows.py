"""Flow guides: their densities, integrated numerically."""

import pytest
import torch
from pyro import poutine
from torch import nn

from pvae import PvaeError
from pvae.guides import IAF, MeanField, SplineFlow

FLOWS = [IAF, SplineFlow]


def bent(make, dim=2, **options):
    """A guide whose networks are far from where they begin."""
    torch.manual_seed(0)
    options = {"hidden_dims": [5], "flow_hidden_dims": [16], "context_dim": 3, **options}
    guide = make((6,), dim, **options).double()
    for parameter in guide.networks.parameters():
        torch.nn.init.normal_(parameter, 0, 0.7 if make is IAF else 0.25)
    return guide


def fn_of(guide, x):
    return poutine.trace(guide).get_trace(x).nodes["z"]["fn"]


@pytest.mark.parametrize("make", FLOWS)
@pytest.mark.parametrize("dim", [1, 2])
def test_density_integrates_to_one(make, dim):
    guide, x = bent(make, dim), torch.randn(3, 6).double()
    axis = torch.linspace(-12, 12, 2001 if dim == 1 else 401).double()
    grid = torch.cartesian_prod(*[axis] * dim).reshape(-1, 1, dim).expand(-1, 3, -1)
    with torch.no_grad():
        mass = fn_of(guide, x).log_prob(grid).exp().sum(0) * (axis[1] - axis[0]) ** dim
    torch.testing.assert_close(mass, torch.ones(3).double(), atol=2e-3, rtol=0)


@pytest.mark.parametrize("make", FLOWS)
def test_density_is_a_histogram_of_the_draws(make):
    guide, x = bent(make), torch.randn(1, 6).double()
    with torch.no_grad():
        z = fn_of(guide, x.expand(100_000, -1)).sample()
        axis = torch.linspace(-12, 12, 481).double() + 0.025
        grid = torch.cartesian_prod(axis, axis)[:, None]
        density = fn_of(guide, x).log_prob(grid).exp().reshape(481, 481) * 0.05**2
    for d in (0, 1):  # distribution functions
        exact = density.sum(1 - d).cumsum(0)
        found = (z[:, d, None] < axis + 0.025).double().mean(0)
        assert (found - exact).abs().max() < 0.01
    both = ((z < z.mean(0)).all(-1)).double().mean()
    inside = axis[:, None].lt(z[:, 0].mean()) & axis.lt(z[:, 1].mean())
    torch.testing.assert_close(density[inside].sum(), both, atol=0.02, rtol=0)


@pytest.mark.parametrize("make", FLOWS)
@pytest.mark.parametrize("dim", [1, 3, 4])
def test_density_of_its_own_draws_is_that_of_the_same_values_from_elsewhere(make, dim):
    guide, x = bent(make, dim, num_steps=3), torch.randn(50, 6).double()
    fn = fn_of(guide, x)
    z = fn.rsample()
    own = fn.log_prob(z)
    torch.testing.assert_close(fn_of(guide, x).log_prob(z.clone()), own)
    # Explicitly: by the Jacobian of each draw with respect to the noise.
    noise = fn.base_dist.sample()

    def draw(noise):
        for step in fn.transforms:
            noise = step(noise)
        return noise

    jacobian = torch.autograd.functional.jacobian(lambda n: draw(n).sum(0), noise).movedim(1, 0)
    expected = fn.base_dist.log_prob(noise) - jacobian.det().abs().log()
    torch.testing.assert_close(fn.log_prob(draw(noise)), expected)


def test_iaf_is_algorithm_1():
    guide, x = bent(IAF, 3, num_steps=2), torch.randn(4, 6).double()
    loc, raw, h = guide.encoder(x).split([3, 3, 3], -1)
    scale = torch.nn.functional.softplus(raw) + 1e-6
    fn = fn_of(guide, x)
    start = fn.base_dist.sample()
    z, log_q = start, torch.distributions.Normal(loc, scale).log_prob(start).sum(-1)
    for network in guide.networks:
        m, s = network(z, context=h)
        gate = torch.sigmoid(s + 2)
        z = gate * z + (1 - gate) * m
        log_q = log_q - gate.log().sum(-1)
    torch.testing.assert_close(fn.log_prob(z), log_q)
    # The first step reads from left to right, the second from right to left.
    for network, first in zip(guide.networks, (0, 2), strict=True):
        moved = network(z + torch.eye(3).double()[2 - first], context=h)[0]
        assert torch.equal(moved[:, :2] if first == 0 else moved[:, 1:],
                           network(z, context=h)[0][:, :2] if first == 0
                           else network(z, context=h)[0][:, 1:])  # fmt: skip


def test_spline_flow_begins_as_the_mean_field():
    torch.manual_seed(0)
    guide, x = SplineFlow((6,), 3, hidden_dims=[], context_dim=2), torch.randn(4, 6)
    mean_field = MeanField((6,), 3, hidden_dims=[])
    layer = guide.encoder.layers[0]
    mean_field.encoder.layers[0].weight.data = layer.weight[:6]
    mean_field.encoder.layers[0].bias.data = layer.bias[:6]
    z = torch.randn(9, 4, 3)
    expected = fn_of(mean_field, x).log_prob(z)
    torch.testing.assert_close(fn_of(guide, x).log_prob(z), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("make", FLOWS)
def test_an_encoder_without_layers_is_kept(make):
    encoder = nn.Sequential()
    guide = make((7,), 2, context_dim=3, encoder=encoder)
    assert guide.encoder is encoder
    assert guide(torch.randn(4, 7)).shape == (4, 2)


@pytest.mark.parametrize("make", FLOWS)
def test_bad_arguments(make):
    for name in ("latent_dim", "num_steps", "context_dim"):
        with pytest.raises(PvaeError, match=f"{name}=0: it must be at least 1"):
            make((6,), **{"latent_dim": 3, name: 0})
    with pytest.raises(PvaeError, match="num_bins=0"):
        SplineFlow((6,), 3, num_bins=0)
    for widths in ([], [2]):
        with pytest.raises(PvaeError, match=r"flow_hidden_dims=.*narrower than latent_dim=3"):
            IAF((6,), 3, flow_hidden_dims=widths)
