"""Labels that are known for none, some or all data, sampled or summed out: exact oracles.

`test_enumeration.py` has those of labels that are summed out.
"""

import itertools
import math
import warnings

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO
from torch.testing import assert_close as close

import pvae
from pvae.errors import PvaeError
from pvae.objectives import IWAE_ELBO, Beta_ELBO
from tests.importance.test_enumeration import _terms
from tests.masked import semi_supervised

SHARES = pytest.mark.parametrize("labelled", [0.0, 0.5, 1.0], ids=["none", "some", "all"])
NUM = 4000


def log_w(labelled):
    """log p(x, y), log w of each value of an unknown label and log q(y|x), without z, [3, B]."""
    model, guide, batch, exact = semi_supervised(labelled, "sampled", latent=False)
    _, joint, q = (v.squeeze(0) for v in _terms(model, guide, *batch))
    known = batch[2]
    return torch.where(known, exact, joint - q), torch.where(known, 1 / 3, q.exp()), exact


def bound(labelled, num):
    """E[log of the mean of `num` weights], exactly, by all draws of `num` labels, [B]."""
    weight, q, _ = log_w(labelled)
    total = 0
    for each in itertools.product(range(3), repeat=num):
        probability = math.prod(q[c] for c in each)
        total += probability * torch.stack([weight[c] for c in each]).logsumexp(0)
    return total - math.log(num)


@SHARES
@pytest.mark.parametrize("strategy", ["plate", "tile"])
def test_weights_of_sampled_labels(labelled, strategy):
    model, guide, batch, exact = semi_supervised(labelled, "sampled")
    weight = (
        pvae.log_weights(model, guide, *batch, num_samples=NUM, strategy=strategy) - exact
    ).exp()
    assert ((weight.mean(0) - 1).abs() < 5 * weight.std(0) / math.sqrt(NUM)).all()
    assert weight.std(0).max() < 4


@SHARES
def test_bounds_and_objectives_of_sampled_labels(labelled):
    torch.manual_seed(0)
    model, guide, batch, exact = semi_supervised(labelled, "sampled", latent=False)
    found = pvae.evaluate(model, guide, batch, num_samples=NUM, estimators=[], progress=False)
    noise = 5 * float(log_w(labelled)[0].std(0).max()) / math.sqrt(NUM) + 1e-6
    assert np.abs(found.elbo - bound(labelled, 1).numpy()).max() < noise
    assert np.abs(found.log_px - exact.numpy()).max() < 2 * noise
    elbo = float(bound(labelled, 1).sum())
    for objective, expected in (
        (Trace_ELBO(NUM, vectorize_particles=True, max_plate_nesting=1), elbo),
        (Beta_ELBO(NUM), elbo),
    ):
        loss = objective.loss(model, guide, *batch)
        assert abs(-loss - expected) < math.sqrt(10) * noise, type(objective)
    twice = [-IWAE_ELBO(2).loss(model, guide, *batch) for _ in range(100)]
    error = 5 * np.std(twice) / math.sqrt(len(twice)) + 1e-6
    assert abs(np.mean(twice) - float(bound(labelled, 2).sum())) < error


@SHARES
def test_gradients_of_sampled_labels_are_those_of_the_sum(labelled):
    """The score function's gradient has the mean of the exact one; known labels have none."""
    logits = torch.nn.Parameter(torch.tensor([0.3, -0.2, 0.1], dtype=torch.float64))
    model, _, batch, _ = semi_supervised(labelled, "sampled", latent=False)

    def guide(x, y, known):
        with pyro.plate("data", len(x)), pyro.poutine.mask(mask=~known):
            pyro.sample("y_unobserved", dist.Categorical(logits=logits))

    def gradient(draw):
        logits.grad = None
        draw()
        return torch.zeros(3) if logits.grad is None else logits.grad.clone()

    with pyro.poutine.block():
        given = semi_supervised(0.0, "sampled", latent=False)
        joint = _terms(*given[:2], *given[2])[1].squeeze(0)
    q = logits.log_softmax(0)[:, None]
    loss = -((q.exp() * (joint - q)).sum(0) * ~batch[2]).sum()
    exact = gradient(loss.backward)
    objective = Beta_ELBO(50)
    draws = [gradient(lambda: objective.loss_and_grads(model, guide, *batch)) for _ in range(30)]
    found = torch.stack(draws)
    error = 5 * found.std(0) / math.sqrt(len(found)) + 1e-9
    assert ((found.mean(0) - exact).abs() < error).all()


def leaving_out(labelled, where, repeat=1):
    """`semi_supervised`, known data first, whose guide has no site for known labels alone."""
    model, guide, batch, exact = semi_supervised(labelled, where)
    *batch, exact = (t.repeat_interleave(repeat, 0) for t in (*batch, exact))
    weight = torch.tensor([0.9, -0.6], dtype=torch.float64)
    means = torch.tensor([[-2.0, 1.0], [0.0, 0.0], [1.0, 2.0]], dtype=torch.float64)

    def short(x, y, known):
        if not known.all():
            return guide(x, y, known)
        with pyro.plate("data", len(x)):
            loc = (x - means[y]) @ weight / (0.64 + weight @ weight)
            return pyro.sample("z", dist.Normal(loc + 0.1, 0.8))

    return model, short, tuple(batch), exact


@pytest.mark.parametrize("where", ["guide", "sampled"])
@pytest.mark.parametrize(("labelled", "repeat"), [(1.0, 1), (0.5, 20), (0.0, 1)])
def test_a_guide_may_leave_out_the_site_of_known_labels(where, labelled, repeat):
    """With `repeat`, the first block is all known, and the guide has the site in later ones."""
    model, guide, batch, exact = leaving_out(labelled, where, repeat)
    log_w = pvae.log_weights(model, guide, *(t[:9] for t in batch), num_samples=2000)
    weight = (log_w - exact[:9]).exp()
    assert ((weight.mean(0) - 1).abs() < 5 * weight.std(0) / math.sqrt(2000)).all()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The ELBO surgery was left out|'y_unobserved': summed")
        found = pvae.evaluate(model, guide, batch, num_samples=2000, progress=False)
    assert np.abs(found.log_px - exact.numpy()).max() < 0.1
    assert set(found.missing) <= {"surgery"}
    whole = semi_supervised(labelled, where)
    given = pvae.evaluate(*whole[:2], whole[2], num_samples=2000, estimators=[], progress=False)
    assert abs(found.elbo.mean() - given.elbo.mean()) < 0.05
    site = "y_unobserved"
    if labelled < 1:
        assert abs(found.sites[site]["kl"] - given.sites[site]["kl"]) < 0.05
        assert found.findings["code_use"].shares[site][1] > 0.1


def test_a_site_that_is_missing_for_unknown_labels_is_refused():
    model, guide, batch, _ = leaving_out(1.0, "sampled")
    unknown = torch.zeros(10, dtype=torch.bool)
    with pytest.raises(PvaeError, match="the model samples 'y_unobserved', which the guide does"):
        pvae.check(model, lambda x, y, known: guide(x, y, ~known), *batch[:2], unknown)


@SHARES
def test_a_batch_of_one_and_the_second_batch(labelled):
    model, guide, batch, exact = semi_supervised(labelled, "guide", latent=False)
    for i in (0, 9):
        one = tuple(t[i : i + 1] for t in batch)
        close(pvae.log_weights(model, guide, *one, num_samples=1)[0], exact[i : i + 1])
    many = tuple(t.repeat(60, *[1] * (t.ndim - 1)) for t in batch)  # more than one block
    found = pvae.evaluate(model, guide, many, num_samples=1, estimators=[], progress=False)
    np.testing.assert_allclose(found.log_px, exact.repeat(60).numpy(), atol=1e-6)
