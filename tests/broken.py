"""Pairs with one fault each: those that people bring to Pyro's forum and issues.

Each function returns (model, guide, batch, loss); BROKEN has for each what a message must name.
"""

import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from pyro.nn import PyroModule
from torch import nn

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


def plate_of_another_size():
    class Broken(Model):
        def forward(self, x):
            with pyro.plate("data", 100):
                z = pyro.sample("z", dist.Normal(torch.zeros(Z), 1.0).to_event(1))
                self.observe(self.net(z), x)

    return Broken(), Guide(), data(), "auto"


def plate_of_the_first_batch():
    class Broken(Model):
        def forward(self, x):
            with pyro.plate("data", B):
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
    plate_of_another_size: (r"plate 'data' counts 64 .* 100", r'pyro\.plate\("data", len\(x\)\)'),
    plate_of_the_first_batch: (
        r"With 16 data.*plate 'data' counts 16 .* 64",
        r'pyro\.plate\("data", len\(x\)\)',
    ),
    plate_at_another_dim: (r"'data'.*dim -2", r"dim=-1"),
    site_twice: (r"'x'", r"its own name"),
    log_of_zero: (r"pyro\.factor is NaN or infinite", "off 0 and 1"),
    integer_data: (r"got Long and Float", r"x\.float\(\)"),
    double_data: (r"got Double and Float", r"x\.float\(\)"),
    network_of_another_width: (r"'x'.*\(6,\).*\(5,\)", "Reshape"),
    input_of_another_width: (r"64x2 and 3x6", "in_features"),
    size_written_into_the_program: (r"runs with 64 data and not with 16", r"len\(x\)"),
}
