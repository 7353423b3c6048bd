"""Programs in the style of Pyro's examples work unmodified in fit, evaluate and log_weights."""

import math
import warnings

import numpy as np
import pyro
import pytest
import torch
from programs import PROGRAMS
from pyro.infer import RenyiELBO, Trace_ELBO

import pvae


@pytest.fixture(autouse=True)
def _clean_store():
    pyro.clear_param_store()
    yield
    pyro.clear_param_store()


def _make(name):
    model, guide, batch, exact = PROGRAMS[name]()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pvae.log_weights(model, guide, *batch, num_samples=1)  # creates pyro.params
    return model, guide, batch, exact


@pytest.mark.filterwarnings("ignore:log_weights uses")
@pytest.mark.parametrize("name", PROGRAMS)
def test_evaluate_agrees_with_exact_values(name):
    model, guide, batch, exact = _make(name)
    result = pvae.evaluate(model, guide, batch, num_samples=4000, progress=False)
    error = result.log_px - exact(*batch).numpy()
    trusted = result.khat < result.khat_threshold
    assert trusted.mean() > 0.5
    within = np.abs(error[trusted]) < 4 * result.log_px_se[trusted] + 1e-4
    assert within.mean() > 0.95
    assert np.all(result.elbo < exact(*batch).numpy())


@pytest.mark.filterwarnings("ignore:log_weights uses")
@pytest.mark.parametrize("name", PROGRAMS)
def test_fit_trains_every_parameter_and_evaluation_stays_exact(name):
    model, guide, batch, exact = _make(name)
    found = pvae.pair.modules(model, guide).values()
    before = [p.detach().clone() for m in found for p in m.parameters()]
    first = pvae.evaluate(model, guide, batch, num_samples=50, progress=False)
    pvae.fit(model, guide, batch, epochs=40, batch_size=16, lr=1e-2, progress=False)
    after = [p for m in found for p in m.parameters()]
    assert all(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
    last = pvae.evaluate(model, guide, batch, num_samples=4000, progress=False)
    assert last.elbo.mean() > first.elbo.mean() + 0.1
    trusted = last.khat < last.khat_threshold
    error = (last.log_px - exact(*batch).numpy())[trusted]
    assert np.mean(np.abs(error) < 4 * last.log_px_se[trusted] + 1e-4) > 0.95


@pytest.mark.parametrize(
    ("name", "strategy"),
    [
        ("closures", "plate"),
        ("concatenating", "tile"),
        ("subsampled", "plate"),
        ("flattening", "tile"),
        ("softmaxing", "tile"),
    ],
)
def test_strategy_that_is_chosen(name, strategy):
    model, guide, batch, _ = _make(name)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = pvae.evaluate(model, guide, batch, num_samples=10, progress=False)
    assert result.strategy == strategy
    said = [str(w.message) for w in caught if "log_weights uses" in str(w.message)]
    assert len(said) == (strategy != "plate")


def test_the_softmax_is_caught_by_its_values_not_by_an_error():
    model, guide, batch, _ = _make("softmaxing")
    with pytest.raises(pvae.PvaeError, match=r"changes log p\(x\)"):
        pvae.log_weights(model, guide, *batch, num_samples=3, strategy="plate")


@pytest.mark.parametrize("name", ["closures", "subsampled"])
def test_agrees_with_pyro(name):
    model, guide, batch, _ = _make(name)
    scale = 10_000 / len(batch[0]) if name == "subsampled" else 1
    result = pvae.evaluate(model, guide, batch, num_samples=2000, progress=False)
    torch.manual_seed(1)
    with pvae.pair.OwnParameters(model, guide):
        losses = torch.tensor([Trace_ELBO().loss(model, guide, *batch) for _ in range(400)])
    theirs = -losses / scale / len(batch[0])
    assert abs(theirs.mean() - result.elbo.mean()) < 4 * theirs.std() / 20
    if name == "closures":
        torch.manual_seed(2)
        with pvae.pair.OwnParameters(model, guide):
            renyi = RenyiELBO(alpha=0, num_particles=50, vectorize_particles=True)
            theirs = -torch.tensor([renyi.loss(model, guide, *batch) for _ in range(200)])
        theirs = theirs / len(batch[0])
        ours = result.bounds[50].mean()
        assert abs(theirs.mean() - ours) < 4 * theirs.std() / math.sqrt(200) + 0.01


def test_a_programs_param_stays_in_pyros_store():
    model, guide, batch, _ = _make("global_param")
    assert "noise_0" in pyro.get_param_store()
    before = pyro.param("noise_0").item()
    pvae.fit(model, guide, batch, epochs=20, batch_size=16, lr=1e-2, progress=False)
    assert pyro.param("noise_0").item() != before
    assert [name for name in pyro.get_param_store() if "$$$" in name] == []
