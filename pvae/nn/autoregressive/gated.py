"""Gated PixelCNN: a vertical and a horizontal stack, without a blind spot."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pvae.nn.autoregressive.images import (
    Cache,
    Images,
    Masked,
    Point,
    added,
    at,
    at_row,
    pixels,
    rows,
)
from pvae.nn.sizes import at_least_one

__all__ = ["GatedPixelCNN"]


class GatedPixelCNN(Images):
    r"""Gated convolutions in two stacks: all rows above, and the pixels to the left.

    .. math::
        \tilde v &= W_v * v + U_v c, \qquad v' = g(\tilde v), \\
        \tilde h &= W_h * h + L \tilde v + U_h c, \qquad h' = h + R \, g(\tilde h), \qquad
        g(a, b) = \tanh(a) \odot \sigma(b)

    The vertical stack v sees the rows above, and the horizontal stack h also the pixels to the
    left. Together they see every earlier pixel in reach.

    Args:
        event_shape: (C, H, W), or (H, W) as maps of codes are.
        out_shape: Shape of f, a head's `out_shape`. None for `event_shape`. With x's channels they
            are drawn in order; f of pixels (`heads.LogisticMixture`) draws them jointly.
        channels: Features of each stack; a multiple of the number of x's channels that are
            drawn in order.
        num_layers: Number of gated layers.
        kernel_size: Size of the convolutions, odd.
        context_shape: A vector (D,) or a map (D, H, W). None for no context.
        num_values: V, if x holds integers 0 … V − 1, which enter through an embedding.
        first_kernel_size: Size of the first one, odd. It is cheap where x has few channels, and
            with twice the image's width less one it sees all that came before.

    Raises:
        PvaeError: If x is no image, or a size does not fit.

    Source: van den Oord et al. 2016, *Conditional Image Generation with PixelCNN Decoders*
    (arXiv:1606.05328).

    Example:
        >>> import torch
        >>> network = GatedPixelCNN((7, 7), (512, 7, 7), channels=8, num_values=512)
        >>> network(torch.zeros(5, 7, 7, dtype=torch.long)).shape
        torch.Size([5, 512, 7, 7])
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        out_shape: Sequence[int] | None = None,
        channels: int = 64,
        num_layers: int = 8,
        kernel_size: int = 3,
        context_shape: Sequence[int] | None = None,
        num_values: int | None = None,
        first_kernel_size: int = 7,
    ) -> None:
        super().__init__(event_shape, out_shape, context_shape, num_values)
        at_least_one(num_layers=num_layers)
        self._multiple_of(channels)
        first = self._odd(first_kernel_size, "first_kernel_size")
        sides = [first] + [self._odd(kernel_size)] * (num_layers - 1)
        groups, both = self.groups, 2 * channels
        self.vertical, self.horizontal, self.link, self.mix = (nn.ModuleList() for _ in range(4))
        for layer, k in enumerate(sides):
            strict, into = not layer, channels if layer else self.in_channels
            self.vertical.append(Masked(rows((both, into), k, k, strict=strict), k))
            mask = pixels((both, into), (0, k, 0), groups, strict=strict, halves=2)
            self.horizontal.append(Masked(mask, k))
            self.link.append(Masked(torch.ones(both, both, 1, 1, dtype=torch.bool), 0))
            self.mix.append(_point(channels, channels, groups))
        self.last = nn.ModuleList(
            [_point(channels, channels, groups), _point(channels, self.out_channels, groups)]
        )
        self.contexts = self._contexts(2 * num_layers, both)

    def outputs(self, x: Tensor, context: Tensor | None) -> Tensor:
        v = h = self.features_of(x)
        adds = added(self.contexts, context, 2 * len(self.mix))
        layers = zip(self.vertical, self.horizontal, self.link, self.mix, strict=True)
        for layer, (vertical, horizontal, link, mix) in enumerate(layers):
            a = vertical(v) + adds[2 * layer]
            b = horizontal(h) + link(a) + adds[2 * layer + 1]
            v, y = _gate(a), mix(_gate(b))
            h = h + y if layer else y
        return self.of_features(self.last[1](F.relu(self.last[0](F.relu(h)))))

    def incremental(
        self, num: int, context: Tensor | None
    ) -> tuple[Callable[[int, int, Tensor], None], Callable[[int, int], Tensor]]:
        size = num, self.height, self.width
        vertical = [Cache(conv, *size) for conv in self.vertical]
        horizontal = [Cache(conv, num, 1, self.width) for conv in self.horizontal]
        link, mix, last = ([Point(c) for c in convs] for convs in (self.link, self.mix, self.last))
        adds = added(self.contexts, context, 2 * len(mix))
        links: list[Tensor] = []  # of the current row, [N, 2 channels, W]

        def see(i: int, j: int, x: Tensor) -> None:
            vertical[0].put(i, j, x)
            horizontal[0].put(0, j, x)

        def start_row(i: int) -> None:
            links.clear()
            v = None
            for layer, cache in enumerate(vertical):
                if v is not None:
                    cache.put_row(i, v)
                a = cache.row(i) + at_row(adds[2 * layer], i)
                links.append(link[layer](a.mT).mT)
                v = _gate(a)

        def column(i: int, j: int) -> Tensor:
            if j == 0:
                start_row(i)
            h = None
            for layer, cache in enumerate(horizontal):
                if h is not None:
                    cache.put(0, j, h)
                b = cache.pixel(0, j) + links[layer][..., j] + at(adds[2 * layer + 1], i, j)
                y = mix[layer](_gate(b))
                h = y if h is None else h + y
            return last[1](F.relu(last[0](F.relu(h))))

        return see, column


def _point(into: int, out: int, groups: int) -> Masked:
    return Masked(pixels((out, into), (0, 0, 0), groups, strict=False), 0)


def _gate(y: Tensor) -> Tensor:
    a, b = y.chunk(2, 1)
    return a.tanh() * b.sigmoid()
