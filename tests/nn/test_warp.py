"""Warping: whole pixels shift, ramps are interpolated, borders stay, and gradients are right."""

import pytest
import torch

from pvae import PvaeError
from pvae.nn import warp


def constant(down, right, h, w):
    return torch.tensor([down, right]).view(2, 1, 1).expand(2, h, w)


@pytest.mark.parametrize(("down", "right"), [(0.0, 0.0), (2.0, 0.0), (-1.0, 3.0), (4.0, -5.0)])
def test_whole_pixels_shift_and_the_border_stays(down, right):
    x = torch.randn(3, 7, 9)
    rows = (torch.arange(7) + int(down)).clamp(0, 6)
    columns = (torch.arange(9) + int(right)).clamp(0, 8)
    expected = x[:, rows][:, :, columns]
    assert torch.allclose(warp(x, constant(down, right, 7, 9)), expected, atol=1e-5)


def test_parts_of_pixels_are_bilinear():
    """A function a + bi + cj + dij is its own bilinear interpolation."""
    i, j = torch.arange(6.0)[:, None], torch.arange(8.0)
    flow = torch.rand(2, 6, 8) * torch.tensor([5.0, 7.0]).view(2, 1, 1)
    flow = flow - torch.stack([i.expand(6, 8), j.expand(6, 8)])  # anywhere inside
    u, v = i + flow[0], j + flow[1]
    x = (1 + 2 * i - 3 * j + 0.5 * i * j)[None]
    assert torch.allclose(warp(x, flow)[0], 1 + 2 * u - 3 * v + 0.5 * u * v, atol=1e-4)


def test_dimensions_on_the_left_broadcast():
    x, flow = torch.randn(4, 1, 2, 5, 5), torch.randn(7, 1, 3, 2, 5, 5)
    found = warp(x, flow)
    assert found.shape == (7, 4, 3, 2, 5, 5)
    assert torch.allclose(found[6, 2, 1], warp(x[2, 0], flow[6, 0, 1]))


def test_gradients():
    x = torch.randn(2, 4, 5, dtype=torch.double, requires_grad=True)
    flow = (torch.rand(2, 4, 5, dtype=torch.double) - 0.5).requires_grad_()
    assert torch.autograd.gradcheck(warp, (x, flow))


@pytest.mark.parametrize(
    ("x", "flow"), [((1, 4, 4), (2, 4, 5)), ((1, 4, 4), (3, 4, 4)), ((1, 1, 4), (2, 1, 4))]
)
def test_shapes_that_do_not_fit(x, flow):
    with pytest.raises(PvaeError, match="does not fit images"):
        warp(torch.zeros(x), torch.zeros(flow))
