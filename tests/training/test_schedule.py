"""Schedules by class: a scheduler of torch's in fit, its numbers, resuming, and wrong ones."""

import functools

import pytest
import torch
from pyro.optim import Adam
from small import quick_fit, same_state, small_pair, state_of
from torch.optim.lr_scheduler import ExponentialLR, ReduceLROnPlateau, StepLR

from pvae import PvaeError

X = torch.randint(0, 2, (32, 1, 8, 8), generator=torch.Generator().manual_seed(0)).float()
STEPS = functools.partial(StepLR, step_size=2, gamma=0.1)


@pytest.mark.parametrize(
    "optim", [None, torch.optim.SGD, Adam({"lr": 0.01})], ids=["Adam", "SGD", "Pyro"]
)
def test_a_class_of_torchs_sets_the_rate_of_each_epoch(optim):
    found = quick_fit(small_pair(), X, optim=optim, lr=0.01, schedule=STEPS, epochs=5)
    rates = [row["learning_rate"] for row in found.history]
    assert rates == pytest.approx([0.01, 0.01, 0.001, 0.001, 0.0001])


def test_reducing_on_a_plateau_sees_the_bound():
    how = {"patience": 0, "threshold": 1e6, "threshold_mode": "abs"}  # no epoch is so much better
    plateau = functools.partial(ReduceLROnPlateau, **how)
    found = quick_fit(small_pair(), X, lr=0.01, schedule=plateau, epochs=3)
    assert [r["learning_rate"] for r in found.history] == pytest.approx([0.01, 0.01, 0.001])


def test_a_resumed_run_continues_the_schedule(tmp_path):
    whole, resumed = small_pair(), small_pair()
    how = {"schedule": STEPS, "lr": 0.01}
    expected = quick_fit(whole, X, epochs=4, **how)
    quick_fit(small_pair(), X, epochs=3, out=tmp_path, **how)
    with pytest.warns(UserWarning, match="continues to 4"):
        found = quick_fit(resumed, X, epochs=4, out=tmp_path, resume=True, **how)
    assert found.history == expected.history
    assert same_state(state_of(whole), state_of(resumed))
    other = functools.partial(ExponentialLR, gamma=0.5)
    with pytest.raises(PvaeError, match="schedule 'StepLR' → 'ExponentialLR'"):
        quick_fit(small_pair(), X, epochs=4, out=tmp_path, resume=True, lr=0.01, schedule=other)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            {"schedule": StepLR},
            r"StepLR cannot be made .*functools\.partial\(StepLR, step_size=…\)",
        ),
        (
            {"schedule": StepLR(torch.optim.SGD([torch.zeros(1)]), 2)},
            r"schedule=StepLR\(…\) has an optimiser already",
        ),
        (
            {
                "optim": lambda p: ExponentialLR(torch.optim.SGD(p, 0.1), 0.9),
                "schedule": STEPS,
            },
            "has its own learning-rate schedule",
        ),
    ],
    ids=["options", "object", "two"],
)
def test_a_wrong_schedule_is_said(options, said):
    with pytest.raises(PvaeError, match=said):
        quick_fit(small_pair(), X, **options)
