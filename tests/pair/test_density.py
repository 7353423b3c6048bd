"""density_of(): which fields a model observes, which it is given, and which it does not use."""

import pyro
import pyro.distributions as dist
import pytest
import torch

import pvae
from pvae import inspect
from pvae.pair import density_of

N, C = 6, 3
X, Y = torch.randn(N, 3, generator=torch.Generator().manual_seed(0)), torch.arange(N) % C


def normal(loc):
    return dist.Normal(loc.expand(-1, 3), 1).to_event(1)


def observes_y(x, y, z):
    pyro.sample("x", normal(z), obs=x)
    pyro.sample("label", dist.OneHotCategorical(torch.ones(len(x), C)), obs=torch.eye(C)[y])


def sometimes_unknown(x, y, z):
    prior = dist.Categorical(torch.ones(len(x), C))
    y = pyro.sample("y", prior, obs=y.clamp(min=0), obs_mask=y >= 0)
    pyro.sample("x", normal(z + y[:, None]), obs=x)


KINDS = {
    "p(x)": lambda x, y, z: pyro.sample("x", normal(z), obs=x),
    "p(x | y)": lambda x, y, z: pyro.sample("x", normal(z + y[:, None]), obs=x),
    "p(x, y)": observes_y,
    "p(x | y) masked": lambda x, y, z: pyro.sample(
        "x", normal(z).mask(y > 0), obs=x * (y > 0)[:, None]
    ),
    "p(x, y) of some": sometimes_unknown,
}


def pair(kind):
    def model(x, y):
        with pyro.plate("data", len(x)):
            kind(x, y, pyro.sample("z", dist.Normal(x.new_zeros(len(x), 1), 1).to_event(1)))

    def guide(x, y):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x[:, :1], 1).to_event(1))
            if kind is sometimes_unknown:
                unknown = dist.Categorical(torch.ones(len(x), C))
                with pyro.poutine.mask(mask=y < 0):
                    pyro.sample("y_unobserved", unknown)

    return model, guide


@pytest.mark.parametrize("data", ["all", "one", "one label"])
@pytest.mark.parametrize("name", KINDS)
def test_fields_are_observed_given_or_not_used(name, data):
    x, y = {"all": (X, Y), "one": (X[1:2], Y[1:2]), "one label": (X, Y * 0 + 1)}[data]
    if "some" in name and data == "all":
        y = torch.where(torch.arange(N) < 2, -1, y)
    assert density_of(inspect(*pair(KINDS[name]), x, y)) == name.partition(")")[0] + ")"


def test_labels_of_which_none_is_known_are_observed_all_the_same():
    assert density_of(inspect(*pair(sometimes_unknown), X, Y * 0 - 1)) == "p(x, y)"


def test_a_model_that_takes_only_its_own_values_is_given_them():
    def network(y):
        assert torch.equal(y, Y)
        return torch.ones(len(y), 1)

    found = inspect(*pair(lambda x, y, z: pyro.sample("x", normal(z + network(y)), obs=x)), X, Y)
    assert density_of(found, ["image", "label"]) == "p(image | label)"


def test_an_evaluation_says_its_density_and_is_compared_with_its_like():
    data = {"x": X, "y": Y}
    found = {
        name: pvae.evaluate(*pair(KINDS[name]), data, num_samples=10, estimators=[], progress=False)
        for name in ("p(x)", "p(x | y)", "p(x, y)")
    }
    for name, each in found.items():
        assert each.data.get("density", "p(x)") == name
        assert (f"log p(x) stands for log {name}." in each.table()) == (name != "p(x)")
    both = {"a": found["p(x | y)"], "b": found["p(x, y)"]}
    with pytest.raises(pvae.PvaeError, match=r"a of p\(x \| y\), b of p\(x, y\)"):
        pvae.compare(both)


def test_a_classifier_is_given_x():
    def model(x, y):
        with pyro.plate("data", len(x)):
            pyro.sample("label", dist.Categorical(logits=x), obs=y)

    found = inspect(model, pvae.guides.NoLatents(), X, Y)
    assert density_of(found) == "p(y | x)"
    assert density_of(inspect(model, pvae.guides.NoLatents(), X[:1], Y[:1])) == "p(y | x)"


def test_missing_values_are_observed_and_known_ones_given():
    sizes = {"latent_dim": 2, "hidden_dims": [4]}
    programs = pvae.models.VAEAC((4,), **sizes), pvae.guides.MaskedMeanField((4,), **sizes)
    x, mask = torch.rand(6, 4).round(), torch.rand(6, 4) < 0.5
    expected = "p(x_missing | x_known, mask)"
    assert density_of(inspect(*programs, x, mask)) == expected
    data = {"x": x, "mask": mask}
    found = pvae.evaluate(*programs, data, num_samples=5, estimators=[], progress=False)
    assert f"log p(x) stands for log {expected}." in found.table()
