"""Devices, and random state."""

import random

import numpy as np
import pytest
import torch

from pvae import PvaeError
from pvae.runtime.device import default_device, find_device
from pvae.runtime.seeds import own_random_state, random_state, restore_random_state


def _draw():
    return torch.rand(1).item(), random.random(), np.random.rand()


def test_random_state_goes_round():
    state = random_state()
    first = _draw()
    restore_random_state(state)
    assert first == _draw()


def test_own_random_state_seeds_and_restores():
    before = random_state()
    with own_random_state(3):
        first = _draw()
    with own_random_state(3):
        assert first == _draw()
    outside = _draw()
    restore_random_state(before)
    assert outside == _draw()


def test_devices():
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    assert find_device("auto").type == expected
    assert find_device("cpu") == torch.device("cpu")
    for wrong in ("cuda:99", "gpu", "tpu"):
        with pytest.raises(PvaeError, match="cannot be used here"):
            find_device(wrong)


def test_new_tensors_are_made_on_the_default_device():
    with default_device(torch.device("meta")):
        assert torch.zeros(2).device.type == "meta"
    assert torch.zeros(2).device.type == "cpu"
