"""All data are checked, not only the first ones; masks of handlers and distributions count."""

import math
import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch
from asking import evaluate
from pyro import poutine

import pvae
from pvae import PvaeError, log_weights

LAST = 99


def pair(likelihood, given=lambda x: x):
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
            pyro.sample("x", likelihood(z), obs=given(x))

    class Guide(pyro.nn.PyroModule):
        def __init__(self):
            super().__init__()
            self.loc = torch.nn.Parameter(torch.zeros(()))

        def forward(self, x):
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(self.loc + 0 * x.reshape(len(x), -1)[:, 0], 1.0))

    return model, Guide()


def one_bad(good, bad):
    x = torch.full((LAST + 1,), good)
    x[LAST] = bad
    return x


OUTSIDE = {
    "negative": (lambda z: dist.Exponential(z.exp()), 0.5, -3.0),
    "zero under a strict bound": (lambda z: dist.LogNormal(z, 1.0), 0.5, 0.0),
    "fraction of a count": (lambda z: dist.Poisson(z.exp()), 1.0, 2.5),
    "no bit": (lambda z: dist.Bernoulli(logits=z), 1.0, 2.0),
    "above one": (lambda z: dist.Beta(z.exp(), 1.0), 0.5, 1.5),
    "too many": (lambda z: dist.Binomial(3, logits=z), 1.0, 4.0),
}


@pytest.mark.parametrize("name", OUTSIDE)
def test_the_last_datum_is_looked_at(name):
    likelihood, good, bad = OUTSIDE[name]
    model, guide = pair(likelihood)
    x = one_bad(good, bad)
    said = rf"'x': observed values .* lie outside the support .*datum {LAST}"
    with pytest.raises(PvaeError, match=said):
        evaluate(model, guide, x, num_samples=2, progress=False)
    with pytest.raises(PvaeError, match=said):
        pvae.fit(model, guide, x, epochs=1, batch_size=10, progress=False)
    with pytest.raises(PvaeError, match=said):
        log_weights(model, guide, x, num_samples=2)


def test_values_that_a_program_makes_of_its_data_are_looked_at():
    model, guide = pair(lambda z: dist.Exponential(z.exp()), given=lambda x: x - 1)
    with pytest.raises(PvaeError, match=f"outside the support.*datum {LAST}"):
        evaluate(model, guide, one_bad(2.0, 0.5), num_samples=2, progress=False)


def test_grey_values_are_labelled_wherever_they_are():
    model, guide = pair(lambda z: dist.Bernoulli(logits=z))
    x = one_bad(1.0, 0.5)
    found = evaluate(model, guide, x, num_samples=2, progress=False)
    assert found.caveat.startswith("not a likelihood: site 'x'")
    with pytest.warns(UserWarning, match="not a likelihood"):
        fitted = pvae.fit(model, guide, x, epochs=1, batch_size=10, progress=False)
    assert fitted.caveat.startswith("not a likelihood")
    x[LAST] = 0.0
    assert evaluate(model, guide, x, num_samples=2, progress=False).caveat is None


def test_right_data_after_the_first_raise_no_alarm_and_leave_the_numbers():
    """A pair that runs with its own size of batch, too; the random state is kept."""
    model, guide = pair(lambda z: dist.Uniform(z - 4, z + 4, validate_args=False))
    x = torch.randn(200, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(5)
    before = torch.get_rng_state()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = evaluate(model, guide, x, num_samples=1000, prior_samples=0, surgery=False,
                         progress=False)  # fmt: skip
        pvae.fit(model, guide, x, epochs=1, batch_size=50, loss="Trace_ELBO", progress=False)
    assert torch.equal(before, torch.get_rng_state())
    assert found.zero_weights.max() < 0.5
    right = (dist.Normal(0.0, 1.0).cdf(x + 4) - dist.Normal(0.0, 1.0).cdf(x - 4)).log() - math.log(
        8
    )
    assert found.log_px == pytest.approx(right.numpy(), abs=0.2)


def test_missing_values_under_a_mask_are_no_fault():
    def model(x):
        seen = x >= 0
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
            with poutine.mask(mask=seen):
                pyro.sample("x", dist.Bernoulli(logits=z), obs=x)

    _, guide = pair(None)
    found = evaluate(model, guide, one_bad(1.0, -1.0), num_samples=10, progress=False)
    assert found.caveat is None
    assert found.log_px[LAST] == pytest.approx(0.0, abs=1e-6)


def normal(loc, event):
    fn = dist.Normal(loc, 1.0)
    return fn.to_event(1) if event else fn


MASKS = {
    "handler": lambda fn, m: (fn, m),
    "distribution": lambda fn, m: (fn.mask(m), None),
    "nested": lambda fn, m: (fn.mask(m | ~m).mask(m), None),
    "half by half": lambda fn, m: (
        fn.mask(m | (torch.arange(len(m)) % 2 == 0)), m | (torch.arange(len(m)) % 2 == 1)),
    "expanded": lambda fn, m: (fn.expand([len(m)]).mask(m), None),
    "none": lambda fn, m: (fn, None),
}  # fmt: skip


def masked_pair(in_model, in_guide, event=False):
    def site(fn, m, how):
        fn, mask = MASKS[how](fn, m)
        with poutine.mask(mask=m | ~m if mask is None else mask):
            return pyro.sample("z", fn)

    def model(x, m):
        with pyro.plate("data", len(x)):
            z = site(normal(torch.zeros(2) if event else torch.zeros(()), event), m, in_model)
            pyro.sample("x", dist.Normal(z[..., 0] if event else z, 1.0), obs=x)

    def guide(x, m):
        loc = (x / 2)[:, None].expand(-1, 2) if event else x / 2
        with pyro.plate("data", len(x)):
            site(normal(loc, event), m, in_guide)

    return model, guide


X = torch.linspace(-1, 1, 100)


@pytest.mark.parametrize("bad", [slice(0, 10), slice(70, 80)])  # among the first 64, and after
@pytest.mark.parametrize("event", [False, True])
@pytest.mark.parametrize("how", [h for h in MASKS if h != "none"])
def test_a_mask_in_one_program_alone_is_refused(how, event, bad):
    m = torch.ones(100, dtype=torch.bool)
    m[bad] = False
    for names in ((how, "none"), ("none", how)):
        model, guide = masked_pair(*names, event=event)
        with pytest.raises(PvaeError, match="'z' is masked differently in the guide"):
            evaluate(model, guide, (X, m), num_samples=2, progress=False)


@pytest.mark.parametrize("event", [False, True])
@pytest.mark.parametrize("how", ["distribution", "nested", "half by half", "expanded"])
def test_one_mask_written_in_two_ways_is_one_mask(how, event):
    m = torch.ones(100, dtype=torch.bool)
    m[60:70] = False
    model, guide = masked_pair("handler", how, event=event)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        log_w = log_weights(model, guide, X, m, num_samples=4000).double()
    # Where z is masked, p(z) and q(z) are left out: E_q[p(x|z)] = N(x; x/2, √2).
    found = log_w.logsumexp(0) - math.log(len(log_w))
    loc = torch.where(m, 0.0, X / 2)
    assert found == pytest.approx(dist.Normal(loc, math.sqrt(2)).log_prob(X).double(), abs=0.1)


def test_a_mask_of_some_dimensions_of_an_event():
    keep = torch.tensor([True, False])

    def program(fn, x, observe):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", fn.to_event(1))
            if observe:
                pyro.sample("x", dist.Normal(z[..., 0], 1.0), obs=x)

    def model(x, m):
        program(dist.Normal(torch.zeros(2), 1.0).mask(keep), x, True)

    def guide(x, m):
        program(dist.Normal(torch.zeros(len(x), 2), 1.0), x, False)

    with pytest.warns(UserWarning, match="masked differently"):
        pvae.check(model, guide, X, X)
    with pytest.raises(PvaeError, match="'z' is masked differently"):
        log_weights(model, guide, X, X, num_samples=2)


def test_an_unknown_label_is_named_as_one():
    def classes(x, y):
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Categorical(logits=torch.zeros(len(x), 3)), obs=y)

    x, y = torch.zeros(5, 1), torch.tensor([0, 2, -1, 1, -1])
    with pytest.raises(PvaeError, match=r"first in datum 2. -1 marks an unknown label.*part.take"):
        pvae.check(classes, lambda x, y: None, x, y)
