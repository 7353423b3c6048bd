"""The guide whose encoder is the model's."""

import pytest
import torch
from pyro import poutine
from torch.distributions import Normal

import pvae
from pvae import PvaeError
from pvae.guides import SharedEncoder
from pvae.models import VAE, VampPriorVAE


def pair():
    torch.manual_seed(0)
    model = VampPriorVAE((1, 8, 8), 3, num_pseudo_inputs=5, hidden_dims=[16])
    return model, SharedEncoder(model)


def test_density_is_that_of_the_models_encoder():
    model, guide = pair()
    x = torch.rand(4, 1, 8, 8)
    site = poutine.trace(guide).get_trace(x).nodes["z"]
    expected = Normal(*model.encode(x)).log_prob(site["value"]).sum(-1)
    torch.testing.assert_close(site["fn"].log_prob(site["value"]), expected)


def test_the_encoder_is_trained_once_and_saved_once(tmp_path):
    model, guide = pair()
    x = pvae.data.load("digits").train.tensors()[0][:60]
    assert not guide.state_dict()
    before = model.encoder.layers[0].weight.detach().clone()
    fit = pvae.fit(model, guide, x, epochs=2, batch_size=20, out=tmp_path, progress=False)
    assert fit.num_parameters == sum(p.numel() for p in model.parameters())
    assert not torch.equal(before, model.encoder.layers[0].weight)
    torch.manual_seed(1)
    expected = pvae.log_weights(model, guide, x, num_samples=2)
    model, guide = pair()
    pvae.load(tmp_path, model=model, guide=guide)
    torch.manual_seed(1)
    assert torch.equal(pvae.log_weights(model, guide, x, num_samples=2), expected)


def test_a_model_without_an_encoder():
    with pytest.raises(PvaeError, match=r"VAE has no encode\(x\) to share.*use MeanField"):
        SharedEncoder(VAE((1, 8, 8), 3))
