"""The use of discrete codes: counts of categories, in every form that a site can have."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

import pvae
from pvae.estimators import CodeUse
from pvae.evaluation.estimators.code_use import CodeUsage

X = torch.tensor([0.0, 0.0, 1.0, 2.0, 2.0, 2.0, 3.0, 3.0])
SHARES = [2 / 8, 1 / 8, 3 / 8, 2 / 8, 0]
ONE_HOT = torch.eye(5)


def evaluate(latent, point, x=X):
    """Evaluates a pair whose guide gives the point `point(x)` of the distribution `latent`."""

    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", latent)
            pyro.sample("x", dist.Normal(torch.zeros(len(x)), 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            z = point(x)
            pyro.sample("z", dist.Delta(z, event_dim=len(latent.event_shape)))

    return pvae.evaluate(model, guide, x, num_samples=2, estimators=[CodeUse()], progress=False)


def usage(found):
    return found.findings["code_use"].summary(found)["sites"]["z"]


@pytest.mark.parametrize(
    "name", ["integers", "integers in floats", "one-hot", "one-hot in integers", "a map"]
)
def test_shares_are_those_of_the_data(name):
    latent, point = {
        "integers": (dist.Categorical(torch.ones(5)), lambda x: x.long()),
        "integers in floats": (dist.Categorical(torch.ones(5)), lambda x: x),
        "one-hot in integers": (
            dist.OneHotCategorical(torch.ones(5)),
            lambda x: ONE_HOT[x.long()].long(),
        ),
        "one-hot": (dist.OneHotCategorical(torch.ones(5)), lambda x: ONE_HOT[x.long()]),
        "a map": (
            dist.OneHotCategorical(torch.ones(3, 2, 5)).to_event(2),
            lambda x: ONE_HOT[x.long()][:, None, None].expand(-1, 3, 2, -1),
        ),
    }[name]
    found = evaluate(latent, point)
    assert found.findings["code_use"].shares["z"] == pytest.approx(SHARES)
    entropy = -sum(p * np.log(p) for p in SHARES if p)
    expected = {"num_codes": 5, "used": 4, "perplexity": pytest.approx(np.exp(entropy))}
    assert usage(found) == expected
    assert "z uses 4 of 5, perplexity 3.7" in found.table()
    assert "collapsed" not in found.verdict


def test_a_collapsed_code_is_said_in_the_verdict():
    found = evaluate(dist.Categorical(torch.ones(5)), lambda x: torch.full_like(x, 3).long())
    assert usage(found) == {"num_codes": 5, "used": 1, "perplexity": 1.0}
    assert "All codes of z are the same category" in found.verdict


def test_one_datum_shows_no_collapse():
    found = evaluate(dist.Categorical(torch.ones(5)), lambda x: x.long(), X[:1])
    assert usage(found)["used"] == 1
    assert "collapsed" not in found.verdict


def test_samples_of_a_guide_are_counted_and_masked_places_are_not():
    seen = torch.tensor([True, False])

    def model(x):
        with pyro.plate("data", len(x)):
            with pyro.poutine.mask(mask=seen[:, None]), pyro.plate("places", 2, dim=-2):
                pyro.sample("z", dist.Categorical(torch.ones(4)))
            pyro.sample("x", dist.Normal(torch.zeros(len(x)), 1.0), obs=x)

    def guide(x):
        probs = torch.tensor([[0.5, 0.5, 0.0, 0.0], [0.0, 0.0, 0.5, 0.5]])[:, None]
        plates = pyro.plate("data", len(x)), pyro.plate("places", 2, dim=-2)
        with plates[0], plates[1], pyro.poutine.mask(mask=seen[:, None]):
            pyro.sample("z", dist.Categorical(probs.expand(-1, len(x), -1)))

    x = torch.zeros(400)
    found = pvae.evaluate(model, guide, x, num_samples=2, estimators=[CodeUse()], progress=False)
    shares = found.findings["code_use"].shares["z"]
    assert shares[2:] == [0, 0]
    assert shares[0] == pytest.approx(0.5, abs=4 * 0.5 / 20)


@pytest.mark.filterwarnings("error:invalid value")
def test_a_site_that_is_masked_for_all_data_has_no_codes():
    def program(x):
        with pyro.plate("data", len(x)), pyro.poutine.mask(mask=torch.zeros(len(x)) > 0):
            return pyro.sample("z", dist.Categorical(torch.ones(4)))

    def model(x):
        program(x)
        with pyro.plate("values", len(x)):
            pyro.sample("x", dist.Normal(torch.zeros(len(x)), 1.0), obs=x)

    options = {"num_samples": 2, "estimators": [CodeUse()], "progress": False}
    with pytest.warns(UserWarning, match="Use of the discrete codes was left out: There are no"):
        found = pvae.evaluate(model, program, X, **options)
    assert set(found.missing) == {"code_use"}


def test_pairs_without_categories_have_none():
    from pvae import guides, models

    x = torch.zeros(6, 1, 8, 8)
    pair = models.VAE((1, 8, 8), 2), guides.MeanField((1, 8, 8), 2)
    found = pvae.evaluate(*pair, x, num_samples=2, estimators=[CodeUse()], progress=False)
    assert found.findings == {}
    assert found.missing == {}


def test_the_figure_shows_shares_and_the_uniform_line():
    found = CodeUsage(np.arange(8), {"z": SHARES})
    (panel,) = found.panels(None)
    assert panel.missing is None
    assert "4 of 5 codes occur" in panel.note
    assert "<svg" in panel.bodies[0]
