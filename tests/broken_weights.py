"""Pairs whose gradients, data or densities have one fault, found by more than one call.

See `broken.py`.
"""

import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from broken import D, Guide, Model, Z, data
from torch import nn
from torch.distributions import transforms


def network_not_registered():
    encoder = nn.Linear(D, 2 * Z)

    def guide(x):
        loc, raw = encoder(x).chunk(2, -1)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, F.softplus(raw) + 1e-3).to_event(1))

    return Model(), guide, data(), "auto"


def encoder_detached():
    class Broken(Guide):
        def encode(self, x):
            loc, scale = super().encode(x)
            return loc.detach(), scale.detach()

    return Model(), Broken(), data(), "auto"


def mixes_the_batch():
    class Broken(Guide):
        def encode(self, x):
            loc, scale = super().encode(x)
            return loc - loc.mean(0), scale  # normalised over the batch

    return Model(), Broken(), data(), "auto"


class Chain(Model):
    def forward(self, x):
        with pyro.plate("data", len(x)):
            z_2 = pyro.sample("z_2", dist.Normal(torch.zeros(Z), 1.0).to_event(1))
            z_1 = pyro.sample("z_1", dist.Normal(z_2, 1.0).to_event(1))
            self.observe(self.net(z_1), x)


def closed_form_kl_of_a_chain_from_below():
    class Below(Guide):
        def sample(self, loc, scale):
            z_1 = pyro.sample("z_1", dist.Normal(loc, scale).to_event(1))
            pyro.sample("z_2", dist.Normal(0.5 * z_1, scale).to_event(1))

    return Chain(), Below(), data(), "TraceMeanField_ELBO"


def discrete_without_enumeration():
    class Broken(Model):
        def forward(self, x):
            with pyro.plate("data", len(x)):
                y = pyro.sample("y", dist.Categorical(torch.ones(Z) / Z))
                self.observe(self.net(F.one_hot(y, Z).float()), x)

    class Labels(Guide):
        def sample(self, loc, scale):
            pyro.sample("y", dist.Categorical(logits=loc))

        def encode(self, x):
            return self.net(x)[..., :Z], None

    return Broken(), Labels(), data(), "STL_ELBO"


class Scaling(transforms.Transform):
    """z = c ε, whose log |det J| someone forgot."""

    domain = codomain = dist.constraints.real
    bijective = True
    sign = 1

    def __init__(self, c):
        super().__init__()
        self.c = c

    def _call(self, x):
        return self.c * x

    def _inverse(self, y):
        return y / self.c

    def log_abs_det_jacobian(self, x, y):
        return torch.zeros_like(x)


def _scaled(c):
    class Broken(Guide):
        def sample(self, loc, scale):
            z = dist.TransformedDistribution(dist.Normal(loc, scale), [Scaling(c)])
            return pyro.sample("z", z.to_event(1))

    return Model(), Broken(), data(), "auto"


def density_too_low():
    return _scaled(0.25)


def density_too_high():
    return _scaled(4.0)


def square_root_at_zero():
    class Broken(Guide):
        def encode(self, x):
            loc, raw = self.net(x).chunk(2, -1)
            return loc, (raw - raw[..., :1]).square().sqrt() + 1e-3  # sqrt at 0: slope ∞

    return Model(), Broken(), data(), "auto"


def prior_whose_density_is_not_its_draws():
    class Broken(Model):
        def forward(self, x):
            with pyro.plate("data", len(x)):
                prior = dist.TransformedDistribution(dist.Normal(torch.zeros(Z), 1.0), [Scaling(3)])
                z = pyro.sample("z", prior.to_event(1))
                self.observe(self.net(z), x)

    return Broken(), Guide(), data(), "auto"


def softmax_over_the_batch():
    class Broken(Model):
        def observe(self, f, x):
            super().observe(f.softmax(0), x)

    return Broken(), Guide(), data(), "auto"


def corrupts_in_evaluation_too():
    class Broken(Guide):
        def encode(self, x):
            return super().encode(x * (torch.rand_like(x) > 0.3))

    return Model(), Broken(), data(), "auto"


def decoder_detached():
    class Broken(Model):
        def observe(self, f, x):
            super().observe(f.detach(), x)

    return Broken(), Guide(), data(), "auto"


def subsampled_and_not_said():
    class Broken(Model):
        def forward(self, x):
            with pyro.plate("data", len(x)), pyro.poutine.scale(scale=0.1):
                z = pyro.sample("z", dist.Normal(torch.zeros(Z), 1.0).to_event(1))
                self.observe(self.net(z), x)

    return Broken(), Guide(), data(), "Trace_ELBO"


# What the message must name, and what it must say to do.
BROKEN_WEIGHTS = {
    network_not_registered: (r"guide.encoder.weight .*is not trained", r"pyro\.module"),
    encoder_detached: (r"guide.net.weight .*gets no gradient", r"\.detach\(\)"),
    mixes_the_batch: (r"mixes data across the batch", "normalise within each datum"),
    closed_form_kl_of_a_chain_from_below: (
        r"TraceMeanField_ELBO would be wrong.*'z_1' depends on 'z_2'",
        "Trace_ELBO",
    ),
    discrete_without_enumeration: (r"'y'.*", r"IWAE_ELBO|enumerate"),
    density_too_low: (
        r"density of the guide's latent sites.*2\.\d nats too low.*bound too high",
        "log_abs_det_jacobian",
    ),
    density_too_high: (
        r"density of the guide's latent sites.*2\.\d nats too high.*bound too low",
        "log_abs_det_jacobian",
    ),
    square_root_at_zero: (r"gradient of guide.net.* is not finite", "away from zero"),
    prior_whose_density_is_not_its_draws: (
        r"density of the model's latent sites.*2\.\d nats too high.*bound too high",
        "log_abs_det_jacobian",
    ),
    softmax_over_the_batch: (r"mixes data across the batch: log p\(x\)", "within each datum"),
    corrupts_in_evaluation_too: (
        r"q\(z\).*differs from call to call.*denoising",
        r"self\.training",
    ),
    decoder_detached: (r"model.net.weight .*gets no gradient", r"\.detach\(\)"),
    subsampled_and_not_said: (
        r"'z' has the scale 1 in the guide and 0\.1 in the model",
        "both programs",
    ),
}
