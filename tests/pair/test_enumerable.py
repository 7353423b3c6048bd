"""Sites that cannot be summed out: no list of values, or too many terms for the memory."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import TraceEnum_ELBO

import pvae
from pvae import PvaeError
from pvae.objectives import choose_elbo
from pvae.pair import bounded

SUM = {"enumerate": "parallel"}
X = torch.randn(6, 4)


def single(fn, where="guide"):
    def model(x):
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", fn(), infer=SUM)
            y = y.flatten(-fn().event_dim).sum(-1) if fn().event_dim else y
            pyro.sample("x", dist.Normal(y[..., None] + torch.zeros(4), 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            if where == "guide":
                pyro.sample("y", fn(), infer=SUM)

    return model, guide


def joint(num, categories):
    """One network reads all of the sites."""
    w = torch.randn(num, categories, 4)

    def labels(size):
        fn = dist.OneHotCategorical(torch.ones(size, categories))
        return [pyro.sample(f"y_{i}", fn, infer=SUM) for i in range(num)]

    def model(x):
        with pyro.plate("data", len(x)):
            loc = sum(y @ w for y, w in zip(labels(len(x)), w, strict=True))
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            labels(len(x))

    return model, guide


@pytest.mark.parametrize("where", ["guide", "model"])
@pytest.mark.parametrize(("fn", "said"), [
    (lambda: dist.Poisson(1.0), "its Poisson has values without an end.*sample it.*VIMCO"),
    (lambda: dist.Normal(0.0, 1.0), "its Normal is continuous"),
    (lambda: dist.Categorical(torch.ones(3, 5)).to_event(1), r"3 elements .* 5\^3 values.*plate"),
    (lambda: dist.OneHotCategorical(torch.ones(2, 3, 5)).to_event(2), r"6 elements .* 5\^6 values"),
    (lambda: dist.Binomial(2**40, 0.5), r"1,099,511,627,777 values, more than fit.*Gumbel"),
])  # fmt: skip
def test_a_site_without_a_list_of_its_values(fn, said, where):
    model, guide = single(fn, where)
    with pytest.raises(PvaeError, match=f"'y' is to be summed out.*{said}"):
        pvae.log_weights(model, guide, X, num_samples=1)
    with pytest.raises(PvaeError, match=said):
        pvae.fit(model, guide, X, epochs=1, progress=False)
    structure = pvae.check(model, guide, X)
    with pytest.raises(PvaeError, match=said):
        choose_elbo(TraceEnum_ELBO(max_plate_nesting=1), structure)


@pytest.fixture
def little_memory(monkeypatch):
    """As if 256 MiB were left."""
    monkeypatch.setattr(bounded, "free_memory", lambda _: 1 << 28)


@pytest.mark.skipif(bounded.resource is None, reason="the limit needs Linux")
def test_more_terms_than_memory_holds(little_memory):
    model, guide = joint(20, 10)
    said = r"sum over the values of 'y_0', 'y_1', 'y_2' and 17 more.*about 10\^20 comb.*VIMCO"
    with pytest.raises(PvaeError, match=said):
        pvae.log_weights(model, guide, X, num_samples=1)
    with pytest.raises(PvaeError, match=said):
        pvae.fit(model, guide, X, epochs=1, progress=False)
    model, guide = joint(3, 10)
    assert pvae.log_weights(model, guide, X, num_samples=1).isfinite().all()


def test_a_mark_without_effect_is_no_fault():
    """Trace_ELBO does not read the marks."""
    model, guide = single(lambda: dist.Poisson(1.0))
    assert choose_elbo("Trace_ELBO", pvae.check(model, guide, X)).num_particles == 1
