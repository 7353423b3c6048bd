"""PixelCNN: masked convolutions."""

from collections.abc import Callable, Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from pvae.nn.autoregressive.images import Cache, Images, Masked, Point, added, at, pixels
from pvae.nn.sizes import at_least_one

__all__ = ["PixelCNN"]


class PixelCNN(Images):
    r"""Masked convolutions over the pixels above and to the left.

    A 7×7 convolution with mask A is followed by residual blocks of a 1×1, a 3×3 and a 1×1
    convolution with mask B, and two 1×1 convolutions. Pixels above and to the right of the
    receptive field's triangle stay unseen (the blind spot); `GatedPixelCNN` sees them.

    Args:
        event_shape: (C, H, W), or (H, W) as maps of codes are.
        out_shape: Shape of f, a head's `out_shape`. None for `event_shape`. With x's channels they
            are drawn in order; f of pixels (`heads.LogisticMixture`) draws them jointly.
        channels: Features between the blocks; half of them inside. A multiple of twice the
            number of x's channels that are drawn in order.
        num_blocks: Number of residual blocks.
        kernel_size: Size of the first convolution, odd.
        context_shape: A vector (D,) or a map (D, H, W). None for no context.
        num_values: V, if x holds integers 0 … V − 1, which enter through an embedding.

    Raises:
        PvaeError: If x is no image, or a size does not fit.

    Source: van den Oord et al. 2016, *Pixel Recurrent Neural Networks* (arXiv:1601.06759).

    Example:
        >>> import torch
        >>> PixelCNN((1, 28, 28), channels=8, num_blocks=2)(torch.zeros(5, 3, 1, 28, 28)).shape
        torch.Size([5, 3, 1, 28, 28])
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        out_shape: Sequence[int] | None = None,
        channels: int = 64,
        num_blocks: int = 7,
        kernel_size: int = 7,
        context_shape: Sequence[int] | None = None,
        num_values: int | None = None,
    ) -> None:
        super().__init__(event_shape, out_shape, context_shape, num_values)
        at_least_one(num_blocks=num_blocks)
        self._multiple_of(channels, halves=2)
        side = self._odd(kernel_size)
        inner, groups = channels // 2, self.groups

        def conv(into: int, out: int, side: int = 0) -> Masked:
            return Masked(pixels((out, into), (side, side, side), groups, strict=False), side)

        mask = pixels((channels, self.in_channels), (side, side, side), groups, strict=True)
        self.first = Masked(mask, side)
        self.blocks = nn.ModuleList(
            nn.ModuleList([conv(channels, inner), conv(inner, inner, 1), conv(inner, channels)])
            for _ in range(num_blocks)
        )
        self.last = nn.ModuleList([conv(channels, channels), conv(channels, self.out_channels)])
        self.contexts = self._contexts(num_blocks, inner)

    def outputs(self, x: Tensor, context: Tensor | None) -> Tensor:
        h = self.first(self.features_of(x))
        adds = added(self.contexts, context, len(self.blocks))
        for (narrow, across, widen), c in zip(self.blocks, adds, strict=True):
            y = across(F.relu(narrow(F.relu(h)))) + c
            h = h + widen(F.relu(y))
        return self.of_features(self.last[1](F.relu(self.last[0](F.relu(h)))))

    def incremental(
        self, num: int, context: Tensor | None
    ) -> tuple[Callable[[int, int, Tensor], None], Callable[[int, int], Tensor]]:
        size = num, self.height, self.width
        first, last = Cache(self.first, *size), [Point(conv) for conv in self.last]
        blocks = [(Point(a), Cache(b, *size), Point(c)) for a, b, c in self.blocks]
        adds = added(self.contexts, context, len(blocks))

        def column(i: int, j: int) -> Tensor:
            h = first.pixel(i, j)
            for (narrow, across, widen), c in zip(blocks, adds, strict=True):
                across.put(i, j, F.relu(narrow(F.relu(h))))
                h = h + widen(F.relu(across.pixel(i, j) + at(c, i, j)))
            return last[1](F.relu(last[0](F.relu(h))))

        return first.put, column
