"""Which labels a pair has: those that its model can draw, or those of its data."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from programs import as_the_prior

import pvae
from pvae.errors import PvaeError
from pvae.estimators import BayesRule, Rejection

SHARES, MEANS = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([-2.0, 0.0, 2.5])
X = torch.linspace(-4, 4, 60)
Y = (X > 0).long()  # label 2 does not occur
EXACT = (SHARES.log() + dist.Normal(MEANS, math.sqrt(2)).log_prob(X[:, None])).double()
"""log p(x, y) of `joint`, [N, C]."""


def noisy(x, loc):
    z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
    pyro.sample("x", dist.Normal(loc + z, 1.0), obs=x)


def joint(x, y):
    with pyro.plate("data", len(x)):
        if y.ndim == 2:
            drawn = pyro.sample("y", dist.OneHotCategorical(SHARES), obs=y.float())
            noisy(x, drawn @ MEANS)
        else:
            noisy(x, MEANS[pyro.sample("y", dist.Categorical(SHARES), obs=y)])


def given(x, y):
    with pyro.plate("data", len(x)):
        noisy(x, y.float() @ MEANS if y.ndim == 2 else MEANS[y])


def guide(x, y):
    """The exact posterior."""
    mean = y.float() @ MEANS if y.ndim == 2 else MEANS[y]
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal((x - mean) / 2, math.sqrt(0.5)))


def one_hot(y, *kinds):
    return torch.eye(3)[y].to(*kinds)


@pytest.mark.parametrize("y", [Y, one_hot(Y), one_hot(Y, torch.bool)], ids=["int", "hot", "bool"])
def test_a_model_that_draws_y_says_which_labels_there_are(y):
    found = pvae.classify(joint, guide, (X, y), num_samples=5, progress=False)
    assert len(found.labels) == 3
    np.testing.assert_allclose(found.log_px_given_y, EXACT, atol=1e-4)
    np.testing.assert_allclose(found.log_px, EXACT.logsumexp(1), atol=1e-4)


def test_foreign_data_of_a_label_that_does_not_occur_have_their_own_density():
    there = X[X > 1.0] + 1
    asked = [Rejection(foreign={"two": there}, num_samples=5)]
    options = {"num_samples": 5, "progress": False}
    found = pvae.evaluate(joint, guide, (X, Y), estimators=asked, **options)
    exact = (SHARES.log() + dist.Normal(MEANS, math.sqrt(2)).log_prob(there[:, None])).logsumexp(1)
    scores = found.findings["rejection"].foreign[:, 0]
    np.testing.assert_allclose(np.sort(scores), exact.sort().values, atol=1e-4)


def test_what_a_model_that_draws_y_does_not_need_is_refused():
    options = {"num_samples": 5, "progress": False}
    with pytest.raises(PvaeError, match=r"joint draws y itself and has its own p\(y\): leave"):
        pvae.classify(joint, guide, (X, Y), prior=[0.2, 0.3, 0.5], **options)
    with pytest.raises(PvaeError, match="num_classes=2: joint draws y from 3 labels"):
        pvae.classify(joint, guide, X, num_classes=2, **options)

    def counts(x, y):
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Poisson(torch.ones(len(x))), obs=y)
            noisy(x, y.float())

    with pytest.raises(PvaeError, match=r"its labels cannot be counted: .* finite support"):
        pvae.classify(counts, guide, (X, Y), **options)


def test_several_attributes_are_no_one_hot_label():
    both = torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]]).repeat(15, 1)

    def attributes(x, y):
        with pyro.plate("data", len(x)):
            noisy(x, y.float().sum(-1))

    with pytest.raises(PvaeError, match=r"one-hot \[N, C\] with a single 1 in each row"):
        pvae.classify(attributes, as_the_prior, (X, both), num_samples=5, progress=False)


def test_unknown_rows_of_one_hot_labels_may_stand_first():
    y = one_hot(Y)
    y[:3] = -1
    asked = [BayesRule(num_samples=5, prior=[0.5, 0.5])]
    options = {"num_samples": 5, "progress": False}
    found = pvae.evaluate(given, guide, (X, y), estimators=asked, **options)
    assert found.findings["bayes_rule"].datum.tolist() == list(range(3, 60))


def test_without_a_known_label_a_given_one_is_not_known_to_exist():
    with pytest.raises(PvaeError, match="no label is known"):
        pvae.classify(given, guide, (X, torch.full_like(Y, -1)), num_samples=5, progress=False)


def test_labels_of_which_as_many_were_chosen_say_nothing_about_their_shares():
    kept = torch.full((60,), -1)
    kept[:4], kept[-4:] = 0, 1
    parts = {
        "x_train": X.numpy(),
        "y_train": kept.numpy(),
        "x_test": X.numpy(),
        "y_test": Y.numpy(),
    }
    data = pvae.data.load(parts, labels=True, observation="as_given")
    options = {"num_samples": 5, "progress": False, "estimators": [BayesRule(num_samples=5)]}
    with pytest.warns(UserWarning, match="as equal for all 2 labels, because the 8 known"):
        pvae.evaluate(given, guide, data, **options)


def test_a_datum_that_no_label_allows_is_wrong_and_the_others_keep_their_numbers():
    no = -math.inf
    logits = torch.tensor([[0.0, no, no], [no, 0.0, no]])

    def never_two(x, y):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
            pyro.sample("x", dist.Categorical(logits=z[..., None] + logits[y]), obs=x)

    x, y = torch.tensor([0, 1, 2, 2]), torch.tensor([0, 1, 0, 1])
    options = {"num_samples": 5, "progress": False, "estimators": [BayesRule(num_samples=5)]}

    with pytest.warns(UserWarning, match="2 data are impossible under every label"):
        found = pvae.evaluate(never_two, as_the_prior, (x, y), **options).findings["bayes_rule"]
    assert found.wrong.tolist() == [0, 0, 1, 1]
    assert found.nll.tolist() == [0, 0, math.inf, math.inf]
    assert found.uncertain.tolist()[:2] == [0, 0]
    with pytest.warns(UserWarning, match="2 data are impossible under every label"):
        pvae.classify(never_two, as_the_prior, (x, y), num_samples=5, progress=False)


def test_one_sample_decides_nothing():
    asked = [BayesRule(num_samples=1, prior=[0.5, 0.5])]
    options = {"num_samples": 5, "progress": False}
    found = pvae.evaluate(given, guide, (X, Y), estimators=asked, **options)
    assert found.findings["bayes_rule"].uncertain.all()
