"""Sites that are summed out: masked ones, several in one guide, chains, and how they are marked."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from asking import evaluate
from masked import hidden_markov, semi_supervised
from pyro.infer import TraceEnum_ELBO

import pvae
from pvae.importance.sampler import Sampler
from pvae.pair import inspect

SUM = {"enumerate": "parallel"}
SEVERAL = {"num_samples": 2000, "prior_samples": 0, "surgery": False, "progress": False}


@pytest.fixture(autouse=True)
def double():
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(torch.float32)


def close(found, expected, tolerance=1e-9):
    torch.testing.assert_close(
        torch.as_tensor(found), torch.as_tensor(expected), rtol=0, atol=tolerance
    )


@pytest.mark.parametrize("mask", ["poutine", "distribution", "state"])
@pytest.mark.parametrize("how", [list, pyro.markov], ids=["range", "markov"])
def test_sequences_that_end_early_are_those_of_the_forward_algorithm(how, mask):
    model, guide, batch, exact = hidden_markov(how, mask)
    close(pvae.log_weights(model, guide, *batch, num_samples=2), exact.expand(2, -1))
    found = evaluate(model, guide, batch, num_samples=3, progress=False)
    close(found.log_px, exact)
    close(found.elbo, exact)
    if mask != "distribution":  # there Pyro counts every state of a masked site
        close(-TraceEnum_ELBO(max_plate_nesting=1).loss(model, guide, *batch), exact.sum())


def test_a_long_chain_costs_no_more_than_its_steps():
    """3^25 states are summed out one site after the other."""
    model, guide, batch, exact = hidden_markov(pyro.markov, steps=25)
    close(pvae.log_weights(model, guide, *batch, num_samples=1)[0], exact)
    model, guide, batch, _ = hidden_markov(pyro.markov, steps=70)
    with pytest.raises(pvae.PvaeError, match=r"64 dimensions.*sites"):
        pvae.log_weights(model, guide, *batch, num_samples=1)


def test_single_precision_and_a_single_sequence():
    model, guide, (x, lengths), exact = hidden_markov(list, dtype=torch.float32)
    close(pvae.log_weights(model, guide, x, lengths, num_samples=1)[0], exact, 1e-5)
    i = int(lengths.argmin())
    one = x[i : i + 1], lengths[i : i + 1]
    close(pvae.log_weights(model, guide, *one, num_samples=1)[0], exact[i : i + 1], 1e-5)


def bound(labelled):
    """ELBO and KL of `semi_supervised` without z, by hand, and log p(x), each [B]."""
    model, guide, (x, y, known), exact = semi_supervised(labelled, latent=False)
    prior, joint, q = (v.squeeze(0) for v in _terms(model, guide, x, y, known))
    elbo = torch.where(known, exact, (q.exp() * (joint - q)).sum(0))
    kl = torch.where(known, 0.0, (q.exp() * (q - prior)).sum(0))
    return elbo, kl, exact


def _terms(model, guide, x, y, known):
    """log p(y), log p(x, y) and log q(y|x) of an unknown label, [1, 3, B], from plain calls."""
    rows = []
    for value in range(3):
        label = torch.full((len(x),), value)
        nothing = torch.zeros(len(x), dtype=torch.bool)
        draws = pyro.poutine.trace(pyro.poutine.condition(guide, {"y_unobserved": label}))
        draws = draws.get_trace(x, y, nothing)
        given = pyro.poutine.trace(pyro.poutine.condition(model, {"y_unobserved": label}))
        given = given.get_trace(x, y, nothing)
        given.compute_log_prob()
        draws.compute_log_prob()
        p = given.nodes["y_unobserved"]["log_prob"]
        rows.append(torch.stack([
            p, p + given.nodes["x"]["log_prob"], draws.nodes["y_unobserved"]["log_prob"]
        ]))  # fmt: skip
    return torch.stack(rows, 1)[:, None]


@pytest.mark.parametrize("labelled", [0.0, 0.5, 1.0], ids=["none", "some", "all"])
@pytest.mark.parametrize("where", ["guide", "both", "model"])
@pytest.mark.parametrize("mask", ["obs_mask", "distribution"])
def test_labels_that_are_known_in_part_are_counted_once(where, labelled, mask):
    elbo, kl, exact = bound(labelled)
    if where == "model":
        elbo, kl = exact, torch.zeros_like(exact)
    for one_hot in (False, True):
        model, guide, batch, _ = semi_supervised(labelled, where, mask, False, one_hot)
        found = evaluate(model, guide, batch, num_samples=3, progress=False)
        close(found.log_px, exact)
        close(found.elbo, elbo)
        close(found.kl, kl)
        if where != "model" or mask == "obs_mask":
            theirs = -TraceEnum_ELBO(max_plate_nesting=1).loss(model, guide, *batch)
            close(theirs, elbo.sum())


@pytest.mark.parametrize("strategy", ["plate", "tile", "loop"])
@pytest.mark.parametrize(("where", "mask"), [
    ("guide", "obs_mask"), ("guide", "distribution"), ("model", "distribution"),
])  # fmt: skip
def test_weights_beside_a_continuous_latent(where, mask, strategy):
    num = 100 if strategy == "loop" else 2000
    for labelled in (0.5, 1.0):
        model, guide, batch, exact = semi_supervised(labelled, where, mask)
        log_w = pvae.log_weights(model, guide, *batch, num_samples=num, strategy=strategy)
        weight = (log_w - exact).exp()
        assert ((weight.mean(0) - 1).abs() < 5 * weight.std(0) / math.sqrt(num)).all()
        assert weight.std(0).max() < 4  # of log S more or less nothing would be left


def test_every_estimator_agrees_on_labels_that_are_known_in_part():
    model, guide, batch, exact = semi_supervised(0.5)
    options = {"ais": 4, "num_temperatures": 40, "quadrature": True, "progress": False}
    with pytest.warns(UserWarning, match="ELBO surgery was left out: Site 'y_unobserved' of"):
        found = evaluate(model, guide, batch, num_samples=1000, **options)
    close(found.findings["quadrature"].log_px, exact, 1e-6)
    for name in ("prior", "ais_prior", "ais_guide"):
        of = found.findings[name]
        assert (torch.as_tensor(of.log_px) - exact[of.datum]).abs().max() < 0.4, name
    elbo = TraceEnum_ELBO(num_particles=2000, vectorize_particles=True, max_plate_nesting=1)
    assert abs(found.elbo.sum() + elbo.loss(model, guide, *batch)) < 0.3


@pytest.mark.parametrize("labelled", [0.0, 1.0])
def test_the_code_of_all_data_has_the_same_sites(labelled):
    """Then the surgery is right; a mask of all data leaves a site out of the code."""
    model, guide, batch, _ = semi_supervised(labelled)
    found = evaluate(model, guide, batch, num_samples=2000, progress=False)
    rate = found.findings["surgery"].rate
    assert abs(rate - found.kl.mean()) < 0.5
    assert 0 < found.findings["surgery"].mutual_information < math.log(10)


def several(multivariate=False, size=5, chain=False):
    """y_1, y_2 and z | y_1, where x is of z and w of y_2; or y_1 -> y_2 -> z, and w of y_1.

    Returns:
        model, guide, batch, and KL of z, KL of y_2 and the ELBO by hand, each [B].
    """
    p_1, q_1 = torch.tensor([0.4, 0.6]), torch.tensor([0.3, 0.7])
    p_2, q_2 = torch.tensor([[0.2, 0.5, 0.3], [0.6, 0.1, 0.3]]), torch.tensor([[0.3, 0.3, 0.4]] * 2)
    q_2[1] = torch.tensor([0.5, 0.2, 0.3])
    if not chain:
        p_2, q_2 = p_2[:1].expand(2, 3), q_2[:1].expand(2, 3)
    nu = torch.tensor([0.0, 1.0, 2.0])
    mu, lam = torch.randn(3, 2), torch.randn(3, 2)
    x, w = torch.randn(size, 2), torch.randn(size)

    def normal(loc, scale):
        if multivariate:
            return dist.MultivariateNormal(loc, scale**2 * torch.eye(2))
        return dist.Normal(loc, scale).to_event(1)

    def labels(p_1, p_2):
        y_1 = pyro.sample("y_1", dist.Categorical(p_1), infer=SUM)
        y_2 = pyro.sample("y_2", dist.Categorical(p_2[y_1] if chain else p_2[0]), infer=SUM)
        return (y_2, y_1) if chain else (y_1, y_2)

    def model(x, w):
        with pyro.plate("data", len(x)):
            y, other = labels(p_1, p_2)
            z = pyro.sample("z", normal(mu[y], 1.0))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)
            pyro.sample("w", dist.Normal(nu[other], 1.0), obs=w)

    def guide(x, w):
        with pyro.plate("data", len(x)):
            y, _ = labels(q_1, q_2)
            pyro.sample("z", normal(0.5 * x + lam[y], 0.8))

    both = q_1[:, None] * q_2  # [y_1, y_2]
    q_z = both.sum(0 if chain else 1)  # of the label that z depends on
    q_w = both.sum(1 if chain else 0)
    loc = 0.5 * x[:, None] + lam[: len(q_z)]
    apart = (loc - mu[: len(q_z)]).square().sum(-1)
    kl_z = ((0.64 * 2 + apart) / 2 - 1 - 2 * math.log(0.8)) @ q_z
    kl_1 = (q_1 * (q_1 / p_1).log()).sum()
    kl_2 = (both * (q_2 / p_2).log()).sum()
    log_x = -((loc - x[:, None]).square() + 0.64).sum(-1) / 2 - math.log(2 * math.pi)
    log_w = dist.Normal(nu[: len(q_w)], 1.0).log_prob(w[:, None])
    elbo = log_x @ q_z + log_w @ q_w - kl_z - kl_1 - kl_2
    return model, guide, (x, w), kl_z, kl_2, elbo


@pytest.mark.parametrize("chain", [False, True], ids=["apart", "chain"])
@pytest.mark.parametrize("multivariate", [False, True])
@pytest.mark.parametrize("size", [5, 1])
def test_several_sites_of_the_guide_and_one_that_depends_on_some(chain, multivariate, size):
    model, guide, batch, kl_z, kl_2, elbo = several(multivariate, size, chain)
    found = evaluate(model, guide, batch, **SEVERAL)
    assert found.sites["z"]["closed_form"]
    close(found.sites["z"]["kl"], kl_z.mean())
    close(found.sites["y_2"]["kl"], kl_2)
    if not multivariate:
        close(sum(found.sites["z"]["kl_dims"]), kl_z.mean())
    # What is left to the draws is E[log p(x|z)].
    assert abs(found.elbo_analytic - elbo.numpy()).max() < 0.2
    assert abs(found.elbo - elbo.numpy()).max() < 0.2
    with Sampler(inspect(model, guide, *batch)) as sampler:
        draws = next(sampler.stream(batch, 2000))
    close(draws.kl["y_2"], kl_2.expand(2000, size))
    assert (draws.kl["z"].mean(0) - kl_z).abs().max() < 0.2
    assert (draws.rate - sum(draws.kl.values())).abs().max() < 1e-9


def test_a_chain_in_the_guide():
    """q(s_1) q(s_2|s_1) … of twelve sites: log p(x) is exact, and so is the ELBO."""
    model, _, (x, lengths), exact = hidden_markov(list, steps=12)
    move = torch.randn(3, 3).softmax(-1)

    def guide(x, lengths):
        with pyro.plate("data", len(x)):
            s = torch.tensor(0)
            for t in range(12):
                with pyro.poutine.mask(mask=t < lengths):
                    s = pyro.sample(f"s_{t}", dist.Categorical(move[s]), infer=SUM)

    found = evaluate(model, guide, (x, lengths), num_samples=2, progress=False)
    close(found.log_px, exact)
    close(found.elbo.sum(), -TraceEnum_ELBO(max_plate_nesting=1).loss(model, guide, x, lengths))
    assert (torch.as_tensor(found.elbo) < exact - 0.1).any()


def test_what_the_guide_draws_is_not_summed_out_beside_another_site():
    """The model marks y_1, which the guide draws, and y_2, which the guide leaves to the model."""
    x = torch.randn(6)
    means = torch.tensor([[-1.0, 0.5, 2.0], [0.0, 1.0, -2.0]])
    p_1, p_2 = torch.tensor([0.4, 0.6]), torch.tensor([0.2, 0.5, 0.3])

    def model(x):
        with pyro.plate("data", len(x)):
            y_1 = pyro.sample("y_1", dist.Categorical(p_1), infer=SUM)
            y_2 = pyro.sample("y_2", dist.Categorical(p_2), infer=SUM)
            pyro.sample("x", dist.Normal(means[y_1, y_2], 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("y_1", dist.Categorical(logits=torch.stack([0 * x, x], -1)))

    joint = p_1.log()[:, None] + p_2.log() + dist.Normal(means, 1.0).log_prob(x[:, None, None])
    exact = joint.logsumexp((1, 2))
    found = evaluate(model, guide, x, num_samples=4000, prior_samples=4000, progress=False)
    assert abs(found.log_px - exact.numpy()).max() < 0.1
    assert abs(found.findings["prior"].log_px - exact.numpy()).max() < 0.1


def test_a_site_that_is_drawn_several_times_is_not_summed_out():
    """num_samples is Pyro's mark for tensor Monte Carlo: a draw, of any distribution."""
    x = torch.randn(5)

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x / 2, 0.8), infer=SUM | {"num_samples": 10})

    log_w = pvae.log_weights(model, guide, x, num_samples=4000)
    exact = dist.Normal(0.0, math.sqrt(2)).log_prob(x)
    assert ((log_w - exact).exp().mean(0) - 1).abs().max() < 0.1
