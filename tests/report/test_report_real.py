"""The report of real pairs: what evaluate() found, for our own pair and for someone else's."""

import pyro
import pyro.distributions as dist
import torch
from torch import nn

import pvae.data
from pvae import evaluate, guides, models
from pvae.drawing.text import decimals, number, percent


def test_our_own_pair_with_a_latent_plane(read):
    torch.manual_seed(0)
    data = pvae.data.load("digits")
    sizes = {"latent_dim": 2}
    model, guide = models.VAE((1, 8, 8), **sizes), guides.MeanField((1, 8, 8), **sizes)
    evaluation = evaluate(model, guide, data, num_samples=20, progress=False, device="cpu")
    state = torch.get_rng_state()
    page = read(evaluation, model=model, guide=guide, data=data)
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training
    assert guide.training
    assert page.errors == []
    assert "could not be drawn" not in page.text()
    summary = evaluation.summary()
    last = summary["log_px"][-1]
    places = decimals(last["se"], summary["elbo"]["se"])
    assert number(last["mean"], places) in page.text("headline")
    assert number(summary["elbo"]["mean"], places) in page.text("headline")
    error = last["monte_carlo_se"]
    assert any(f"| {number(error, max(places, decimals(error)))} |" in row for row in page.rows)
    assert percent(summary["khat"]["above_threshold"]) in "\n".join(page.rows)
    assert evaluation.verdict in page.text("headline")
    assert evaluation.data["hash"] in page.text("repeat")
    assert "standard normal prior" in page.text("latent")
    for panel in ("reconstructions", "samples", "least_likely"):
        assert page.text(panel)


def test_grey_values_under_a_bernoulli_carry_their_caveat(read):
    data = pvae.data.load("digits", observation="grey")
    model, guide = models.VAE((1, 8, 8)), guides.MeanField((1, 8, 8))
    evaluation = evaluate(model, guide, data, num_samples=5, progress=False, device="cpu")
    page = read(evaluation, model=model, guide=guide, data=data)
    assert evaluation.caveat
    assert evaluation.caveat in page.text("caveat")


def test_closures_that_flatten_keep_their_pictures(read):
    encoder, decoder = nn.Linear(64, 3), nn.Linear(3, 64)

    def model(x):
        pyro.module("decoder", decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("code", dist.Normal(x.new_zeros(len(x), 3), 1.0).to_event(1))
            logits = decoder(z)
            pyro.sample("seen", dist.Bernoulli(logits=logits).to_event(1), obs=x.flatten(1))

    def guide(x):
        pyro.module("encoder", encoder)
        with pyro.plate("data", len(x)):
            pyro.sample("code", dist.Normal(encoder(x.flatten(1)), 1.0).to_event(1))

    x = torch.rand(30, 1, 8, 8).round()
    evaluation = evaluate(model, guide, x, num_samples=5, progress=False, device="cpu")
    page = read(evaluation, model=model, guide=guide, data=x)
    assert "could not be drawn" not in page.text()
    assert "drawn from the prior" in page.text("samples")
    assert (
        page.source.count('class="pixels"') == 11
    )  # on the first screen; samples, interpolations and traversals too
    assert "code" in page.text("parts")
    assert "451" in page.text()
