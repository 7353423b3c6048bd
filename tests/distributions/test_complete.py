"""Completing: draws of the unknown values are draws from their conditional distribution."""

import pytest
import torch
from ordered import DRAWN, SPACES, distribution, head_and_network, space

from pvae import PvaeError
from pvae.distributions import Autoregressive, OneHot, heads
from pvae.nn import PixelCNN


def agree(drawn, every, expected):
    """Whether draws [num, *event] of data `every` have the expected probabilities."""
    num = len(drawn)
    found = (drawn[:, None] == every).flatten(2).all(-1).double().mean(0)
    assert found.sum() == pytest.approx(1)
    se = (expected * (1 - expected) / num).sqrt()
    return ((found - expected).abs() < 4.5 * se + 1 / num).all()


@pytest.mark.parametrize(("name", "which"), [d for d in DRAWN if d[1] != "colours"], ids=str)
def test_draws_agree_with_the_enumerated_conditional(name, which):
    head, every, options = SPACES[which]
    every = every.double() if every.is_floating_point() else every
    context = torch.randn(2, 3).double()
    p = distribution(name, head, every.shape[1:], context, **options)
    order = p.network.order
    known = order < (1 + order.max()) // 2
    assert 0 < known.sum() < known.numel()
    x = every[torch.tensor([5, len(every) - 2])]
    torch.manual_seed(0)
    drawn = p.complete(torch.where(known, x, 0).expand(1000, *x.shape), known)
    assert drawn.dtype == every.dtype
    for row in range(2):
        possible = every[(every == x[row])[:, known].all(1)]
        log_p = p.log_prob(possible[:, None])[:, row]
        assert agree(drawn[:, row], possible, log_p.softmax(0).detach())


@pytest.mark.parametrize("name", ["GatedPixelCNN", "CausalTransformer", "Diagonal BiLSTM"])
def test_completions_with_caches_are_those_without(name):
    """The caches hold the known values too."""
    head, _, options = SPACES["codes"]
    p = distribution(name, head, (1, 3, 3), **options)
    known = p.network.order < 4
    x = torch.arange(9).view(1, 3, 3) % 3
    found = []
    for cached in (True, False):
        torch.manual_seed(0)
        each = Autoregressive(p.network, p.head, cached=cached)
        found.append(each.complete(x.expand(20, 1, 3, 3), known))
    assert torch.equal(*found)
    assert len(found[0].unique(dim=0)) > 10


def test_a_context_and_a_random_order():
    """The known values are the first in the network's own order, wherever they lie."""
    every = space([0.0, 1.0], (5,)).double()
    context = torch.randn(3).double()
    p = distribution("MADE, random order", heads.Bernoulli(), (5,), context[None])
    order = p.network.order
    assert order.tolist() != sorted(order.tolist())
    x = every[9]
    for num in range(6):
        known = order < num
        possible = every[(every == x)[:, known].all(1)]
        drawn = p.complete(x.expand(1000, 1, 5), known)[:, 0]
        log_p = p.log_prob(possible[:, None])[:, 0]
        assert agree(drawn, possible, log_p.softmax(0).detach())


def test_nothing_known_is_a_sample_and_all_known_is_x():
    head, every, options = SPACES["codes"]
    p = distribution("GatedPixelCNN", head, every.shape[1:], **options)
    torch.manual_seed(3)
    expected = p.sample((7,))
    torch.manual_seed(3)
    nothing, event = torch.zeros((), dtype=torch.bool), p.event_shape
    assert torch.equal(p.complete(torch.zeros(7, *event).long(), nothing), expected)
    assert torch.equal(p.complete(every, ~nothing), every)
    assert p.expand((4, 3)).complete(every[:3], ~nothing).shape == (4, 3, *event)


def test_what_is_unknown_is_not_read():
    head, every, _ = SPACES["binary"]
    p = distribution("GatedPixelCNN", head, every.shape[1:])
    known = torch.tensor([[[True, True], [False, False]]])
    drawn = []
    for unknown in (0.0, 7.0, torch.nan):
        torch.manual_seed(0)
        drawn.append(p.complete(torch.where(known, every, unknown), known))
    assert torch.equal(drawn[0], drawn[1])
    assert torch.equal(drawn[0], drawn[2])
    assert torch.equal(drawn[0][..., 0, :], every[..., 0, :])


def test_one_hot_codes():
    head, every, options = SPACES["codes"]
    base = distribution("CausalTransformer", head, every.shape[1:], **options)
    p = OneHot(base, 3)
    known = torch.tensor([[[True, False, False]]])
    z = torch.nn.functional.one_hot(every, 3).double()
    torch.manual_seed(0)
    found = p.complete(z, known)
    torch.manual_seed(0)
    expected = base.complete(every, known)
    assert found.shape == z.shape
    assert torch.equal(found.argmax(-1), expected)
    assert torch.equal(expected[..., 0], every[..., 0])
    assert not torch.equal(expected, every)
    independent = OneHot(torch.distributions.Categorical(torch.ones(2, 3)), 3)
    with pytest.raises(PvaeError, match="Categorical cannot be completed"):
        independent.complete(z, known)


def test_bad_input():
    p = Autoregressive(*head_and_network(heads.Categorical(4), num_values=4))
    x = torch.tensor([0, 1, 2, 3])
    known = torch.tensor([True, False, True, False])
    with pytest.raises(
        PvaeError, match=r"1 known values, such as the one at \[2\], are .* at \[1\]"
    ):
        p.complete(x, known)
    with pytest.raises(PvaeError, match=r"known=torch.bool of shape \(3,\).*shape \(4,\)"):
        p.complete(x, known[:3])
    with pytest.raises(PvaeError, match=r"known=torch.int64 of shape \(4,\)"):
        p.complete(x, known.long())
    with pytest.raises(PvaeError, match=r"events of shape \(4,\); x has shape \(3,\)"):
        p.complete(x[:3], known)
    known = torch.tensor([True, False, False, False])
    with pytest.raises(PvaeError, match=r"1 values outside .* the first is 9 at \[0\]"):
        p.complete(torch.tensor([9, 9, 9, 9]), known)
    head = heads.LogisticMixture(3, 2).sized((2, 1, 2))
    joint = Autoregressive(PixelCNN((2, 1, 2), head.out_shape, channels=8), head)
    green = torch.tensor([[[True, False]], [[False, False]]])
    with pytest.raises(PvaeError, match=r"at \[0, 0, 0\], are .* at \[1, 0, 0\]"):
        joint.complete(torch.zeros(2, 1, 2), green)
