"""When training stops: after the warm-up, at the best epoch; and what has no effect is said."""

import math
import warnings

import pyro
import pytest
import torch
from small import quick_fit, same_state, small_pair, state_of

import pvae
from pvae import PvaeError

X = torch.randint(0, 2, (64, 1, 8, 8), generator=torch.Generator().manual_seed(0)).float()


@pytest.fixture
def scored(monkeypatch):
    """Trains with validation ELBOs of one's own."""
    data = pvae.data.load("digits", validation=1400)

    def fit(scores, pair=None, **options):
        scores = iter(scores)
        monkeypatch.setattr("pvae.training.loop.Run._validate", lambda self: next(scores))
        options = {"epochs": 10, "batch_size": 100, **options}
        return quick_fit(pair or small_pair(), data, **options)

    return fit


FALLING = [-float(i) for i in range(10)]


@pytest.mark.parametrize(
    ("warmup", "scores", "epochs", "best"),
    [
        (0, FALLING, 4, 1),
        (5, FALLING, 8, 5),  # epoch 5 is the first that ends at β = 1
        (4.5, FALLING, 8, 5),
        (5, [9, 8, 7, 6, -5, -4, -3, -4, -5, -6], 10, 7),
        (9, FALLING, 10, 9),
        (5, [math.nan] * 10, 8, 8),
    ],
)
def test_patience_counts_after_the_warmup(scored, warmup, scores, epochs, best):
    fitted = scored(scores, patience=3, kl_warmup=warmup)
    assert (len(fitted.history), fitted.best_epoch) == (epochs, best)
    assert fitted.history[-1]["validation_elbo"] is not None


def test_the_parameters_are_those_of_the_best_epoch_after_the_warmup(scored):
    pair, shorter = small_pair(), small_pair()
    scores = [9, 8, -5, -4, -6, -7, -8, -9]
    options = {"kl_warmup": 3, "patience": 2, "schedule": "constant"}
    assert scored(scores, pair, **options).best_epoch == 4
    scored(scores, shorter, **options, epochs=4)
    assert same_state(state_of(pair), state_of(shorter))


@pytest.mark.parametrize("validation", [False, True])
def test_a_plateau_is_not_looked_for_in_the_warmup(scored, validation):
    optim = pyro.optim.ReduceLROnPlateau(
        {"optimizer": torch.optim.Adam, "optim_args": {"lr": 1e-3}, "factor": 0.1, "patience": 0,
         "threshold": 1e9, "threshold_mode": "abs"}
    )  # fmt: skip
    options = {"optim": optim, "epochs": 6, "kl_warmup": 4}
    if validation:
        rows = scored(FALLING, **options).history
    else:
        rows = quick_fit(small_pair(), X, batch_size=32, **options).history
    rates = [row["learning_rate"] for row in rows]
    assert rates == pytest.approx([1e-3] * 5 + [1e-4])


def said(**options):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fitted = quick_fit(small_pair(), options.pop("data", X), **({"batch_size": 32} | options))
    return fitted, [str(w.message) for w in caught]


def test_what_has_no_effect_is_said_once():
    assert said()[1] == []
    assert said(kl_warmup=3)[1] == []
    (text,) = said(kl_warmup=12)[1]
    assert text.startswith("kl_warmup=12 is longer than the run of 3 epochs: β ends at 0.25")
    (text,) = said(patience=5)[1]
    assert "patience=5 has no effect: without a validation part" in text
    data = pvae.data.load("digits", validation=1400)
    assert said(data=data, patience=5)[1] == []
    (text,) = said(data=data, kl_warmup=4)[1]
    assert text.endswith("and never stops early.")


def test_a_batch_larger_than_the_data_is_the_data():
    larger, whole = small_pair(), small_pair()
    with pytest.warns(
        UserWarning, match="batch_size=128 is larger than the number of training data, 64"
    ) as seen:
        quick_fit(larger, X, batch_size=128)
    assert len([w for w in seen if "batch_size" in str(w.message)]) == 1
    quick_fit(whole, X, batch_size=64)
    assert same_state(state_of(larger), state_of(whole))


@pytest.mark.parametrize("name", ["epochs", "batch_size", "patience", "num_particles"])
@pytest.mark.parametrize("value", [0, -1, 2.5, math.nan, True, "3", None])
def test_counts_are_whole_and_positive(name, value):
    with pytest.raises(PvaeError, match=f"{name}={value!r} is not valid: "):
        said(**{name: value})


@pytest.mark.parametrize("name", ["lr", "clip_norm", "kl_warmup"])
@pytest.mark.parametrize("value", [0.0, -1, math.nan, math.inf, True, "3"])
def test_rates_and_bounds_are_positive_numbers(name, value):
    if (name, value) == ("kl_warmup", 0.0):
        assert said(kl_warmup=value)[1] == []
        return
    with pytest.raises(PvaeError, match=f"{name}={value!r} is not valid: "):
        said(**{name: value})
