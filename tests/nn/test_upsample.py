"""Upsample: without gradients, the values of PyTorch's transposed convolution."""

import pytest
import torch
import torch.nn.functional as F

from pvae.nn.upsample import Upsample


@pytest.mark.parametrize("channels", [1, 3, 4, 7])
@pytest.mark.parametrize("odd", [(0, 0), (1, 0), (0, 1), (1, 1)])
@pytest.mark.parametrize("size", [(1, 1), (4, 5)])
def test_it_is_the_transposed_convolution(channels, odd, size):
    torch.manual_seed(0)
    layer, x = Upsample(6, channels, odd), torch.randn(3, 6, *size)
    expected = F.conv_transpose2d(x, layer.weight, layer.bias, 2, 1, odd)
    trained = layer(x)
    with torch.no_grad():
        found = layer(x)
    assert found.shape == (3, channels, 2 * size[0] + odd[0], 2 * size[1] + odd[1])
    assert torch.equal(trained, expected)
    torch.testing.assert_close(found, expected.detach(), rtol=1e-5, atol=1e-6)


def test_double_precision_and_gradients_are_pytorchs():
    layer, x = Upsample(6, 1).double(), torch.randn(3, 6, 4, 4, dtype=torch.float64)
    with torch.no_grad():
        assert torch.equal(layer(x), F.conv_transpose2d(x, layer.weight, layer.bias, 2, 1))


def test_other_calls_are_pytorchs():
    layer, x = Upsample(6, 1), torch.randn(2, 3, 6, 4, 5)
    expected = F.conv_transpose2d(x[0], layer.weight, layer.bias, 2, 1)
    with torch.no_grad():
        assert torch.equal(layer(x[0, 0]), expected[0])
        assert torch.equal(torch.func.vmap(layer)(x)[0], expected)
        assert layer(x[0], output_size=[9, 11]).shape == (3, 1, 9, 11)
        layer.bias = None
        assert torch.equal(layer(x[0]), F.conv_transpose2d(x[0], layer.weight, None, 2, 1))


def test_few_channels_take_the_other_way(monkeypatch):
    called = []
    monkeypatch.setattr(F, "conv_transpose2d", lambda *args: called.append(args))
    with torch.no_grad():
        assert Upsample(6, 4)(torch.zeros(1, 6, 4, 4)).shape == (1, 4, 8, 8)
        assert not called
        Upsample(6, 5)(torch.zeros(1, 6, 4, 4))
    (((x, *_),),) = (called,)
    assert x.is_contiguous(memory_format=torch.channels_last)
