"""A run folder: what is taken from it, what is made anew, and what failed is tried again."""

import json
import warnings

import asking
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from programs import linear_gaussian
from small import small_pair

import pvae
from pvae import PvaeError
from pvae.evaluation.estimators import annealing

ANNEALING = {"ais": 3, "num_chains": 4, "num_temperatures": 5}


@pytest.fixture(autouse=True)
def _clean_store():
    pyro.clear_param_store()
    yield
    pyro.clear_param_store()


def evaluate(*args, **options):
    options = {"num_samples": 20, "prior_samples": 0, "progress": False, **options}
    return asking.evaluate(*args, **options)


def replaced():
    return pytest.warns(UserWarning, match="is replaced")


def gaussian(name=None, noise=None, weight=0.5):
    """z ~ N(0, 1), x ~ N(w z, σ²), with σ a constant, and the guide's shift perhaps a param."""
    noise = noise or [1.0]

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
            pyro.sample("x", dist.Normal(weight * z, noise[0]), obs=x)

    def guide(x):
        shift = pyro.param(name, torch.tensor(0.1)) if name else 0.1
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.4 * x + shift, 0.9))

    return model, guide, torch.randn(40, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("same", [0, 64])
def test_other_data_are_not_taken(same, tmp_path):
    model, guide, x, _ = linear_gaussian()
    first = evaluate(model, guide, x[:100], out=tmp_path)
    other = torch.cat([x[:same], x[100 : 200 - same]])
    with replaced():
        second = evaluate(model, guide, other, out=tmp_path)
    assert (first.log_px[same:] != second.log_px[same:]).all()
    fresh = evaluate(model, guide, other)
    np.testing.assert_array_equal(second.log_px, fresh.log_px)


def test_another_value_in_pyros_store_is_another_pair(tmp_path):
    model, guide, x = gaussian(name="shift of test_folder")
    first = evaluate(model, guide, x, out=tmp_path)
    with torch.no_grad():  # too little to be seen in the sums that tell other pairs apart
        pyro.get_param_store()["shift of test_folder"].add_(1e-4)
    with replaced():
        second = evaluate(model, guide, x, out=tmp_path)
    assert (first.log_px != second.log_px).any()
    np.testing.assert_array_equal(second.log_px, evaluate(model, guide, x).log_px)


def test_another_constant_in_a_closure_is_another_pair(tmp_path):
    noise = [1.0]
    model, guide, x = gaussian(noise=noise)
    first = evaluate(model, guide, x, out=tmp_path)
    noise[0] = 3.0
    with replaced():
        second = evaluate(model, guide, x, out=tmp_path)
    assert (first.log_px != second.log_px).all()
    np.testing.assert_array_equal(second.log_px, evaluate(model, guide, x).log_px)


def test_a_parameter_of_another_program_changes_nothing(tmp_path):
    model, guide, x = gaussian(name="shift of test_folder")
    first = evaluate(model, guide, x, out=tmp_path, **ANNEALING)
    pyro.param("other", torch.zeros(3))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        second = evaluate(model, guide, x, out=tmp_path)
    assert set(second.findings) == {"surgery", "ais_prior", "ais_guide"}
    assert second.key == first.key


@pytest.mark.parametrize("options", [{"seed": 1}, {"num_samples": 21}, {"num_samples": [4, 20]}])
def test_another_seed_or_number_of_samples_is_another_evaluation(options, tmp_path):
    model, guide, x = gaussian()
    evaluate(model, guide, x, out=tmp_path)
    with replaced():
        second = evaluate(model, guide, x, out=tmp_path, **options)
    assert second.summary() == evaluate(model, guide, x, **options).summary()


def test_what_failed_is_tried_again_and_what_was_found_is_kept(tmp_path, monkeypatch):
    pair, x = small_pair(), pvae.data.load("digits").test.tensors()[0][:20]
    failing, anneal = [True], annealing.anneal

    def once(*args, **options):
        if failing.pop() if failing else False:
            raise PvaeError("out of heat")
        return anneal(*args, **options)

    monkeypatch.setattr(annealing, "anneal", once)
    options = {"out": tmp_path, **ANNEALING}
    said = "AIS from the prior was left out: out of heat"
    with pytest.warns(UserWarning, match=said):
        first = evaluate(*pair, x, **options)
    assert first.missing == {"ais_prior": "out of heat"}
    assert set(first.findings) == {"surgery", "ais_guide"}
    second = evaluate(*pair, x, **options)
    assert second.missing == {}
    assert json.loads((tmp_path / "evaluation.json").read_text())["missing"] == {}
    found = second.findings["ais_prior"]
    failing.append(True)
    with pytest.warns(UserWarning, match=said):
        third = evaluate(*pair, x, **options | {"num_temperatures": 7})
    assert third.missing == {}
    np.testing.assert_array_equal(third.findings["ais_prior"].log_px, found.log_px)
    assert third.findings["ais_prior"].num_temperatures == 5
    assert third.findings["ais_guide"].num_temperatures == 7
    last = evaluate(*pair, x, **options | {"num_temperatures": 7})
    assert last.findings["ais_prior"].num_temperatures == 7
