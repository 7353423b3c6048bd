"""Pairs with one fault each: those that people bring to Pyro's forum and issues.

Each function returns (model, guide, batch, loss); BROKEN has for each what a message must name.
"""

import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from pyro.nn import PyroModule
from torch import nn
from torch.distributions import transforms

B, D, Z = 64, 6, 2


def data(binary=False):
    x = torch.randn(B, D, generator=torch.Generator().manual_seed(0))
    return x.gt(0).float() if binary else x


class Model(PyroModule):
    """z ~ N(0, I), x ~ N(Wz + b, 1): what the others break."""

    def __init__(self, out=D):
        super().__init__()
        self.net = nn.Linear(Z, out)

    def forward(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(Z), 1.0).to_event(1))
            self.observe(self.net(z), x)

    def observe(self, f, x):
        pyro.sample("x", dist.Normal(f, 1.0).to_event(1), obs=x)


class Guide(PyroModule):
    """q(z|x) = N(μ(x), σ²(x))."""

    def __init__(self, latent=Z):
        super().__init__()
        self.net = nn.Linear(D, 2 * latent)

    def forward(self, x):
        loc, scale = self.encode(x)
        with pyro.plate("data", len(x)):
            self.sample(loc, scale)

    def encode(self, x):
        loc, raw = self.net(x).chunk(2, -1)
        return loc, F.softplus(raw) + 1e-3

    def sample(self, loc, scale):
        return pyro.sample("z", dist.Normal(loc, scale).to_event(1))


def missing_plate():
    class Broken(Model):
        def forward(self, x):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x), Z), 1.0).to_event(1))
            self.observe(self.net(z), x)

    return Broken(), Guide(), data(), "auto"


def missing_to_event_in_the_model():
    class Broken(Model):
        def observe(self, f, x):
            pyro.sample("x", dist.Normal(f, 1.0), obs=x)

    return Broken(), Guide(), data(), "auto"


def missing_to_event_in_the_guide():
    class Broken(Guide):
        def sample(self, loc, scale):
            return pyro.sample("z", dist.Normal(loc, scale))

    return Model(), Broken(), data(), "auto"


def other_latent_dim():
    return Model(), Guide(latent=Z + 1), data(), "auto"


def other_site_name():
    class Broken(Guide):
        def sample(self, loc, scale):
            return pyro.sample("code", dist.Normal(loc, scale).to_event(1))

    return Model(), Broken(), data(), "auto"


def nothing_observed():
    class Broken(Model):
        def observe(self, f, x):
            pyro.sample("x", dist.Normal(f, 1.0).to_event(1))

    return Broken(), Guide(), data(), "auto"


def guide_samples_the_data():
    class Broken(Guide):
        def sample(self, loc, scale):
            pyro.sample("x", dist.Normal(torch.zeros(D), 1.0).to_event(1))
            return super().sample(loc, scale)

    return Model(), Broken(), data(), "auto"


def other_support():
    class Broken(Model):
        def forward(self, x):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.LogNormal(torch.zeros(Z), 1.0).to_event(1))
                self.observe(self.net(z), x)

    return Broken(), Guide(), data(), "auto"


def pixels_up_to_255():
    class Broken(Model):
        def observe(self, f, x):
            pyro.sample("x", dist.Bernoulli(logits=f).to_event(1), obs=x)

    return Broken(), Guide(), 255 * data(binary=True), "auto"


def scale_below_zero():
    class Broken(Guide):
        def encode(self, x):
            loc, raw = self.net(x).chunk(2, -1)
            return loc, raw  # no softplus, no exp

    return Model(), Broken(), data(), "auto"


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


def plate_of_another_size():
    class Broken(Model):
        def forward(self, x):
            with pyro.plate("data", 100):
                z = pyro.sample("z", dist.Normal(torch.zeros(Z), 1.0).to_event(1))
                self.observe(self.net(z), x)

    return Broken(), Guide(), data(), "auto"


def plate_at_another_dim():
    class Broken(Model):
        def forward(self, x):
            with pyro.plate("data", len(x), dim=-2):
                z = pyro.sample("z", dist.Normal(torch.zeros(Z), 1.0).to_event(1))
                self.observe(self.net(z), x)

    return Broken(), Guide(), data(), "auto"


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


def site_twice():
    class Broken(Model):
        def observe(self, f, x):
            super().observe(f, x)
            super().observe(f, x)

    return Broken(), Guide(), data(), "auto"


def log_of_zero():
    class Broken(Model):
        def observe(self, f, x):
            p = (f > 0).float() + 0 * f  # saturated: probabilities 0 and 1
            pyro.factor("x_log", (x * p.log() + (1 - x) * (1 - p).log()).sum(-1))

    return Broken(), Guide(), data(binary=True), "auto"


def integer_data():
    return Model(), Guide(), data(binary=True).long(), "auto"


def double_data():
    return Model(), Guide(), data().double(), "auto"


def network_of_another_width():
    return Model(out=D - 1), Guide(), data(), "auto"


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


def input_of_another_width():
    class Broken(Model):
        def __init__(self):
            super().__init__()
            self.net = nn.Linear(Z + 1, D)

    return Broken(), Guide(), data(), "auto"


def size_written_into_the_program():
    class Broken(Model):
        def forward(self, x):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(torch.zeros(B, Z), 1.0).to_event(1))
                self.observe(self.net(z), x)

    return Broken(), Guide(), data(), "auto"


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
BROKEN = {
    missing_plate: (r"'z'.*no plate.*size 64", r'pyro\.plate\("data", len\(x\)'),
    missing_to_event_in_the_model: (r"'x'", r"\.to_event"),
    missing_to_event_in_the_guide: (r"'z'", r"\.to_event"),
    other_latent_dim: (r"'z'.*\(3,\).*\(2,\)", "latent_dim"),
    other_site_name: (r"'code'.*'z'", "latent sites of the same names"),
    nothing_observed: (r"observes? nothing", r"obs=x"),
    guide_samples_the_data: (r"'x' is observed in the model and sampled in the guide", "latent"),
    other_support: (r"'z'.*Normal draws outside.*LogNormal", "same support"),
    pixels_up_to_255: (r"'x'.*255.*Bernoulli", "Rescale or binarise"),
    scale_below_zero: (r"guide .*scale of a Normal.*GreaterThan", "softplus"),
    network_not_registered: (r"guide.encoder.weight .*is not trained", r"pyro\.module"),
    encoder_detached: (r"guide.net.weight .*gets no gradient", r"\.detach\(\)"),
    mixes_the_batch: (r"mixes data across the batch", "normalise within each datum"),
    plate_of_another_size: (r"plate 'data' counts 64 .* 100", r'pyro\.plate\("data", len\(x\)\)'),
    plate_at_another_dim: (r"'data'.*dim -2", r"dim=-1"),
    closed_form_kl_of_a_chain_from_below: (
        r"TraceMeanField_ELBO would be wrong.*'z_1' depends on 'z_2'",
        "Trace_ELBO",
    ),
    discrete_without_enumeration: (r"'y'.*", r"IWAE_ELBO|enumerate"),
    site_twice: (r"'x'", r"its own name"),
    log_of_zero: (r"pyro\.factor is NaN or infinite", "off 0 and 1"),
    integer_data: (r"got Long and Float", r"x\.float\(\)"),
    double_data: (r"got Double and Float", r"x\.float\(\)"),
    network_of_another_width: (r"'x'.*\(6,\).*\(5,\)", "Reshape"),
    density_too_low: (
        r"density of the guide's latent sites.*2\.\d nats too low.*bound too high",
        "log_abs_det_jacobian",
    ),
    density_too_high: (
        r"density of the guide's latent sites.*2\.\d nats too high.*bound too low",
        "log_abs_det_jacobian",
    ),
    input_of_another_width: (r"64x2 and 3x6", "in_features"),
    size_written_into_the_program: (r"runs with 64 data and not with 16", r"len\(x\)"),
    square_root_at_zero: (r"gradient of guide.net.* is not finite", "away from zero"),
    prior_whose_density_is_not_its_draws: (
        r"density of the model's latent sites.*2\.\d nats too high.*bound too high",
        "log_abs_det_jacobian",
    ),
    softmax_over_the_batch: (r"mixes data across the batch: log p\(x\)", "within each datum"),
    corrupts_in_evaluation_too: (r"q\(z\).*another at each call.*denoising", r"self\.training"),
    decoder_detached: (r"model.net.weight .*gets no gradient", r"\.detach\(\)"),
    subsampled_and_not_said: (
        r"'z' has the scale 1 in the guide and 0\.1 in the model",
        "both programs",
    ),
}
