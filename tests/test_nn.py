"""Networks: every dimension left of the event is batch, and every image shape from 8×8 up."""

import pytest
import torch

from pvae import PvaeError
from pvae.nn import MLP, ConvDecoder, ConvEncoder

SHAPES = [(1, 8, 8), (3, 9, 13), (1, 28, 28), (3, 32, 32), (2, 64, 31)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("make", [MLP, ConvEncoder])
def test_encoders(shape, make):
    net = make(shape, (2, 5))
    x = torch.randn(4, 3, *shape)
    y = net(x)
    assert y.shape == (4, 3, 2, 5)
    torch.testing.assert_close(y[2, 1], net(x[2, 1]))
    torch.testing.assert_close(y[2], net(x[2]))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("make", [MLP, ConvDecoder])
def test_decoders(shape, make):
    net = make((5,), shape)
    z = torch.randn(4, 3, 5)
    y = net(z)
    assert y.shape == (4, 3, *shape)
    torch.testing.assert_close(y[2, 1], net(z[2, 1]))


def test_wrong_shapes_are_said():
    with pytest.raises(PvaeError, match=r"events of shape \(1, 8, 8\).*\(4, 64\)"):
        MLP((1, 8, 8), (2,))(torch.zeros(4, 64))
    with pytest.raises(PvaeError, match="at least 4×4"):
        ConvEncoder((1, 2, 2), (2,))
    with pytest.raises(PvaeError, match=r"not \(64,\).*dense"):
        ConvDecoder((2,), (64,))


def test_depth_of_an_mlp():
    assert len(MLP((4,), (2,), [8, 8, 8]).layers) == 7
    assert len(MLP((4,), (2,), []).layers) == 1
