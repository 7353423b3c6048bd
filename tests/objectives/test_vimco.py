"""Discrete sites: VIMCO's gradient against enumeration."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from linear_pairs import own, same_mean
from pyro.nn import PyroModule

from pvae import PvaeError
from pvae.objectives import IWAE_ELBO, STL_ELBO, Beta_ELBO, DReG_ELBO, InfoVAE_ELBO


@pytest.fixture(autouse=True)
def own_store():
    pyro.clear_param_store()
    yield
    pyro.clear_param_store()


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


@pytest.mark.parametrize("path", [DReG_ELBO(2), STL_ELBO(2), InfoVAE_ELBO(2)])
def test_a_site_without_rsample_is_refused(path):
    both = Bits(3)
    with pytest.raises(PvaeError, match=r"Site 'y' is Bernoulli, which has no rsample"):
        path.loss(both.model, both.guide, torch.zeros(3).double())
