"""Guides that give a point: plain, denoising, contractive."""

import math

import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from torch import nn

import pvae
from pvae import PvaeError
from pvae.guides import Code, ContractiveCode, DenoisingCode
from pvae.models import Autoencoder
from pvae.pair.program import evaluating


@pytest.fixture(autouse=True)
def _clean_store():
    """Pairs that are called as they are share parameters of one name, as always in Pyro."""
    pyro.clear_param_store()
    yield
    pyro.clear_param_store()


ELBOS = [Trace_ELBO, TraceMeanField_ELBO]


@pytest.fixture
def x():
    torch.manual_seed(0)
    return torch.rand(7, 1, 8, 8)


@pytest.mark.parametrize("network", ["dense", "conv"])
@pytest.mark.parametrize("guide", [Code, DenoisingCode, ContractiveCode])
def test_a_point_for_each_datum(guide, network, x):
    guide = guide((1, 8, 8), 3, network=network, channels=[4, 4])
    site = poutine.trace(guide).get_trace(x).nodes["z"]
    assert site["value"].shape == (7, 3)
    assert (site["fn"].log_prob(site["value"]) == 0).all()
    guide.eval()
    assert torch.equal(guide(x), guide.encode(x))
    assert torch.equal(pvae.encode(guide, x)["z"], guide.encode(x))


@pytest.mark.parametrize(("activation", "low"), [("sigmoid", 0.0), ("tanh", -1.0)])
def test_the_activation_is_that_of_the_code(activation, low, x):
    z = Code((1, 8, 8), 30, activation=activation).encode(50 * x)
    assert z.min() >= low
    assert z.max() <= 1
    linear = Code((1, 8, 8), 30).encode(50 * x)
    assert linear.abs().max() > 1.5


@pytest.mark.parametrize("masking", [0.1, 0.5, 1.0])
def test_masking_sets_that_share_to_zero(masking):
    guide, x = DenoisingCode((1000,), 3, masking=masking), 2 * torch.ones(100, 1000)
    corrupted = guide.corrupt(x)
    assert (corrupted == 0).float().mean().item() == pytest.approx(masking, abs=0.01)
    assert set(corrupted.unique().tolist()) <= {0.0, 2.0}


def test_noise_has_its_scale():
    guide, x = DenoisingCode((1000,), 3, masking=0.0, noise=0.3), torch.ones(100, 1000)
    noise = guide.corrupt(x) - x
    assert noise.mean().item() == pytest.approx(0, abs=0.01)
    assert noise.std().item() == pytest.approx(0.3, abs=0.01)


def test_corruption_is_fresh_in_training_and_off_in_evaluation(x):
    guide, seen = DenoisingCode((1, 8, 8), 3, masking=0.5, noise=0.1), []
    guide.encoder.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    model = Autoencoder((1, 8, 8), 3, likelihood="gaussian")
    guide(x), guide(x)
    assert not torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[0], x)
    seen.clear()
    pvae.evaluate(model, guide, x, progress=False)
    pvae.encode(guide, x)
    assert guide.training
    assert len(seen) > 1
    assert all(torch.equal(each, x[: len(each)]) for each in seen)


def test_the_likelihood_sees_the_clean_x(x):
    model, guide = Autoencoder((1, 8, 8), 3, likelihood="gaussian"), DenoisingCode((1, 8, 8), 3)
    guide_trace = poutine.trace(guide).get_trace(x)
    trace = poutine.trace(poutine.replay(model, trace=guide_trace)).get_trace(x)
    assert torch.equal(trace.nodes["x"]["value"], x)


def test_denoising_fills_in_what_is_missing():
    data = pvae.data.load("digits", observation="grey")
    x = data.test.tensors()[0]
    errors = {}
    for name, guide in (("plain", Code), ("denoising", DenoisingCode)):
        torch.manual_seed(0)
        options = {} if name == "plain" else {"masking": 0.5}
        guide = guide((1, 8, 8), 16, hidden_dims=[64], **options)
        model = Autoencoder((1, 8, 8), 16, hidden_dims=[64], likelihood="gaussian", scale=0.2)
        pvae.fit(model, guide, data, epochs=30, lr=3e-3, mode="eager", progress=False)
        torch.manual_seed(1)
        masked = x * (torch.rand_like(x) < 0.5)
        errors[name] = (pvae.reconstruct(model, guide, masked) - x).square().mean()
    assert errors["denoising"] < 0.7 * errors["plain"]


def _jacobian_norm(guide, x):
    """‖∂f/∂x‖² of each datum, entry by entry."""
    return torch.stack(
        [torch.autograd.functional.jacobian(guide.encode, row[None]).square().sum() for row in x]
    )


@pytest.mark.parametrize("activation", ["linear", "sigmoid", "tanh"])
def test_the_contraction_of_one_layer_is_exact(activation, x):
    guide = ContractiveCode((1, 8, 8), 5, activation=activation)
    torch.testing.assert_close(guide.contraction(x), _jacobian_norm(guide, x))


@pytest.mark.parametrize(
    "options", [{"hidden_dims": [20]}, {"network": "conv", "channels": [4, 4]}]
)
def test_hutchinsons_estimate_is_unbiased(options, x):
    guide, times = ContractiveCode((1, 8, 8), 5, activation="tanh", **options), 4000
    estimates = guide.contraction(x.repeat(times, 1, 1, 1)).view(times, -1)
    error = estimates.mean(0) - _jacobian_norm(guide, x)
    assert (error.abs() < 4 * estimates.std(0) / math.sqrt(times)).all()
    assert not torch.equal(estimates[0], estimates[1])


def test_exact_and_estimate_have_the_same_gradient_in_expectation(x):
    guide = ContractiveCode((1, 8, 8), 5, activation="tanh")
    (layer,) = guide.encoder.layers
    (exact,) = torch.autograd.grad(guide.contraction(x).sum(), layer.weight)
    plain = nn.Sequential(nn.Flatten(-3), layer)  # not known to be one layer
    other = ContractiveCode((1, 8, 8), 5, activation="tanh", encoder=plain)
    many = other.contraction(x.repeat(4000, 1, 1, 1)).sum() / 4000
    (estimate,) = torch.autograd.grad(many, layer.weight)
    assert (estimate - exact).norm() < 0.03 * exact.norm()


@pytest.mark.parametrize("elbo", ELBOS)
@pytest.mark.parametrize("hidden_dims", [(), (10,)])
def test_the_penalty_is_subtracted_in_training_and_not_counted_in_evaluation(elbo, hidden_dims, x):
    model = Autoencoder((1, 8, 8), 3, likelihood="gaussian")
    guide = ContractiveCode((1, 8, 8), 3, penalty=7.0, hidden_dims=hidden_dims)
    plain = Code((1, 8, 8), 3, activation="sigmoid", encoder=guide.encoder)
    torch.manual_seed(1)
    loss = elbo().loss(model, guide, x)
    torch.manual_seed(1)
    penalty = 7.0 * guide.contraction(x).sum().item()
    without = elbo().loss(model, plain, x)
    assert penalty > 0.1
    assert loss == pytest.approx(without + penalty, rel=1e-5)
    with evaluating(model, guide):
        assert elbo().loss(model, guide, x) == pytest.approx(without, rel=1e-6)
    codes = [pvae.evaluate(model, g, x, progress=False).findings["code"] for g in (guide, plain)]
    assert (codes[0].log_joint == codes[1].log_joint).all()


def test_validation_does_not_count_the_penalty():
    data = pvae.data.load("digits", observation="grey", validation=200)
    torch.manual_seed(0)
    model = Autoencoder((1, 8, 8), 3, likelihood="gaussian")
    guide = ContractiveCode((1, 8, 8), 3, penalty=1e4)
    row = pvae.fit(model, guide, data, epochs=1, mode="eager", progress=False).history[-1]
    assert row["elbo"] < row["validation_elbo"] - 100


def test_a_large_penalty_flattens_the_code():
    data = pvae.data.load("digits", observation="grey")
    norms = []
    for penalty in (0.0, 30.0):
        torch.manual_seed(0)
        model = Autoencoder((1, 8, 8), 8, hidden_dims=[32], likelihood="gaussian", scale=0.2)
        guide = ContractiveCode((1, 8, 8), 8, penalty=penalty)
        pvae.fit(model, guide, data, epochs=5, lr=3e-3, mode="eager", progress=False)
        norms.append(guide.contraction(data.test.tensors()[0]).mean())
    assert norms[1] < 0.5 * norms[0]


@pytest.mark.parametrize(
    "guide",
    [
        Code((1, 8, 8), 3),
        DenoisingCode((1, 8, 8), 3, noise=0.1),
        ContractiveCode((1, 8, 8), 3),
        ContractiveCode((1, 8, 8), 3, hidden_dims=[10]),
    ],
    ids=["code", "denoising", "exact", "hutchinson"],
)
def test_steps_are_recorded(guide, uncompiled, x):
    model, elbo = Autoencoder((1, 8, 8), 3, hidden_dims=[10]), TraceMeanField_ELBO()
    svi = pvae.SVI(model, guide, torch.optim.Adam, elbo, mode="compiled")
    for _ in range(3):
        svi.step(x.round())
    assert svi.why_eager is None
    assert svi.compiled
    assert len(uncompiled) == 1


def test_a_run_is_saved_and_loaded(tmp_path):
    data = pvae.data.load("digits")

    def pair():
        torch.manual_seed(0)
        return Autoencoder((1, 8, 8), 3, hidden_dims=[8]), DenoisingCode(
            (1, 8, 8), 3, hidden_dims=[8]
        )

    options = {"epochs": 3, "mode": "eager", "progress": False}
    whole = pair()
    pvae.fit(*whole, data, **options, out=tmp_path / "whole")
    loaded = pvae.load(tmp_path / "whole", model=pair()[0], guide=pair()[1])
    for ours, theirs in zip(whole, loaded, strict=True):
        for name, value in ours.state_dict().items():
            assert torch.equal(value, theirs.state_dict()[name])


@pytest.mark.parametrize(
    ("guide", "options", "said"),
    [
        (Code, {"latent_dim": 0}, "latent_dim=0"),
        (Code, {"network": "resnet"}, "network='resnet'.*'dense' or 'conv'"),
        (Code, {"network": "conv"}, r"not \(6,\)"),
        (Code, {"activation": "step"}, "activation='step'.*linear, sigmoid, tanh"),
        (DenoisingCode, {"masking": -0.1}, "masking=-0.1.*between 0 and 1"),
        (DenoisingCode, {"masking": 1.5}, "masking=1.5.*between 0 and 1"),
        (DenoisingCode, {"noise": -1.0}, "noise=-1.0.*at least 0"),
        (DenoisingCode, {"masking": 0.0}, "nothing is corrupted"),
        (ContractiveCode, {"penalty": -1.0}, "penalty=-1.0.*at least 0"),
        (ContractiveCode, {"penalty": math.nan}, "penalty=nan"),
    ],
)
def test_bad_arguments(guide, options, said):
    with pytest.raises(PvaeError, match=said):
        guide((6,), **options)


def test_an_encoder_of_another_size():
    guide = Code((6,), latent_dim=3, encoder=nn.Linear(6, 5))
    with pytest.raises(PvaeError, match=r"\(4, 5\).*latent_dim=3"):
        pvae.check(Autoencoder((6,), 3), guide, torch.zeros(4, 6))
