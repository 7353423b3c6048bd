"""Classifier: p(y|x) of a linear network, and a self-taught one on the encoder of a VAE."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import pvae
from pvae import guides, models


def test_log_p_is_that_of_a_softmax_and_its_density_is_p_of_y_given_x():
    torch.manual_seed(0)
    model = models.Classifier((4,), 3, encoder=nn.Identity())
    x, y = torch.randn(50, 4), torch.arange(50) % 3
    found = pvae.evaluate(
        model, guides.NoLatents(), (x, y), num_samples=1, estimators=[], progress=False
    )
    with torch.no_grad():
        expected = -nn.functional.cross_entropy(model.out(x), y, reduction="none")
    assert found.log_px == pytest.approx(expected.numpy(), abs=1e-5)
    assert found.exact
    assert found.data["density"] == "p(y | x)"


def test_a_model_of_one_binary_number_is_no_classifier():
    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Bernoulli(0.3), obs=x)

    x = torch.arange(8).remainder(2).float()
    found = pvae.evaluate(
        model, guides.NoLatents(), x, num_samples=1, progress=False,
        estimators=[pvae.estimators.Classifier()],
    )  # fmt: skip
    assert "classifier" not in found.findings


@pytest.mark.parametrize("network", ["dense", "conv"])
def test_it_learns_the_digits(network):
    torch.manual_seed(0)
    digits = pvae.data.load("digits", labels=True, observation="grey")
    model = models.Classifier((1, 8, 8), network=network, channels=[8, 16])
    pvae.fit(model, guides.NoLatents(), digits, epochs=30, lr=3e-3, progress=False)
    x, y = digits.test.tensors()
    with torch.no_grad():
        right = (model.distribution(x).logits.argmax(-1) == y).double().mean()
    assert right > 0.93
    found = pvae.evaluate(
        model, guides.NoLatents(), digits, num_samples=1, progress=False,
        estimators=[pvae.estimators.Classifier()],
    )  # fmt: skip
    summary = found.summary()["classifier"]
    assert summary["error"]["mean"] == pytest.approx(1 - float(right))
    assert summary["nll"]["mean"] == pytest.approx(-found.log_px.mean())
    assert "labels by p(y|x): error" in found.table()


def test_a_frozen_encoder_stays_that_of_its_guide():
    torch.manual_seed(0)
    digits = pvae.data.load("digits", labels=True)
    guide = guides.MeanField((1, 8, 8), latent_dim=5)
    before = [p.clone() for p in guide.encoder.parameters()]
    model, nothing = models.Classifier((1, 8, 8), encoder=guide.encoder), guides.NoLatents()
    assert model.out.in_features == 10
    guide.encoder.requires_grad_(False)
    found = pvae.fit(model, nothing, digits, epochs=10, lr=1e-2, progress=False)
    assert all(map(torch.equal, guide.encoder.parameters(), before))
    assert found.history[-1]["elbo"] > found.history[0]["elbo"] + 0.05
