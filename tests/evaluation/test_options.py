"""Options of evaluate(): those that make no sense are refused in words, the others are taken."""

import math
import re

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from asking import evaluate
from programs import linear_gaussian
from pyro.infer.autoguide import AutoNormal

import pvae
from pvae import Evaluation, PvaeError


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"strategy": "nonsense"}, "strategy='nonsense'.*plate.*tile.*loop"),
        ({"memory": math.nan}, "memory=nan"),
        ({"memory": math.inf}, "memory=inf"),
        ({"memory": -1}, "memory=-1"),
        ({"memory": "big"}, "memory='big'"),
        ({"memory": True}, "memory=True"),
        ({"num_samples": 10.5}, r"num_samples=10\.5 is not valid: give a whole number"),
        (
            {"num_samples": [1, 5.5]},
            r"num_samples=5\.5 .*K must be at least 1",
        ),
        ({"num_samples": "10"}, "num_samples='10' is not valid: give a whole number"),
        ({"ais": 2.5}, r"ais=2\.5 is not valid: give a whole number"),
        (
            {"num_temperatures": 0},
            "num_temperatures=0 is not valid: give a whole number, at least 1",
        ),
        ({"num_chains": 4.0}, r"num_chains=4\.0 is not valid: give a whole number"),
        ({"prior_samples": -1}, "prior_samples=-1 is not valid: give a whole number, at least 0"),
        ({"seed": -1}, "seed=-1 is not valid: give an integer"),
        ({"seed": 2**32}, "seed=4294967296 is not valid: give an integer"),
        ({"seed": 0.5}, r"seed=0\.5 is not valid: give an integer"),
        ({"plate": "time"}, "plate='time' is not a plate of .* data in this pair"),
    ],
)
def test_what_makes_no_sense_is_refused_in_words(options, said):
    model, guide, x, _ = linear_gaussian()
    with pytest.raises(PvaeError, match=said):
        evaluate(model, guide, x, **({"num_samples": 2} | options), progress=False)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"ais": 3}, "no argument 'ais'.*list the estimators .*=[estimators.AIS(3)]"),
        ({"ais": 3, "num_chains": 4}, "estimators=[estimators.AIS(3, num_chains=4)]"),
        ({"gap": 50}, "no argument 'gap'.*estimators=[estimators.Gap(50)]"),
        ({"prior_samples": 7}, "estimators=[estimators.NaiveMonteCarlo(num_samples=7)]"),
        ({"surgery": False}, "no argument 'surgery'.*option of the shell"),
        ({"num_temperatures": 9}, "no argument 'num_temperatures'.*option of the shell"),
        ({"num_sample": 5}, "no argument 'num_sample'. Did you mean num_samples?"),
        ({"estimator": []}, "no argument 'estimator'. Did you mean estimators?"),
    ],
)
def test_options_of_the_shell_and_misspelt_ones_say_what_to_write(options, said):
    pattern = ".*".join(map(re.escape, said.split(".*")))
    for guide in (pvae.guides.MeanField((1, 8, 8)), AutoNormal(pvae.models.VAE((1, 8, 8)))):
        with pytest.raises(PvaeError, match=pattern):
            pvae.evaluate(pvae.models.VAE((1, 8, 8)), guide, torch.zeros(4, 1, 8, 8), **options)


def test_an_argument_that_the_programs_take_is_theirs():
    model, guide, x, _ = linear_gaussian()

    def with_gap(x, gap):
        return model(x + gap)

    options = {"num_samples": 2, "prior_samples": 0, "progress": False}
    found = pvae.evaluate(
        with_gap, lambda x, gap: guide(x + gap), x[:4] - 1, gap=1.0, num_samples=2, progress=False
    )
    np.testing.assert_allclose(found.log_px, evaluate(model, guide, x[:4], **options).log_px)


def _numpy(**options):
    return {name: np.int64(value) for name, value in options.items()}


@pytest.mark.parametrize(
    "options",
    [
        _numpy(num_samples=10),
        {"num_samples": list(np.array([1, 10]))},
        {"num_samples": 10, **_numpy(prior_samples=1)},
        {"num_samples": 10, **_numpy(ais=1, bdmc=1, gap=1, num_chains=2)},
    ],
    ids=["num_samples", "a list", "prior_samples", "annealing"],
)
def test_integers_of_numpy_are_integers(options, tmp_path):
    model, guide, x, _ = linear_gaussian()
    few = {"prior_samples": 0, "num_chains": 2, "num_temperatures": 1, "num_leapfrog": 1}
    options = few | options
    result = evaluate(model, guide, x[:8], **options, out=tmp_path, progress=False)
    again = Evaluation.load(tmp_path)
    assert again.num_samples == 10
    assert list(again.bounds) == list(result.bounds)
    assert again.summary() == result.summary()
    plain = {name: value for name, value in options.items() if name != "num_samples"}
    plain = {name: int(value) for name, value in plain.items()} | {"num_samples": [*again.bounds]}
    same = evaluate(model, guide, x[:8], **plain, out=tmp_path, progress=False)
    assert same.key == result.key


def test_the_plate_that_is_named_counts_the_data_and_a_loop_is_a_loop():
    """Each row's x_j ~ N(z_j, 1), z_j ~ N(0, 1): the data are the columns' plate, at dim -2."""
    calls = []

    def model(x):
        with pyro.plate("rows", 4), pyro.plate("columns", 4):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            calls.append(z.shape)
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("rows", 4), pyro.plate("columns", 4):
            pyro.sample("z", dist.Normal(0.5 * x, 0.8))

    x = torch.randn(4, 4, generator=torch.Generator().manual_seed(0))
    with pytest.raises(PvaeError, match="Say which: plate='"):
        evaluate(model, guide, x, num_samples=2, progress=False)
    result = evaluate(
        model, guide, x, num_samples=400, prior_samples=0, plate="columns", strategy="loop",
        progress=False,
    )  # fmt: skip
    assert result.strategy == "loop"
    assert set(calls) == {(4, 4)}
    exact = dist.Normal(0.0, 2**0.5).log_prob(x).sum(1).numpy()
    assert (np.abs(result.log_px - exact) < 4 * result.log_px_se).all()
    assert result.log_px_se.max() < 0.05
    # The posterior is N(x / 2, ½), and the guide's KL from it the same for all.
    kl = 4 * (0.64 - 0.5 - 0.5 * math.log(1.28))
    error = result.elbo - (exact - kl)
    assert np.abs(error).max() < 4 * result.bounds_se[1].max()
