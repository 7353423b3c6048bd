"""encode, reconstruct, decode."""

import sys
from typing import ClassVar

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from programs import PROGRAMS
from zoo import make

import pvae
from pvae import PvaeError
from pvae.predictive.at_means import centre_of


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
    with pytest.raises(PvaeError, match="a dict of tensors by site"):
        pvae.decode(model, loc)


def _labelled():
    """p(z) p(y) p(x|z, y) with a factor and a deterministic; the label comes first."""
    torch.manual_seed(0)
    decoder = torch.nn.Linear(2 + 3, 6)

    def model(x, y):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            p = torch.tensor([0.5, 0.3, 0.2])
            y = pyro.sample("y", dist.OneHotCategorical(p), obs=y)
            pyro.deterministic("big", torch.zeros(len(x), 50), event_dim=1)
            pyro.factor("factor", z.sum(-1))
            loc = decoder(torch.cat([z, y], -1))
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)
            pyro.sample("w", dist.Normal(z[..., 0], 1.0), obs=x[..., 0])

    def guide(x, y):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x[:, :2] + y[:, :2], 1.0).to_event(1))

    return model, guide, decoder


def test_the_largest_observed_site_is_shown_and_another_can_be_chosen():
    model, guide, decoder = _labelled()
    x, y = torch.randn(4, 6), torch.eye(3)[[0, 1, 2, 0]]
    z = x[:, :2] + y[:, :2]
    loc = decoder(torch.cat([z, y], -1)).detach()
    torch.testing.assert_close(pvae.reconstruct(model, guide, x, y), loc)
    torch.testing.assert_close(pvae.reconstruct(model, guide, x, y, site="w"), z[:, 0])
    p = torch.tensor([0.5, 0.3, 0.2]).expand(4, 3)
    torch.testing.assert_close(pvae.reconstruct(model, guide, x, y, site="y"), p)
    assert pvae.generate(model, 5, x, y).shape == (5, 6)
    assert pvae.generate(model, 5, x, y, site="w").shape == (5,)
    torch.testing.assert_close(pvae.generate(model, 4, x, y, site="y"), p)
    torch.testing.assert_close(pvae.decode(model, {"z": z}, x, y, site="w"), z[:, 0])
    with pytest.raises(PvaeError, match="has no site 'v'; its sites are z, y, x, w"):
        pvae.generate(model, 5, x, y, site="v")
    with pytest.raises(PvaeError, match="has no site 'factor'"):
        pvae.reconstruct(model, guide, x, y, site="factor")


@pytest.mark.parametrize("name", ["closures", "flattening"])
def test_third_party_programs_reconstruct(name):
    model, guide, batch, _ = PROGRAMS[name]()
    mean = pvae.reconstruct(model, guide, *batch)
    assert mean.shape[0] == len(batch[0])
    assert not mean.requires_grad


COUNTS = torch.arange(5.0)[:, None, None]


def _one_site(fn):
    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", fn(x))

    return guide


def test_a_flow_carries_the_centre_of_its_base():
    def fn(x):
        base = dist.Normal(x[:, :2], 1.0)
        return dist.TransformedDistribution(base, [dist.transforms.SigmoidTransform()]).to_event(1)

    x = torch.randn(3, 5)
    torch.testing.assert_close(pvae.encode(_one_site(fn), x)["z"], x[:, :2].sigmoid())


@pytest.mark.parametrize(
    ("fn", "most_probable"),
    [
        (dist.Categorical, lambda p: p.argmax(-1)),
        (dist.OneHotCategorical, lambda p: torch.nn.functional.one_hot(p.argmax(-1), 3).float()),
        (lambda p: dist.Bernoulli(p).to_event(1), lambda p: (p > 0.5).float()),
        (
            lambda p: dist.Binomial(4, p).to_event(1),
            lambda p: dist.Binomial(4, p).log_prob(COUNTS).argmax(0).float(),
        ),
    ],
    ids=["class", "one-hot", "binary", "count"],
)
def test_a_discrete_code_is_the_most_probable_value(fn, most_probable):
    torch.manual_seed(0)
    p = dist.Dirichlet(torch.ones(3)).sample((200,))
    torch.testing.assert_close(pvae.encode(_one_site(fn), p)["z"], most_probable(p))


def test_a_binary_code_of_even_odds_is_one_of_the_two_values():
    codes = pvae.encode(_one_site(dist.Bernoulli), torch.tensor([0.2, 0.5, 0.9]))["z"]
    assert codes.tolist() in ([0, 0, 1], [0, 1, 1])


def test_a_skewed_code_is_its_mean_and_not_its_mode():
    codes = pvae.encode(_one_site(lambda x: dist.Gamma(x, 2.0)), torch.tensor([3.0, 5.0]))["z"]
    assert codes.tolist() == [1.5, 2.5]  # the modes are 1 and 2


def test_a_mixture_reconstructs_by_its_most_probable_component():
    torch.manual_seed(0)
    x = torch.randn(300, 2)
    model = pvae.models.GaussianMixture((2,), num_components=3)
    with torch.no_grad():
        model.loc.copy_(torch.tensor([[-1.0, 0], [1, 0], [0, 1]]))
    guide = pvae.guides.Responsibilities(model)
    p = model.responsibilities(x)
    assert (p.max(-1).values < 0.9).any()  # so that a draw would differ
    expected = model.loc[p.argmax(-1)]
    torch.testing.assert_close(pvae.reconstruct(model, guide, x), expected)


def test_what_has_no_centre_is_drawn_the_same_at_every_call():
    class Draws(dist.TorchDistribution):
        arg_constraints: ClassVar = {}

        def sample(self, shape=()):
            return torch.rand(*shape, *self.batch_shape)

        def log_prob(self, value):
            return torch.zeros_like(value)

    guide = _one_site(lambda x: Draws((len(x),), validate_args=False))
    before = torch.get_rng_state()
    first, second = (pvae.encode(guide, torch.zeros(4, 2))["z"] for _ in range(2))
    assert first.unique().numel() == 4
    assert torch.equal(first, second)
    assert torch.equal(before, torch.get_rng_state())


def test_each_layer_of_a_hierarchy_is_encoded_given_the_code_before_it():
    model, guide, _ = make("two layers")
    x = torch.rand(5, 1, 8, 8)
    codes = pvae.encode(guide, x)
    with torch.no_grad():
        z_1 = guide.encoders[0](x)[:, 0]
        z_2 = guide.encoders[1](z_1)[:, 0]
        means = model.decoder(z_1).sigmoid()
    torch.testing.assert_close(codes, {"z_1": z_1, "z_2": z_2})
    torch.testing.assert_close(pvae.reconstruct(model, guide, x), means)


def test_decoding_the_top_of_a_hierarchy_takes_the_rest_from_the_prior():
    model, _, _ = make("two layers")
    z_2 = torch.randn(5, 3)
    with torch.no_grad():
        expected = model.decoder(model.conditional(1, z_2).mean).sigmoid()
    torch.testing.assert_close(pvae.decode(model, {"z_2": z_2}), expected)


def test_decoding_an_unknown_site_names_the_known_ones():
    model, _, _ = make("two layers")
    with pytest.raises(PvaeError, match="no site 'z'; its sites are z_2, z_1, x"):
        pvae.decode(model, {"z": torch.zeros(2, 3)})


@pytest.mark.parametrize("labels", [False, True])
def test_a_part_is_encoded_with_its_labels(labels, monkeypatch):
    guide = pvae.guides.MeanField((1, 8, 8), latent_dim=3)
    program, sizes = (lambda x, y: guide(x)) if labels else guide, []
    guide.register_forward_hook(lambda module, args, out: sizes.append(len(args[0])))
    data = pvae.data.load("digits", observation="grey", labels=labels)
    monkeypatch.setattr(sys.modules["pvae.predictive.encode"], "_BATCH", 400)
    codes = pvae.encode(program, data.train)
    assert sizes == [400, 400, 400, 300]
    whole = pvae.encode(guide, data.train.x)
    assert list(codes) == ["z"]
    assert isinstance(codes["z"], np.ndarray)
    np.testing.assert_allclose(codes["z"], whole["z"].numpy(), atol=1e-6)
    assert np.array_equal(codes.y, data.train.y.numpy())
    assert repr(codes) == "Codes(z: [1500, 3]; labels in .y)"
    # As in pvae.evaluate, a dataset is its test part.
    assert np.array_equal(pvae.encode(program, data).y, data.test.y.numpy())


def test_a_part_that_is_drawn_anew_is_drawn_the_same_at_every_call():
    guide = pvae.guides.MeanField((1, 8, 8), latent_dim=3)
    train = pvae.data.load("digits").train
    before = torch.get_rng_state()
    first, second = pvae.encode(guide, train), pvae.encode(guide, train)
    assert np.array_equal(first["z"], second["z"])
    assert torch.equal(before, torch.get_rng_state())


def test_data_without_labels_have_none(tmp_path):
    np.save(tmp_path / "rows.npy", np.random.default_rng(0).random((50, 8), dtype=np.float32))
    data = pvae.data.load(str(tmp_path / "rows.npy"), observation="grey")
    codes = pvae.encode(pvae.guides.MeanField((8,), latent_dim=3), data.train)
    assert codes.y is None
    assert "no labels" in repr(codes)


def test_a_delta_gives_its_point():
    _, guide, _ = make("autoencoder")
    data = pvae.data.load("digits", observation="grey")
    with torch.no_grad():
        expected = guide.encode(data.test.x).numpy()
    np.testing.assert_allclose(pvae.encode(guide, data.test)["z"], expected, atol=1e-6)


def test_encoding_says_what_it_cannot_take():
    def guide(x):
        pyro.sample("w", dist.Normal(torch.zeros(3), 1.0).to_event(1))

    data = pvae.data.load("digits")
    with pytest.raises(PvaeError, match=r"'w' of the guide guide has shape \(3,\) for 297 data"):
        pvae.encode(guide, data.test)
    assert pvae.encode(guide, torch.zeros(7, 2))["w"].shape == (3,)
    with pytest.raises(PvaeError, match=r"no tensor with a dimension; it holds ndarray"):
        pvae.encode(guide, np.zeros((3, 2)))


def _affine(shift, scale):
    return dist.transforms.AffineTransform(torch.tensor(shift), torch.tensor(scale))


@pytest.mark.parametrize("independent", [False, True], ids=["Normal", "Independent"])
def test_a_flow_over_a_normal_that_torch_wraps_carries_its_centre(independent):
    # With a transform of vectors torch makes the base its own Independent.
    torch.manual_seed(0)
    decoder = torch.nn.Linear(3, 5)
    flow = dist.transforms.LowerCholeskyAffine(torch.ones(3), torch.eye(3) + 0.5)

    def fn(x):
        base = dist.Normal(x[:, :3], 1.0)
        return dist.TransformedDistribution(base.to_event(1) if independent else base, [flow])

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(decoder(z), 1.0).to_event(1), obs=x)

    x = torch.randn(6, 5)
    code = flow(x[:, :3])
    torch.testing.assert_close(pvae.encode(_one_site(fn), x)["z"], code)
    torch.testing.assert_close(pvae.reconstruct(model, _one_site(fn), x), decoder(code).detach())


def test_centres_of_torchs_own_distributions():
    x, own = torch.tensor([[0.0, 1.0], [2.0, -1.0]]), torch.distributions
    permute = dist.transforms.Permute(torch.tensor([1, 0]))
    normal = own.Independent(own.Normal(x, 1.0), 1)
    for fn, expected in (
        (own.Independent(own.LogNormal(x, 1.0), 1), (x + 0.5).exp()),
        (own.TransformedDistribution(normal, [permute]), x.flip(1)),
        (own.TransformedDistribution(own.Normal(x, 1.0), [permute]), x.flip(1)),
        (own.TransformedDistribution(own.Normal(x, 1.0), [_affine(1.0, 2.0)]), 2 * x + 1),
    ):
        torch.testing.assert_close(centre_of(fn), expected)
