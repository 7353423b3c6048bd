"""A linear-Gaussian VAE whose posterior is correlated, so that no mean field is it."""

from functools import partial

import torch
from programs import linear_gaussian_log_px
from torch import nn

import pvae
from pvae.models import VAE

LINEAR = {"hidden_dims": []}
"""Encoders that can be the posterior's mean, and say the same scales for all data."""


def correlated():
    """The model (its parameters frozen), 100 data [100, 5], and log p(x) of each."""
    with torch.random.fork_rng([]):
        torch.manual_seed(3)
        decoder = nn.Linear(2, 5)
        nn.init.normal_(decoder.weight)
        decoder.weight.data[:, 1] = decoder.weight[:, 0] + 0.4 * decoder.weight[:, 1]
        model = VAE((5,), 2, likelihood="gaussian", scale=0.6, decoder=decoder)
        model.requires_grad_(False).eval()  # Pyro warns of frozen parameters in training
        x = model(size=100)
    return model, x, linear_gaussian_log_px(x, decoder.weight, decoder.bias, 0.6).float()


def train(pair, x, steps=900, lr=0.03, num_particles=8):
    """Ascends the ELBO with path derivatives, whose noise vanishes at the posterior."""
    optim = partial(torch.optim.Adam, lr=lr)
    svi = pvae.SVI(*pair, optim, pvae.objectives.STL_ELBO(num_particles), mode="eager")
    for step in range(steps):
        svi.step(x)
        svi.optim.set_lr(1e-3 ** (step / steps))
