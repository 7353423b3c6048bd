"""The autoregressive distribution: its numbers, its draws, and what it refuses."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from ordered import CASES, DRAWN, SPACES, distribution, head_and_network, space
from torch import nn

from pvae import PvaeError
from pvae.distributions import Autoregressive, Head, heads, is_discrete, log_prob
from pvae.nn import Ordered


@pytest.mark.parametrize(("name", "which"), CASES, ids=str)
def test_it_sums_to_one(name, which):
    head, every, options = SPACES[which]
    shape = every.shape[1:]
    if every.is_floating_point():
        every = every.double()
    p = distribution(name, head, shape, **options)
    log_p = p.log_prob(every)
    torch.testing.assert_close(log_p.exp().sum().item(), 1.0)
    assert log_p.std() > 0.01
    context = torch.randn(2, 3).double()
    p = distribution(name, head, shape, context, **options)
    assert p.batch_shape == (2,)
    log_p = p.log_prob(every[:, None])
    torch.testing.assert_close(log_p.exp().sum(0), torch.ones(2).double())
    assert not torch.allclose(log_p[:, 0], log_p[:, 1])


@pytest.mark.parametrize(("name", "which"), DRAWN, ids=str)
def test_draws_agree_with_log_prob(name, which):
    head, every, options = SPACES[which]
    p = distribution(name, head, every.shape[1:], **options)
    torch.manual_seed(0)
    num = 4000
    x = p.sample((num,))
    assert x.dtype == (torch.long if which == "codes" else torch.double)
    assert p.support.check(x).all()
    found = (x[:, None] == every).flatten(2).all(-1)
    assert found.any(1).all()
    expected = p.log_prob(every if which == "codes" else every.double()).exp().detach()
    se = (expected * (1 - expected) / num).sqrt()
    assert ((found.double().mean(0) - expected).abs() < 4.5 * se + 1 / num).all()
    # Pearson's statistic, of the cells that are not too rare for it
    often = expected * num > 5
    chi = ((found.sum(0) - num * expected).square() / (num * expected))[often].sum()
    dof = int(often.sum())
    assert chi < dof + 4.5 * (2 * dof) ** 0.5


@pytest.mark.parametrize(("name", "which"), DRAWN, ids=str)
@pytest.mark.parametrize("conditional", [False, True])
def test_draws_with_caches_are_those_without(name, which, conditional):
    head, every, options = SPACES[which]
    shape = (*every.shape[1:2], 3, 2)
    context = torch.randn(3, 3).double() if conditional else None
    p = distribution(name, head, shape, context, **options)
    drawn = []
    for cached in (True, False):
        torch.manual_seed(1)
        q = Autoregressive(p.network, p.head, context, cached=cached)
        drawn.append(q.sample((2,) if conditional else (4,)))
    assert torch.equal(*drawn)
    assert drawn[0].unique().numel() > 1
    assert drawn[0].shape == ((2, 3, *shape) if conditional else (4, *shape))


def test_the_density_is_the_product_of_conditionals():
    network, head = head_and_network(heads.Gaussian(scale="network"))
    x = torch.randn(7, 4)
    loc, raw = network(x).unbind(1)
    expected = dist.Normal(loc, nn.functional.softplus(raw) + 1e-4).log_prob(x).sum(-1)
    torch.testing.assert_close(Autoregressive(network, head).log_prob(x), expected)


@pytest.mark.parametrize(
    "head",
    [heads.Gaussian(scale="learned"), heads.NegativeBinomial(), heads.ZeroInflatedPoisson()],
    ids=lambda head: type(head).__name__,
)
def test_heads_whose_parameters_have_the_shape_of_the_data(head):
    """They cannot be applied to one step alone."""
    network, head = head_and_network(head)
    if isinstance(head, heads.NegativeBinomial):
        head.log_total_count.data = torch.tensor([5.0, 5.0, -3.0, 5.0])
    p = Autoregressive(network, head)
    torch.manual_seed(0)
    x = p.sample((3000,))
    mean = p.mean_given(x)
    assert p.support.check(x).all()
    spread = (x - mean).std(0)
    assert ((x - mean).mean(0).abs() < 4.5 * spread / 3000**0.5).all()
    if isinstance(head, heads.NegativeBinomial):
        assert spread[2] > 2 * spread[3]


def test_a_head_with_a_parameter_for_each_value_is_not_cut():
    class Shifted(Head):
        def sized(self, event_shape):
            head = super().sized(event_shape)
            head.shift = nn.Parameter(torch.arange(4.0) * 100)
            return head

        def forward(self, f):
            return dist.Normal(f + self.shift, 1.0).to_event(1)

    x = Autoregressive(*head_and_network(Shifted())).sample((5,))
    assert ((x / 100).round() == torch.arange(4.0)).all()


def test_means():
    network, head = head_and_network(heads.Bernoulli())
    p = Autoregressive(network.double(), head)
    every = space([0.0, 1.0], (4,)).double()
    expected = (p.log_prob(every).exp()[:, None] * every).sum(0)
    means = torch.stack([p.mean for _ in range(400)])
    se = means.std(0) / 20
    assert se[1:].min() > 0
    assert ((means.mean(0) - expected).abs() < 4.5 * se + 1e-9).all()
    torch.testing.assert_close(p.mean_given(every), network(every).sigmoid())


def test_batches_expand_and_masks():
    context = torch.randn(3, 5)
    network, head = head_and_network(heads.Bernoulli(), (1, 2, 2), context_shape=(5,))
    p = Autoregressive(network, head, context)
    assert (p.batch_shape, p.event_shape) == ((3,), (1, 2, 2))
    x = torch.rand(3, 1, 2, 2).round()
    expected = p.log_prob(x)
    particles = p.expand((7, 3))
    assert particles.sample((2,)).shape == (2, 7, 3, 1, 2, 2)
    torch.testing.assert_close(particles.log_prob(x), expected.expand(7, 3))
    torch.testing.assert_close(
        p.log_prob(x.expand(4, 2, 3, 1, 2, 2)), expected.expand(4, 2, 3), rtol=1e-5, atol=1e-5
    )
    mask = torch.tensor([True, False, True])
    torch.testing.assert_close(p.mask(mask).log_prob(x), expected * mask)
    free = Autoregressive(*head_and_network(heads.Bernoulli(), (1, 2, 2)))
    assert free.expand((7, 3)).sample().shape == (7, 3, 1, 2, 2)
    assert free.expand((7, 3)).log_prob(x).shape == (7, 3)
    assert free.expand((0,)).sample().shape == (0, 1, 2, 2)
    assert not p.has_rsample


def test_it_is_a_site_of_a_program():
    network, head = head_and_network(heads.Bernoulli(), context_shape=(2,))

    def model(x=None):
        with pyro.plate("data", 6):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            return pyro.sample("x", Autoregressive(network, head, z), obs=x)

    trace = pyro.poutine.trace(model).get_trace(torch.ones(6, 4))
    trace.compute_log_prob()
    assert trace.nodes["x"]["log_prob"].shape == (6,)
    assert is_discrete(trace.nodes["x"]["fn"])
    assert model().shape == (6, 4)
    x = torch.tensor([[0.0, 1.0, 0.5, 1.0], [0.0, 1.0, 0.0, 1.0]])
    p = Autoregressive(*head_and_network(heads.Bernoulli()), validate_args=False)
    assert log_prob(p, x, observed=True).isfinite().tolist() == [False, True]


class Leaky(Ordered):
    """Sees the value itself, one that comes later, or a mean over the batch."""

    def __init__(self, how):
        super().__init__((6,))
        self.how = how
        self.linear = nn.Linear(6, 6)
        self.drop = nn.Dropout(0.5)

    def outputs(self, x, context):
        weight = self.linear.weight.tril(-1)
        if self.how == "itself":
            weight = self.linear.weight.tril(0)
        if self.how == "one later":
            weight = weight + nn.functional.one_hot(torch.tensor([0, 3, 0, 0, 0, 0]), 6).triu(1)
        y = x @ weight.T
        return y - x.mean(0) if self.how == "batch" else self.drop(y)


@pytest.mark.parametrize("how", ["itself", "one later", "batch"])
@pytest.mark.parametrize("head", [heads.Bernoulli(), heads.Gaussian()], ids=repr)
def test_a_network_that_sees_the_future_is_refused(how, head):
    with pytest.raises(PvaeError, match=r"network Leaky sees the future: its output at step \d"):
        Autoregressive(Leaky(how), head.sized((6,)))


def test_a_network_that_does_not_is_looked_at_once_in_each_mode():
    network, head, calls = Leaky("not"), heads.Bernoulli().sized((6,)), []
    network.register_forward_hook(lambda *_: calls.append(1))
    before = torch.get_rng_state()
    for _ in range(3):
        Autoregressive(network, head)
    assert len(calls) == 2
    assert torch.equal(torch.get_rng_state(), before)
    network.how = "itself"
    network.eval()
    with pytest.raises(PvaeError, match="sees the future"):
        Autoregressive(network, head)


def test_any_module_is_a_network():
    class Shift(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.tensor(2.0))

        def forward(self, x, context=None):
            f = self.scale * nn.functional.pad(x, (1, -1))
            return f if context is None else f + context

    p = Autoregressive(Shift(), heads.Gaussian(0.1).sized((3,)))
    x = torch.tensor([1.0, 2.0, 4.0])
    expected = dist.Normal(torch.tensor([0.0, 2.0, 4.0]), 0.1).log_prob(x).sum()
    torch.testing.assert_close(p.log_prob(x), expected)
    assert p.sample((5, 4)).shape == (5, 4, 3)
    p = Autoregressive(Shift(), heads.Gaussian(0.1).sized((3,)), torch.zeros(4, 3))
    assert p.sample((5,)).shape == (5, 4, 3)


def test_bad_input():
    network, head = head_and_network(heads.Categorical(4), num_values=4)
    p = Autoregressive(network, head)
    with pytest.raises(
        PvaeError,
        match=r"2 values outside of the support of Categorical .*: the first is 4 at \[1, 2\]",
    ):
        p.log_prob(torch.tensor([[0, 1, 2, 3], [0, 1, 4, 7]]))
    with pytest.raises(PvaeError, match=r"events of shape \(4,\); x has shape \(3,\)"):
        p.log_prob(torch.tensor([0, 1, 2]))
    with pytest.raises(
        PvaeError, match=r"f of shape \(4, 4\).*Bernoulli.* takes f of shape \(4,\)"
    ):
        Autoregressive(network, heads.Bernoulli().sized((4,)))
    with pytest.raises(PvaeError, match="takes no context"):
        Autoregressive(network, head, torch.zeros(3))
    network, head = head_and_network(heads.Bernoulli(), context_shape=(3,))
    with pytest.raises(
        PvaeError, match=r"context of shape \[\.\.\., 3\]; it was given one of.*\(2, 5\)"
    ):
        Autoregressive(network, head, torch.zeros(2, 5))
    with pytest.raises(PvaeError, match="needs a context"):
        Autoregressive(network, head)
    p = Autoregressive(*head_and_network(heads.Softmax(17)))
    with pytest.raises(PvaeError, match=r"outside of the support of Softmax \(levels=17"):
        p.log_prob(torch.tensor([0.0, 1.0, 0.5, 0.3]))
