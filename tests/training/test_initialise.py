"""Where parameters start."""

import math

import pytest
import torch
from torch import nn

import pvae
from pvae import PvaeError
from pvae.cli.main import main
from pvae.guides import MeanField
from pvae.models import VAE, HierarchicalVAE

SHAPE = (1, 8, 8)


def digits(observation="dynamic"):
    return pvae.data.load("digits", observation=observation).train.tensors()[0]


@pytest.mark.parametrize("network", ["dense", "conv"])
def test_weights_are_uniform_with_the_variance_of_glorot_and_bengio(network):
    torch.manual_seed(0)
    model, guide = VAE(SHAPE, network=network), MeanField(SHAPE, network=network)
    pvae.glorot(model, guide)
    layers = [m for side in (model, guide) for m in side.modules() if hasattr(m, "weight")]
    assert len(layers) >= 4
    for layer in layers:
        receptive = layer.weight[0, 0].numel()
        bound = math.sqrt(6 / (receptive * (layer.weight.shape[0] + layer.weight.shape[1])))
        assert 0.9 * bound < layer.weight.abs().max() <= bound
        assert layer.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.1)
        assert (layer.bias == 0).all()


@pytest.mark.parametrize("make", [VAE, HierarchicalVAE])
def test_the_output_begins_at_the_mean_image(make):
    x = digits()
    model = make(SHAPE)
    pvae.glorot(model, nn.Linear(2, 2), x)
    with torch.no_grad():
        model.decoder.layers[0].weight.zero_()
        size = model.decoder.in_shape[0]
        mean = model.likelihood(torch.randn(1, size)).mean[0]
    torch.testing.assert_close(mean, x.mean(0).clamp(0.001, 0.999))


def test_other_likelihoods_begin_there_too():
    x = digits("grey")
    options = {"likelihood": "discretized_logistic", "levels": 17, "scale": "network"}
    model = VAE(SHAPE, hidden_dims=(), **options)
    with torch.no_grad():
        model.decoder.layers[0].weight.zero_()
    model.set_output_bias(x)
    loc = model.likelihood(torch.zeros(1, 20)).base_dist.loc[0]
    torch.testing.assert_close(loc, x.mean(0))
    conv = VAE(SHAPE, network="conv", likelihood="gaussian")
    conv.set_output_bias(x)
    assert conv.decoder.layers[-1].bias.tolist() == pytest.approx([x.mean().item()])
    own = VAE(SHAPE, decoder=nn.Linear(20, 64))
    before = own.decoder.bias.clone()
    own.set_output_bias(x)
    assert torch.equal(own.decoder.bias, before)


def test_in_the_shell(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    options = ["train", "--epochs", "1", "--lr", "1e-12", "--progress", "false"]
    assert main([*options, "--init", "glorot", "--out", "a"]) == 0
    model, guide = pvae.load("a")
    mean = digits().mean(0).clamp(0.001, 0.999)
    bias = model.decoder.layers[-1].bias.detach()
    torch.testing.assert_close(bias.sigmoid(), mean.flatten(), rtol=1e-4, atol=1e-5)
    assert guide.encoder.layers[0].bias.abs().max() < 1e-6
    assert main([*options, "--init", "he", "--out", "b"]) == 2
    assert "--init: " in capsys.readouterr().err


def test_a_pair_without_layers():
    with pytest.raises(PvaeError, match="Neither model nor guide has a linear"):
        pvae.glorot(lambda x: None, lambda x: None)
