"""evaluate and Evaluation: exactness, contract, files, memory, repeatability."""

import json
import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from asking import evaluate
from oracles import gamma_poisson
from programs import linear_gaussian
from small import small_pair

import pvae
from pvae import PvaeError
from pvae.evaluation.estimators import importance as weights
from pvae.evaluation.estimators.bounds import bounds
from pvae.evaluation.estimators.jackknife import jackknife
from pvae.evaluation.estimators.pareto import psis


@pytest.fixture(scope="module")
def oracle():
    model, guide, x, exact = linear_gaussian()
    return evaluate(model, guide, x, num_samples=1000, progress=False), x, exact.numpy()


def test_log_px_is_exact_within_its_stated_error(oracle):
    result, _, exact = oracle
    error = result.log_px - exact
    assert np.mean(np.abs(error) < 3 * result.log_px_se) >= 0.97
    assert abs(error.mean()) < 0.02
    means = [values.mean() for values in result.bounds.values()]
    assert list(result.bounds) == [1, 5, 50, 500, 1000]
    assert means == sorted(means)
    np.testing.assert_array_equal(result.bounds[1000], result.log_px)
    np.testing.assert_allclose(result.bounds[1], result.elbo)


def test_elbo_kl_and_reconstruction_against_closed_forms():
    model, guide, x, _ = linear_gaussian()
    result = evaluate(model, guide, x, num_samples=4000, progress=False)
    np.testing.assert_allclose(result.elbo, result.reconstruction - result.kl)
    q = pvae.pair.trace_guide(guide, x).nodes["z"]["fn"]
    prior = dist.Normal(torch.zeros(2, dtype=x.dtype), 1.0).to_event(1)
    kl = torch.distributions.kl_divergence(q.base_dist, prior.base_dist.expand((200, 2))).sum(-1)
    np.testing.assert_allclose(result.kl, kl.numpy(), atol=0.15)
    assert abs(result.kl.mean() - kl.mean().item()) < 0.02
    assert result.sites["z"]["closed_form"]
    assert result.sites["z"]["kl"] == pytest.approx(kl.mean().item(), rel=1e-9)
    np.testing.assert_allclose(
        result.elbo_analytic - result.elbo, result.kl - kl.numpy(), atol=1e-9
    )


def test_each_dimension_of_a_site_has_its_own_kl_and_variance(oracle):
    result, x, _ = oracle
    _, guide, _, _ = linear_gaussian()
    q = pvae.pair.trace_guide(guide, x).nodes["z"]["fn"].base_dist
    kl = torch.distributions.kl_divergence(q, dist.Normal(torch.zeros_like(q.loc), 1.0)).mean(0)
    assert abs(kl[0] - kl[1]) > 0.1
    assert result.sites["z"]["kl_dims"] == pytest.approx(kl.tolist(), rel=1e-9)
    assert result.sites["z"]["variance"] == pytest.approx(q.mean.var(0).tolist(), rel=1e-9)


def test_estimates_are_those_of_the_weights(monkeypatch):
    seen, original = [], weights.bounds
    monkeypatch.setattr(weights, "bounds", lambda w, ks: seen.append(w.clone()) or original(w, ks))
    model, guide, x, _ = linear_gaussian()
    ks = [1, 5, 60]
    result = evaluate(model, guide, x, num_samples=ks, prior_samples=0, progress=False)
    log_w = torch.cat(seen)
    assert log_w.shape == (len(x), 60)
    alone = {k: bounds(log_w, [k])[k] for k in ks}
    expected = {
        "elbo": (result.elbo, log_w.mean(1)),
        "psis": (result.psis, psis(log_w)[1]),
        "khat": (result.khat, psis(log_w)[0]),
        "log_px_se": (result.log_px_se, alone[60][1]),
        **{f"L_{k}": (result.bounds[k], alone[k][0]) for k in ks},
        **{f"se of L_{k}": (result.bounds_se[k], alone[k][1]) for k in ks},
        "JVI-1 of 5": (result.jvi[1][5], jackknife(log_w, 5)),
        **{f"JVI-{n}": (result.jvi[n][60], jackknife(log_w, 60, n)) for n in (1, 2)},
    }
    for name, (found, value) in expected.items():
        np.testing.assert_allclose(found, value, 1e-12, err_msg=name)


def test_summary_has_every_key_of_the_contract(oracle):
    result, _, _ = oracle
    summary = json.loads(json.dumps(result.summary(), allow_nan=False))
    keys = "units num_data num_samples seed model guide data elbo log_px kl reconstruction khat"
    for key in f"{keys} ess active_units sites".split():
        assert key in summary
    assert summary["units"] == "nats"
    assert set(summary["data"]) == {"name", "observation", "hash"}
    assert set(summary["elbo"]) == {"mean", "se"}
    assert [row["num_samples"] for row in summary["log_px"]] == [1, 5, 50, 500, 1000]
    assert set(summary["khat"]) >= {"median", "threshold", "above_threshold"}
    assert {"kl", "active_units"} <= set(summary["sites"]["z"])
    assert summary["active_units"] == 2
    n = len(result)
    assert summary["elbo"]["mean"] == pytest.approx(result.elbo.mean())
    assert summary["elbo"]["se"] == pytest.approx(result.elbo.std(ddof=1) / math.sqrt(n))


def test_same_seed_same_numbers_and_the_global_generator_is_left(oracle):
    result, x, _ = oracle
    model, guide, _, _ = linear_gaussian()
    torch.manual_seed(9)
    before = torch.get_rng_state()
    again = evaluate(model, guide, x, num_samples=1000, progress=False)
    assert torch.equal(before, torch.get_rng_state())
    np.testing.assert_array_equal(again.log_px, result.log_px)
    other = evaluate(model, guide, x, num_samples=1000, seed=1, progress=False)
    assert (other.log_px != result.log_px).all()


def test_a_datums_numbers_do_not_depend_on_the_data_behind_it():
    model, guide, x, _ = linear_gaussian()
    whole = evaluate(model, guide, x, num_samples=40, progress=False)
    part = evaluate(model, guide, x[:64], num_samples=40, progress=False)
    np.testing.assert_array_equal(whole.log_px[:64], part.log_px)


def test_table_shows_the_numbers(oracle):
    result, _, _ = oracle
    table = result.table()
    assert f"{result.elbo.mean():.2f}" in table
    assert f"{result.log_px.mean():.2f}" in table
    assert "L_500" in table
    assert repr(result) == str(result) == table  # at the end of a cell, no arrays


def test_one_sample_and_one_datum():
    model, guide, x, _ = linear_gaussian()
    one = evaluate(model, guide, x[:1], num_samples=1, progress=False).summary()
    assert one["elbo"]["se"] is None
    assert one["khat"]["median"] is None
    assert one["log_px"][-1]["num_samples"] == 1
    assert one["active_units"] is None


def test_data_as_a_tuple_a_part_or_a_data_set():
    data = pvae.data.load("digits")
    model, guide = pvae.models.VAE((1, 8, 8)), pvae.guides.MeanField((1, 8, 8))
    options = {"num_samples": 5, "progress": False}
    whole = evaluate(model, guide, data, **options)
    part = evaluate(model, guide, data.test, **options)
    tensors = evaluate(model, guide, data.test.tensors(), **options)
    np.testing.assert_array_equal(whole.log_px, part.log_px)
    np.testing.assert_array_equal(whole.log_px, tensors.log_px)
    assert whole.data["hash"] == part.data["hash"] == data.test.hash
    assert whole.data["name"] == "digits"
    with pytest.raises(PvaeError, match=r"is not the number of data \(3\): .* 1 \[4\]"):
        evaluate(model, guide, (torch.zeros(3, 1), torch.zeros(4)), **options)


def test_grey_values_under_a_bernoulli_are_labelled():
    data = pvae.data.load("digits", observation="grey")
    model, guide = pvae.models.VAE((1, 8, 8)), pvae.guides.MeanField((1, 8, 8))
    with pytest.warns(UserWarning, match="not a likelihood"):
        pvae.fit(model, guide, data, epochs=1, progress=False)
    result = evaluate(model, guide, data, num_samples=5, progress=False)
    assert result.summary()["not_a_likelihood"].startswith("not a likelihood")
    assert "not a likelihood" in result.table()


def test_two_latent_sites_and_a_discrete_one():
    x = torch.randn(50)

    def model(x):
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Normal(0.0, 1.0))
            y = pyro.sample("y", dist.Bernoulli(0.3))
            pyro.sample("x", dist.Normal(a + y, 0.5), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("a", dist.Normal(0.7 * x, 0.6))
            pyro.sample("y", dist.Bernoulli(torch.full_like(x, 0.4)))

    result = evaluate(model, guide, x, num_samples=3000, progress=False)
    assert list(result.sites) == ["a", "y"]
    kl = 0.4 * math.log(0.4 / 0.3) + 0.6 * math.log(0.6 / 0.7)
    assert result.sites["y"]["kl"] == pytest.approx(kl, abs=0.01)
    exact = torch.stack(
        [
            math.log(0.7) + dist.Normal(0.0, math.sqrt(1.25)).log_prob(x),
            math.log(0.3) + dist.Normal(1.0, math.sqrt(1.25)).log_prob(x),
        ]
    ).logsumexp(0)
    error = np.abs(result.log_px - exact.numpy())
    assert np.mean(error < 3 * result.log_px_se) > 0.95


def test_an_explicit_density_has_its_exact_log_px():
    x = torch.randn(5)

    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(1.0, 2.0), obs=x)

    result = evaluate(model, lambda x: None, x, num_samples=30, progress=False)
    assert result.log_px == pytest.approx(dist.Normal(1.0, 2.0).log_prob(x).numpy(), rel=1e-6)
    assert (result.khat == -float("inf")).all()


def test_cubo_is_shown_only_where_it_means_something():
    model, wide, x, exact = linear_gaussian()

    def guide(x):  # half of the data have weights of infinite variance
        with pyro.poutine.block():
            fn = pvae.pair.trace_guide(wide, x).nodes["z"]["fn"].base_dist
        factor = torch.where(torch.arange(len(x)) % 2 == 0, 1.0, 0.5).to(x.dtype)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(fn.loc, fn.scale * factor[:, None]).to_event(1))

    result = evaluate(model, guide, x, num_samples=1000, progress=False)
    shown = ~np.isnan(result.cubo)
    assert 0 < shown.mean() < 1
    assert (result.khat[shown] <= 0.25).all()
    assert (result.khat[~shown] > 0.25).all()
    assert (result.cubo - exact.numpy())[shown].mean() > 0
    assert result.summary()["cubo"]["shown_for"] == pytest.approx(shown.mean())
    few = evaluate(model, guide, x, num_samples=10, progress=False)
    assert np.isnan(few.cubo).all()  # no k̂, no indication


def test_batch_norm_that_keeps_no_statistics_is_refused():
    class Mixing(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.net = torch.nn.Sequential(
                torch.nn.Linear(3, 3), torch.nn.BatchNorm1d(3, track_running_stats=False)
            )

    net = Mixing()

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(net.net(x), 1.0).to_event(1))

    with pytest.raises(PvaeError, match="mixes data across the batch"):
        evaluate(model, guide, torch.randn(20, 3), num_samples=3, progress=False)


def test_an_evaluation_without_trouble_warns_of_nothing(recwarn):
    model, guide, batch, _ = gamma_poisson()
    options = {"num_temperatures": 2, "num_chains": 2, "ais": 2, "progress": False}
    evaluate(model, guide, tuple(t[:20] for t in batch), num_samples=5, **options)
    assert [str(w.message) for w in recwarn] == []


def test_annealed_data_are_drawn_at_random():
    model, guide, batch, _ = gamma_poisson()
    options = {"num_samples": 1, "prior_samples": 0, "num_temperatures": 1, "num_chains": 2}
    found = [
        evaluate(model, guide, batch, ais=20, seed=seed, **options, progress=False).findings
        for seed in (0, 1)
    ]
    for each in found:
        some = each["ais_prior"].datum
        assert len(some) == 20
        assert (np.diff(some) > 0).all()
        assert some.max() > 100
        np.testing.assert_array_equal(some, each["ais_guide"].datum)
    assert set(found[0]["ais_prior"].datum) != set(found[1]["ais_prior"].datum)


@pytest.mark.parametrize("progress", [True, False])
def test_progress_bars_are_drawn_where_they_are_asked_for(progress, capfd):
    model, guide, x, _ = linear_gaussian()
    evaluate(model, guide, x, num_samples=2, prior_samples=2, progress=progress)
    assert ("datum" in capfd.readouterr().err) == progress


def test_empty_data():
    model, guide, x, _ = linear_gaussian()
    with pytest.raises(PvaeError, match="at least one"):
        evaluate(model, guide, x[:0], progress=False)


def test_surgery_can_be_left_out():
    pair = small_pair()
    x = pvae.data.load("digits").test.tensors()[0][:10]
    found = [
        evaluate(*pair, x, num_samples=5, prior_samples=0, surgery=each, progress=False)
        for each in (True, False)
    ]
    assert ["surgery" in each.findings for each in found] == [True, False]
    assert found[1].missing == {}
    assert (found[0].log_px == found[1].log_px).all()
