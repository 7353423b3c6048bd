"""Flows: inverses, and log determinants against automatic differentiation."""

import pytest
import torch
from torch import nn

from pvae.nn.flows import SplineCoupling, affine_autoregressive, rational_quadratic

F64 = {"dtype": torch.float64}


def autoregressive(order, stable=False):
    position = torch.tensor(order).argsort()
    mask = (position[:, None] > position).double()
    weight = torch.randn(2, len(order), len(order), **F64)

    def net(x):
        loc, raw = (torch.tanh(x @ (w * mask).T) for w in weight)
        return loc, raw

    return affine_autoregressive(net, order, torch.float64, stable=stable), len(order)


def coupling(order, bins=6):
    a = len(order) // 2
    net = nn.Linear(max(a, 1), (len(order) - a) * (3 * bins - 1)).double()
    nn.init.normal_(net.bias, 0, 2.0)
    if a:
        nn.init.normal_(net.weight, 0, 2.0)
    flow = SplineCoupling(
        lambda x: net(x if a else x.new_zeros(*x.shape[:-1], 1)).unflatten(-1, (-1, 3 * bins - 1)),
        torch.tensor(order),
    )
    return flow, len(order)


FLOWS = [
    lambda: autoregressive([0, 1, 2, 3]),
    lambda: autoregressive([2, 0, 3, 1]),
    lambda: autoregressive([2, 0, 3, 1], stable=True),
    lambda: coupling([0, 1, 2, 3]),
    lambda: coupling([4, 2, 0, 3, 1]),
    lambda: coupling([0]),
]


@pytest.mark.parametrize("make", FLOWS)
def test_inverse_and_log_determinant(make):
    torch.manual_seed(0)
    flow, size = make()
    x = 3 * torch.randn(20, 3, size, **F64)
    y = flow(x)
    kept = flow.log_abs_det_jacobian(x, y)
    assert not torch.allclose(y, x)
    jacobian = torch.stack([torch.autograd.functional.jacobian(flow, v) for v in x.flatten(0, 1)])
    exact = jacobian.det().abs().log().reshape(20, 3)
    torch.testing.assert_close(kept, exact)
    torch.testing.assert_close(flow.inv(y.clone()), x)
    torch.testing.assert_close(flow.log_abs_det_jacobian(x.clone(), y), exact)
    other = flow(x + 1)  # what is kept is of the last pair only
    torch.testing.assert_close(flow.log_abs_det_jacobian(x, y), exact)
    torch.testing.assert_close(flow.inv(other.clone()), x + 1)


def test_spline_is_a_monotonic_map_of_the_box():
    torch.manual_seed(0)
    parameters = torch.randn(50, 1, 3 * 8 - 1, **F64)
    x = torch.linspace(-7, 7, 2801, **F64)
    y, log_slope = rational_quadratic(x.expand(50, -1), parameters.expand(-1, 2801, -1), bound=5.0)
    assert (y.diff() > 0).all()
    outside = x.abs() >= 5
    torch.testing.assert_close(y[:, outside], x[outside].expand(50, -1))
    assert (log_slope[:, outside] == 0).all()
    area = torch.trapezoid(log_slope.exp(), x)  # from -7 to 7
    torch.testing.assert_close(area, torch.full_like(area, 14.0), atol=0.05, rtol=0)


def test_spline_of_zeros_is_the_identity():
    x = torch.linspace(-7, 7, 101, **F64)
    for inverse in (False, True):
        y, log_slope = rational_quadratic(x, torch.zeros(101, 11, **F64), inverse=inverse)
        torch.testing.assert_close(y, x)
        torch.testing.assert_close(log_slope, torch.zeros_like(x))


def test_spline_in_single_precision_is_inverted_without_nan():
    torch.manual_seed(0)
    parameters = 8 * torch.randn(20000, 3 * 8 - 1)
    x = 2 * torch.randn(20000)
    y, log_slope = rational_quadratic(x, parameters)
    back, log_slope_back = rational_quadratic(y, parameters, inverse=True)
    assert log_slope.isfinite().all()
    assert log_slope_back.isfinite().all()
    # Where the spline is flat, y does not say what x was; where it is steep, it does.
    error = (back - x).abs() * log_slope.exp().clamp(max=1)
    assert error.max() < 1e-3
