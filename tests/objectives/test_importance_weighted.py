"""Importance-weighted objectives: their values, their bounds, and what they refuse."""

import contextlib
import math

import oracles
import pyro
import pyro.distributions as dist
import pytest
import torch
from linear_pairs import copies, pair, rand
from programs import PROGRAMS, linear_gaussian
from pyro import poutine
from pyro.infer import RenyiELBO, Trace_ELBO
from torch.fx.experimental.proxy_tensor import make_fx

from pvae import PvaeError, log_weights
from pvae.objectives import (
    IWAE_ELBO,
    STL_ELBO,
    Beta_ELBO,
    DReG_ELBO,
    FreeBits_ELBO,
    InfoVAE_ELBO,
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


@pytest.mark.parametrize("objective", [type(objective) for objective in OBJECTIVES])
def test_no_particles(objective):
    with pytest.raises(PvaeError, match=r"num_particles=0 is not valid: at least one sample"):
        objective(0)


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
