"""Every prior and posterior beyond the plain VAE, through everything that is done with pairs."""

import copy
import warnings

import pytest
import torch
from asking import evaluate

import pvae
from pvae.guides import (
    IAF,
    FullCovariance,
    LowRank,
    MeanField,
    MixtureOfGaussians,
    SemiAmortised,
    SharedEncoder,
    SplineFlow,
)
from pvae.models import VAE, FlowPriorVAE, MixturePriorVAE, VampPriorVAE

SHAPE, DIM = (1, 8, 8), 3
SMALL = {"latent_dim": DIM, "hidden_dims": [16]}
FLOW = {"flow_hidden_dims": [8], "context_dim": 4, **SMALL}


def with_vae(make_guide):
    def pair():
        model = VAE(SHAPE, **SMALL)
        return model, make_guide(model)

    return pair


def with_mean_field(make_model):
    return lambda: (make_model(), MeanField(SHAPE, **SMALL))


def vamp():
    model = VampPriorVAE(SHAPE, num_pseudo_inputs=5, **SMALL)
    return model, SharedEncoder(model)


PAIRS = {
    "mixture prior": with_mean_field(lambda: MixturePriorVAE(SHAPE, num_components=4, **SMALL)),
    "VampPrior": vamp,
    "flow prior": with_mean_field(lambda: FlowPriorVAE(SHAPE, flow_hidden_dims=[8], **SMALL)),
    "full covariance": with_vae(lambda _: FullCovariance(SHAPE, **SMALL)),
    "low rank": with_vae(lambda _: LowRank(SHAPE, rank=2, **SMALL)),
    "mixture": with_vae(lambda _: MixtureOfGaussians(SHAPE, num_components=3, **SMALL)),
    "IAF": with_vae(lambda _: IAF(SHAPE, **FLOW)),
    "spline flow": with_vae(lambda _: SplineFlow(SHAPE, num_bins=4, **FLOW)),
    "semi-amortised": with_vae(lambda model: SemiAmortised(model, SHAPE, num_steps=2, **SMALL)),
    "all at once": lambda: (
        MixturePriorVAE(SHAPE, likelihood="gaussian", network="conv", channels=[4, 4], **SMALL),
        FullCovariance(SHAPE, network="conv", channels=[4, 4], **SMALL),
    ),
}


@pytest.fixture(params=PAIRS)
def pair(request):
    torch.manual_seed(0)
    return PAIRS[request.param]()


@pytest.fixture(scope="module")
def x():
    return pvae.data.load("digits").train.tensors()[0][:40]


def test_is_checked_trained_and_evaluated(pair, x, tmp_path):
    assert pvae.check(*pair, x).latent == ("z",)
    assert pair[0](size=4).shape == (4, *SHAPE)
    before = pvae.log_weights(*pair, x, num_samples=20).mean()
    options = {"batch_size": 10, "lr": 5e-3, "mode": "eager", "progress": False}
    pvae.fit(*pair, x, epochs=4, out=tmp_path, **options)
    annealing = {"ais": 2, "num_chains": 2, "num_temperatures": 5}
    found = evaluate(*pair, x, num_samples=20, prior_samples=5, progress=False, **annealing)
    assert found.strategy == "plate"
    assert not found.missing
    assert (found.elbo < found.log_px).all()
    assert found.elbo.mean() > before
    expected = {n: v.clone() for p in pair for n, v in p.state_dict().items()}
    for program in pair:
        for parameter in program.parameters():
            torch.nn.init.zeros_(parameter)
    pvae.load(tmp_path, model=pair[0], guide=pair[1])
    for program in pair:
        for name, value in program.state_dict().items():
            torch.testing.assert_close(value, expected[name])


@pytest.mark.parametrize("name", ["mixture", "IAF", "semi-amortised"])
def test_has_an_inference_gap(name, x):
    torch.manual_seed(0)
    found = evaluate(*PAIRS[name](), x, num_samples=20, gap=2, num_temperatures=5, progress=False)
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
    torch.manual_seed(0)
    model, guide = PAIRS[name]()
    x = model(size=20)  # by a plain call, as a user would: Pyro then uses its one global store

    def drawn():
        torch.manual_seed(1)
        return guide(x), model(size=20)

    expected = drawn()
    other_model, other_guide = PAIRS[name]()
    other_guide(other_model(size=2))
    for ours, theirs in zip(drawn(), expected, strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("name", PAIRS)
def test_a_copy_is_a_pair_of_its_own(name):
    torch.manual_seed(0)
    pair = PAIRS[name]()
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
