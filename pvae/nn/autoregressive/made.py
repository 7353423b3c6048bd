"""MADE: a dense network whose masks respect an order."""

import math
from collections.abc import Callable, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from pyro.nn.auto_reg_nn import MaskedLinear
from torch import Tensor, nn

from pvae.errors import PvaeError
from pvae.nn.autoregressive.inputs import Values
from pvae.nn.autoregressive.ordered import Ordered, raster

__all__ = ["MADE"]


# Pyro's AutoRegressiveNN has no layer narrower than x, no cache and no embedding of integers.
class MADE(Ordered):
    r"""The masked autoencoder for distribution estimation.

    Each hidden unit has a degree m in 1 … D − 1 and sees the first m values of x. With the masks M,

    .. math::
        h_l = \mathrm{relu}\big((W_l \odot M_l) h_{l-1} + b_l + U_l c\big), \qquad
        M_l[k, j] = [m_k \ge m_j], \\
        f = (V \odot M_V) h_L + (A \odot M_A) x + b, \qquad M[d, j] = [d > m_j].

    The degrees of a layer are spread evenly, so a layer of fewer than D − 1 units has values of x
    that reach f by the direct connections A alone.

    Args:
        event_shape: Shape of x, any.
        out_shape: Shape of f, a head's `out_shape`. None for `event_shape`.
        hidden_dims: Widths of the hidden layers.
        order: `"natural"`, the order of `raster`, or `"random"`.
        direct: Whether to add the direct connections A.
        context_shape: Shape of the context c, any: it enters as a vector. None for no context.
        num_values: V, if x holds integers 0 … V − 1, which enter through an embedding.
        seed: Of a random order.

    Raises:
        PvaeError: If a size or the order is not valid.

    Source: Germain et al. 2015, *MADE: Masked Autoencoder for Distribution Estimation*
    (arXiv:1502.03509).

    Example:
        >>> MADE((1, 8, 8), hidden_dims=[100])(torch.zeros(5, 3, 1, 8, 8)).shape
        torch.Size([5, 3, 1, 8, 8])
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        out_shape: Sequence[int] | None = None,
        hidden_dims: Sequence[int] = (500,),
        order: Literal["natural", "random"] = "natural",
        direct: bool = True,
        context_shape: Sequence[int] | None = None,
        num_values: int | None = None,
        seed: int = 0,
    ) -> None:
        if order not in ("natural", "random"):
            raise PvaeError(f"order={order!r} is not valid: choose 'natural' or 'random'.")
        if min(hidden_dims, default=1) < 1:
            raise PvaeError(f"hidden_dims={tuple(hidden_dims)}: every width must be at least 1.")
        size, steps = math.prod(event_shape), raster(event_shape)
        if order == "random":
            generator = torch.Generator().manual_seed(seed)
            drawn = torch.randperm(size, generator=generator, device="cpu")
            steps = drawn.view(tuple(event_shape)).to(steps.device)
        super().__init__(event_shape, out_shape, context_shape, num_values, steps)
        self.values = Values(num_values)
        degree = steps.flatten() + 1
        features = self.values.features
        before = degree.repeat_interleave(features)
        lead = math.prod(self.steps.lead)
        self._degrees = [torch.linspace(1, max(1, size - 1), w).round().long() for w in hidden_dims]
        self.hidden = nn.ModuleList()
        seen = before
        for degrees in self._degrees:
            self.hidden.append(_masked(degrees[:, None] >= seen))
            seen = degrees
        self.last = _masked((degree[:, None] > seen).repeat(lead, 1))
        direct_mask = (degree[:, None] > before).repeat(lead, 1)
        self.direct = _masked(direct_mask, bias=False) if direct else None
        num_context = 0 if context_shape is None else math.prod(context_shape)
        self.context = nn.ModuleList(
            nn.Linear(num_context, width, bias=False)
            for width in (*hidden_dims, lead * size)
            if context_shape is not None
        )

    def outputs(self, x: Tensor, context: Tensor | None) -> Tensor:
        first = h = self.values(x.flatten(1)).flatten(1)
        added = self._added(context)
        for layer, c in zip(self.hidden, added, strict=False):
            h = F.relu(layer(h) + c)
        f = self.last(h) + added[-1]
        return f if self.direct is None else f + self.direct(first)

    def stepper(self, x: Tensor, context: Tensor | None = None) -> Callable[[int], Tensor]:
        # A unit of degree t is final once t values are known: each is computed once.
        added = [c if isinstance(c, float) else c.expand(len(x), -1) for c in self._added(context)]
        num = len(self.hidden)
        sizes = [layer.bias.numel() for layer in self.hidden]
        units = [x.new_zeros(len(x), size, dtype=self.last.bias.dtype) for size in sizes]
        weights = [layer.weight * layer.mask for layer in self.hidden]
        last = (self.last.weight * self.last.mask).unflatten(0, (-1, x[0].numel()))
        direct = None
        if self.direct is not None:
            direct = (self.direct.weight * self.direct.mask).unflatten(0, last.shape[:2])
        bias, place = self.last.bias.view(last.shape[:2]), self.steps.x_index[:, 0].tolist()
        first = x.new_zeros(len(x), x[0].numel(), self.values.features, dtype=self.last.bias.dtype)
        flat = x.view(len(x), -1)

        def step(t: int) -> Tensor:
            if t:
                first[:, place[t - 1]] = self.values(flat[:, place[t - 1]])
            h = first.flatten(1)
            for i in range(num):
                rows = (self._degrees[i] == t).nonzero()[:, 0]
                if len(rows):
                    a, b = int(rows[0]), int(rows[-1]) + 1
                    y = F.linear(h, weights[i][a:b], self.hidden[i].bias[a:b])
                    units[i][:, a:b] = F.relu(y + _part(added[i], a, b))
                h = units[i]
            d = place[t]
            f = F.linear(h, last[:, d], bias[:, d])
            if direct is not None:
                f = f + F.linear(first.flatten(1), direct[:, d])
            if not isinstance(added[-1], float):
                f = f + added[-1].unflatten(1, last.shape[:2])[:, :, d]
            return f.view(len(x), *self.steps.lead, 1)

        return step

    @torch.no_grad()
    def set_bias(self, value: Tensor) -> None:
        """Sets the first entries of the last layer's bias."""
        self.last.bias[: value.numel()] = value.flatten().to(self.last.bias)

    def _added(self, context: Tensor | None) -> list[Tensor | float]:
        if context is None:
            return [0.0] * (len(self.hidden) + 1)
        return [layer(context.flatten(1)) for layer in self.context]


def _masked(mask: Tensor, *, bias: bool = True) -> MaskedLinear:
    return MaskedLinear(mask.shape[1], mask.shape[0], mask.to(torch.get_default_dtype()), bias)


def _part(added: Tensor | float, a: int, b: int) -> Tensor | float:
    return added if isinstance(added, float) else added[:, a:b]
