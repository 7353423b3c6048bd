"""Importance-weighted objectives: their values, their gradients, and the noise of both."""

import contextlib
import math

import oracles
import pyro
import pyro.distributions as dist
import pytest
import torch
from programs import PROGRAMS, linear_gaussian
from pyro import poutine
from pyro.infer import RenyiELBO, Trace_ELBO
from pyro.nn import PyroModule, PyroParam
from torch import nn
from torch.distributions import constraints
from torch.fx.experimental.proxy_tensor import make_fx

from pvae import PvaeError, log_weights
from pvae.objectives import (
    IWAE_ELBO,
    STL_ELBO,
    Beta_ELBO,
    DReG_ELBO,
    FreeBits_ELBO,
    InfoVAE_ELBO,
    LatentScale,
)
from pvae.pair.reach import modules

OBJECTIVES = [
    IWAE_ELBO(4),
    DReG_ELBO(4),
    STL_ELBO(4),
    Beta_ELBO(4, beta=0.5),
    FreeBits_ELBO(4, free_bits=0.7),
    InfoVAE_ELBO(4, mmd_weight=3.0),
]
BY_NAME = [type(objective).__name__ for objective in OBJECTIVES]


@pytest.fixture(autouse=True)
def own_store():
    pyro.clear_param_store()
    yield
    pyro.clear_param_store()


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


@pytest.mark.parametrize("name", ["one", "two", "flow", "sharing"])
@pytest.mark.parametrize("path", [DReG_ELBO, STL_ELBO])
def test_path_gradients_have_the_mean_of_plain_ones(path, name):
    plain = IWAE_ELBO(6) if path is DReG_ELBO else IWAE_ELBO(1)
    names, ours = gradients(path(6), name, 20_000, seed=1)
    _, theirs = gradients(plain, name, 40_000, seed=2)
    assert same_mean(ours, theirs)
    assert len(names) == ours.shape[1] > 10
    # The means are far enough from zero for this to say something, and the path is less noisy.
    assert (ours.mean(0).abs() > 20 * ours.std(0) / len(ours) ** 0.5).sum() > len(names) / 3


def test_dreg_under_a_kl_weight():
    _, ours = gradients(DReG_ELBO(4), "two", 20_000, weight=0.3, seed=1)
    _, theirs = gradients(IWAE_ELBO(4), "two", 40_000, weight=0.3, seed=2)
    assert same_mean(ours, theirs)
    tensor = torch.tensor(0.3, dtype=torch.float64)
    torch.testing.assert_close(gradients(DReG_ELBO(4), "two", 5, weight=tensor)[1],
                               gradients(DReG_ELBO(4), "two", 5, weight=0.3)[1])  # fmt: skip


@pytest.mark.parametrize("num", [1, 3])
@pytest.mark.parametrize("path", [DReG_ELBO, STL_ELBO])
def test_path_gradient_of_a_chain_by_hand(path, num):
    # From the definition: φ in the path and φ in the density are different leaves.
    size = 2
    names, ours = gradients(path(num), "two", size)
    model, guide, _ = pair("two", size)
    live = [guide.one.gain, guide.one.loc, guide.scale_unconstrained, guide.upper]
    live.append(torch.full((size, 2), 0.8).double().log().requires_grad_())
    held_ones = [p.detach().clone() for p in live]
    x = copies(size)
    torch.manual_seed(0)
    noise = [torch.randn(num, size, 2, dtype=torch.float64) for _ in range(2)]

    def means(phi, z_1):
        return apply(phi[0], x) + phi[1], phi[2].exp(), apply(phi[3], z_1), phi[4].exp()

    loc, scale, *_ = means(live, noise[0])
    z_1 = loc + scale * noise[0]
    *_, loc, scale = means(live, z_1)
    z_2 = loc + scale * noise[1]
    loc_1, scale_1, loc_2, scale_2 = means(held_ones, z_1)
    log_w = (
        dist.Normal(0.0, 1.0).log_prob(z_2).sum(-1)
        + dist.Normal(apply(model.upper, z_2), 0.8).log_prob(z_1).sum(-1)
        + dist.Normal(apply(model.weight, z_1) + model.bias, 0.7).log_prob(x).sum(-1)
        - dist.Normal(loc_1, scale_1).log_prob(z_1).sum(-1)
        - dist.Normal(loc_2, scale_2).log_prob(z_2).sum(-1)
    )
    share = log_w.detach().softmax(0)
    factor = share**2 if path is DReG_ELBO else torch.full_like(share, 1 / num)
    expected = torch.autograd.grad(-(factor * log_w).sum(), live)
    by_name = dict(zip(["gain", "loc", "scale_unconstrained", "upper", "lower"], expected,
                       strict=True))  # fmt: skip
    for end, gradient in by_name.items():
        columns = [i for i, n in enumerate(names) if n.startswith("guide") and n.endswith(end)]
        torch.testing.assert_close(ours[:, columns], gradient.flatten(1))


@pytest.mark.parametrize("path", [DReG_ELBO(3), STL_ELBO(3)])
def test_a_flow_in_the_guide_is_held_as_well(path):
    # z = u exp(r) + s with u ~ N(m, 0.3²): along the path, dz/dm = exp(r) dz/ds and
    # dz/dr = (z - s) dz/ds; a score that leaks breaks the first, a kept inverse both.
    names, rows = gradients(path, "flow", 5)
    columns = {n: [i for i, m in enumerate(names) if m == n] for n in names}
    base, shift = rows[:, columns["guide.base"]], rows[:, columns["guide.flow.shift"]]
    rate = torch.tensor([0.8, 0.6], dtype=torch.float64)
    torch.testing.assert_close(base, rate.exp() * shift)


def snr(rows):
    """Signal-to-noise of a gradient: the norm of its mean over its standard deviation."""
    noise = rows.var(0).sum()
    return ((rows.mean(0).square().sum() - noise / len(rows)).clamp(min=0) / noise).sqrt().item()


def slope(objective, nums, size):
    ratios = []
    for num in nums:
        names, rows = gradients(objective(num), "one", size, seed=num)
        ratios.append(snr(rows[:, [i for i, n in enumerate(names) if n.startswith("guide")]]))
    x, y = torch.tensor(nums).double().log(), torch.tensor(ratios).double().log()
    return (((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum()).item()


def test_signal_to_noise():
    # Rainforth et al. 2018; measured: -0.51 and 0.48.
    assert slope(IWAE_ELBO, [4, 16, 64], 20_000) == pytest.approx(-0.5, abs=0.1)
    assert slope(DReG_ELBO, [8, 32, 128], 5_000) == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize("objective", OBJECTIVES, ids=BY_NAME)
def test_gradient_by_finite_differences(objective):
    model, guide, named = pair("two", 3)
    x = copies(3) + rand(3, 3, seed=3)
    objective.loss(model, guide, x)
    named.append(("guide.lower", pyro.get_param_store()._params["lower"]))
    if isinstance(objective, DReG_ELBO | STL_ELBO):
        named = [(n, p) for n, p in named if n.startswith("model")]  # φ's is no derivative
    parameters = [p for _, p in named]

    def loss():
        torch.manual_seed(0)
        return objective.differentiable_loss(model, guide, x)

    exact = torch.autograd.grad(loss(), parameters)
    step = 1e-5
    for parameter, gradient in zip(parameters, exact, strict=True):
        flat = parameter.data.view(-1)
        for i in range(0, len(flat), 5):
            before = flat[i].item()
            flat[i] = before + step
            above = loss().item()
            flat[i] = before - step
            below = loss().item()
            flat[i] = before
            assert (above - below) / (2 * step) == pytest.approx(
                gradient.flatten()[i].item(), rel=1e-5, abs=1e-7
            )


@pytest.mark.parametrize("name", PROGRAMS)
def test_value_of_one_sample_is_that_of_the_elbo(name):
    model, guide, batch, _ = PROGRAMS[name]()
    torch.manual_seed(0)
    expected = Trace_ELBO().loss(model, guide, *batch)
    for objective in (IWAE_ELBO(1), DReG_ELBO(1), STL_ELBO(1), Beta_ELBO(1)):
        torch.manual_seed(0)
        assert objective.loss(model, guide, *batch) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", PROGRAMS)
def test_value_on_the_draws_of_evaluation(name):
    # Networks that flatten or normalise over a fixed dimension are tiled, as in evaluation; the
    # scale of a minibatch stands outside the logarithm.
    model, guide, batch, _ = PROGRAMS[name]()
    torch.manual_seed(0)
    tiled = name in ("flattening", "softmaxing", "concatenating")
    with pytest.warns(match="tile") if tiled else contextlib.nullcontext():
        log_w = log_weights(model, guide, *batch, num_samples=5)
    scale = 10_000 / 64 if name == "subsampled" else 1.0
    bound = scale * (log_w.logsumexp(0) - math.log(5)).sum().item()
    elbo = scale * log_w.mean(0).sum().item()
    for objective, expected in (
        (IWAE_ELBO(5), bound), (DReG_ELBO(5), bound), (STL_ELBO(5), elbo), (Beta_ELBO(5), elbo)
    ):  # fmt: skip
        torch.manual_seed(0)
        assert objective.loss(model, guide, *batch) == pytest.approx(-expected, rel=1e-5)


def test_tiled_gradients_are_those_of_the_draws():
    # Shares of the weights find their particles in a repeated batch, too.
    model, guide, batch, _ = PROGRAMS["subsampled"]()
    parameters = [p for m in modules(model, guide).values() for p in m.parameters()]
    found = []
    for how in ("plate", "tile"):
        objective = DReG_ELBO(5)
        objective.loss(model, guide, *batch)
        (known,) = objective._known.values()
        known.how = how
        torch.manual_seed(0)
        loss = objective.differentiable_loss(model, guide, *batch)
        found.append([loss, *torch.autograd.grad(loss, parameters)])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-2)


def test_pyros_renyi_agrees_where_nothing_is_scaled():
    renyi = RenyiELBO(alpha=0, num_particles=5, vectorize_particles=True, max_plate_nesting=1)
    model, guide, x, _ = linear_gaussian()
    for size in (1, 50):
        torch.manual_seed(0)
        theirs = renyi.loss(model, guide, x[:size])
        torch.manual_seed(0)
        assert IWAE_ELBO(5).loss(model, guide, x[:size]) == pytest.approx(theirs, rel=1e-9)
    model, guide, batch, _ = PROGRAMS["subsampled"]()
    torch.manual_seed(0)
    theirs = renyi.loss(model, guide, *batch)
    torch.manual_seed(0)
    assert IWAE_ELBO(5).loss(model, guide, *batch) > 1.001 * theirs  # it scales inside the log


def test_bound_grows_with_the_samples_to_log_px():
    model, guide, x, exact = linear_gaussian()
    torch.manual_seed(0)
    gaps = [exact.mean().item() + IWAE_ELBO(k).loss(model, guide, x) / len(x) for k in (1, 8, 512)]
    assert gaps[0] > 2 * gaps[1] > 20 * abs(gaps[2])


class Bits(PyroModule):
    """Two bits: p(y) uniform-ish, x ~ N(W y, 1); q(y|x) has free logits; a row for each datum."""

    def __init__(self, size):
        super().__init__()
        self.logits = own(size, torch.tensor([0.3, -0.5]).double())
        self.weight = own(size, torch.tensor([1.0, -0.7]).double())

    def model(self, x):
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.Bernoulli(0.4 * torch.ones(2).double()).to_event(1))
            pyro.sample("x", dist.Normal((self.weight * y).sum(-1), 1.0), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Bernoulli(logits=self.logits).to_event(1))


@pytest.mark.parametrize("objective", [IWAE_ELBO(1), IWAE_ELBO(3), Beta_ELBO(2, beta=0.6)])
def test_gradient_of_bits_against_enumeration(objective):
    size, num = 40_000, objective.num_particles
    both = Bits(size)
    x = torch.full((size,), 0.8, dtype=torch.float64)
    torch.manual_seed(0)
    loss = objective.differentiable_loss(both.model, both.guide, x)
    ours = torch.cat(torch.autograd.grad(loss, [both.logits, both.weight]), -1)

    logits = both.logits[0].detach().requires_grad_()
    weight = both.weight[0].detach().requires_grad_()
    bit = torch.tensor([0.0, 1.0], dtype=torch.float64)
    states = torch.cartesian_prod(bit, bit)
    log_q = dist.Bernoulli(logits=logits).log_prob(states).sum(-1)
    prior = dist.Bernoulli(torch.tensor(0.4).double()).log_prob(states).sum(-1)
    likelihood = dist.Normal(states @ weight, 1.0).log_prob(x[0])
    grid = torch.cartesian_prod(*[torch.arange(4)] * num).reshape(-1, num)
    if isinstance(objective, IWAE_ELBO):
        bound = (likelihood + prior - log_q)[grid].logsumexp(-1) - math.log(num)
    else:
        bound = (likelihood + 0.6 * (prior - log_q))[grid].mean(-1)
    exact = -(log_q[grid].sum(-1).exp() * bound).sum()
    expected = torch.cat(torch.autograd.grad(exact, [logits, weight]))
    error = ours.std(0) / size**0.5
    assert ((ours.mean(0) - expected).abs() / error).max() < 4
    assert (expected.abs() / error).min() > 5


class Mixed(PyroModule):
    """z ~ N(0, 1), y ~ Bernoulli(z), x ~ N(z + 2 y, 1); q(z|x) q(y|z) carries z's path."""

    def __init__(self, size):
        super().__init__()
        self.loc, self.log_scale = (own(size, torch.tensor(v).double()) for v in (0.2, -0.4))
        self.slope, self.logit = (own(size, torch.tensor(v).double()) for v in (-0.8, 0.4))

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(()).double(), 1.0))
            y = pyro.sample("y", dist.Bernoulli(logits=z))
            pyro.sample("x", dist.Normal(z + 2 * y, 1.0), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(self.loc, self.log_scale.exp()))
            pyro.sample("y", dist.Bernoulli(logits=self.slope * z + self.logit))


def test_vimco_beside_a_reparameterised_site():
    size, num = 60_000, 2
    both = Mixed(size)
    x = torch.full((size,), 1.5, dtype=torch.float64)
    parameters = [both.loc, both.log_scale, both.slope, both.logit]
    torch.manual_seed(0)
    loss = IWAE_ELBO(num).differentiable_loss(both.model, both.guide, x)
    ours = torch.stack(torch.autograd.grad(loss, parameters), -1)

    # The bits summed out for each draw of z, so that the gradient is that of a smooth function.
    z = both.loc + both.log_scale.exp() * torch.randn(num, size, dtype=torch.float64)
    log_q_z = dist.Normal(both.loc, both.log_scale.exp()).log_prob(z)
    total = 0.0
    for bits in torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * num).double():
        y = bits[:, None].expand(num, size)
        log_q_y = dist.Bernoulli(logits=both.slope * z + both.logit).log_prob(y)
        log_p = dist.Normal(0.0, 1.0).log_prob(z) + dist.Bernoulli(logits=z).log_prob(y)
        log_w = log_p + dist.Normal(z + 2 * y, 1.0).log_prob(x) - log_q_z - log_q_y
        total = total - log_q_y.sum(0).exp() * (log_w.logsumexp(0) - math.log(num))
    theirs = torch.stack(torch.autograd.grad(total.sum(), parameters), -1)
    assert same_mean(ours, theirs)


def test_a_lone_weight_among_zeros_has_a_finite_signal():
    logits = torch.zeros(3, requires_grad=True)

    def model(x):
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.Bernoulli(0.5 * torch.ones(())))
            pyro.sample("x", dist.Normal(0.0, 1.0), obs=x)
            pyro.factor("hard", torch.where(y == 1, 0.0, -math.inf))

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Bernoulli(logits=logits))

    objective, lone = IWAE_ELBO(2), 0
    for seed in range(30):
        torch.manual_seed(seed)
        y = torch.bernoulli(torch.full((2, 3), 0.5))
        torch.manual_seed(seed)
        loss = objective.differentiable_loss(model, guide, torch.zeros(3))
        assert loss.isfinite() == (y.sum(0) > 0).all()  # a datum with no weight has no bound
        if loss.isfinite():
            lone += (y.sum(0) == 1).any()
            assert torch.autograd.grad(loss, logits)[0].isfinite().all()
    assert lone > 3


@pytest.mark.parametrize("objective", OBJECTIVES, ids=BY_NAME)
def test_a_traced_graph_has_the_same_numbers(objective):
    model, guide, named = pair("one", 4)
    parameters = [p for _, p in named]
    x = copies(4) + rand(4, 3, seed=3)

    def step(x):
        loss = objective.differentiable_loss(model, guide, x)
        return [loss, *torch.autograd.grad(loss, parameters)]

    with pyro.validation_enabled(False):
        objective.loss(model, guide, x)
        graph = make_fx(step)(x)
        torch.manual_seed(5)
        expected = step(x + 1)
        torch.manual_seed(5)
        found = graph(x + 1)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs)
    assert found[0] != objective.loss(model, guide, x)


def test_loss_and_grads_and_loss_agree():
    model, guide, named = pair("one", 4)
    x = copies(4)
    for objective in OBJECTIVES:
        torch.manual_seed(0)
        loss = objective.loss(model, guide, x)
        torch.manual_seed(0)
        assert objective.loss_and_grads(model, guide, x) == pytest.approx(loss)
        torch.manual_seed(0)
        exact = torch.autograd.grad(
            objective.differentiable_loss(model, guide, x), [p for _, p in named]
        )
        for (name, parameter), gradient in zip(named, exact, strict=True):
            assert torch.equal(parameter.grad, gradient), name
            parameter.grad = None


def test_numbers_and_keywords_among_the_arguments():
    def model(x, strength, *, y):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0).expand([len(x)]))
            pyro.sample("x", dist.Normal(strength * z + y, 1.0), obs=x)

    def guide(x, strength, *, y):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.3 * (x - y), 0.8))

    x, y = torch.linspace(-1, 1, 7), torch.linspace(0, 1, 7)
    objective = IWAE_ELBO(1)
    for strength in (0.5, 2.0, torch.tensor(2.0)):
        torch.manual_seed(0)
        expected = Trace_ELBO().loss(model, guide, x, strength, y=y)
        torch.manual_seed(0)
        assert objective.loss(model, guide, x, strength, y=y) == pytest.approx(expected)


@pytest.mark.filterwarnings("ignore:Found plate statements in guide")
def test_a_guides_factor_is_subtracted_as_in_pyro_and_not_evaluated():
    model, plain, x, _ = linear_gaussian()

    def guide(x):
        plain(x)
        with pyro.plate("again", len(x)):
            pyro.factor("penalty", x.sum(-1).square(), has_rsample=True)

    for objective in (IWAE_ELBO(1), DReG_ELBO(1), STL_ELBO(1), Beta_ELBO(1)):
        torch.manual_seed(0)
        expected = Trace_ELBO().loss(model, guide, x)
        torch.manual_seed(0)
        assert objective.loss(model, guide, x) == pytest.approx(expected)
    torch.manual_seed(0)
    ours = IWAE_ELBO(5).loss(model, guide, x)
    torch.manual_seed(0)
    without = IWAE_ELBO(5).loss(model, plain, x)
    assert ours - without == pytest.approx(x.sum(-1).square().sum().item())
    torch.manual_seed(0)
    log_w = log_weights(model, guide, x, num_samples=5)
    torch.manual_seed(0)
    assert torch.equal(log_w, log_weights(model, plain, x, num_samples=5))


# Bad input


@pytest.mark.parametrize("objective", [type(objective) for objective in OBJECTIVES])
def test_no_particles(objective):
    with pytest.raises(PvaeError, match=r"num_particles=0 is not valid: at least one sample"):
        objective(0)


@pytest.mark.parametrize("path", [DReG_ELBO(2), STL_ELBO(2), InfoVAE_ELBO(2)])
def test_a_site_without_rsample_is_refused(path):
    both = Bits(3)
    with pytest.raises(PvaeError, match=r"Site 'y' is Bernoulli, which has no rsample"):
        path.loss(both.model, both.guide, torch.zeros(3).double())


@pytest.mark.parametrize("objective", OBJECTIVES, ids=BY_NAME)
def test_sites_outside_the_batch_plate_or_enumerated_are_refused(objective):
    def model(x):
        a = pyro.sample("a", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(a + pyro.sample("z", prior), 1.0), obs=x)

    def guide(x):
        pyro.sample("a", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("z", prior)

    x, prior = torch.zeros(4), dist.Normal(0.0, 1.0)
    with pytest.raises(PvaeError, match=r"Latent site 'a' stands outside the batch plate 'data'"):
        objective.loss(model, guide, x)
    model, guide, batch, _ = oracles.categorical("guide")
    with pytest.raises(PvaeError, match=r"Site 'y' is enumerated .* TraceEnum_ELBO"):
        objective.loss(model, guide, *batch)


def test_scales_that_have_no_place_are_refused():
    model, guide, _ = pair("two", 3)
    x = copies(3)
    uneven = poutine.scale(guide, scale=torch.ones(3))
    with pytest.raises(PvaeError, match=r"scale of shape \(3,\)"):
        IWAE_ELBO(2).loss(model, uneven, x)
