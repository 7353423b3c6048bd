"""What an evaluation spends and keeps: a part of the data, shared draws, and failures."""

import sys
import warnings

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from asking import evaluate

import pvae
from pvae import estimators
from pvae.evaluation import cost
from pvae.evaluation.estimators import importance as weights
from pvae.evaluation.estimators.quadrature import Integrals
from pvae.importance.sampler import Sampler
from pvae.pair import inspect

module = sys.modules["pvae.evaluation.evaluate"]  # its name is that of the function
FEW = {"num_samples": 20, "prior_samples": 0, "surgery": False, "progress": False}
RNG = {"generator": torch.Generator().manual_seed(0), "dtype": torch.float64}
X = torch.randn(40, 3, **RNG)
WEIGHT = torch.randn(3, 2, **RNG)


class Counted:
    """z ~ N(a y, I), x ~ N(W z + b y, 1), y a datum's label; counts the rows that are decoded."""

    def __init__(self, prior=0.0, bias=0.0):
        self.prior, self.bias, self.rows = prior, bias, 0

    def model(self, x, y):
        with pyro.plate("data", len(x)):
            loc = self.prior * y[:, None].expand(-1, 2)
            z = pyro.sample("z", dist.Normal(loc, 1.0).to_event(1))
            self.rows += z[..., 0].numel()
            mean = z @ WEIGHT.T + self.bias * y[:, None]
            pyro.sample("x", dist.Normal(mean, 1.0).to_event(1), obs=x)

    def guide(self, x, y):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(2).double(), 1.2).to_event(1))

    def exact(self, x, y):
        loc = (self.prior * WEIGHT.sum(1) + self.bias) * y[:, None]
        covariance = WEIGHT @ WEIGHT.T + torch.eye(3).double()
        return dist.MultivariateNormal(loc, covariance).log_prob(x).numpy()


@pytest.mark.parametrize("differs", [{}, {"prior": 0.5}, {"bias": 0.5}])
@pytest.mark.parametrize("late", [False, True])
def test_draws_are_decoded_once_where_no_datum_differs(differs, late):
    y = torch.zeros(40).double()
    y[32 if late else 0 :: 2] = 1.0  # the first block of data may be all alike
    pair = Counted(**differs)
    options = FEW | {"num_samples": 2, "prior_samples": 3000}
    result = evaluate(pair.model, pair.guide, (X, y), **options)
    found = result.findings["prior"]
    error = (found.log_px - pair.exact(X, y)) / found.log_px_se
    assert np.abs(error).max() < 5
    assert found.shared == (not differs or late)
    assert (pair.rows < 3000 + 10_000) == (not differs)
    assert "shared" in result.summary()["prior"]


@pytest.mark.parametrize("prior", [False, True])
def test_labels_and_masks_beside_shared_draws(prior):
    """y is summed out in the model, and half of the data have x_2 masked."""
    probs, means = torch.tensor([0.3, 0.7]).double(), torch.tensor([-1.0, 1.5]).double()
    mask = torch.arange(40) % 2 == 0

    def model(x, mask):
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.Categorical(probs), infer={"enumerate": "parallel"})
            z = pyro.sample("z", dist.Normal(means[y] if prior else means[0], 0.5))
            pyro.sample("x_1", dist.Normal(z + means[y], 1.0), obs=x[:, 0])
            with pyro.poutine.mask(mask=mask):
                pyro.sample("x_2", dist.Normal(z, 1.0), obs=x[:, 1])

    def guide(x, mask):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(()).double(), 1.5))

    options = FEW | {"num_samples": 4000, "prior_samples": 4000}
    result = evaluate(model, guide, (X, mask), **options)
    found = result.findings["prior"]
    assert found.shared != prior  # given y there is a z for each of its values
    noise = np.hypot(found.log_px_se, result.log_px_se)
    assert (np.abs(found.log_px - result.log_px) < 5 * noise).all()
    assert noise.max() < 0.1


def test_what_costs_more_than_the_bounds_is_asked_for(monkeypatch):
    monkeypatch.setattr("pvae.evaluation.estimators.prior._RUNS", 1000)
    y = torch.arange(40).double()
    pair = Counted(prior=0.1)
    options = FEW | {"prior_samples": None}
    with pytest.warns(UserWarning, match="Naive Monte Carlo from the prior was left out"):
        result = evaluate(pair.model, pair.guide, (X, y), **options)
    assert "20,000 runs of the decoder" in result.missing["prior"]
    assert "--prior_samples 500" in result.missing["prior"]
    for given in ({"num_samples": 500}, {"prior_samples": 500}):
        result = evaluate(pair.model, pair.guide, (X, y), **options | given)
        assert result.findings["prior"].num_samples == 500
        assert not result.missing
    shared = Counted()
    result = evaluate(shared.model, shared.guide, (X, y), **options)
    assert result.findings["prior"].num_samples == 500


def linear():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2).double(), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ WEIGHT.T, 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.3 * x @ WEIGHT, 0.9).to_event(1))

    return model, guide


def test_a_part_of_the_data(tmp_path):
    options = FEW | {"num_samples": 4000}
    everything = evaluate(*linear(), X, **options)
    part = evaluate(*linear(), X, num_data=10, out=tmp_path, **options)
    other = evaluate(*linear(), X, num_data=10, seed=1, **options)
    assert len(part) == 10
    assert part.rows.tolist() == other.rows.tolist() == sorted({*part.rows.tolist()})
    assert part.rows.max() > 10  # not the first ones
    noise = np.hypot(part.log_px_se, everything.log_px_se[part.rows])
    assert (np.abs(part.log_px - everything.log_px[part.rows]) < 5 * noise).all()
    assert noise.max() < 0.1
    assert part.data["hash"] == other.data["hash"] != everything.data["hash"]
    assert pvae.Evaluation.load(tmp_path).rows.tolist() == part.rows.tolist()
    larger = evaluate(*linear(), X, num_data=20, **FEW)
    assert {*part.rows} < {*larger.rows}
    assert evaluate(*linear(), X, num_data=99, **FEW).rows is None
    for wrong, said in ((0, "num_data=0 is not valid"), (2.5, "give a whole number")):
        with pytest.raises(pvae.PvaeError, match=said):
            evaluate(*linear(), X, num_data=wrong, **FEW)


def test_a_part_of_loaded_data_and_its_report(tmp_path):
    digits = pvae.data.load("digits")
    model, guide = pvae.models.VAE((1, 8, 8)), pvae.guides.MeanField((1, 8, 8))
    part = evaluate(model, guide, digits, num_data=7, **FEW)
    x = digits.test.x[torch.from_numpy(part.rows)]
    same = evaluate(model, guide, x, **FEW)
    np.testing.assert_array_equal(part.log_px, same.log_px)
    path = pvae.write_report(tmp_path / "a.html", part, model=model, guide=guide, data=digits)
    page = path.read_text()
    worst = int(part.rows[part.log_px.argmin()])
    assert f"Test image {worst} " in page
    assert "cannot be matched" not in page


@pytest.mark.parametrize(("asked", "size"), [(True, 4), (3, 3), (False, 0), (1000, 4)])
def test_quadrature_of_so_many_data(asked, size, monkeypatch):
    def counted(self, task):
        return Integrals(task.positions, *np.zeros((2, len(task.positions))))

    monkeypatch.setattr(estimators.Quadrature, "estimate", counted)
    found = evaluate(*linear(), X[:4], quadrature=asked, **FEW).findings.get("quadrature")
    assert size == (0 if found is None else len(found))


def broken(*_, **__):
    raise ZeroDivisionError("by chance")


SHORT = {"num_temperatures": 2, "num_chains": 2}
ESTIMATORS = {
    "prior": estimators.NaiveMonteCarlo(num_samples=10),
    "surgery": estimators.Surgery(),
    "quadrature": estimators.Quadrature(3),
    "gap": estimators.Gap(2, estimators.AIS(**SHORT)),
    "ais_prior": estimators.AIS(2, **SHORT),
    "ais_guide": estimators.AIS(2, **SHORT),
    "bdmc": estimators.BDMC(2, **SHORT),
}


@pytest.mark.parametrize("name", ESTIMATORS)
def test_what_fails_is_missing_and_the_rest_is_kept(name, monkeypatch, tmp_path):
    asked, x = ESTIMATORS[name], X[:8]
    options = {"num_samples": 20, "progress": False, "estimators": [asked], "out": tmp_path}
    monkeypatch.setattr(type(asked), "estimate", broken)
    with pytest.warns(UserWarning, match="was left out: ZeroDivisionError: by chance"):
        result = pvae.evaluate(*linear(), x, **options)
    assert result.missing[name] == "ZeroDivisionError: by chance"
    assert np.isfinite(result.log_px).all()
    monkeypatch.undo()
    again = pvae.evaluate(*linear(), x, **options)
    assert name in again.findings
    assert not again.missing
    np.testing.assert_array_equal(again.log_px, result.log_px)


@pytest.mark.parametrize("name", ["site_kl", "psis", "jackknife"])
def test_a_detail_that_fails_costs_no_bound(name, monkeypatch, tmp_path):
    expected = evaluate(*linear(), X, **FEW)
    monkeypatch.setattr(weights, name, broken)
    with pytest.warns(UserWarning, match="ZeroDivisionError: by chance"):
        result = evaluate(*linear(), X, **FEW)
    assert "ZeroDivisionError: by chance" in result.missing["details"]
    np.testing.assert_array_equal(result.log_px, expected.log_px)
    np.testing.assert_array_equal(result.elbo, expected.elbo)
    assert "by chance" in pvae.write_report(tmp_path / "a.html", result).read_text()
    assert str(result)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_in_other_modes(mode):
    gap = estimators.Gap(2, estimators.AIS(**SHORT), num_samples=20, num_steps=5)
    asked = [gap, estimators.BDMC(2, **SHORT)]
    options = {"num_samples": 20, "progress": False, "estimators": asked}
    expected = pvae.evaluate(*linear(), X[:8], **options)
    with mode(), warnings.catch_warnings():
        warnings.simplefilter("error")
        result = pvae.evaluate(*linear(), X[:8].clone(), **options)  # data that know no gradients
    assert not result.missing
    assert result.findings.keys() == expected.findings.keys()
    np.testing.assert_array_equal(result.findings["gap"].elbo_best,
                                  expected.findings["gap"].elbo_best)  # fmt: skip
    np.testing.assert_array_equal(result.findings["bdmc"].lower, expected.findings["bdmc"].lower)


def test_the_time_is_said_before_it_is_spent(monkeypatch, capsys):
    model, guide = linear()
    sampler = Sampler(inspect(model, guide, X))
    with sampler:
        before = torch.get_rng_state()
        asked = {"bounds": 1e10, "gap": 3e10}
        said = cost.expected_time(sampler, (X[:16],), asked)
        assert torch.equal(torch.get_rng_state(), before)
        assert "this will take about" in said
        assert "bounds" in said
        assert "gap" in said
        assert cost.expected_time(sampler, (X[:16],), {"bounds": 360}) is None
    monkeypatch.setattr(module, "expected_time", lambda *args: f"hours for {sorted(args[2])}")
    evaluate(*linear(), X, **FEW | {"progress": True, "surgery": True, "quadrature": 2})
    assert "hours for ['bounds', 'quadrature', 'surgery']" in capsys.readouterr().out
