"""Linear-Gaussian pairs with one latent, two, a flow or shared networks, and their gradients."""

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule, PyroParam
from torch import nn
from torch.distributions import constraints

from pvae.objectives import LatentScale


def rand(*shape, scale=1.0, seed):
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(*shape, generator=generator, dtype=torch.float64)


def apply(matrix, vector):
    return (matrix @ vector[..., None])[..., 0]


# Each datum has parameters of its own, so that one call with copies of one datum gives as many
# independent gradients as there are copies.


def own(size, value):
    return nn.Parameter(
        value.expand(size, *value.shape).clone(memory_format=torch.contiguous_format)
    )


class OneModel(PyroModule):
    """z ~ N(0, I), x ~ N(W z + b, 0.7²)."""

    def __init__(self, size):
        super().__init__()
        self.weight = own(size, rand(3, 2, seed=0))
        self.bias = own(size, rand(3, seed=1))

    def forward(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            loc = apply(self.weight, z) + self.bias
            pyro.sample("x", dist.Normal(loc, 0.7).to_event(1), obs=x)


class OneGuide(PyroModule):
    """q(z|x) = N(A x + c, s²), off the posterior."""

    def __init__(self, size):
        super().__init__()
        weight, bias = rand(3, 2, seed=0), rand(3, seed=1)
        covariance = torch.linalg.inv(torch.eye(2).double() + weight.T @ weight / 0.49)
        gain = covariance @ weight.T / 0.49
        self.gain, self.loc = own(size, gain), own(size, 0.2 - gain @ bias)
        self.log_scale = own(size, (1.2 * covariance.diagonal().sqrt()).log())

    def forward(self, x):
        with pyro.plate("data", len(x)):
            loc = apply(self.gain, x) + self.loc
            pyro.sample("z", dist.Normal(loc, self.log_scale.exp()).to_event(1))


class TwoModel(PyroModule):
    """z_2 ~ N(0, I), z_1 ~ N(A z_2, 0.8²), x ~ N(W z_1 + b, 0.7²)."""

    def __init__(self, size):
        super().__init__()
        self.upper = own(size, rand(2, 2, seed=2))
        self.weight = own(size, rand(3, 2, seed=0))
        self.bias = own(size, rand(3, seed=1))

    def forward(self, x):
        with pyro.plate("data", len(x)):
            z_2 = pyro.sample("z_2", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            z_1 = pyro.sample("z_1", dist.Normal(apply(self.upper, z_2), 0.8).to_event(1))
            loc = apply(self.weight, z_1) + self.bias
            pyro.sample("x", dist.Normal(loc, 0.7).to_event(1), obs=x)


class TwoGuide(PyroModule):
    """q(z_1|x) = N(A x + c, s²), q(z_2|z_1) = N(C z_1, t²): s a PyroParam, t a pyro.param."""

    def __init__(self, size):
        super().__init__()
        self.one = OneGuide(size)
        self.upper = own(size, 0.5 * rand(2, 2, seed=2).T)
        self.scale = PyroParam(self.one.log_scale.detach().exp(), constraints.positive)
        self.size = size

    def forward(self, x):
        lower = pyro.param("lower", torch.full((self.size, 2), 0.8).double(), constraints.positive)
        with pyro.plate("data", len(x)):
            loc = apply(self.one.gain, x) + self.one.loc
            z_1 = pyro.sample("z_1", dist.Normal(loc, self.scale).to_event(1))
            pyro.sample("z_2", dist.Normal(apply(self.upper, z_1), lower).to_event(1))


class Flow(dist.torch_transform.TransformModule):
    """y = u + tanh(w u) a: an inverse by iteration, kept after each call as Pyro's flows do."""

    domain = codomain = constraints.real_vector
    bijective = True

    def __init__(self, size):
        super().__init__(cache_size=1)
        self.shift = own(size, torch.tensor([0.5, -0.4]).double())
        self.rate = own(size, torch.tensor([0.8, 0.6]).double())

    def _call(self, u):
        return u * self.rate.exp() + self.shift

    def _inverse(self, y):
        return (y - self.shift) * (-self.rate).exp()

    def log_abs_det_jacobian(self, u, y):
        return self.rate.sum(-1).expand(u.shape[:-1])


class FlowGuide(PyroModule):
    def __init__(self, size):
        super().__init__()
        self.base, self.flow = own(size, rand(2, seed=5)), Flow(size)

    def forward(self, x):
        with pyro.plate("data", len(x)):
            base = dist.Normal(self.base, 0.3).to_event(1)
            pyro.sample("z", dist.TransformedDistribution(base, [self.flow]))


class Sharing(PyroModule):
    """The guide's scale is the model's noise."""

    def __init__(self, size):
        super().__init__()
        self.one = OneGuide(size)
        self.weight, self.log_noise = own(size, rand(3, 2, seed=0)), own(size, rand(2, seed=6))

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            noise = self.log_noise.mean(-1, keepdim=True).exp()
            pyro.sample("x", dist.Normal(apply(self.weight, z), noise).to_event(1), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            loc = apply(self.one.gain, x) + self.one.loc
            pyro.sample("z", dist.Normal(loc, 0.6 * self.log_noise.exp()).to_event(1))


def pair(name, size):
    pyro.clear_param_store()
    if name == "sharing":
        both = Sharing(size)
        named = [(n, p) for n, p in both.named_parameters() if n != "one.log_scale"]
        return both.model, both.guide, named
    model, guide = {
        "one": (OneModel, OneGuide),
        "two": (TwoModel, TwoGuide),
        "flow": (OneModel, FlowGuide),
    }[name]
    model, guide = model(size), guide(size)
    named = [*model.named_parameters(prefix="model"), *guide.named_parameters(prefix="guide")]
    return model, guide, [(n, p) for n, p in named if "one.log_scale" not in n or name != "two"]


def copies(size):
    return torch.tensor([0.5, -1.0, 0.8], dtype=torch.float64).expand(size, 3).clone()


def gradients(objective, name, size, weight=1.0, seed=0):
    """Gradients of the loss, one row for each datum: the parameters end to end."""
    model, guide, named = pair(name, size)
    x = copies(size)
    objective.loss(model, guide, x)  # so that pyro.param exists
    if name == "two":
        named.append(("guide.lower", pyro.get_param_store()._params["lower"]))
    torch.manual_seed(seed)
    with LatentScale(weight):
        loss = objective.differentiable_loss(model, guide, x)
    found = torch.autograd.grad(loss, [p for _, p in named])
    names = [n for n, p in named for _ in range(p[0].numel())]
    return names, torch.cat([g.flatten(1) for g in found], -1)


def same_mean(ours, theirs):
    """Whether two samples of gradients have the same mean, within 4 standard errors."""
    error = (ours.var(0) / len(ours) + theirs.var(0) / len(theirs)).sqrt()
    return ((ours.mean(0) - theirs.mean(0)).abs() / error).max() < 4
