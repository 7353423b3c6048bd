"""observe(): the distribution of each observation, and reproducible draws."""

import math

import pytest
import torch

from pvae.data.observation import draw, observe, stream


@pytest.mark.parametrize("levels", [17, 256])
@pytest.mark.parametrize("observation", ["dynamic", "fixed"])
def test_binarisation_has_the_right_mean_at_every_level(observation, levels):
    n = 20_000
    raw = torch.arange(levels, dtype=torch.uint8).repeat(n, 1)
    x = observe(raw, observation, levels, torch.Generator().manual_seed(0))
    assert set(x.unique().tolist()) == {0.0, 1.0}
    p = torch.arange(levels) / (levels - 1)
    z = (x.mean(0) - p)[1:-1] / (p * (1 - p) / n).sqrt()[1:-1]
    assert z.abs().max() < 4.5
    assert abs(float(z.square().mean()) - 1) < 4 * math.sqrt(2 / len(z))
    assert x[:, 0].sum() == 0
    assert x[:, -1].sum() == n


def test_binarisation_of_floats():
    raw = torch.tensor([0.0, 0.3, 1.0]).repeat(20_000, 1)
    x = observe(raw, "dynamic", None, torch.Generator().manual_seed(0))
    assert x[:, 0].sum() == 0
    assert x[:, 2].mean() == 1
    assert abs(float(x[:, 1].mean()) - 0.3) < 0.015


def test_threshold_takes_a_half_as_zero():
    raw = torch.tensor([0, 7, 8, 9, 16], dtype=torch.uint8)
    assert observe(raw, "threshold", 17).tolist() == [0, 0, 0, 1, 1]
    raw = torch.tensor([0, 127, 128, 255], dtype=torch.uint8)
    assert observe(raw, "threshold", 256).tolist() == [0, 0, 1, 1]
    assert observe(torch.tensor([0.5, 0.51]), "threshold", None).tolist() == [0, 1]
    assert observe(torch.tensor([0, 1], dtype=torch.uint8), "threshold", 2).tolist() == [0, 1]


def test_grey_is_p_and_floats_are_as_they_are():
    raw = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(observe(raw, "grey", 256), torch.arange(256) / 255)
    assert torch.equal(observe(raw[:17], "grey", 17), torch.arange(17) / 16)
    floats = torch.tensor([-3.0, 0.25])
    assert torch.equal(observe(floats, "grey", None), floats)


@pytest.mark.parametrize("levels", [2, 17, 256])
def test_dequantised_values_stay_in_their_bin_and_fill_it(levels):
    raw = torch.arange(levels, dtype=torch.uint8).repeat(200_000 // levels, 1)
    x = observe(raw, "dequantize", levels, torch.Generator().manual_seed(0))
    u = x.double() * levels - raw
    assert x.max() < 1
    assert u.min() > -1e-5
    assert u.max() < 1
    assert abs(float(u.mean()) - 0.5) < 0.005
    assert abs(float(u.var()) - 1 / 12) < 0.002


def test_dequantised_white_is_below_one(monkeypatch):
    nearly_one = lambda *shape, **_: torch.full(*shape, 1 - 2**-24)  # noqa: E731
    monkeypatch.setattr(torch, "rand", nearly_one)
    for levels in (2, 17, 256):
        raw = torch.full((4,), levels - 1, dtype=torch.uint8)
        assert observe(raw, "dequantize", levels).max() < 1


def test_observing_leaves_the_stored_values_alone():
    raw, floats = torch.arange(16, dtype=torch.uint8), torch.rand(16)
    kept = floats.clone()
    for how in ("dynamic", "fixed", "threshold", "grey"):
        observe(raw, how, 17)
        observe(floats, how, None)
    observe(raw, "dequantize", 17)
    assert torch.equal(raw, torch.arange(16, dtype=torch.uint8))
    assert torch.equal(floats, kept)


def test_draw_is_stored_small_and_follows_its_stream(monkeypatch):
    raw = torch.randint(0, 256, (50, 1, 4, 4), dtype=torch.uint8)
    x = draw(raw, "dynamic", 256, stream(0, "test"))
    assert x.dtype == torch.uint8
    assert torch.equal(x, draw(raw, "dynamic", 256, stream(0, "test")))
    assert not torch.equal(x, draw(raw, "dynamic", 256, stream(0, "validation")))
    assert not torch.equal(x, draw(raw, "dynamic", 256, stream(-1, "test")))
    assert draw(raw, "dequantize", 256, stream(0, "test")).dtype == torch.float32
    monkeypatch.setattr("pvae.data.observation._SLAB", 100)
    assert torch.equal(x, draw(raw, "dynamic", 256, stream(0, "test")))
