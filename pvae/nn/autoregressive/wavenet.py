"""Dilated causal convolutions, as in WaveNet."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pvae.nn.autoregressive.sequences import Sequences, part
from pvae.nn.sizes import at_least_one

__all__ = ["WaveNet"]


class WaveNet(Sequences):
    r"""Gated causal convolutions over a sequence, whose dilation doubles from layer to layer.

    .. math::
        a_t, b_t &= W_l h_t + W'_l h_{t - d_l} + U_l c, \qquad d_l = 1, 2, 4, … \\
        y_t &= \tanh(a_t) \odot \sigma(b_t), \qquad
        h \leftarrow h + R_l y, \qquad f = \mathrm{MLP}\Big( \sum_l S_l y_l \Big)

    A step sees the :math:`c \, (2^L - 1) + 1` steps before it, for c cycles of L layers.

    Args:
        event_shape: Shape of x, any. It is a sequence in the order of `raster`.
        out_shape: Shape of f, a head's `out_shape`. None for `event_shape`.
        channels: Features of a step.
        num_layers: L, layers in a cycle of dilations.
        num_cycles: c, how often the dilations are repeated.
        context_shape: A vector (D,), or a map (D, …) of x's size. None for no context.
        num_values: V, if x holds integers 0 … V − 1, which enter through an embedding.

    Raises:
        PvaeError: If a size does not fit.

    Source: van den Oord et al. 2016, *WaveNet: A Generative Model for Raw Audio*
    (arXiv:1609.03499); the caches: Paine et al. 2016, *Fast Wavenet Generation Algorithm*
    (arXiv:1611.09482).

    Example:
        >>> WaveNet((1000,), (256, 1000), channels=8, num_values=256)(torch.zeros(2, 1000)).shape
        torch.Size([2, 256, 1000])
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        out_shape: Sequence[int] | None = None,
        channels: int = 32,
        num_layers: int = 8,
        num_cycles: int = 2,
        context_shape: Sequence[int] | None = None,
        num_values: int | None = None,
    ) -> None:
        super().__init__(event_shape, out_shape, channels, context_shape, num_values)
        at_least_one(num_layers=num_layers, num_cycles=num_cycles)
        self.dilations = [2**layer for layer in range(num_layers)] * num_cycles
        self.start = nn.Parameter(0.1 * torch.randn(channels))
        self.gates = nn.ModuleList(
            nn.Conv1d(channels, 2 * channels, 2, dilation=d) for d in self.dilations
        )
        self.outs = nn.ModuleList(nn.Conv1d(channels, 2 * channels, 1) for _ in self.dilations)
        self.contexts = self._contexts(len(self.dilations), 2 * channels)
        self.last = nn.ModuleList(
            [nn.Linear(channels, channels), nn.Linear(channels, self.out_features)]
        )

    def outputs(self, x: Tensor, context: Tensor | None) -> Tensor:
        h = torch.cat([self.start.expand(len(x), 1, -1), self.entered(x)[:, :-1]], 1).mT
        skips = torch.zeros_like(h)
        adds = self._added(context, len(self.dilations))
        for d, gate, out, c in zip(self.dilations, self.gates, self.outs, adds, strict=True):
            y = gate(F.pad(h, (d, 0))) + (c if isinstance(c, float) else c.mT)
            more, skip = out(_gate(y)).chunk(2, 1)
            h, skips = h + more, skips + skip
        return self.of_steps(self.last[1](F.relu(self.last[0](F.relu(skips.mT)))))

    def stepper(self, x: Tensor, context: Tensor | None = None) -> Callable[[int], Tensor]:
        adds = self._added(context, len(self.dilations))
        shape = len(self.dilations), self.num_steps, len(x), len(self.start)
        past = self.start.new_zeros(shape)
        gates = [gate.weight.permute(0, 2, 1).flatten(1) for gate in self.gates]

        def step(t: int) -> Tensor:
            h = self.entered_at(x, t - 1) if t else self.start.expand(len(x), -1)
            skips = torch.zeros_like(h)
            for layer, d in enumerate(self.dilations):
                past[layer, t] = h
                before = past[layer, t - d] if t >= d else torch.zeros_like(h)
                pair = torch.cat([before, h], 1)
                y = F.linear(pair, gates[layer], self.gates[layer].bias) + part(adds[layer], t)
                out = self.outs[layer]
                more, skip = F.linear(_gate(y), out.weight[..., 0], out.bias).chunk(2, 1)
                h, skips = h + more, skips + skip
            return self.of_step(self.last[1](F.relu(self.last[0](F.relu(skips)))))

        return step


def _gate(y: Tensor) -> Tensor:
    a, b = y.chunk(2, 1)
    return a.tanh() * b.sigmoid()
