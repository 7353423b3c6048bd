"""What the tests of the shell share: small options, a user's file, and what a run has."""

import json
import subprocess
import sys

import yaml

from pvae.cli.command_line import parse

SMALL = ["--model.hidden_dims", "[16]", "--guide.hidden_dims", "[16]", "--model.latent_dim", "3"]


QUICK = ["--epochs", "2", "--num_samples", "20", "--prior_samples", "20", "--progress", "false"]


PAIR = '''
import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import nn


class Model(PyroModule):
    """A model of a user's, whose latent_dim has no default and no type."""

    def __init__(self, event_shape, latent_dim, bias: float = 0.0):
        super().__init__()
        self.event_shape, self.latent_dim, self.bias = event_shape, latent_dim, bias
        self.net = nn.Linear(latent_dim, event_shape[-1] ** 2)

    def forward(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(self.latent_dim), 1.0).to_event(1))
            f = (self.net(z) + self.bias).reshape(*z.shape[:-1], *self.event_shape)
            pyro.sample("x", dist.Bernoulli(logits=f).to_event(3), obs=x)


class Guide(PyroModule):
    def __init__(self, event_shape, latent_dim: int = 5):
        super().__init__()
        self.net = nn.Linear(event_shape[-1] ** 2, 2 * latent_dim)

    def forward(self, x):
        with pyro.plate("data", len(x)):
            loc, raw = self.net(x.flatten(-3)).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, raw.exp()).to_event(1))


class Fixed(Guide):
    def __init__(self, event_shape):
        super().__init__(event_shape, 4)


class Broken(nn.Module):
    def __init__(self):
        raise RuntimeError("a bug of the user's")


decoder, encoder = nn.Linear(2, 64), nn.Linear(64, 4)


def model(x):
    pyro.module("decoder", decoder)
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Bernoulli(logits=decoder(z)).to_event(1), obs=x.flatten(-3))


def guide(x):
    pyro.module("encoder", encoder)
    with pyro.plate("data", len(x)):
        loc, raw = encoder(x.flatten(-3)).chunk(2, -1)
        pyro.sample("z", dist.Normal(loc, raw.exp()).to_event(1))
'''


def names(folder):
    return {path.name for path in folder.iterdir()}


def numbers(folder):
    return json.loads((folder / "evaluation.json").read_text())


def stored(folder):
    return yaml.safe_load((folder / "config.yaml").read_text())


def parsed(*argv):
    return parse("run", list(argv))[0]


def shell(*argv):
    return subprocess.run(
        [sys.executable, "-m", "pvae", *argv], capture_output=True, text=True, timeout=300
    )
