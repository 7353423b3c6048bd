"""Pairs whose log p(x) is known exactly, in float64: what evaluation is measured against.

Each function returns (model, guide, batch, exact): `batch` is a tuple of tensors, simulated from
the model, and `exact` log p(x) of each datum in nats. The guides are wrong on purpose, with
weights of finite variance; with `narrow=True` they are too narrow, and the variance is infinite.
"""

from functools import partial

import pyro
import pyro.distributions as dist
import torch
from programs import linear_gaussian as wide_linear_gaussian
from programs import quadrature_log_px
from pyro import poutine
from torch import Tensor, nn

__all__ = [
    "ORACLES",
    "SUMS",
    "ambiguous_mixture",
    "categorical",
    "decoder",
    "explicit",
    "gamma_poisson",
    "hierarchy",
    "linear_gaussian",
    "mixture",
    "simulate",
    "summed",
]

SIZE = 400
WIDE, NARROW, SHIFT = 1.2, 0.3, 0.1  # scales of guides over those of posteriors; their shift


def simulate(model, *event: int, size: int = SIZE) -> Tensor:
    """Draws x [size, *event] from the model itself, leaving the global generator alone."""
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        trace = poutine.trace(poutine.uncondition(model))
        sites = trace.get_trace(torch.zeros(size, *event, dtype=torch.float64)).nodes
    return sites["x"]["value"].detach()


def random(*shape: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def linear_gaussian(narrow=False):
    """z ~ N(0, I), x ~ N(W z + b, σ²), as in tests/programs.py."""
    model, guide, x, exact = wide_linear_gaussian()

    def narrow_guide(x):
        with poutine.block():
            q = poutine.trace(guide).get_trace(x).nodes["z"]["fn"].base_dist
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(q.loc, NARROW * q.scale).to_event(1))

    return model, narrow_guide if narrow else guide, (x,), exact


class LinearMixture:
    """y ~ Cat(π), z ~ N(m_y, s_y² I), x ~ N(W z + b_y, σ² I), and its posterior.

    Components 1 and 2 lie apart in the direction of z that x hardly shows, 8 scales from each
    other, so that the posterior of many data has two modes. The columns of W are orthogonal:
    given y, the dimensions of z stay independent in the posterior.
    """

    probs = torch.tensor([0.3, 0.35, 0.35], dtype=torch.float64)
    means = torch.tensor([[-2.0, 0.0], [1.5, 2.0], [1.5, -2.0]], dtype=torch.float64)
    scales = torch.tensor([0.8, 0.5, 0.5], dtype=torch.float64)
    weight = torch.tensor([[1.0, 0.2], [0.5, -0.4], [-0.8, 0.0]], dtype=torch.float64)
    noise = 0.7

    def __init__(self, biases: Tensor | None = None) -> None:
        self.biases = torch.zeros(3, 3, dtype=torch.float64) if biases is None else biases

    def log_joint(self, x: Tensor) -> Tensor:
        """log p(x, y), [N, 3]."""
        loc = self.means @ self.weight.T + self.biases
        eye = torch.eye(3, dtype=torch.float64)
        spread = self.scales[:, None, None] ** 2 * (self.weight @ self.weight.T)
        fn = dist.MultivariateNormal(loc, spread + self.noise**2 * eye)
        return self.probs.log() + fn.log_prob(x[:, None])

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean [N, 3, 2] and scale [3, 2] of p(z | x, y)."""
        prior = self.scales[:, None] ** -2
        precision = prior + self.weight.square().sum(0) / self.noise**2
        evidence = (x[:, None] - self.biases) @ self.weight / self.noise**2
        return (evidence + self.means * prior) / precision, precision.rsqrt()

    def guide(self, x: Tensor, narrow: bool) -> dist.MixtureSameFamily:
        loc, scale = self.posterior(x)
        parts = dist.Normal(loc + SHIFT, (NARROW if narrow else WIDE) * scale).to_event(1)
        return dist.MixtureSameFamily(dist.Categorical(logits=0.8 * self.log_joint(x)), parts)


def _mixture(size=SIZE):
    truth = LinearMixture()

    def model(x):
        with pyro.plate("data", len(x)):
            parts = dist.Normal(truth.means, truth.scales[:, None]).to_event(1)
            z = pyro.sample("z", dist.MixtureSameFamily(dist.Categorical(truth.probs), parts))
            pyro.sample("x", dist.Normal(z @ truth.weight.T, truth.noise).to_event(1), obs=x)

    return truth, model, simulate(model, 3, size=size)


def mixture(narrow=False):
    """p(z) is a mixture of Gaussians, and so is the guide."""
    truth, model, x = _mixture()

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", truth.guide(x, narrow))

    return model, guide, (x,), truth.log_joint(x).logsumexp(-1)


def ambiguous_mixture(missed=True):
    """Those data of `mixture` whose posterior has two modes, with shares between 0.2 and 0.8.

    The guide is that of `mixture`, or with `missed` one that never visits the second mode: it
    is right about p(z | x, y = 1), and leaves out y = 2.
    """
    truth, model, x = _mixture(size=1000)
    shares = truth.log_joint(x).softmax(-1)
    x = x[(shares[:, 0] < 1e-4) & (shares[:, 1:] > 0.2).all(-1)]

    def guide(x):
        with pyro.plate("data", len(x)):
            if missed:
                loc, scale = truth.posterior(x)
                fn = dist.Normal(loc[:, 1] + 0.05, 1.1 * scale[1]).to_event(1)
            else:
                fn = truth.guide(x, narrow=False)
            pyro.sample("z", fn)

    return model, guide, (x,), truth.log_joint(x).logsumexp(-1)


def hierarchy(narrow=False):
    """z_2 ~ N(0, I), z_1 ~ N(A z_2, s²), x ~ N(W z_1 + b, σ²); q(z_1 | x) q(z_2 | z_1)."""
    upper, lower, bias = random(2, 2, seed=1), random(4, 2, seed=2), random(4, seed=3)
    scale, noise, factor = 0.6, 0.5, NARROW if narrow else WIDE
    eye = torch.eye(2, dtype=torch.float64)
    prior = upper @ upper.T + scale**2 * eye
    covariance_1 = torch.linalg.inv(torch.linalg.inv(prior) + lower.T @ lower / noise**2)
    covariance_2 = torch.linalg.inv(eye + upper.T @ upper / scale**2)
    tril_1, tril_2 = (factor * torch.linalg.cholesky(c) for c in (covariance_1, covariance_2))

    def model(x):
        with pyro.plate("data", len(x)):
            z_2 = pyro.sample("z_2", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            z_1 = pyro.sample("z_1", dist.Normal(z_2 @ upper.T, scale).to_event(1))
            pyro.sample("x", dist.Normal(z_1 @ lower.T + bias, noise).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            loc = (x - bias) @ lower @ covariance_1 / noise**2 + 0.05
            z_1 = pyro.sample("z_1", dist.MultivariateNormal(loc, scale_tril=tril_1))
            loc = z_1 @ upper @ covariance_2 / scale**2 + SHIFT
            pyro.sample("z_2", dist.MultivariateNormal(loc, scale_tril=tril_2))

    x = simulate(model, 4)
    covariance = lower @ prior @ lower.T + noise**2 * torch.eye(4, dtype=torch.float64)
    return model, guide, (x,), dist.MultivariateNormal(bias, covariance).log_prob(x)


def decoder(latent_dim=1, narrow=False, points=None, x=None):
    """z ~ N(0, I), x ~ Bernoulli(MLP(z)), eight binary dimensions: exact by quadrature.

    Args:
        latent_dim: 1 or 2.
        narrow: Whether the guide is too narrow.
        points: Grid points of each dimension.
        x: Data [N, 8] in place of simulated ones.
    """
    with torch.random.fork_rng([]):
        torch.manual_seed(latent_dim)
        net = nn.Sequential(nn.Linear(latent_dim, 8), nn.Tanh(), nn.Linear(8, 8)).double()
        nn.init.normal_(net[0].weight, 0, 1.0)
        nn.init.normal_(net[2].weight, 0, 0.6)
        # An encoder by least squares; the likelihood levels off, so that the tails of the
        # posterior are the prior's, and the guide's scale has to exceed 1/√2.
        z = torch.randn(4000, latent_dim, dtype=torch.float64)
        draws = torch.bernoulli(net(z).detach().sigmoid())
        encoder = torch.linalg.lstsq(nn.functional.pad(draws, (0, 1), value=1.0), z).solution
    scale = 0.15 if narrow else 0.95

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(latent_dim), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=net(z)).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            loc = x @ encoder[:-1] + encoder[-1]
            pyro.sample("z", dist.Normal(loc, scale).to_event(1))

    @torch.no_grad()
    def log_likelihood(z):
        logits = net(z)
        return logits @ x.T - nn.functional.softplus(logits).sum(-1, keepdim=True)

    x = simulate(model, 8) if x is None else x
    exact = quadrature_log_px(log_likelihood, latent_dim, points or {1: 401, 2: 121}[latent_dim])
    return model, guide, (x,), exact


def categorical(where="guide", narrow=False, biased=True):
    """y ~ Cat(π), z ~ N(m_y, s_y²), x ~ N(W z + b_y, σ²): exact by a sum over y.

    Args:
        where: What becomes of y. "model": enumerated in the model, and absent from the guide;
            "guide": enumerated in the guide, which gives z for each y, as in SS-VAE; "sampled":
            sampled in the guide.
        narrow: Whether the guide's q(z) is too narrow.
        biased: Whether x depends on y beside z; else the pair is that of `mixture`.
    """
    truth = LinearMixture(random(3, 3, seed=4) if biased else None)
    marked = {"enumerate": "parallel"}

    def model(x):
        with pyro.plate("data", len(x)):
            infer = marked if where == "model" else {}
            y = pyro.sample("y", dist.Categorical(truth.probs), infer=infer)
            prior = dist.Normal(truth.means[y], truth.scales[y][..., None]).to_event(1)
            z = pyro.sample("z", prior)
            loc = z @ truth.weight.T + truth.biases[y]
            pyro.sample("x", dist.Normal(loc, truth.noise).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            if where == "model":
                pyro.sample("z", truth.guide(x, narrow))
                return
            infer = marked if where == "guide" else {}
            y = pyro.sample("y", dist.Categorical(logits=0.8 * truth.log_joint(x)), infer=infer)
            loc, scale = truth.posterior(x)
            loc = loc[torch.arange(len(x)), y] + SHIFT
            scale = (NARROW if narrow else WIDE) * scale[y]
            pyro.sample("z", dist.Normal(loc, scale).to_event(1))

    x = simulate(model, 3)
    return model, guide, (x,), truth.log_joint(x).logsumexp(-1)


def gamma_poisson(counts=3, narrow=False):
    """z ~ Gamma(a, b), x_j ~ Poisson(z), j = 1 … counts: for one count a negative binomial."""
    a, b = torch.tensor([2.5, 0.8], dtype=torch.float64)

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Gamma(a, b))
            rate = z[..., None].expand(*z.shape, counts)
            pyro.sample("x", dist.Poisson(rate).to_event(1), obs=x)

    def guide(x):
        # Both below one: weights are bounded. Both far above: they are not, at 0 and at ∞.
        shape, rate = (10.0, 10.0) if narrow else (0.85, 0.8)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Gamma(shape * (a + x.sum(-1)), rate * (b + counts)))

    x = simulate(model, counts)
    total = a + x.sum(-1)
    exact = a * b.log() - a.lgamma() + total.lgamma() - total * (b + counts).log()
    return model, guide, (x,), exact - (x + 1).lgamma().sum(-1)


def summed(where="guide"):
    """y ~ Cat(π), x ~ N(m_y, 1), y enumerated in the guide or in the model: no draw is left."""
    probs = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
    means = torch.tensor([-2.0, 0.0, 3.0], dtype=torch.float64)

    def model(x):
        with pyro.plate("data", len(x)):
            infer = {"enumerate": "parallel"} if where == "model" else {}
            y = pyro.sample("y", dist.Categorical(probs), infer=infer)
            pyro.sample("x", dist.Normal(means[y], 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            if where == "guide":
                fn = dist.Categorical(logits=-0.3 * (x[:, None] - means) ** 2)
                pyro.sample("y", fn, infer={"enumerate": "parallel"})

    x = simulate(model)
    exact = (probs.log() + dist.Normal(means, 1.0).log_prob(x[:, None])).logsumexp(-1)
    return model, guide, (x,), exact


def explicit():
    """A density without any latent: x_1 ~ N(0, 1), x_2 ~ N(x_1 / 2, 4)."""

    def model(x):
        with pyro.plate("data", len(x)):
            loc = torch.stack([torch.zeros_like(x[:, 0]), 0.5 * x[:, 0]], -1)
            scale = torch.tensor([1.0, 2.0], dtype=torch.float64)
            pyro.sample("x", dist.Normal(loc, scale).to_event(1), obs=x)

    def guide(x):
        pass

    x = random(SIZE, 2, seed=0)
    x[:, 1] = 0.5 * x[:, 0] + 2 * x[:, 1]
    covariance = torch.tensor([[1.0, 0.5], [0.5, 4.25]], dtype=torch.float64)
    exact = dist.MultivariateNormal(torch.zeros(2, dtype=torch.float64), covariance).log_prob(x)
    return model, guide, (x,), exact


ORACLES = {
    "linear_gaussian": linear_gaussian,
    "mixture": mixture,
    "hierarchy": hierarchy,
    "decoder_1d": partial(decoder, 1),
    "decoder_2d": partial(decoder, 2),
    "categorical_in_model": partial(categorical, "model"),
    "categorical_in_guide": partial(categorical, "guide"),
    "categorical_sampled": partial(categorical, "sampled"),
    "gamma_poisson": gamma_poisson,
}
"""Pairs with a continuous latent, each taking `narrow`."""

SUMS = {
    "sum_in_guide": partial(summed, "guide"),
    "sum_in_model": partial(summed, "model"),
    "explicit": explicit,
}
"""Pairs without any randomness in the weights: each equals p(x)."""
