"""PixelRNN: LSTMs over the rows or the diagonals of an image."""

from collections.abc import Callable, Sequence
from typing import Literal

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
)
from pvae.nn.sizes import at_least_one

__all__ = ["PixelRNN"]


class PixelRNN(Images):
    r"""LSTMs over the rows or the diagonals of an image, with residual connections.

    .. math::
        (o, f, i, g) &= W u + V * h_{\mathrm{before}} + U c, \qquad
        s = \sigma(f) \odot s_{\mathrm{before}} + \sigma(i) \odot \tanh(g), \qquad
        h = \sigma(o) \odot \tanh(s), \\
        u' &= u + R \, h

    - `"row"`: before a row is the row above; V is a convolution of size 3 along it and W one over
      the pixel and its left neighbour. The state sees a triangle above a pixel, so some earlier
      pixels are out of reach. A pass takes H steps.
    - `"diagonal"`: before a pixel are its neighbours to the left and above. A second LSTM runs from
      the right; its states are moved down by one row and added. Every earlier pixel is seen, except
      that the last one of the row above is out of reach of the first convolution for pixels far to
      its left. A pass takes H + W − 1 steps.

    Args:
        event_shape: (C, H, W), or (H, W) as maps of codes are.
        out_shape: Shape of f, a head's `out_shape`. None for `event_shape`. With x's channels they
            are drawn in order; f of pixels (`heads.LogisticMixture`) draws them jointly.
        kind: `"row"` or `"diagonal"`.
        channels: Features between the layers; an LSTM has half of them. A multiple of twice the
            number of x's channels that are drawn in order.
        num_layers: Number of LSTM layers.
        kernel_size: Size of the first convolution, odd.
        context_shape: A vector (D,) or a map (D, H, W). None for no context.
        num_values: V, if x holds integers 0 … V − 1, which enter through an embedding.

    Raises:
        PvaeError: If x is no image, a size does not fit, or the kind is not known.

    Source: van den Oord et al. 2016, *Pixel Recurrent Neural Networks* (arXiv:1601.06759).

    Example:
        >>> PixelRNN((1, 8, 8), kind="row", channels=8, num_layers=2)(torch.zeros(5, 1, 8, 8)).shape
        torch.Size([5, 1, 8, 8])
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        out_shape: Sequence[int] | None = None,
        kind: Literal["row", "diagonal"] = "diagonal",
        channels: int = 64,
        num_layers: int = 4,
        kernel_size: int = 7,
        context_shape: Sequence[int] | None = None,
        num_values: int | None = None,
    ) -> None:
        super().__init__(event_shape, out_shape, context_shape, num_values)
        if kind not in ("row", "diagonal"):
            raise PvaeError(f"kind={kind!r} is not valid: choose 'row' or 'diagonal'.")
        at_least_one(num_layers=num_layers)
        self._multiple_of(channels, halves=2)
        side, groups, hidden = self._odd(kernel_size), self.groups, channels // 2
        mask = pixels((channels, self.in_channels), (side, side, side), groups, strict=True)
        self.first = Masked(mask, side)
        layer = _RowLSTM if kind == "row" else _DiagonalLSTM
        self.layers = nn.ModuleList(layer(channels, hidden, groups) for _ in range(num_layers))
        sizes = [(channels, hidden)] * num_layers
        self.mix = nn.ModuleList(_point(size, groups) for size in sizes)
        sizes = [(channels, channels), (self.out_channels, channels)]
        self.last = nn.ModuleList(_point(size, groups) for size in sizes)
        self.contexts = self._contexts(num_layers, 4 * hidden * layer.directions)

    def outputs(self, x: Tensor, context: Tensor | None) -> Tensor:
        u = self.first(self.features_of(x))
        adds = added(self.contexts, context, len(self.layers))
        for layer, mix, c in zip(self.layers, self.mix, adds, strict=True):
            u = u + mix(layer(u, c))
        return self.of_features(self.last[1](F.relu(self.last[0](F.relu(u)))))

    def incremental(
        self, num: int, context: Tensor | None
    ) -> tuple[Callable[[int, int, Tensor], None], Callable[[int, int], Tensor]]:
        first = Cache(self.first, num, self.height, self.width)
        mix, last = ([Point(conv) for conv in convs] for convs in (self.mix, self.last))
        adds = added(self.contexts, context, len(self.layers))
        states = [
            layer.start(num, self.width, c) for layer, c in zip(self.layers, adds, strict=True)
        ]

        row = 0

        def column(i: int, j: int) -> Tensor:
            nonlocal row
            if i > row:
                row = i
                for _, next_row in states:
                    next_row(i)
            u = first.pixel(i, j)
            for (state, _), point in zip(states, mix, strict=True):
                u = u + point(state(i, j, u))
            return last[1](F.relu(last[0](F.relu(u))))

        return first.put, column


class _RowLSTM(nn.Module):
    """An LSTM from row to row."""

    directions = 1

    def __init__(self, channels: int, hidden: int, groups: int) -> None:
        super().__init__()
        mask = pixels((4 * hidden, channels), (0, 1, 0), groups, strict=False, halves=4)
        self.enter = Masked(mask, 1)
        self.between = nn.Conv1d(hidden, 4 * hidden, 3, padding=1, bias=False)

    def forward(self, u: Tensor, c: Tensor | float) -> Tensor:
        gates = self.enter(u) + c
        h = s = u.new_zeros(len(u), self.between.in_channels, u.shape[-1])
        rows = []
        for row in gates.unbind(2):
            h, s = _cell(row + self.between(h), s)
            rows.append(h)
        return torch.stack(rows, 2)

    def start(
        self, num: int, width: int, c: Tensor | float
    ) -> tuple[Callable[[int, int, Tensor], Tensor], Callable[[int], None]]:
        """Returns a function of row, column and u there that gives h; and one that starts a row."""
        enter = Cache(self.enter, num, 1, width)
        shape = num, self.between.in_channels, width
        h, s, above = (enter.image.new_zeros(shape) for _ in range(3))
        from_above = self.between(h)

        def next_row(i: int) -> None:
            from_above[:] = self.between(h)
            above[:] = s

        def step(i: int, j: int, u: Tensor) -> Tensor:
            enter.put(0, j, u)
            gates = enter.pixel(0, j) + from_above[..., j] + at(c, i, j)
            h[..., j], s[..., j] = _cell(gates, above[..., j])
            return h[..., j]

        return step, next_row


class _DiagonalLSTM(nn.Module):
    """Two LSTMs along the diagonals, one from the left and one from the right."""

    directions = 2

    def __init__(self, channels: int, hidden: int, groups: int) -> None:
        super().__init__()
        sides = [
            pixels((4 * hidden, channels), (0, 0, 0), groups, strict=False, halves=4)
            for _ in range(2)
        ]
        self.enter = Masked(torch.cat(sides), 0)
        # From the neighbour in the same row, and from the one above.
        bound = (2 * hidden) ** -0.5
        self.between = nn.Parameter(torch.empty(2, 2 * hidden, 4 * hidden).uniform_(-bound, bound))

    def forward(self, u: Tensor, c: Tensor | float) -> Tensor:
        (num, _, height, width), hidden = u.shape, self.between.shape[1] // 2
        left, right = (self.enter(u) + c).chunk(2, 1)
        gates = torch.stack([left, right.flip(-1)])  # [2, N, 4 hidden, H, W]
        # Row i is moved by i, so that a diagonal is a column.
        gates = F.pad(gates, (0, height)).flatten(-2)[..., :-height]
        gates = gates.unflatten(-1, (height, width + height - 1)).permute(4, 0, 1, 3, 2)
        h = s = u.new_zeros(2, num, height, hidden)
        columns = []
        for column in gates.contiguous().unbind(0):
            before = torch.cat([h, F.pad(h, (0, 0, 1, -1))], -1).flatten(1, 2)
            column = column + torch.bmm(before, self.between).view_as(column)
            h, s = _cell(column, s, -1)
            columns.append(h)
        y = torch.stack(columns, -1).transpose(2, 3)  # [2, N, hidden, H, H + W - 1]
        y = F.pad(y.flatten(-2), (0, height)).unflatten(-1, (height, width + height))[..., :width]
        return y[0] + F.pad(y[1].flip(-1), (0, 0, 1, -1))

    def start(
        self, num: int, width: int, c: Tensor | float
    ) -> tuple[Callable[[int, int, Tensor], Tensor], Callable[[int], None]]:
        """Returns a function of row, column and u there that gives h; and one that starts a row."""
        enter = self.enter.kernel().flatten(1).chunk(2), self.enter.bias.chunk(2)
        c = (c, c) if isinstance(c, float) else c.chunk(2, 1)
        channels, hidden = self.enter.weight.shape[1], self.between.shape[1] // 2
        inputs = self.between.new_zeros(num, width, channels)
        # Columns −1 and W are zero.
        h, s, above, right = (self.between.new_zeros(num, width + 2, hidden) for _ in range(4))

        def cell(side: int, gates: Tensor, h: Tensor, above: Tensor, s: Tensor) -> tuple:
            return _cell(gates + torch.cat([h, above], -1) @ self.between[side], s)

        def from_right(i: int) -> None:
            gates = F.linear(inputs, enter[0][1], enter[1][1])
            here = at_row(c[1], i)
            gates = gates + (here if isinstance(here, float) else here.mT)
            state = torch.zeros_like(s[:, 0])
            for j in reversed(range(1, width + 1)):
                y = right[:, j + 1] if j < width else torch.zeros_like(state)
                right[:, j], state = cell(1, gates[:, j - 1], y, right[:, j], state)

        def next_row(i: int) -> None:
            from_right(i - 1)
            above[:] = h

        def step(i: int, j: int, u: Tensor) -> Tensor:
            inputs[:, j] = u
            gates = F.linear(u, enter[0][0], enter[1][0]) + at(c[0], i, j)
            h[:, j + 1], s[:, j + 1] = cell(0, gates, h[:, j], above[:, j + 1], s[:, j])
            return h[:, j + 1] + right[:, j + 1]

        return step, next_row


def _cell(gates: Tensor, s: Tensor, dim: int = 1) -> tuple[Tensor, Tensor]:
    """Returns h and s after a step of an LSTM."""
    o, f, i, g = gates.chunk(4, dim)
    s = f.sigmoid() * s + i.sigmoid() * g.tanh()
    return o.sigmoid() * s.tanh(), s


def _point(sizes: tuple[int, int], groups: int) -> Masked:
    return Masked(pixels(sizes, (0, 0, 0), groups, strict=False), 0)
