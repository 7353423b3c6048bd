"""VAEAC: p(x_missing | x_known, mask), against quadrature over its one latent."""

import math

import pyro.distributions as dist
import pytest
import torch

import pvae
from pvae import guides, models
from pvae.nn import SkipNetwork


def pair(**options):
    torch.manual_seed(0)
    model = models.VAEAC((4,), 1, hidden_dims=[6], **options).double()
    return model, guides.MaskedMeanField((4,), 1, hidden_dims=[6]).double()


def some_data(size=6):
    draw = torch.Generator().manual_seed(1)
    x = torch.rand(size, 4, generator=draw).round().double()
    mask = torch.rand(size, 4, generator=draw) < 0.5
    mask[0], mask[-1] = True, False  # all known, and none
    return x, mask


@torch.no_grad()
def by_quadrature(model, x, mask):
    """log p(x_missing | x_known, mask), from the definition, with the sum over missing values."""
    z = torch.linspace(-12, 12, 4001, dtype=torch.float64)
    features = model.features(x, mask)
    log_prior = model.prior(features).log_prob(z[:, None, None])
    probs = model.likelihood(z[:, None, None], features).base_dist.probs
    values = torch.where(x == 1, probs, 1 - probs).log()
    joint = log_prior + torch.where(mask, 0, values).sum(-1)
    return joint.logsumexp(0) + math.log(z[1] - z[0])


@pytest.mark.parametrize("size", [6, 1])
def test_the_bound_is_one_on_the_missing_values(size):
    model, guide = pair()
    x, mask = (t[-size:] for t in some_data())
    exact = by_quadrature(model, x, mask)
    torch.manual_seed(1)
    w = (pvae.log_weights(model, guide, x, mask, num_samples=4000) - exact).exp()
    se = w.std(0) / math.sqrt(len(w))
    assert (se < 0.05).all()
    assert ((w.mean(0) - 1).abs() < 4.5 * se).all()
    if size > 1:
        assert exact[0] == pytest.approx(0, abs=1e-6)  # nothing is missing


def test_missing_values_reach_neither_prior_nor_decoder():
    model, _ = pair()
    x, mask = some_data()
    z = torch.zeros(6, 1, dtype=torch.float64)
    found = []
    for other in (0.0, 1.0, math.nan):
        features = model.features(torch.where(mask, x, other), mask)
        found += [model.prior(features).mean, model.likelihood(z, features).mean]
    assert all(torch.equal(found[i], found[i % 2]) for i in range(2, 6))
    features = model.features(1 - x, mask)
    assert not torch.equal(model.likelihood(z, features).mean, found[1])


def test_generate_completes_and_keeps_the_known_values():
    model, _ = pair()
    x, mask = (t[2:3] for t in some_data())
    drawn = pvae.generate(model, 50, x, mask)
    assert drawn.shape == (50, 4)
    assert torch.equal(drawn[:, mask[0]], x[:, mask[0]].expand(50, -1))
    assert (drawn[:, ~mask[0]].std(0) > 0).all()
    assert model(x, mask).equal(x)


def test_bits_per_dimension_are_left_out():
    """x has 64 dimensions, of which only the missing ones are observed."""
    sizes = {"latent_dim": 1, "hidden_dims": [6]}
    programs = models.VAEAC((1, 8, 8), **sizes), guides.MaskedMeanField((1, 8, 8), **sizes)
    data = pvae.data.load("digits", mask="center")
    found = pvae.evaluate(*programs, data, num_data=5, num_samples=5, progress=False)
    assert found.summary()["bits_per_dim"] is None
    assert "has a mask" in found.missing["bits_per_dim"]


def test_several_heads_and_images():
    for likelihood in ("gaussian", "discretized_logistic"):
        model = models.VAEAC((3, 9, 10), 2, "conv", channels=[4, 4], likelihood=likelihood)
        guide = guides.MaskedMeanField((3, 9, 10), 2, "conv", channels=[4, 4])
        x, mask = torch.zeros(5, 3, 9, 10), torch.rand(5, 3, 9, 10) < 0.5
        assert pvae.log_weights(model, guide, x, mask, num_samples=3).shape == (3, 5)


def test_skips_broadcast_over_samples():
    for shape, options in (((6,), {"hidden_dims": [5, 4]}), ((2, 9, 12), {"network": "conv"})):
        net = SkipNetwork(shape, (2, 3), 3, shape, **options)
        u, z = torch.randn(5, *shape), torch.randn(7, 5, 3)
        features = net.down(u)
        together = net.up(z, features)
        assert together.shape == (7, 5, *shape)
        for k in range(7):
            alone = net.up(z[k, 2:3], net.down(u[2:3]))
            assert together[k, 2:3].detach() == pytest.approx(alone.detach(), abs=1e-5)
        flat = net.down(u.expand(7, 5, *shape))
        assert net.up(z, flat).detach() == pytest.approx(together.detach(), abs=1e-5)
        net.up(z, features).sum().backward()
        assert all(p.grad is not None for name, p in net.named_parameters() if "code." not in name)


def test_wrong_masks_and_sizes():
    model, guide = pair()
    x, mask = some_data()
    with pytest.raises(pvae.PvaeError, match=r"mask=torch.bool of shape \(6, 3\)"):
        model(x, mask[:, :3])
    with pytest.raises(pvae.PvaeError, match=r"mask=torch\.float64 of shape"):
        model(x, mask.double())
    with pytest.raises(pvae.PvaeError, match=r"the mask was not given.*mask='any'"):
        model(x)
    with pytest.raises(pvae.PvaeError, match="Hand in some data after the size"):
        pvae.generate(model, 3)
    with pytest.raises(pvae.PvaeError, match="x was not given"):
        model(None, mask)
    with pytest.raises(pvae.PvaeError, match="no mask was given"):
        guide(x)
    for options in ({"network": "other"}, {"hidden_dims": []}, {"latent_dim": 0}):
        with pytest.raises(pvae.PvaeError):
            models.VAEAC((1, 8, 8), **options)
    with pytest.raises(pvae.PvaeError, match="does not factorise"):
        models.VAEAC((1, 8, 8), likelihood="logistic_mixture")(
            torch.zeros(2, 1, 8, 8), torch.ones(2, 1, 8, 8, dtype=torch.bool)
        )


def test_it_learns_what_is_missing():
    """Two equal halves: the missing one is the known one."""
    torch.manual_seed(0)
    half = torch.bernoulli(torch.full((400, 3), 0.5))
    x = torch.cat([half, half], 1)
    known = torch.tensor([True] * 3 + [False] * 3).expand(400, 6)
    model = models.VAEAC((6,), 2, hidden_dims=[16])
    guide = guides.MaskedMeanField((6,), 2, hidden_dims=[16])
    pvae.fit(
        model, guide, {"x": x, "mask": known}, epochs=60, batch_size=50, lr=1e-2, progress=False
    )
    found = pvae.log_weights(model, guide, x[:50], known[:50], num_samples=50)
    bound = (found.logsumexp(0) - math.log(50)).mean()
    assert bound > -0.3  # log p of independent bits is -2.08
    prior = model.prior(model.features(x[:1], known[:1]))
    assert isinstance(prior.base_dist, dist.Normal)


def test_a_mask_of_another_shape_is_refused_where_it_comes_first():
    x, mask = some_data()
    data = {"x": x, "mask": mask[:, :3]}
    with pytest.raises(pvae.PvaeError, match=r"\(6, 3\) is not valid for x of shape \(6, 4\)"):
        pvae.fit(*pair(), data, epochs=1, progress=False)


@pytest.mark.parametrize(
    ("known", "message"),
    [(True, "nothing is missing, and a model"), (False, "nothing is known, and the pair learns p")],
)
def test_masks_without_a_difference(known, message, recwarn):
    x, mask = some_data()
    options = {"epochs": 1, "batch_size": 6, "progress": False}
    pvae.fit(*pair(), {"x": x, "mask": mask}, **options)
    assert not recwarn.list
    with pytest.warns(UserWarning, match=message):
        pvae.fit(*pair(), {"x": x, "mask": torch.full_like(mask, known)}, **options)
