"""Likelihood heads: their numbers, and that every model with a decoder takes any of them."""

import pyro.distributions as dist
import pytest
import torch
from torch import nn

import pvae
from pvae import PvaeError, guides, models
from pvae.distributions import Head, heads, make_head

# Of the VAE as it was before heads: dense, convolutional.
LOG_PROBS = [
    ({"likelihood": "bernoulli"}, -89.6477, -92.1215),
    ({"likelihood": "continuous_bernoulli"}, -1.0417, -1.3872),
    ({"likelihood": "gaussian"}, -149.6638, -132.811),
    ({"likelihood": "gaussian", "scale": "learned"}, -149.6638, -132.811),
    ({"likelihood": "gaussian", "scale": "network"}, -126.1619, -121.2953),
    ({"likelihood": "binomial", "levels": 17}, -608.2013, -599.8759),
    ({"likelihood": "discretized_logistic", "levels": 17}, -488.2722, -484.5567),
    (
        {"likelihood": "discretized_logistic", "levels": 17, "scale": "learned"},
        -844.2373,
        -595.272,
    ),
    (
        {"likelihood": "logistic_mixture", "levels": 17, "num_mixtures": 2},
        -492.5114,
        -484.2529,
    ),
    ({"likelihood": "poisson"}, -2055.948, -1927.8092),
    ({"likelihood": "negative_binomial"}, -1017.8055, -937.6086),
    ({"likelihood": "zero_inflated_poisson"}, -2103.6101, -2142.7947),
    ({"likelihood": "zero_inflated_negative_binomial"}, -1078.6238, -1098.3517),
]


@pytest.mark.parametrize(("options", "dense", "conv"), LOG_PROBS, ids=str)
def test_parameters_and_log_densities_are_those_of_before(options, dense, conv):
    k = torch.linspace(0, 1, 128).view(2, 8, 8).mul(16).round()
    found = []
    for network in ("dense", "conv"):
        torch.manual_seed(0)
        size = {"network": network, "hidden_dims": [8], "channels": [4, 4]}
        model = models.VAE((2, 8, 8), 3, **size, **options)
        x = k if isinstance(model.head, heads.Poisson) else k / 16
        x = x.round() if options["likelihood"] == "bernoulli" else x
        p = model.likelihood(torch.randn(1, 3))
        assert p.event_shape == (2, 8, 8)
        assert model.head.support.check(x).all()
        found.append(p.log_prob(x).item())
    assert found == pytest.approx([dense, conv], abs=2e-4, rel=1e-6)


class Steps(Head):
    """x_t ~ N(x_{t-1} + f_1, e^{f_2}), with a network of its own: f has another shape than x."""

    def __init__(self, width: int = 5):
        super().__init__()
        self.width = width

    def sized(self, event_shape):
        head = super().sized(event_shape)
        head.network = nn.Linear(self.width, 2)
        return head

    @property
    def out_shape(self):
        return (self.width,)

    def forward(self, f):
        drift, log_scale = self.network(f).unbind(-1)
        shape, (size,) = drift.shape, self.event_shape
        walk = torch.ones(size, size).tril()
        loc = (drift[..., None] * walk.sum(-1)).expand(*shape, size)
        scale_tril = log_scale.exp()[..., None, None] * walk
        return dist.MultivariateNormal(loc, scale_tril=scale_tril)


SHAPE, SMALL = (6,), {"hidden_dims": [7]}
MODELS = {
    "VAE": lambda **o: models.VAE(SHAPE, 2, **SMALL, **o),
    "HierarchicalVAE": lambda **o: models.HierarchicalVAE(SHAPE, (2, 3), ((7,), (5,)), **o),
    "MixturePriorVAE": lambda **o: models.MixturePriorVAE(SHAPE, 2, 3, **SMALL, **o),
    "FlowPriorVAE": lambda **o: models.FlowPriorVAE(SHAPE, 2, flow_hidden_dims=[5], **SMALL, **o),
    "VampPriorVAE": lambda **o: models.VampPriorVAE(SHAPE, 2, 4, **SMALL, **o),
    "Autoencoder": lambda **o: models.Autoencoder(SHAPE, 2, **SMALL, **o),
    "SparseAutoencoder": lambda **o: models.SparseAutoencoder(SHAPE, 2, **SMALL, **o),
}


@pytest.mark.parametrize("name", MODELS)
def test_every_model_with_a_decoder_takes_any_head(name):
    torch.manual_seed(0)
    model = MODELS[name](likelihood=Steps(4))
    assert model(size=3).shape == (3, 6)
    z, x = torch.randn(10, 5, 2), torch.randn(5, 6)
    f = model.head.network(model.decoder(z))
    step = x - torch.cat([torch.zeros(5, 1), x[:, :-1]], 1)
    expected = dist.Normal(f[..., :1], f[..., 1:].exp()).log_prob(step).sum(-1)
    torch.testing.assert_close(model.likelihood(z).log_prob(x), expected)
    before = model.decoder.layers[-1].bias.clone()
    model.set_output_bias(x)
    assert torch.equal(model.decoder.layers[-1].bias, before)
    poisson = MODELS[name](likelihood="poisson").likelihood(z)
    assert poisson.log_prob(torch.ones(5, 6)).shape == (10, 5)


def test_a_head_of_ones_own_is_trained_and_evaluated():
    torch.manual_seed(0)
    x = 0.1 * torch.randn(64, 6).cumsum(-1)
    pair = MODELS["VAE"](likelihood=Steps()), guides.MeanField(SHAPE, 2, hidden_dims=[7])
    history = pvae.fit(*pair, x, epochs=10, batch_size=16, lr=0.02, progress=False).history
    assert history[-1]["elbo"] > history[0]["elbo"] + 3
    result = pvae.evaluate(*pair, x, num_samples=30, progress=False)
    assert (result.elbo <= result.log_px).all()
    assert result.strategy == "plate"


def test_models_share_no_head():
    head = heads.Gaussian(scale="learned")
    one, two = (models.VAE((4,), 2, likelihood=head) for _ in range(2))
    one.head.log_scale.data.fill_(3.0)
    assert two.head.log_scale == 0
    assert head.log_scale == 0


@pytest.mark.parametrize(
    ("name", "head"),
    [
        ({"likelihood": "gaussian", "scale": 0.3}, heads.Gaussian(0.3)),
        (
            {"likelihood": "discretized_logistic", "levels": 17, "scale": "learned"},
            heads.DiscretizedLogistic(17, scale="learned"),
        ),
        ({"likelihood": "binomial"}, heads.Binomial()),
    ],
    ids=str,
)
def test_a_name_with_options_is_a_head_with_arguments(name, head):
    made = make_head(**name, event_shape=(4,)), head.sized((4,))
    f, x = torch.randn(3, 4), torch.tensor([0.0, 0.0, 1.0, 1.0])
    log_p = [each(f).log_prob(x) for each in made]
    torch.testing.assert_close(*log_p, rtol=0, atol=0)
    assert log_p[0].shape == (3,)


def test_a_decoder_may_flatten_its_output_but_not_give_another_number_of_values():
    network = {"likelihood": "gaussian", "scale": "network"}
    model = models.VAE((1, 2, 2), 3, decoder=nn.Linear(3, 8), **network)
    z = torch.randn(5, 3)
    loc, raw = model.decoder(z).view(5, 2, 1, 2, 2).unbind(1)
    expected = dist.Normal(loc, nn.functional.softplus(raw) + 1e-4).log_prob(torch.zeros(1, 2, 2))
    found = model.likelihood(z).log_prob(torch.zeros(1, 2, 2))
    torch.testing.assert_close(found, expected.sum((1, 2, 3)))
    model = models.VAE((1, 2, 2), 3, decoder=nn.Linear(3, 4), **network)
    said = r"shape \(5, 4\), but Gaussian .* \(5, 2, 1, 2, 2\)\. Make .* \(2, 1, 2, 2\) for each"
    with pytest.raises(PvaeError, match=said):
        model.likelihood(z)


def test_an_option_beside_a_head_is_refused():
    with pytest.raises(PvaeError, match=r"scale=0.1 is .* likelihood=Gaussian\(scale=0.1\)"):
        models.HierarchicalVAE((4,), likelihood=heads.Gaussian(), scale=0.1)
