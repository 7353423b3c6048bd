"""encode, reconstruct, generate, decode."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from programs import PROGRAMS, linear_gaussian

import pvae
from pvae import PvaeError


def test_reconstruction_is_the_mean_at_the_posterior_mean():
    torch.manual_seed(0)
    model = pvae.models.VAE((1, 8, 8), latent_dim=3)
    guide = pvae.guides.MeanField((1, 8, 8), latent_dim=3)
    x = torch.rand(5, 1, 8, 8).round()
    loc, _ = guide.encode(x)
    torch.testing.assert_close(pvae.encode(guide, x)["z"], loc)
    expected = model.decoder(loc).sigmoid()
    torch.testing.assert_close(pvae.reconstruct(model, guide, x), expected)
    torch.testing.assert_close(pvae.decode(model, {"z": loc}), expected)


def test_generation_repeats_with_its_seed_and_leaves_the_global_generator():
    model = pvae.models.VAE((1, 8, 8), latent_dim=3)
    before = torch.get_rng_state()
    first, second = pvae.generate(model, 4, seed=1), pvae.generate(model, 4, seed=1)
    assert torch.equal(first, second)
    assert not torch.equal(first, pvae.generate(model, 4, seed=2))
    assert torch.equal(before, torch.get_rng_state())
    assert ((first > 0) & (first < 1)).all()  # means, not binary draws


def test_a_model_that_cannot_generate_says_so():
    model, _, _, _ = linear_gaussian()
    with pytest.raises(PvaeError, match=r"cannot generate: model\(size=n\) raised TypeError"):
        pvae.generate(model, 3)


@pytest.mark.parametrize("name", ["closures", "flattening"])
def test_third_party_programs_reconstruct(name):
    model, guide, batch, _ = PROGRAMS[name]()
    mean = pvae.reconstruct(model, guide, *batch)
    assert mean.shape[0] == len(batch[0])
    assert not mean.requires_grad


def test_a_site_without_a_mean_gives_a_draw():
    def guide(x):
        base = dist.Normal(torch.zeros(len(x), 2), 1.0)
        flow = dist.TransformedDistribution(base, [dist.transforms.SigmoidTransform()])
        with pyro.plate("data", len(x)):
            pyro.sample("z", flow.to_event(1))

    codes = pvae.encode(guide, torch.zeros(3, 5))["z"]
    assert codes.shape == (3, 2)
    assert ((codes > 0) & (codes < 1)).all()
