"""The VAE model: generation, every likelihood, every network."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from asking import evaluate
from pyro import poutine
from torch import nn

import pvae
from pvae import PvaeError
from pvae.distributions import DiscretizedLogistic, MixtureOfDiscretizedLogistics
from pvae.models import VAE

LIKELIHOODS = [
    {"likelihood": "bernoulli"},
    {"likelihood": "continuous_bernoulli"},
    {"likelihood": "gaussian", "scale": 0.3},
    {"likelihood": "gaussian", "scale": "learned"},
    {"likelihood": "gaussian", "scale": "network"},
    {"likelihood": "binomial", "levels": 17},
    {"likelihood": "discretized_logistic", "levels": 17},
    {"likelihood": "discretized_logistic", "levels": 17, "scale": "learned"},
    {"likelihood": "logistic_mixture", "levels": 17, "num_mixtures": 2},
]


@pytest.mark.parametrize("network", ["dense", "conv"])
@pytest.mark.parametrize("options", LIKELIHOODS, ids=str)
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 10, 12)])
def test_generates_encodes_reconstructs_and_is_bounded(shape, options, network):
    torch.manual_seed(0)
    model = VAE(shape, latent_dim=3, network=network, hidden_dims=[8], channels=[4, 4], **options)
    guide = pvae.guides.MeanField(shape, 3, network=network, hidden_dims=[8], channels=[4, 4])
    assert model(size=5).shape == (5, *shape)
    x = torch.rand(6, *shape)
    levels = options.get("levels", 2 if options["likelihood"] == "bernoulli" else None)
    x = x if levels is None else (x * (levels - 1)).round() / (levels - 1)
    assert pvae.reconstruct(model, guide, x).shape == x.shape
    assert pvae.encode(guide, x)["z"].shape == (6, 3)
    assert pvae.generate(model, 4).shape == (4, *shape)
    assert pvae.decode(model, {"z": torch.zeros(2, 3)}).shape == (2, *shape)
    fit = pvae.fit(model, guide, x, epochs=3, batch_size=3, progress=False)
    assert len(fit.history) == 3
    result = evaluate(model, guide, x, num_samples=30, progress=False)
    assert result.strategy == "plate"  # our networks work in a particle plate
    assert result.caveat is None
    assert (result.elbo < result.log_px).all()


def test_the_joint_is_what_the_docstring_says():
    torch.manual_seed(0)
    model = VAE((6,), latent_dim=2, hidden_dims=[4], likelihood="gaussian", scale=0.5)
    x, z = torch.randn(3, 6), torch.randn(3, 2)
    trace = poutine.trace(poutine.condition(model, {"z": z})).get_trace(x)
    expected = dist.Normal(0.0, 1.0).log_prob(z).sum() + (
        dist.Normal(model.decoder(z), 0.5).log_prob(x).sum()
    )
    torch.testing.assert_close(trace.log_prob_sum(), expected)


def test_the_discretised_likelihoods_are_those_of_pvae_distributions():
    torch.manual_seed(0)
    z, x = torch.randn(4, 3), torch.randint(17, (4, 2, 3, 2)) / 16

    def built(likelihood, **options):
        return VAE((2, 3, 2), 3, hidden_dims=[8], likelihood=likelihood, levels=17, **options)

    model = built("binomial")
    expected = dist.Binomial(16, logits=model.decoder(z)).log_prob(16 * x).sum((1, 2, 3))
    torch.testing.assert_close(model.likelihood(z).log_prob(x), expected)

    model = built("discretized_logistic")
    loc, raw = model.decoder(z).unbind(1)
    fn = DiscretizedLogistic(loc, nn.functional.softplus(raw) + 1e-4, 17)
    torch.testing.assert_close(model.likelihood(z).log_prob(x), fn.log_prob(x).sum((1, 2, 3)))

    model = built("discretized_logistic", scale=0.05)
    fn = DiscretizedLogistic(model.decoder(z), torch.tensor(0.05), 17)
    torch.testing.assert_close(model.likelihood(z).log_prob(x), fn.log_prob(x).sum((1, 2, 3)))

    model = built("logistic_mixture", num_mixtures=3)
    f = model.decoder(z)  # for each of 3 components a logit, 2 locations, 2 scales, 1 coefficient
    fn = MixtureOfDiscretizedLogistics(
        f[:, :, 0],
        f[:, :, 1:3],
        nn.functional.softplus(f[:, :, 3:5]) + 1e-4,
        f[:, :, 5:].tanh(),
        17,
    )
    torch.testing.assert_close(model.likelihood(z).log_prob(x), fn.log_prob(x))


@pytest.mark.parametrize("likelihood", ["binomial", "discretized_logistic", "logistic_mixture"])
def test_the_counts_of_digits_are_learned_in_bits_per_dimension(likelihood):
    data = pvae.data.load("digits", observation="grey")
    torch.manual_seed(0)
    model = VAE(data.event_shape, 8, likelihood=likelihood, levels=data.levels, num_mixtures=2)
    guide = pvae.guides.MeanField(data.event_shape, 8)
    found = []
    for epochs in (1, 6):
        pvae.fit(model, guide, data, epochs=epochs, lr=3e-3, mode="eager", progress=False)
        options = {"num_samples": 20, "prior_samples": 0, "progress": False}
        result = evaluate(model, guide, data, **options)
        found.append(result.summary()["bits_per_dim"])
        nats = -result.log_px.mean() / 64
        assert found[-1]["log_px"] == pytest.approx(nats / math.log(2))
        assert f"bits/dim: {found[-1]['log_px']:.4f}" in result.table()
    assert found[1]["log_px"] < found[0]["log_px"] - 0.3
    assert found[1]["log_px"] < math.log2(17)  # what no model at all would need


@pytest.mark.parametrize(
    ("observation", "options"),
    [
        ("grey", {"likelihood": "continuous_bernoulli"}),
        ("grey", {"likelihood": "gaussian"}),
        ("grey", {"likelihood": "bernoulli"}),  # not a likelihood of grey values
        ("threshold", {"likelihood": "gaussian"}),  # a density of values that are discrete
    ],
)
def test_a_density_of_levels_has_no_bits(observation, options):
    data = pvae.data.load("digits", observation=observation)
    model, guide = VAE(data.event_shape, 3, **options), pvae.guides.MeanField(data.event_shape, 3)
    result = evaluate(model, guide, data, num_samples=2, progress=False)
    assert result.summary()["bits_per_dim"] is None
    assert "bits/dim" not in result.table()


def test_levels_of_others_are_refused():
    guide = pvae.guides.MeanField((1, 8, 8), 3)
    for levels, observation in ((256, "grey"), (17, "dequantize")):
        x = pvae.data.load("digits", observation=observation).test.x
        model = VAE((1, 8, 8), 3, likelihood="discretized_logistic", levels=levels)
        with pytest.raises(PvaeError, match=rf"levels={levels}, values k / {levels - 1}.*such as"):
            pvae.check(model, guide, x)


def test_tanh_in_place_of_relu():
    model = VAE((6,), 2, hidden_dims=(5, 4), activation="tanh")
    guide = pvae.guides.MeanField((6,), 2, hidden_dims=(5, 4), activation="tanh")
    for net in (model.decoder, guide.encoder):
        kinds = [type(layer) for layer in net.layers]
        assert kinds == [nn.Linear, nn.Tanh, nn.Linear, nn.Tanh, nn.Linear]


def test_learned_scale_is_learned_and_positive():
    torch.manual_seed(0)
    model = VAE((6,), latent_dim=2, likelihood="gaussian", scale="learned")
    guide = pvae.guides.MeanField((6,), latent_dim=2)
    x = 0.01 * torch.randn(64, 6)
    pvae.fit(model, guide, x, epochs=120, batch_size=16, lr=3e-2, progress=False)
    assert 0 < model.head.scale.item() < 0.5


def test_a_network_of_ones_own():
    decoder = nn.Linear(2, 6)
    model = VAE((6,), latent_dim=2, likelihood="gaussian", decoder=decoder)
    z = torch.randn(5, 2)
    torch.testing.assert_close(model.likelihood(z).mean, decoder(z))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"likelihood": "cauchy"}, "likelihood='cauchy'"),
        ({"likelihood": "gaussian", "scale": -1.0}, "scale=-1"),
        ({"likelihood": "gaussian", "scale": "big"}, "scale='big'"),
        ({"network": "conv"}, r"not \(6,\)"),
        ({"network": "transformer"}, "network='transformer'"),
        ({"activation": "gelu"}, "activation='gelu' is not valid: give 'relu' or 'tanh'"),
        ({"latent_dim": 0}, "latent_dim=0: it must be at least 1"),
        ({"hidden_dims": (8, 0)}, "a layer without units"),
        ({"likelihood": "binomial", "levels": 1}, "levels=1 is not valid: give at least 2"),
        ({"likelihood": "logistic_mixture"}, r"needs images .* not \(6,\)"),
        ({"likelihood": "logistic_mixture", "num_mixtures": 0}, "num_mixtures=0"),
    ],
)
def test_bad_arguments(options, said):
    with pytest.raises(PvaeError, match=said):
        VAE((6,), **options)


def test_convolutional_pair_is_near_the_dense_one_on_digits():
    data = pvae.data.load("digits")
    bounds = {}
    for network in ("dense", "conv"):
        torch.manual_seed(0)
        model = VAE(data.event_shape, latent_dim=8, network=network)
        guide = pvae.guides.MeanField(data.event_shape, latent_dim=8, network=network)
        pvae.fit(model, guide, data, epochs=15, progress=False)
        result = evaluate(model, guide, data, num_samples=100, progress=False)
        bounds[network] = result.log_px.mean()
    assert bounds["conv"] > bounds["dense"] - 2  # on 8×8 images it need only be near


COUNTS = [
    "poisson",
    "negative_binomial",
    "zero_inflated_poisson",
    "zero_inflated_negative_binomial",
]


@pytest.mark.parametrize("network", ["dense", "conv"])
@pytest.mark.parametrize("kind", COUNTS)
def test_counts_have_probabilities_that_add_up_and_the_mean_that_is_shown(kind, network):
    torch.manual_seed(0)
    size = {"network": network, "hidden_dims": [8], "channels": [4, 4]}
    model = VAE((1, 8, 8), latent_dim=3, likelihood=kind, **size).double()
    if kind.endswith("negative_binomial"):
        model.head.log_total_count.data.uniform_(0.5, 2)
    p = model.likelihood(torch.randn(4, 3, dtype=torch.double))
    k = torch.arange(200.0, dtype=torch.double)
    each = p.base_dist.log_prob(k[:, None, None, None, None].expand(200, 4, 1, 8, 8)).exp()
    torch.testing.assert_close(each.sum(0), torch.ones_like(each[0]))
    mean = (k[:, None, None, None, None] * each).sum(0)
    torch.testing.assert_close(p.mean, mean)
    assert p.event_shape == (1, 8, 8)


@pytest.mark.parametrize("kind", COUNTS)
def test_counts_are_bounded_by_what_quadrature_says(kind):
    torch.manual_seed(0)
    x = torch.poisson(3 * torch.rand(5, 4))
    model = VAE((4,), latent_dim=1, likelihood=kind, hidden_dims=[4])

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(1, dtype=x.dtype), 1.2).to_event(1))

    z = torch.linspace(-8, 8, 4001, dtype=torch.double)
    model.double()
    with torch.no_grad():
        log_joint = (
            model.likelihood(z[:, None, None]).log_prob(x.double())
            + dist.Normal(0.0, 1.0).log_prob(z)[:, None]
        )
        exact = log_joint.logsumexp(0) + math.log(z[1] - z[0])
        log_w = pvae.log_weights(model, guide, x.double(), num_samples=20_000)
    l_k = log_w.logsumexp(0) - math.log(len(log_w))
    error = (log_w - l_k).exp().std(0) / len(log_w) ** 0.5
    assert ((l_k - exact).abs() < 5 * error + 1e-4).all()
    assert error.max() < 0.05


def test_a_poisson_begins_at_the_mean_of_the_counts():
    torch.manual_seed(0)
    x = torch.poisson(torch.linspace(0.5, 120, 6).expand(4000, 6))
    model = VAE((6,), likelihood="poisson", hidden_dims=[8])
    pvae.glorot(model, pvae.guides.MeanField((6,)), x)
    mean = model.likelihood(torch.zeros(1, 20)).mean[0]
    torch.testing.assert_close(mean, x.mean(0), rtol=1e-3, atol=1e-3)


def test_over_dispersed_counts_are_better_under_the_negative_binomial():
    torch.manual_seed(0)
    x = dist.NegativeBinomial(torch.tensor(1.0), probs=torch.tensor(0.9)).sample((600, 6))
    elbo = {}
    for kind in ("poisson", "negative_binomial"):
        torch.manual_seed(0)
        model = VAE((6,), latent_dim=1, likelihood=kind, hidden_dims=[4])
        pair = model, pvae.guides.MeanField((6,), 1, hidden_dims=[4])
        data = pvae.data.load(x, observation="counts")
        elbo[kind] = pvae.fit(*pair, data, epochs=20, lr=0.02, progress=False).history[-1]["elbo"]
    assert elbo["negative_binomial"] > elbo["poisson"] + 5
