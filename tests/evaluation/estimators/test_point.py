"""A guide that gives a point: no bound, log p(x, z) at the code, and AIS that needs no guide."""

import json
import math

import asking
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine

import pvae
from pvae import Evaluation, PvaeError
from pvae.cli.main import main
from pvae.evaluation.estimators import point as at_code
from pvae.guides import Code, LinearGaussian
from pvae.models import PPCA, Autoencoder

AIS = {"num_chains": 16, "num_temperatures": 200}


@pytest.fixture(autouse=True)
def _clean_store():
    """Pairs that are called directly share parameters of the same name, as always in Pyro."""
    pyro.clear_param_store()
    yield
    pyro.clear_param_store()


def evaluate(*args, **options):
    return asking.evaluate(*args, **{"prior_samples": 0, "progress": False, **options})


@pytest.fixture
def pair():
    """A linear pair whose log p(x) is known, in double precision, and data of it."""
    torch.manual_seed(0)
    model = PPCA((1, 2, 3), 2, scale=0.7).double()
    model.zeros = model.zeros.double()
    guide = Code((1, 2, 3), 2, hidden_dims=()).double()
    return model, guide, model(size=300).detach()


def test_the_terms_at_the_code(pair):
    model, guide, x = pair
    evaluation = evaluate(model, guide, x)
    code, z = evaluation.findings["code"], guide.encode(x)
    mean = (z @ model.weight.T + model.bias).view_as(x)
    likelihood = dist.Normal(mean, model.scale).log_prob(x).sum((1, 2, 3))
    prior = dist.Normal(0.0, 1.0).log_prob(z).sum(1)
    expected = {
        "log_joint": likelihood + prior,
        "log_likelihood": likelihood,
        "log_prior": prior,
        "squared_error": (x - mean).square().sum((1, 2, 3)),
    }
    summary = evaluation.summary()["code"]
    for name, values in expected.items():
        values = values.detach().numpy()
        np.testing.assert_allclose(getattr(code, name), values, 1e-10, err_msg=name)
        assert summary[name]["mean"] == pytest.approx(values.mean())
        assert summary[name]["se"] == pytest.approx(values.std(ddof=1) / math.sqrt(300))
    site = evaluation.sites["z"]
    assert site["variance"] == pytest.approx(z.var(0).tolist())
    assert site["active_units"] == int((z.var(0) > 0.01).sum())


def test_nothing_looks_like_a_bound(pair):
    evaluation = evaluate(*pair)
    summary = evaluation.summary()
    undefined = {"mean": None, "se": None}
    assert summary["elbo"] == undefined
    assert summary["log_px"] == summary["jvi"] == []
    for key in ("elbo_analytic", "log_px_se", "psis", "cubo", "kl", "bits_per_dim", "zero_weights"):
        assert summary[key] is None
    assert summary["khat"]["median"] is None
    assert summary["ess"]["median"] is None
    assert summary["num_samples"] == 0
    assert np.isnan(evaluation.elbo).all()
    assert np.isnan(evaluation.log_px).all()
    table = evaluation.table()
    assert "There is no bound on log p(x): Code gives a point" in table
    assert "--ais 100" in table
    assert "ELBO" not in table
    assert "L_" not in table
    assert "log p(x, z)" in table
    assert f"{summary['code']['squared_error']['mean']:.2f}" in table


def test_ais_agrees_with_log_px_and_does_not_depend_on_the_guide(pair):
    model, guide, x = pair
    first = evaluate(model, guide, x, ais=40, **AIS)
    found = first.findings["ais_prior"]
    exact = model.log_px(x)[found.datum].detach().numpy()
    error = found.log_px - exact
    assert (np.abs(error) < 4 * found.log_px_se + 0.01).mean() > 0.9
    assert abs(error.mean()) < 0.05
    assert "ais_guide" not in first.findings
    assert "AIS from the prior (16 chains, 200 temperatures)" in first.verdict
    assert "40 of 300 data" in first.verdict
    torch.manual_seed(5)
    for other in (Code((1, 2, 3), 2), LinearGaussian((1, 2, 3), 2)):
        again = evaluate(model, other.double(), x, ais=40, num_samples=5, **AIS)
        np.testing.assert_array_equal(again.findings["ais_prior"].log_px, found.log_px)


def test_what_needs_no_guide_still_runs_and_what_needs_one_says_so(pair):
    model, guide, x = pair
    with pytest.warns(UserWarning, match="inference gap was left out.*gives a point"):
        evaluation = evaluate(
            model, guide, x[:40], prior_samples=2000, bdmc=10, gap=4, quadrature=True, **AIS
        )
    exact = model.log_px(x[:40]).detach().numpy()
    found = evaluation.findings
    assert set(found) == {"code", "prior", "bdmc", "quadrature"}
    np.testing.assert_allclose(found["quadrature"].log_px, exact, atol=1e-8)
    assert (np.abs(found["prior"].log_px - exact) < 5 * found["prior"].log_px_se).mean() > 0.9
    assert abs(found["bdmc"].gap) < 0.5
    assert "gives a point" in evaluation.missing["gap"]


def test_files_go_round(pair, tmp_path):
    evaluation = evaluate(*pair, ais=3, out=tmp_path, **AIS)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["evaluation.json", "evaluation.nc"]
    again = Evaluation.load(tmp_path)
    assert (
        again.summary()
        == evaluation.summary()
        == json.loads((tmp_path / "evaluation.json").read_text())
    )
    joint = evaluation.findings["code"].log_joint
    np.testing.assert_array_equal(again.findings["code"].log_joint, joint)


def test_it_is_added_to_and_goes_on(pair, tmp_path, monkeypatch):
    model, guide, x = pair
    monkeypatch.setattr(at_code, "_ROWS", 100)
    whole = evaluate(model, guide, x, ais=3, **AIS)
    calls, original = [], at_code._block

    def killed(*args):
        calls.append(1)
        if len(calls) == 4:  # the first is of the key
            raise KeyboardInterrupt
        return original(*args)

    monkeypatch.setattr(at_code, "_block", killed)
    with pytest.raises(KeyboardInterrupt):
        evaluate(model, guide, x, out=tmp_path)
    with pytest.raises(PvaeError, match="half done"):
        Evaluation.load(tmp_path)
    monkeypatch.setattr(at_code, "_block", lambda *args: calls.append(1) or original(*args))
    calls.clear()
    evaluate(model, guide, x, out=tmp_path)
    assert len(calls) == 2  # the key, and the one block that was missing
    calls.clear()
    # The number of samples does not matter where none is drawn.
    added = evaluate(model, guide, x, ais=3, num_samples=7, out=tmp_path, **AIS)
    assert len(calls) == 1
    assert added.summary() == whole.summary()


def test_another_code_is_another_evaluation(pair, tmp_path):
    model, guide, x = pair
    evaluate(model, guide, x, out=tmp_path)
    guide.activation = torch.nn.Tanh()  # no parameter tells
    with pytest.warns(UserWarning, match="is replaced"):
        again = evaluate(model, guide, x, out=tmp_path)
    z = guide.encode(x)
    expected = dist.Normal(0.0, 1.0).log_prob(z).sum(1).detach().numpy()
    np.testing.assert_allclose(again.findings["code"].log_prior, expected)


def test_the_code_must_be_that_of_clean_data(pair):
    model, guide, x = pair

    def corrupting(x):
        guide(x * (torch.rand_like(x) < 0.7))

    with pytest.raises(
        PvaeError, match=r"corrupting gives site 'z' a different point.*self\.training"
    ):
        evaluate(model, corrupting, x)


def test_log_weights_still_refuses(pair):
    with pytest.raises(PvaeError, match="no density"):
        pvae.log_weights(*pair, num_samples=3)


def test_a_guide_of_points_and_draws_is_refused():
    x = torch.randn(10)

    def model(x):
        with pyro.plate("data", len(x)):
            a, b = (pyro.sample(name, dist.Normal(x.new_zeros(()), 1.0)) for name in "ab")
            pyro.sample("x", dist.Normal(a + b, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("a", dist.Delta(x))
            pyro.sample("b", dist.Normal(x, 1.0))

    with pytest.raises(PvaeError, match=r"'a' a Delta.*no bound"):
        evaluate(model, guide, x)


def test_a_label_that_the_model_sums_out():
    """y ~ Cat(½, ½), z ~ N(0, 1), x ~ N(z + m_y, 1): both sums are known."""
    means, x = torch.tensor([-2.0, 3.0]), torch.randn(12)

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
            kind = {"enumerate": "parallel"}
            y = pyro.sample("y", dist.Categorical(x.new_ones(2)), infer=kind)
            pyro.sample("x", dist.Normal(z + means[y], 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Delta(0.5 * x))

    evaluation = evaluate(model, guide, x, ais=12, **AIS)
    code, each = evaluation.findings["code"], x[:, None] - means
    likelihood = (dist.Normal(0.0, 1.0).log_prob(each - 0.5 * x[:, None]).exp().mean(1)).log()
    prior = dist.Normal(0.0, 1.0).log_prob(0.5 * x)
    np.testing.assert_allclose(code.log_likelihood, likelihood, 1e-5)
    np.testing.assert_allclose(code.log_joint, likelihood + prior, 1e-5)
    exact = dist.Normal(0.0, math.sqrt(2)).log_prob(each).exp().mean(1).log().numpy()
    assert abs((evaluation.findings["ais_prior"].log_px - exact).mean()) < 0.1


def test_programs_that_are_no_modules():
    """Closures, a discrete x, two latent sites, and a guide in another layout of plates."""
    decoder, encoder = torch.nn.Linear(3, 8), torch.nn.Linear(8, 3)
    x = (torch.rand(9, 8) < 0.4).float()

    def model(x):
        pyro.module("decoder", decoder)
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            b = pyro.sample("b", dist.Normal(x.new_zeros(()), 1.0))
            logits = decoder(torch.cat([a, b[..., None]], -1))
            pyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x)

    def guide(x):
        pyro.module("encoder", encoder)
        z = encoder(x)
        with pyro.plate("data", len(x)):
            pyro.sample("b", dist.Delta(z[:, 2]))
            pyro.sample("a", dist.Delta(z[:, :2]).to_event(1))

    evaluation = evaluate(model, guide, x, ais=2, **AIS)
    trace = poutine.trace(poutine.replay(model, trace=poutine.trace(guide).get_trace(x)))
    expected = trace.get_trace(x).log_prob_sum().item()
    assert evaluation.findings["code"].log_joint.sum() == pytest.approx(expected, rel=1e-5)
    probs = torch.sigmoid(decoder(encoder(x)))
    error = (x - probs).square().sum(1).detach().numpy()
    np.testing.assert_allclose(evaluation.findings["code"].squared_error, error, 1e-5)


def test_grey_values_under_a_bernoulli_keep_their_caveat():
    data = pvae.data.load("digits", observation="grey")
    evaluation = evaluate(Autoencoder((1, 8, 8), 3), Code((1, 8, 8), 3), data)
    assert evaluation.caveat
    assert "not a likelihood, nats per datum" in evaluation.table()


def test_it_cannot_be_compared(pair):
    model, guide, x = pair
    point = evaluate(model, guide, x)
    bounded = evaluate(model, LinearGaussian((1, 2, 3), 2).double(), x, num_samples=5)
    with pytest.raises(PvaeError, match=r"^b has no bound.*--ais 100.*MeanField"):
        pvae.compare({"a": bounded, "b": point})


def test_it_has_nothing_for_arviz(pair):
    with pytest.raises(PvaeError, match=r"no bound on log p\(x\) and no k̂.*AIS"):
        evaluate(*pair).to_elpd()


def test_in_the_shell(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sizes = ["--model.latent_dim", "3", "--model.hidden_dims", "[8]", "--guide.hidden_dims", "[8]"]
    pair = ["--model", "SparseAutoencoder", "--guide", "DenoisingCode", "--guide.masking", "0.4"]
    quiet = ["--progress", "false"]
    assert main(["run", *pair, *sizes, "--epochs", "1", "--out", "a", *quiet]) == 0
    said = capsys.readouterr().out
    assert "no bound on log p(x): DenoisingCode gives a point" in said
    assert main(["evaluate", "a", "--ais", "3", "--num_temperatures", "20", *quiet]) == 0
    assert "AIS from the prior" in capsys.readouterr().out
    assert main(["evaluate", "a", *quiet]) == 0  # what is there is kept
    assert "AIS from the prior" in capsys.readouterr().out
    assert main(["report", "a"]) == 0
    assert "no bound" in (tmp_path / "a" / "report.html").read_text("utf-8")
    assert main(["run", *pair, *sizes, "--epochs", "1", "--out", "b", *quiet]) == 0
    assert main(["compare", "a", "b"]) == 1
    assert "a and b have no bound on log p(x) to compare" in capsys.readouterr().err
