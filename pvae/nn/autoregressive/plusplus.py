"""The network of PixelCNN++: gated residual blocks in two streams, with shortcuts."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pvae.errors import PvaeError
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

__all__ = ["PixelCNNPlusPlus"]


class PixelCNNPlusPlus(Images):
    r"""Gated residual blocks in two streams, with shortcuts from the first half to the second.

    .. math::
        y &= \mathrm{drop}\big(e(W_1 * e(h) + A \, e(a))\big), \qquad
        (p, q) = W_2 * y + U c, \qquad h' = h + p \odot \sigma(q), \\
        e(h) &= \mathrm{elu}([h, -h])

    The first stream sees the rows above. The second one also sees the pixels to the left, and the
    first stream as a. In the second half, a also holds the output of the block at the same place in
    the first half. f holds the parameters of whole pixels, for `heads.LogisticMixture`. The paper
    halves the image twice between the blocks; this network keeps its size, so that every step can
    be cached.

    Args:
        event_shape: (C, H, W).
        out_shape: Shape of f, a head's `out_shape`, [..., H, W] for whole pixels. None for
            `event_shape`, with C = 1.
        channels: Features of each stream.
        num_blocks: Number of blocks in each half.
        dropout: Share of features that training sets to zero.
        context_shape: A vector (D,) or a map (D, H, W). None for no context.
        num_values: V, if x holds integers 0 … V − 1, which enter through an embedding.

    Raises:
        PvaeError: If x is no image, a size does not fit, or f holds parameters of single channels.

    Source: Salimans et al. 2017, *PixelCNN++: Improving the PixelCNN with Discretized Logistic
    Mixture Likelihood and Other Modifications* (arXiv:1701.05517).

    Example:
        >>> network = PixelCNNPlusPlus((3, 8, 8), (5, 10, 8, 8), channels=8, num_blocks=1)
        >>> network(torch.zeros(2, 3, 8, 8)).shape
        torch.Size([2, 5, 10, 8, 8])
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        out_shape: Sequence[int] | None = None,
        channels: int = 64,
        num_blocks: int = 4,
        dropout: float = 0.5,
        context_shape: Sequence[int] | None = None,
        num_values: int | None = None,
    ) -> None:
        super().__init__(event_shape, out_shape, context_shape, num_values)
        at_least_one(channels=channels, num_blocks=num_blocks)
        if self.groups > 1:
            raise PvaeError(
                "PixelCNNPlusPlus draws the channels of a pixel jointly, but f of shape "
                f"{self.out_shape} holds those of single channels. Choose a likelihood of whole "
                "pixels, 'logistic_mixture', or GatedPixelCNN."
            )
        into = self.in_channels
        self.first_above = Masked(rows((channels, into), 1, 1, strict=True), 1)
        self.first_rows = Masked(rows((channels, into), 1, 1, strict=True), 1)
        self.first_left = Masked(pixels((channels, into), (1, 1, 0), 1, strict=True), 1)
        halves = [False] * num_blocks + [True] * num_blocks
        self.above = nn.ModuleList(
            _Block(channels, channels * half, _above, dropout) for half in halves
        )
        self.left = nn.ModuleList(
            _Block(channels, channels * (1 + half), _left, dropout) for half in halves
        )
        self.last = nn.Conv2d(channels, self.out_channels, 1)
        self.contexts = self._contexts(4 * num_blocks, 2 * channels)

    def outputs(self, x: Tensor, context: Tensor | None) -> Tensor:
        x, num = self.features_of(x), len(self.above)
        adds = added(self.contexts, context, 2 * num)
        v, h = self.first_above(x), self.first_rows(x) + self.first_left(x)
        kept = []
        for block in range(num):
            second = block >= num // 2
            before = kept.pop() if second else (None, None)
            v = self.above[block](v, before[0], adds[block])
            a = torch.cat([v, before[1]], 1) if second else v
            h = self.left[block](h, a, adds[num + block])
            if not second:
                kept.append((v, h))
        return self.of_features(self.last(F.elu(h)))

    def incremental(
        self, num: int, context: Tensor | None
    ) -> tuple[Callable[[int, int, Tensor], None], Callable[[int, int], Tensor]]:
        size, count = (num, self.height, self.width), len(self.above)
        adds = added(self.contexts, context, 2 * count)
        firsts = [Cache(c, *size) for c in (self.first_above, self.first_rows, self.first_left)]
        above = [block.start(*size) for block in self.above]
        left = [block.start(*size) for block in self.left]
        last, streams = Point(self.last), []  # the first stream after each block, [N, channels, W]

        def see(i: int, j: int, x: Tensor) -> None:
            for cache in firsts:
                cache.put(i, j, x)

        def start_row(i: int) -> None:
            streams.clear()
            v = firsts[0].row(i)
            for block in range(count):
                a = streams[count - 1 - block] if block >= count // 2 else None
                v = above[block].row(i, v, a, at_row(adds[block], i))
                streams.append(v)
            streams.append(firsts[1].row(i))

        def column(i: int, j: int) -> Tensor:
            if j == 0:
                start_row(i)
            h = streams[count][..., j] + firsts[2].pixel(i, j)
            kept = []
            for block in range(count):
                a = streams[block][..., j]
                if block >= count // 2:
                    a = torch.cat([a, kept[count - 1 - block]], 1)
                h = left[block].pixel(i, j, h, a, at(adds[count + block], i, j))
                kept.append(h)
            return last(F.elu(h))

        return see, column


def _above(out: int, into: int) -> Masked:
    return Masked(rows((out, into), 1, 1, strict=False), 1)


def _left(out: int, into: int) -> Masked:
    return Masked(pixels((out, into), (1, 1, 0), 1, strict=False), 1)


class _Block(nn.Module):
    """A gated residual block, with another input a of `extra` features, if any."""

    def __init__(
        self, channels: int, extra: int, conv: Callable[[int, int], Masked], dropout: float
    ) -> None:
        super().__init__()
        self.one, self.two = conv(channels, 2 * channels), conv(2 * channels, 2 * channels)
        self.extra = nn.Conv2d(2 * extra, channels, 1) if extra else None
        self.drop = nn.Dropout(dropout)

    def forward(self, h: Tensor, a: Tensor | None, c: Tensor | float) -> Tensor:
        y = self.one(_both(h))
        if self.extra is not None:
            y = y + self.extra(_both(a))
        return h + _gate(self.two(self.drop(_both(y))) + c)

    def start(self, num: int, height: int, width: int) -> "_Started":
        return _Started(self, num, height, width)


class _Started:
    """A block that is applied to an image row by row, or pixel by pixel."""

    def __init__(self, block: _Block, num: int, height: int, width: int) -> None:
        self.one, self.two = (Cache(c, num, height, width) for c in (block.one, block.two))
        self.extra = None if block.extra is None else Point(block.extra)
        self.drop = block.drop

    def row(self, i: int, h: Tensor, a: Tensor | None, c: Tensor | float) -> Tensor:
        self.one.put_row(i, _both(h))
        y = self.one.row(i)
        if self.extra is not None:
            y = y + self.extra(_both(a).mT).mT
        self.two.put_row(i, self.drop(_both(y)))
        return h + _gate(self.two.row(i) + c)

    def pixel(self, i: int, j: int, h: Tensor, a: Tensor, c: Tensor | float) -> Tensor:
        self.one.put(i, j, _both(h))
        y = self.one.pixel(i, j) + self.extra(_both(a))
        self.two.put(i, j, self.drop(_both(y)))
        return h + _gate(self.two.pixel(i, j) + c)


def _both(h: Tensor) -> Tensor:
    return F.elu(torch.cat([h, -h], 1))


def _gate(y: Tensor) -> Tensor:
    p, q = y.chunk(2, 1)
    return p * q.sigmoid()
