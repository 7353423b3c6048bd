"""Interpolation and traversal of codes."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from zoo import EXPLICIT, ZOO, make

import pvae
from pvae import PvaeError

SHAPE = (1, 8, 8)


@pytest.fixture(scope="module")
def digits():
    return pvae.data.load("digits", observation="grey")


def pair(latent_dim=3):
    torch.manual_seed(0)
    return (
        pvae.models.VAE(SHAPE, latent_dim=latent_dim),
        pvae.guides.MeanField(SHAPE, latent_dim=latent_dim),
    )


# The means of a PixelVAE are at pixels that are drawn.
LEFT_OUT = "Gaussian mixture", "PixelVAE", *EXPLICIT
CODED = [name for name in ZOO if name not in LEFT_OUT]


@pytest.mark.parametrize("name", CODED)
def test_an_interpolation_ends_at_the_reconstructions(name):
    model, guide, observation = make(name)
    x = pvae.data.load("digits", observation=observation).test.tensors()[0][:8]
    guide(x)  # in training mode, so that a codebook starts at these data
    found = pvae.interpolate(model, guide, x[:4], x[4:], steps=3)
    assert found.shape == (4, 3, *SHAPE)
    first, last = (pvae.reconstruct(model, guide, part) for part in (x[:4], x[4:]))
    torch.testing.assert_close(found[:, 0], first)
    torch.testing.assert_close(found[:, -1], last)
    assert not torch.allclose(first, last)
    ends = [pvae.encode(guide, part) for part in (x[:4], x[4:])]
    middle = {site: (ends[0][site] + ends[1][site]) / 2 for site in ends[0]}
    torch.testing.assert_close(found[:, 1], pvae.decode(model, middle))


def _autoregressive(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))
        loc = x.flatten(1).cumsum(-1) + z.sum(-1, keepdim=True)
        pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x.flatten(1))


def test_interpolation_says_what_it_needs():
    model, guide = pair()
    x = torch.zeros(3, *SHAPE)
    with pytest.raises(PvaeError, match=r"start has shape \(3, 1, 8, 8\) and end \(2, 1, 8, 8\)"):
        pvae.interpolate(model, guide, x, x[:2])
    with pytest.raises(PvaeError, match="steps=1"):
        pvae.interpolate(model, guide, x, x, steps=1)
    model, guide, _ = make("Gaussian mixture")
    with pytest.raises(PvaeError, match="'y' of the guide Responsibilities is discrete"):
        pvae.interpolate(model, guide, x, x)
    model, guide = pair()
    with pytest.raises(PvaeError, match="changes with the data"):
        pvae.interpolate(_autoregressive, guide, x, x)


def test_a_traversal_moves_one_coordinate_over_the_aggregate():
    model, guide = pair(latent_dim=4)
    x = torch.rand(500, *SHAPE)
    code, fn = pvae.encode(guide, x)["z"], dist.Normal(*guide.encode(x))
    loc = code.mean(0)
    scale = (fn.variance.mean(0) + code.var(0)).sqrt()  # the law of total variance
    found = pvae.traverse(model, guide, x, index=7, dims=[2, 0], steps=5, span=2.0)
    assert (found.site, found.dims) == ("z", (2, 0))
    assert found.z.shape == (2, 5, 4)
    for row, d in zip(found.z, found.dims, strict=True):
        still = [i for i in range(4) if i != d]
        assert torch.equal(row[:, still], code[7, still].expand(5, 3))
        expected = loc[d] + torch.tensor([-2.0, -1, 0, 1, 2]) * scale[d]
        torch.testing.assert_close(row[:, d], expected.detach(), rtol=0.1, atol=0.15)
    x_row = pvae.decode(model, {"z": found.z[1]})
    torch.testing.assert_close(found.x[1], x_row)
    assert found.x.shape == (2, 5, *SHAPE)
    assert torch.equal(found.z, pvae.traverse(model, guide, x, index=7, dims=[2, 0], steps=5,
                                              span=2.0).z)  # fmt: skip


def test_the_most_active_dimensions_come_first():
    scales = torch.tensor([0.05, 1.0, 3.0, 0.5])

    def guide(x):
        with pyro.plate("data", len(x)):
            code = x.flatten(1)[:, :4] * scales + torch.tensor([0.0, 2, 0, 0])
            pyro.sample("z", dist.Delta(code, event_dim=1))

    model, _ = pair(latent_dim=4)
    torch.manual_seed(0)
    x = torch.randn(400, *SHAPE)
    found = pvae.traverse(model, guide, x)
    assert found.dims == (2, 1, 3)  # 0.05² is below 0.01
    assert found.variance == pytest.approx((9, 1, 0.25), rel=0.2)
    code = x.flatten(1)[:, :4] * scales + torch.tensor([0.0, 2, 0, 0])
    loc, scale = code.mean(0), code.std(0, correction=0)  # the aggregate of points: exact
    for row, d in zip(found.z, found.dims, strict=True):
        expected = loc[d] + torch.linspace(-3, 3, 7) * scale[d]
        torch.testing.assert_close(row[:, d], expected, rtol=1e-4, atol=1e-5)
    assert pvae.traverse(model, guide, x, num_dims=1).dims == (2,)
    with pytest.raises(PvaeError, match="No dimension of site 'z' is active"):
        pvae.traverse(model, guide, 0.001 * x)
    assert pvae.traverse(model, guide, 0.001 * x, dims=[3]).dims == (3,)


@pytest.mark.parametrize("name", ["two layers", "ladder"])
def test_in_a_hierarchy_the_top_moves_and_the_rest_follows(name):
    model, guide, _ = make(name)
    torch.manual_seed(1)
    x = torch.rand(30, *SHAPE)
    found = pvae.traverse(model, guide, x, dims=[1, 2])
    assert found.site == "z_2"
    with torch.no_grad():
        z_1 = model.conditional(1, found.z).mean
        expected = model.decoder(z_1).sigmoid()
    torch.testing.assert_close(found.x, expected)
    lower = pvae.traverse(model, guide, x, site="z_1", dims=[0])
    assert lower.z.shape[-1] == 4
    with torch.no_grad():
        torch.testing.assert_close(lower.x, model.decoder(lower.z).sigmoid())


def test_sites_above_the_moving_one_stay_at_the_code_of_the_datum():
    class Model(torch.nn.Module):
        def forward(self, x=None, *, size=1):
            with pyro.plate("data", size if x is None else len(x)):
                a = pyro.sample("a", dist.Normal(torch.zeros(2), 1.0).to_event(1))
                b = pyro.sample("b", dist.Normal(torch.zeros(2), 1.0).to_event(1))
                return pyro.sample("x", dist.Normal(a + 10 * b, 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("b", dist.Normal(x, 1.0).to_event(1))
            pyro.sample("a", dist.Normal(x + 5, 1.0).to_event(1))

    x = torch.randn(20, 2)
    assert pvae.traverse(Model(), guide, x).site == "a"  # the model's first, not the guide's
    found = pvae.traverse(Model(), guide, x, index=3, site="b")
    torch.testing.assert_close(found.x, x[3] + 5 + 10 * found.z)


def test_a_part_of_data_can_be_traversed(digits):
    model, guide = pair()
    found = pvae.traverse(model, guide, digits, dims=[0])
    again = pvae.traverse(model, guide, digits.test.x, dims=[0])
    torch.testing.assert_close(found.z, again.z)


def test_traversal_says_what_it_needs():
    model, guide = pair()
    x = torch.rand(5, *SHAPE)
    with pytest.raises(PvaeError, match="at least 2 data"):
        pvae.traverse(model, guide, x[:1])
    with pytest.raises(PvaeError, match="index=5"):
        pvae.traverse(model, guide, x, index=5)
    with pytest.raises(PvaeError, match=r"dims=\[3\]: site 'z' has dimensions 0 to 2"):
        pvae.traverse(model, guide, x, dims=[3])
    with pytest.raises(PvaeError, match=r"site='w' cannot be traversed.*: z"):
        pvae.traverse(model, guide, x, site="w")
    model, guide, _ = make("Gaussian mixture")
    with pytest.raises(PvaeError, match=r"takes a continuous vector, and there is y \[\]"):
        pvae.traverse(model, guide, x)
