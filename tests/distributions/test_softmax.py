"""Categorical distributions over levels and integers, as heads."""

import pyro.distributions as dist
import pytest
import torch

from pvae import PvaeError
from pvae.distributions import CategoricalLevels, heads, make_head


def test_levels_are_a_categorical_on_other_values():
    torch.manual_seed(0)
    logits = 2 * torch.randn(2, 5)
    p, k = CategoricalLevels(logits), torch.arange(5)[:, None]
    torch.testing.assert_close(p.log_prob(k / 4), dist.Categorical(logits=logits).log_prob(k))
    x = p.sample((4000,))
    assert p.support.check(x).all()
    assert x.unique().tolist() == [0, 0.25, 0.5, 0.75, 1]
    se = x.std(0) / 4000**0.5
    assert ((x.mean(0) - p.mean).abs() < 4.5 * se).all()
    wide = p.expand((3, 2))
    assert wide.sample().shape == wide.log_prob(torch.zeros(2)).shape == (3, 2)


def test_as_heads():
    f = torch.randn(7, 4, 1, 3)
    for name, values in (("softmax", torch.arange(4) / 3), ("categorical", torch.arange(4))):
        head = make_head(name, (1, 3), levels=4)
        assert head.out_shape == (4, 1, 3)
        assert head.support.check(values).all()
        x = values.new_tensor([[values[0], values[3], values[1]]])
        expected = f.log_softmax(1)[:, [0, 3, 1], 0, [0, 1, 2]].sum(-1)
        torch.testing.assert_close(head(f).log_prob(x), expected)
        with pytest.raises(PvaeError, match="levels=1"):
            make_head(name, (1, 3), levels=1)
    assert heads.Softmax().levels == 256


def test_a_categorical_head_is_pyros_categorical():
    torch.manual_seed(0)
    f = (3 * torch.randn(6, 5, 2, 3, dtype=torch.float64)).requires_grad_()
    k = torch.randint(0, 5, (6, 2, 3))
    ours = heads.Categorical(5).sized((2, 3))(f)
    theirs = dist.Categorical(logits=f.movedim(1, -1)).to_event(2)
    assert type(ours.base_dist) is dist.Categorical
    assert "LogSoftmax" in ours.base_dist.logits.grad_fn.name()  # not a difference
    torch.testing.assert_close(ours.log_prob(k), theirs.log_prob(k))
    slopes = (torch.autograd.grad(p.log_prob(k).sum(), f)[0] for p in (ours, theirs))
    torch.testing.assert_close(*slopes)
    for make in (lambda p: p.enumerate_support(), lambda p: p.expand([4, 6, 2, 3]).entropy()):
        torch.testing.assert_close(make(ours.base_dist), make(theirs.base_dist))
    with pytest.raises(ValueError, match="invalid values"):
        heads.Categorical(5).sized((2, 3))(f * torch.nan)
    with pytest.raises(ValueError, match="within the support"):
        ours.log_prob(k + 5)
