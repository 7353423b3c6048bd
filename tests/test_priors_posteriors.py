"""Every prior and posterior beyond the plain VAE, through everything that is done with pairs."""

import copy
import warnings

import pytest
import torch
from asking import evaluate
from zoo import make

import pvae

PAIRS = [
    "mixture prior",
    "VampPrior",
    "flow prior",
    "full covariance",
    "low rank",
    "mixture of Gaussians",
    "IAF",
    "spline flow",
    "semi-amortised",
    "mixture prior and full covariance, convolutional",
]


@pytest.fixture(params=PAIRS)
def pair(request):
    return make(request.param)[:2]


@pytest.fixture(scope="module")
def x():
    return pvae.data.load("digits").train.tensors()[0][:40]


@pytest.mark.parametrize("name", ["mixture of Gaussians", "IAF", "semi-amortised"])
def test_has_an_inference_gap(name, x):
    found = evaluate(*make(name)[:2], x, num_samples=20, gap=2, num_temperatures=5, progress=False)
    gap = found.findings["gap"]
    assert gap.own_family == (name != "IAF")  # a flow has no parameters of one datum to move
    assert (gap.to_best > 0).all()


@pytest.mark.parametrize("strategy", ["tile", "loop"])
def test_terms_are_the_same_however_samples_are_laid_out(pair, x, strategy):
    def terms(how):
        torch.manual_seed(1)
        with pvae.importance.sampler.Sampler(pvae.pair.inspect(*pair, x), strategy=how) as sampler:
            values = sampler.posterior((x,), 3) if how == "plate" else drawn
            p, q = sampler.terms((x,), 3, values), sampler.guide_terms((x,), 3, values)
            return values, [*p.values(), *q.values()]

    drawn, expected = terms("plate")
    for ours, theirs in zip(terms(strategy)[1], expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=1e-4)


def test_is_recorded(pair, x, uncompiled):
    svi = pvae.SVI(*pair, torch.optim.Adam, pvae.objectives.IWAE_ELBO(3), mode="compiled")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(3):
            svi.step(x)
    assert svi.compiled
    assert uncompiled


def test_every_parameter_is_trained(pair, x):
    svi = pvae.SVI(*pair, torch.optim.Adam, pvae.objectives.IWAE_ELBO(3), mode="eager")
    before = {n: v.detach().clone() for p in pair for n, v in p.named_parameters()}
    for _ in range(2):  # a spline flow begins as the identity: its last layer goes first
        svi.step(x)
    after = {n: v for p in pair for n, v in p.named_parameters()}
    assert [n for n in after if torch.equal(before[n], after[n])] == []


@pytest.mark.parametrize("name", PAIRS)
def test_two_of_a_kind_share_nothing(name):
    model, guide = make(name)[:2]
    x = model(size=20)  # by a plain call, as a user would: Pyro then uses its one global store

    def drawn():
        torch.manual_seed(1)
        return guide(x), model(size=20)

    expected = drawn()
    other_model, other_guide = make(name)[:2]
    other_guide(other_model(size=2))
    for ours, theirs in zip(drawn(), expected, strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("name", PAIRS)
def test_a_copy_is_a_pair_of_its_own(name):
    pair = make(name)[:2]
    x = pair[0](size=10)
    pair[1](x)
    model, guide = copy.deepcopy(pair)
    assert vars(guide).get("model", model) is model
    torch.manual_seed(1)
    expected = pvae.log_weights(*pair, x, num_samples=2)
    for program in pair:
        for parameter in program.parameters():
            torch.nn.init.zeros_(parameter)
    torch.manual_seed(1)
    assert torch.equal(pvae.log_weights(model, guide, x, num_samples=2), expected)


def test_works_in_double_precision(pair, x):
    for program in pair:
        program.double()
    ours = pvae.log_weights(*pair, x.double(), num_samples=3)
    assert ours.dtype == torch.float64
    assert ours.isfinite().all()
