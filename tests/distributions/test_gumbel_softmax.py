"""GumbelSoftmax: a categorical distribution with a relaxed or a straight-through gradient."""

import pyro.distributions as dist
import pytest
import torch
from torch.distributions import kl_divergence

from pvae.distributions import GumbelSoftmax, is_discrete
from pvae.errors import PvaeError

LOGITS = torch.tensor([[0.3, -1.0, 2.0], [0.0, 0.5, 0.5]])


def test_hard_samples_are_categorical():
    torch.manual_seed(0)
    q, other = GumbelSoftmax(0.3, LOGITS, hard=True), dist.OneHotCategorical(logits=LOGITS)
    z = q.rsample((40_000,))
    assert set(z.unique().tolist()) == {0.0, 1.0}
    assert (z.sum(-1) == 1).all()
    error = (other.probs * (1 - other.probs) / 40_000).sqrt()
    assert ((z.mean(0) - other.probs).abs() < 5 * error).all()
    assert torch.allclose(q.log_prob(z), other.log_prob(z), atol=1e-6)
    assert is_discrete(q)


def test_both_kinds_have_one_gradient_and_the_temperature_sharpens():
    logits, weight = LOGITS.clone().requires_grad_(), torch.randn(2, 3)
    slopes = []
    for hard in (False, True):
        torch.manual_seed(3)
        z = GumbelSoftmax(0.7, logits, hard=hard).rsample()
        slopes.append(torch.autograd.grad((weight * z).sum(), logits)[0])
    assert torch.allclose(*slopes)
    assert slopes[0].abs().max() > 1e-3
    sharp, blunt = (GumbelSoftmax(t, LOGITS).rsample((500,)).amax(-1).mean() for t in (0.1, 5.0))
    assert sharp > 0.9 > 0.6 > blunt


def test_the_relaxed_sample_is_that_of_the_concrete_distribution():
    torch.manual_seed(0)
    temperature = torch.tensor(0.6)
    ours = GumbelSoftmax(temperature, LOGITS).rsample((40_000,))
    theirs = dist.RelaxedOneHotCategorical(temperature, logits=LOGITS).rsample((40_000,))
    for moment in (1, 2):
        a, b = ours**moment, theirs**moment
        error = ((a.var(0) + b.var(0)) / 40_000).sqrt()
        assert ((a.mean(0) - b.mean(0)).abs() < 5 * error).all()


def test_its_divergences_are_those_of_categorical_distributions():
    p = dist.OneHotCategorical(logits=torch.zeros(3))
    expected = kl_divergence(dist.OneHotCategorical(logits=LOGITS), p)
    for hard in (False, True):
        q = GumbelSoftmax(0.5, LOGITS, hard=hard)
        assert torch.allclose(kl_divergence(q, p), expected)
        assert torch.allclose(
            kl_divergence(q.to_event(1), p.expand([2]).to_event(1)), expected.sum()
        )


def test_its_log_prob_is_linear_and_survives_impossible_values():
    q, z = GumbelSoftmax(0.5, LOGITS), torch.rand(5, 2, 3, requires_grad=True)
    found = q.log_prob(z)
    log_pi = LOGITS.log_softmax(-1)
    assert torch.allclose(found, (z * log_pi).sum(-1))
    assert torch.allclose(torch.autograd.grad(found.sum(), z)[0], log_pi.expand(5, 2, 3))
    q = GumbelSoftmax(0.5, torch.tensor([0.0, -torch.inf, 0.0]), hard=True)
    z = q.rsample((50,))
    assert (z[:, 1] == 0).all()
    assert torch.allclose(q.log_prob(z), torch.full((50,), 0.5).log())


def test_expands_with_its_temperature_and_its_kind():
    q = GumbelSoftmax(0.5, LOGITS, hard=True).expand([4, 2])
    assert type(q) is GumbelSoftmax
    assert (q.temperature, q.hard, q.batch_shape) == (0.5, True, (4, 2))
    assert q.rsample((7,)).shape == (7, 4, 2, 3)
    assert not is_discrete(GumbelSoftmax(0.5, LOGITS).expand([4, 2]))


@pytest.mark.parametrize("temperature", [0, -0.5, float("nan")])
def test_a_temperature_that_is_not_positive_is_refused(temperature):
    with pytest.raises(PvaeError, match=r"temperature=.* is not valid: give a finite positive"):
        GumbelSoftmax(temperature, LOGITS)
