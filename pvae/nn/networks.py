"""Encoders and decoders that treat every dimension left of the event as batch."""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from pvae.errors import PvaeError
from pvae.nn.upsample import Upsample

__all__ = [
    "MLP",
    "ConvDecoder",
    "ConvEncoder",
    "batch_shape",
    "make_decoder",
    "make_encoder",
    "pyramid",
]

_ACTIVATIONS = {"relu": nn.ReLU, "tanh": nn.Tanh}


class MLP(nn.Module):
    r"""A dense network from an event of any shape to one of any shape.

    .. math:: h_0 = \mathrm{vec}(x), \quad h_l = \sigma(W_l h_{l-1} + b_l), \quad
        y = W_L h_{L-1} + b_L

    Args:
        in_shape: Event shape of the input.
        out_shape: Event shape of the output.
        hidden_dims: Widths of the hidden layers.
        activation: `"relu"`, `"tanh"`, or a function that makes the nonlinearity of a layer.

    Shape:
        [..., *in_shape] to [..., *out_shape].

    Raises:
        PvaeError: If a size or the activation is not valid.

    Example:
        >>> import torch
        >>> MLP((1, 8, 8), (20,), [400])(torch.zeros(5, 3, 1, 8, 8)).shape
        torch.Size([5, 3, 20])
    """

    def __init__(
        self,
        in_shape: Sequence[int],
        out_shape: Sequence[int],
        hidden_dims: Sequence[int] = (400,),
        activation: Literal["relu", "tanh"] | Callable[[], nn.Module] = "relu",
    ) -> None:
        super().__init__()
        if isinstance(activation, str):
            if activation not in _ACTIVATIONS:
                raise PvaeError(f"activation={activation!r} is not valid: give 'relu' or 'tanh'.")
            activation = _ACTIVATIONS[activation]
        self.in_shape, self.out_shape = tuple(in_shape), tuple(out_shape)
        sizes = [math.prod(in_shape), *hidden_dims, math.prod(out_shape)]
        if min(sizes) < 1:
            raise PvaeError(
                f"A dense network from {self.in_shape} to {self.out_shape} with "
                f"hidden_dims={tuple(hidden_dims)} has a layer without units: every size must be "
                "at least 1."
            )
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(sizes):
            layers += [nn.Linear(before, after), activation()]
        self.layers = nn.Sequential(*layers[:-1])

    def forward(self, x: Tensor) -> Tensor:
        batch = batch_shape(x, self.in_shape)
        return self.layers(x.reshape(*batch, -1)).reshape(*batch, *self.out_shape)

    @torch.no_grad()
    def set_bias(self, value: Tensor) -> None:
        """Sets the first entries of the last layer's bias."""
        bias = self.layers[-1].bias
        bias[: value.numel()] = value.flatten().to(bias)


class ConvEncoder(nn.Module):
    """Strided convolutions, each halving height and width, then a linear layer.

    Args:
        in_shape: Event shape (C, H, W) of the images, at least 8×8.
        out_shape: Event shape of the output.
        channels: Channels after each convolution (kernel 4, stride 2, padding 1).

    Shape:
        [..., C, H, W] to [..., *out_shape].

    Source: Radford et al. 2016, *Deep Convolutional GANs*, strides in place of pooling
    (arXiv:1511.06434).

    Example:
        >>> import torch
        >>> ConvEncoder((3, 32, 32), (2, 20))(torch.zeros(5, 3, 32, 32)).shape
        torch.Size([5, 2, 20])
    """

    def __init__(
        self,
        in_shape: Sequence[int],
        out_shape: Sequence[int],
        channels: Sequence[int] = (32, 64),
    ) -> None:
        super().__init__()
        self.in_shape, self.out_shape = tuple(in_shape), tuple(out_shape)
        sizes = pyramid(self.in_shape, channels)
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise([in_shape[0], *channels]):
            layers += [nn.Conv2d(before, after, 4, stride=2, padding=1), nn.ReLU()]
        flat = channels[-1] * math.prod(sizes[-1])
        self.layers = nn.Sequential(
            *layers, nn.Flatten(), nn.Linear(flat, math.prod(self.out_shape))
        )

    def forward(self, x: Tensor) -> Tensor:
        batch = batch_shape(x, self.in_shape)
        y = self.layers(x.reshape(-1, *self.in_shape))
        return y.reshape(*batch, *self.out_shape)


class ConvDecoder(nn.Module):
    """A linear layer, then transposed convolutions, each doubling height and width.

    The mirror of `ConvEncoder`; height and width need not be powers of two.

    Args:
        in_shape: Event shape of the input.
        out_shape: Event shape of the output, (C, H, W) or (K, C, H, W), at least 8×8. K and C
            together are channels.
        channels: Channels before each transposed convolution (kernel 4, stride 2, padding 1).

    Shape:
        [..., *in_shape] to [..., *out_shape].

    Example:
        >>> import torch
        >>> ConvDecoder((20,), (1, 28, 28))(torch.zeros(7, 5, 20)).shape
        torch.Size([7, 5, 1, 28, 28])
    """

    def __init__(
        self,
        in_shape: Sequence[int],
        out_shape: Sequence[int],
        channels: Sequence[int] = (64, 32),
    ) -> None:
        super().__init__()
        self.in_shape, self.out_shape = tuple(in_shape), tuple(out_shape)
        flat = self.out_shape
        if len(flat) > 3:
            flat = (math.prod(flat[:-2]), *flat[-2:])
        sizes = pyramid(flat, channels)[::-1]
        small = (channels[0], *sizes[0])
        layers: list[nn.Module] = [
            nn.Linear(math.prod(in_shape), math.prod(small)),
            nn.ReLU(),
            nn.Unflatten(-1, small),
        ]
        widths = [*channels, flat[0]]
        for i, (before, after) in enumerate(itertools.pairwise(widths)):
            padding = tuple(big % 2 for big in sizes[i + 1])
            layers += [
                Upsample(before, after, padding),
                nn.ReLU(),
            ]
        self.layers = nn.Sequential(*layers[:-1])

    def forward(self, z: Tensor) -> Tensor:
        batch = batch_shape(z, self.in_shape)
        y = self.layers(z.reshape(-1, math.prod(self.in_shape)))
        return y.reshape(*batch, *self.out_shape)

    @torch.no_grad()
    def set_bias(self, value: Tensor) -> None:
        """Sets the bias of the first channels to the mean of `value` [..., H, W] over pixels."""
        bias, value = self.layers[-1].bias, value.mean((-2, -1))
        bias[: value.numel()] = value.flatten().to(bias)


def make_encoder(
    in_shape: Sequence[int],
    out_shape: Sequence[int],
    network: Literal["dense", "conv"] = "dense",
    hidden_dims: Sequence[int] = (400,),
    channels: Sequence[int] = (32, 64),
    activation: Literal["relu", "tanh"] = "relu",
) -> nn.Module:
    """Makes one of the built-in encoders, as guides use them.

    Args:
        in_shape: Shape of one datum, (C, H, W) or (D,).
        out_shape: Event shape of the output.
        network: `"dense"`, one hidden layer by default, or `"conv"`, strided convolutions.
        hidden_dims: Widths of the dense network's hidden layers.
        channels: Channels of the convolutions, from the image to the code.
        activation: Nonlinearity of the dense network.

    Returns:
        A network from [..., *in_shape] to [..., *out_shape].

    Raises:
        PvaeError: If the network or a size is not valid.

    Example:
        >>> import torch
        >>> make_encoder((1, 8, 8), (2, 20), "conv")(torch.zeros(5, 1, 8, 8)).shape
        torch.Size([5, 2, 20])
    """
    if network == "dense":
        return MLP(in_shape, out_shape, hidden_dims, activation)
    if network == "conv":
        return ConvEncoder(in_shape, out_shape, channels)
    raise PvaeError(f"network={network!r} is not valid: give 'dense' or 'conv'.")


def make_decoder(
    in_shape: Sequence[int],
    out_shape: Sequence[int],
    network: Literal["dense", "conv"] = "dense",
    hidden_dims: Sequence[int] = (400,),
    channels: Sequence[int] = (64, 32),
    activation: Literal["relu", "tanh"] = "relu",
) -> nn.Module:
    """Makes one of the built-in decoders, as models use them: the mirror of `make_encoder`.

    It takes the same arguments, with channels from the code to the image.

    Example:
        >>> import torch
        >>> make_decoder((20,), (2, 1, 8, 8), "conv")(torch.zeros(5, 20)).shape
        torch.Size([5, 2, 1, 8, 8])
    """
    if network == "dense":
        return MLP(in_shape, out_shape, hidden_dims, activation)
    if network == "conv":
        return ConvDecoder(in_shape, out_shape, channels)
    raise PvaeError(f"network={network!r} is not valid: give 'dense' or 'conv'.")


def batch_shape(x: Tensor, event_shape: tuple[int, ...]) -> torch.Size:
    """Returns the dimensions left of an event; raises a PvaeError if x has another event shape."""
    cut = x.ndim - len(event_shape)
    if cut < 0 or tuple(x.shape[cut:]) != event_shape:
        raise PvaeError(
            f"This network was built for events of shape {event_shape}; it was called with a "
            f"tensor of shape {tuple(x.shape)}, whose last dimensions differ."
        )
    return x.shape[:cut]


def pyramid(shape: tuple[int, ...], channels: Sequence[int]) -> list[tuple[int, int]]:
    """Returns height and width before each strided layer and after the last one."""
    if not channels or min(channels) < 1:
        raise PvaeError(
            f"channels={tuple(channels)}: convolutions need one layer or more, each of a positive "
            "number of channels."
        )
    depth = len(channels)
    if len(shape) != 3 or min(shape[1:]) < 2**depth:
        raise PvaeError(
            f"Convolutions need images of shape (channels, height, width) of at least "
            f"{2**depth}×{2**depth} for {depth} strided layers, not {shape}. Use the dense "
            "network for vectors, or fewer channels=(…)."
        )
    sizes = [shape[1:]]
    for _ in range(depth):
        sizes.append(tuple(size // 2 for size in sizes[-1]))
    return sizes
