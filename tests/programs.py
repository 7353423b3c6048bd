"""Pairs in the style of Pyro's own examples, each with log p(x) known exactly.

None of them was written for pvae: closures, methods of one module, plates without a size,
networks that flatten, concatenate or normalise over a fixed dimension.
"""

import math

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import constraints


def linear_gaussian_log_px(x: Tensor, weight: Tensor, bias: Tensor, scale: Tensor) -> Tensor:
    """log p(x) of z ~ N(0, I), x ~ N(W z + b, scale²)."""
    weight, bias, x = weight.detach().double(), bias.detach().double(), x.double()
    scale = torch.as_tensor(scale).detach().to(weight)  # a pyro.param stays where it was trained
    eye = torch.eye(len(weight)).to(weight)
    covariance = weight @ weight.T + scale**2 * eye
    return dist.MultivariateNormal(bias, covariance).log_prob(x)


def quadrature_log_px(log_likelihood, latent_dim: int, points: int = 201) -> Tensor:
    """log of the integral of p(x|z) N(z; 0, I) over a grid, for one or two latent dimensions.

    Args:
        log_likelihood: Maps z [G, latent_dim] to log p(x|z), [G, N].
        latent_dim: 1 or 2.
        points: Grid points for each dimension, between -7 and 7.
    """
    axis = torch.linspace(-7, 7, points, dtype=torch.float64)
    grid = torch.cartesian_prod(*[axis] * latent_dim).reshape(-1, latent_dim)
    prior = dist.Normal(torch.zeros(latent_dim, dtype=torch.float64), 1.0).to_event(1)
    log_cell = latent_dim * math.log(14 / (points - 1))
    log_p = log_likelihood(grid).double() + prior.log_prob(grid)[:, None] + log_cell
    return log_p.logsumexp(0)


class WideGaussian:
    """Exact posterior of a linear-Gaussian model, shifted and widened: a wrong guide."""

    def __init__(self, weight: Tensor, bias: Tensor, scale: float, shift=0.15, widen=1.3) -> None:
        latent = weight.shape[1]
        precision = torch.eye(latent, dtype=weight.dtype) + weight.T @ weight / scale**2
        self.covariance = torch.linalg.inv(precision)
        self.gain = self.covariance @ weight.T / scale**2
        self.bias, self.shift, self.widen = bias, shift, widen

    def __call__(self, x: Tensor):
        loc = (x - self.bias) @ self.gain.T + self.shift
        scale = self.widen * self.covariance.diagonal().sqrt()
        return dist.Normal(loc, scale.expand_as(loc)).to_event(1)


def linear_gaussian(data=5, latent=2, scale=0.7, seed=0, dtype=torch.float64):
    """A linear-Gaussian pair of closures with a wider, shifted guide, data and exact values."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(data, latent, generator=generator, dtype=dtype)
    bias = torch.randn(data, generator=generator, dtype=dtype)
    x = (
        torch.randn(200, latent, generator=generator, dtype=dtype) @ weight.T
        + bias
        + scale * torch.randn(200, data, generator=generator, dtype=dtype)
    )
    posterior = WideGaussian(weight, bias, scale)

    def model(x):
        with pyro.plate("data", len(x)):
            prior = dist.Normal(torch.zeros(latent, dtype=dtype), 1.0).to_event(1)
            z = pyro.sample("z", prior)
            pyro.sample("x", dist.Normal(z @ weight.T + bias, scale).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", posterior(x))

    return model, guide, x, linear_gaussian_log_px(x, weight, bias, scale)


def closures(seed=0):
    """Closures that call pyro.module, both under the same name."""
    torch.manual_seed(seed)
    decoder, encoder = nn.Linear(2, 5), nn.Linear(5, 2)

    def model(x):
        pyro.module("net", decoder)
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("latent", dist.Normal(torch.zeros(x.shape[0], 2), 1.0).to_event(1))
            pyro.sample("obs", dist.Normal(decoder(z), 0.5).to_event(1), obs=x)

    def guide(x):
        pyro.module("net", encoder)
        with pyro.plate("data", x.shape[0]):
            pyro.sample("latent", dist.Normal(encoder(x), 0.8).to_event(1))

    def exact(x):
        return linear_gaussian_log_px(x, decoder.weight, decoder.bias, 0.5)

    return model, guide, (torch.randn(64, 5),), exact


class Concatenating(nn.Module):
    """One module with .model and .guide; a plate without a size; lists are concatenated."""

    def __init__(self) -> None:
        super().__init__()
        self.decoder, self.encoder = nn.Linear(2 + 3, 5), nn.Linear(5 + 3, 2)

    def model(self, x, y):
        pyro.module("cvae", self)
        with pyro.plate("data"):
            z = pyro.sample("z", dist.Normal(torch.zeros(x.shape[0], 2), 1.0).to_event(1))
            loc = self.decoder(torch.cat([z, y], -1))
            pyro.sample("x", dist.Normal(loc, 0.5).to_event(1), obs=x)

    def guide(self, x, y):
        with pyro.plate("data"):
            loc = self.encoder(torch.cat([x, y], -1))
            pyro.sample("z", dist.Normal(loc, 0.8).to_event(1))


def concatenating(seed=0):
    torch.manual_seed(seed)
    pair = Concatenating()
    y = torch.eye(3)[torch.arange(64) % 3]

    def exact(x, y):
        weight = pair.decoder.weight
        bias = (y @ weight[:, 2:].T + pair.decoder.bias).detach()
        return linear_gaussian_log_px(x - bias, weight[:, :2], torch.zeros(5), 0.5)

    return pair.model, pair.guide, (torch.randn(64, 5), y), exact


def subsampled(seed=0):
    """A plate that scales each minibatch to the whole data set."""
    torch.manual_seed(seed)
    decoder, encoder = nn.Linear(2, 5), nn.Linear(5, 2)

    def model(x):
        pyro.module("decoder", decoder)
        with pyro.plate("data", 10_000, subsample_size=len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(decoder(z), 0.5).to_event(1), obs=x)

    def guide(x):
        pyro.module("encoder", encoder)
        with pyro.plate("data", 10_000, subsample_size=len(x)):
            pyro.sample("z", dist.Normal(encoder(x), 0.8).to_event(1))

    def exact(x):
        return linear_gaussian_log_px(x, decoder.weight, decoder.bias, 0.5)

    return model, guide, (torch.randn(64, 5),), exact


def flattening(seed=0):
    """Networks that reshape with view(-1, 784), as in Pyro's VAE example."""
    torch.manual_seed(seed)
    decoder = nn.Sequential(nn.Linear(1, 16), nn.Softplus(), nn.Linear(16, 784), nn.Sigmoid())
    encoder = nn.Linear(784, 2)
    nn.init.normal_(decoder[0].weight, 0, 0.5)

    def decode(z):
        return decoder(z.view(-1, 1)).view(-1, 784)

    def model(x):
        pyro.module("decoder", decoder)
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", dist.Normal(torch.zeros(x.shape[0], 1), 1.0).to_event(1))
            fn = dist.Bernoulli(decode(z), validate_args=False).to_event(1)
            pyro.sample("obs", fn, obs=x.view(-1, 784))

    def guide(x):
        pyro.module("encoder", encoder)
        with pyro.plate("data", x.shape[0]):
            loc, raw = encoder(x.view(-1, 784)).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, 0.7 + raw.exp()).to_event(1))

    @torch.no_grad()
    def exact(x):
        flat = x.view(-1, 784)
        return quadrature_log_px(
            lambda z: dist.Bernoulli(decode(z.float())[:, None]).to_event(1).log_prob(flat),
            1,
            2001,
        )

    return model, guide, ((torch.rand(16, 1, 28, 28) < 0.4).float(),), exact


def softmaxing(seed=0):
    """A softmax over dim 1, right for [B, C] and silently wrong for [K, B, C]."""
    torch.manual_seed(seed)
    decoder = nn.Sequential(nn.Linear(1, 7), nn.Softmax(dim=1))
    encoder = nn.Linear(7, 1)
    nn.init.normal_(decoder[0].weight, 0, 2.0)

    def model(x):
        pyro.module("decoder", decoder)
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", dist.Normal(torch.zeros(x.shape[0], 1), 1.0).to_event(1))
            pyro.sample("x", dist.Multinomial(20, probs=decoder(z), validate_args=False), obs=x)

    def guide(x):
        pyro.module("encoder", encoder)
        with pyro.plate("data", x.shape[0]):
            pyro.sample("z", dist.Normal(encoder(x / 20), 0.9).to_event(1))

    @torch.no_grad()
    def exact(x):
        return quadrature_log_px(
            lambda z: dist.Multinomial(20, probs=decoder(z.float())[:, None]).log_prob(x), 1, 2001
        )

    with torch.no_grad():
        p = decoder(torch.randn(32, 1))
    return model, guide, (dist.Multinomial(20, probs=p).sample(),), exact


def global_param(seed=0):
    """A model with a pyro.param of its own, outside every plate."""
    torch.manual_seed(seed)
    decoder, encoder = nn.Linear(2, 5), nn.Linear(5, 2)
    name = f"noise_{seed}"

    def model(x):
        pyro.module("decoder", decoder)
        scale = pyro.param(name, torch.tensor(0.6), constraint=constraints.positive)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(decoder(z), scale).to_event(1), obs=x)

    def guide(x):
        pyro.module("encoder", encoder)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(encoder(x), 0.8).to_event(1))

    def exact(x):
        return linear_gaussian_log_px(x, decoder.weight, decoder.bias, pyro.param(name))

    return model, guide, (torch.randn(64, 5),), exact


PROGRAMS = {
    "closures": closures,
    "concatenating": concatenating,
    "subsampled": subsampled,
    "flattening": flattening,
    "softmaxing": softmaxing,
    "global_param": global_param,
}


def tokens(x):
    """Two of three classes, all equally probable, whatever z is."""
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
        logits = z[..., None, None] * torch.ones(2, 3)
        pyro.sample("x", dist.Categorical(logits=logits).to_event(1), obs=x)


def as_the_prior(x, *_):
    """A guide of one standard normal z, whatever x is."""
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
