"""Networks: every dimension left of the event is batch, and every image shape from 8×8 up."""

import pytest
import torch

from pvae import PvaeError
from pvae.nn import MLP, ConvDecoder, ConvEncoder, ScaleTril

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


@pytest.mark.parametrize("channels", [(), (0,), (4, -1)])
def test_convolutions_without_channels(channels):
    for make in (
        lambda: ConvEncoder((1, 8, 8), (2,), channels),
        lambda: ConvDecoder((2,), (1, 8, 8), channels),
    ):
        with pytest.raises(PvaeError, match=r"channels=\(.*: convolutions need one layer or more"):
            make()


def test_depth_of_an_mlp():
    assert len(MLP((4,), (2,), [8, 8, 8]).layers) == 7
    assert len(MLP((4,), (2,), []).layers) == 1


def test_a_learned_triangle_is_what_it_was_set_to():
    wanted = torch.tensor([[[2.0, 0.0], [-3.0, 0.01]], [[1.0, 0.0], [5.0, 1.0]]])
    triangle = ScaleTril(torch.eye(2).repeat(2, 1, 1))
    triangle.set(wanted)
    torch.testing.assert_close(triangle(), wanted)
    # What is above the diagonal is never part of it, whatever an optimiser did.
    triangle.below.data.fill_(7.0)
    assert (triangle()[:, 0, 1] == 0).all()
    torch.testing.assert_close(triangle().diagonal(dim1=-2, dim2=-1), wanted.diagonal(0, -2, -1))
