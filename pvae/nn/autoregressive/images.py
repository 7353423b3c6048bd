"""What autoregressive networks of images share: groups of colours, and masked convolutions."""

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pvae.errors import PvaeError
from pvae.nn.autoregressive.inputs import Values, context_layer
from pvae.nn.autoregressive.ordered import Ordered

__all__ = ["Cache", "Images", "Masked", "Point", "added", "at", "at_row", "pixels", "rows"]


class Images(Ordered):
    """A network of images that draws row by row and pixel by pixel.

    Where f has the channels of x, each channel of a pixel is a step, and the features of a layer
    fall into one group for each channel: those of a channel see the pixel's channels before it.
    Where f holds the parameters of pixels, each pixel is one step, and there is one group.

    Args:
        event_shape: (C, H, W), or (H, W) as maps of codes are.
        out_shape: Shape of f, a head's `out_shape`. None for `event_shape`.
        context_shape: A vector (D,) or a map (D, H, W). None for no context.
        num_values: V, if x holds integers 0 … V − 1, which enter through an embedding.

    Raises:
        PvaeError: If x is no image, or a shape does not fit.
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        out_shape: Sequence[int] | None = None,
        context_shape: Sequence[int] | None = None,
        num_values: int | None = None,
    ) -> None:
        super().__init__(event_shape, out_shape, context_shape, num_values)
        event = self.event_shape
        if len(event) not in (2, 3):
            raise PvaeError(
                f"event_shape={event}: this network takes images (channels, height, width) or "
                "maps (height, width). Choose MADE or a network of sequences."
            )
        if len(self.context_shape or ()) == 3 and self.context_shape[1:] != event[-2:]:
            raise PvaeError(
                f"context_shape={self.context_shape}: a map must have the image's height and "
                f"width {event[-2:]}."
            )
        self.colours = event[0] if len(event) == 3 else 1
        self.height, self.width = event[-2:]
        self.groups = 1 if self.steps.jointly else self.colours
        self.values = Values(num_values)
        self.in_channels = self.colours * self.values.features
        self.out_channels = math.prod(self.out_shape) // (self.height * self.width)

    def features_of(self, x: Tensor) -> Tensor:
        """Returns x [N, *event_shape] as features [N, in_channels, H, W]."""
        y = self.values(x.reshape(len(x), self.colours, self.height, self.width))
        return y.movedim(-1, 2).flatten(1, 2)

    def of_features(self, y: Tensor) -> Tensor:
        """Returns f [N, *out_shape] for features [N, out_channels, H, W], grouped by colour."""
        if self.groups > 1:
            y = y.unflatten(1, (self.groups, -1)).transpose(1, 2)
        return y.reshape(len(y), *self.out_shape)

    def stepper(self, x: Tensor, context: Tensor | None = None) -> Callable[[int], Tensor]:
        see, column = self.incremental(len(x), context)
        whole = x.view(len(x), self.colours, self.height, self.width)

        def look(pixel: int) -> tuple[int, int]:
            i, j = divmod(pixel, self.width)
            see(i, j, self.values(whole[:, :, i, j]).flatten(1))
            return i, j

        def step(t: int) -> Tensor:
            pixel, group = divmod(t, self.groups)
            if pixel and not group:
                look(pixel - 1)
            # Channels of this pixel that are not drawn yet meet weights of zero.
            y = column(*look(pixel))
            if self.groups > 1:
                y = y.unflatten(1, (self.groups, -1))[:, group]
            return y.reshape(len(x), *self.steps.lead, 1)

        return step

    def incremental(
        self, num: int, context: Tensor | None
    ) -> tuple[Callable[[int, int, Tensor], None], Callable[[int, int], Tensor]]:
        """Starts a pass that goes pixel by pixel.

        Args:
            num: N.
            context: [N, *context_shape].

        Returns:
            A function that takes row, column and the features of x there, [N, in_channels]; and
            one that returns the output features of a pixel, [N, out_channels], once the pixels
            before it and itself were given. They are called in the order of the pixels, the
            second for each channel of a pixel again.
        """
        raise NotImplementedError

    def _contexts(self, num_layers: int, features: int) -> nn.ModuleList:
        layers = (context_layer(self.context_shape, features) for _ in range(num_layers))
        return nn.ModuleList(layer for layer in layers if layer is not None)

    def _odd(self, size: int, name: str = "kernel_size") -> int:
        """Returns how far a kernel reaches to each side."""
        if size < 1 or size % 2 == 0:
            raise PvaeError(f"{name}={size}: it must be an odd number, such as 3, 5 or 7.")
        return size // 2

    def _multiple_of(self, channels: int, halves: int = 1) -> None:
        if channels < 1 or channels % (halves * self.groups):
            raise PvaeError(
                f"channels={channels}: the features of a layer fall into {self.groups} groups, one "
                "for each channel of x that is a step. Choose a multiple of "
                f"{halves * self.groups}."
            )


class Masked(nn.Module):
    """A convolution over a pixel, pixels before it in its row, and rows above it.

    Args:
        mask: Which weights are not zero, [out, in, a + 1, l + 1 + r], for a rows above, l pixels to
            the left and r to the right. The current pixel is [..., a, l].
        left: l.
        bias: Whether it has a bias.
    """

    def __init__(self, mask: Tensor, left: int, *, bias: bool = True) -> None:
        super().__init__()
        rows, columns = mask.shape[2:]
        self.padding = (left, columns - 1 - left, rows - 1, 0)
        bound = 1 / math.sqrt(max(1.0, mask.flatten(1).sum(1).double().mean().item()))
        # Outputs as large as inputs (LeCun 1998): with PyTorch's own, gates shrink them layer by
        # layer, and a Gated PixelCNN of four layers on MNIST was 3.5 nats behind after 450 steps.
        unit = math.sqrt(3) * bound
        self.weight = nn.Parameter(torch.empty(mask.shape).uniform_(-unit, unit))
        self.bias = nn.Parameter(torch.empty(len(mask)).uniform_(-bound, bound)) if bias else None
        self.register_buffer("mask", None if mask.all() else mask.float(), persistent=False)

    def kernel(self) -> Tensor:
        """Returns the weights, [out, in, a + 1, l + 1 + r]."""
        return self.weight if self.mask is None else self.weight * self.mask

    def forward(self, x: Tensor) -> Tensor:
        x = F.pad(x, self.padding) if any(self.padding) else x
        return F.conv2d(x, self.kernel(), self.bias)


class Cache:
    """Applies a `Masked` convolution to an image of which pixels or rows become known in turn.

    Args:
        conv: The convolution.
        num: N.
        height: H.
        width: W.
    """

    def __init__(self, conv: Masked, num: int, height: int, width: int) -> None:
        left, right, above, _ = conv.padding
        self.kernel, self.bias = conv.kernel(), conv.bias
        self.matrix, self.left, self.above = self.kernel.flatten(1), left, above
        shape = num, conv.weight.shape[1], above + height, left + width + right
        self.image = self.kernel.new_zeros(shape)

    def put(self, i: int, j: int, features: Tensor) -> None:
        """Sets the features [N, in] of a pixel."""
        self.image[:, :, self.above + i, self.left + j] = features

    def put_row(self, i: int, features: Tensor) -> None:
        """Sets the features [N, in, W] of a row."""
        self.image[:, :, self.above + i, self.left : self.left + features.shape[-1]] = features

    def pixel(self, i: int, j: int) -> Tensor:
        """Returns the output [N, out] at a pixel."""
        rows, columns = self.kernel.shape[2:]
        patch = self.image[:, :, i : i + rows, j : j + columns]
        return F.linear(patch.flatten(1), self.matrix, self.bias)

    def row(self, i: int) -> Tensor:
        """Returns the output [N, out, W] at a row."""
        rows = self.image[:, :, i : i + self.kernel.shape[2]]
        return F.conv2d(rows, self.kernel, self.bias)[:, :, 0]


class Point:
    """A 1×1 convolution applied to features [..., in] of single pixels."""

    def __init__(self, conv: Masked | nn.Conv2d) -> None:
        weight = conv.kernel() if isinstance(conv, Masked) else conv.weight
        self.matrix, self.bias = weight.flatten(1), conv.bias

    def __call__(self, features: Tensor) -> Tensor:
        return F.linear(features, self.matrix, self.bias)


def pixels(
    sizes: tuple[int, int],
    taps: tuple[int, int, int],
    groups: int,
    *,
    strict: bool,
    halves: int = 1,
) -> Tensor:
    """Returns the mask of a convolution over rows above and pixels to the left.

    Args:
        sizes: Features out and in, each in groups of the same size.
        taps: Rows above; pixels to the left; and pixels to the right in the rows above.
        groups: Number of groups.
        strict: Whether a group sees, of the current pixel, the groups before it alone (mask A), or
            itself too (mask B).
        halves: How many times the groups repeat in the output features.

    Returns:
        Booleans [out, in, above + 1, left + 1 + right].
    """
    above, left, right = taps
    mask = torch.ones(*sizes, above + 1, left + 1 + right, dtype=torch.bool)
    mask[:, :, above, left + 1 :] = False
    size = sizes[0] // halves
    of_out = (torch.arange(size) * groups // size).repeat(halves)[:, None]
    of_in = torch.arange(sizes[1]) * groups // sizes[1]
    mask[:, :, above, left] = of_in < of_out if strict else of_in <= of_out
    return mask


def rows(sizes: tuple[int, int], above: int, side: int, *, strict: bool) -> Tensor:
    """Returns the mask of a convolution over rows above and, unless strict, the current row."""
    mask = torch.ones(*sizes, above + 1, 2 * side + 1, dtype=torch.bool)
    mask[:, :, above] = not strict
    return mask


def at(context: Tensor | float, i: int, j: int) -> Tensor | float:
    """Returns the part of a context [N, features, 1 or H, 1 or W] at a pixel."""
    if isinstance(context, float):
        return context
    return context[:, :, min(i, context.shape[2] - 1), min(j, context.shape[3] - 1)]


def at_row(context: Tensor | float, i: int) -> Tensor | float:
    """Returns the part of a context [N, features, 1 or H, 1 or W] at a row."""
    return context if isinstance(context, float) else context[:, :, min(i, context.shape[2] - 1)]


def added(layers: nn.ModuleList, context: Tensor | None, num: int) -> list[Tensor | float]:
    """Returns what a context adds in each of some layers, zeros without one."""
    return [0.0] * num if context is None else [layer(context) for layer in layers]
