"""A causal transformer, which keeps keys and values while it draws."""

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pvae.errors import PvaeError
from pvae.nn.autoregressive.sequences import Sequences, part
from pvae.nn.sizes import at_least_one

__all__ = ["CausalTransformer"]


class CausalTransformer(Sequences):
    r"""A transformer whose step t attends to the steps before it.

    .. math::
        h_t &= E x_{t-1} + p_t, \qquad
        h \leftarrow h + \mathrm{attention}(\mathrm{norm}(h + U_l c)), \qquad
        h \leftarrow h + \mathrm{MLP}(\mathrm{norm}(h)) \\
        f_t &= V \, \mathrm{norm}(h_t)

    with learned positions p. A pass costs O(T²) for T steps.

    Args:
        event_shape: Shape of x, any. It is a sequence in the order of `raster`.
        out_shape: Shape of f, a head's `out_shape`. None for `event_shape`.
        channels: Features of a step, a multiple of `num_heads`.
        num_layers: Number of blocks of attention and MLP.
        num_heads: Number of heads of the attention.
        dropout: Share of features that training sets to zero before they are added.
        context_shape: A vector (D,), or a map (D, H, W) for images, which is added in each layer;
            or a sequence (L, E), as the embedded words of a text, whose L entries come before x.
            None for no context.
        num_values: V, if x holds integers 0 … V − 1, which enter through an embedding.

    Raises:
        PvaeError: If a size does not fit.

    Source: Vaswani et al. 2017, *Attention Is All You Need* (arXiv:1706.03762); norms before the
    layers: Child et al. 2019, *Generating Long Sequences with Sparse Transformers*
    (arXiv:1904.10509).

    Example:
        >>> network = CausalTransformer((7, 7), (512, 7, 7), context_shape=(5, 32), num_values=512)
        >>> network(torch.zeros(3, 7, 7, dtype=torch.long), torch.zeros(3, 5, 32)).shape
        torch.Size([3, 512, 7, 7])
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        out_shape: Sequence[int] | None = None,
        channels: int = 64,
        num_layers: int = 4,
        num_heads: int = 4,
        dropout: float = 0.0,
        context_shape: Sequence[int] | None = None,
        num_values: int | None = None,
    ) -> None:
        super().__init__(event_shape, out_shape, channels, context_shape, num_values)
        at_least_one(num_layers=num_layers, num_heads=num_heads)
        if channels % num_heads:
            raise PvaeError(
                f"channels={channels} is not a multiple of num_heads={num_heads}: each head "
                "takes the same number of features."
            )
        self.prefix = None
        if len(self.context_shape or ()) == 2:
            length, size = self.context_shape
            self.prefix = nn.Linear(size, channels)
            self.prefix_positions = nn.Parameter(0.02 * torch.randn(length, channels))
        self.contexts = nn.ModuleList() if self.prefix else self._contexts(num_layers, channels)
        self.start = nn.Parameter(0.02 * torch.randn(channels))
        self.positions = nn.Parameter(0.02 * torch.randn(self.num_steps, channels))
        self.blocks = nn.ModuleList(
            _Block(channels, num_heads, num_layers, dropout) for _ in range(num_layers)
        )
        self.norm = nn.LayerNorm(channels)
        self.last = nn.Linear(channels, self.out_features)

    def outputs(self, x: Tensor, context: Tensor | None) -> Tensor:
        h = torch.cat([self.start.expand(len(x), 1, -1), self.entered(x)[:, :-1]], 1)
        h = h + self.positions
        adds = self._added(context, len(self.blocks))
        if self.prefix is not None:
            h = torch.cat([self.prefix(context) + self.prefix_positions, h], 1)
        for block, c in zip(self.blocks, adds, strict=True):
            h = block(h + c)
        return self.of_steps(self.last(self.norm(h[:, -self.num_steps :])))

    def stepper(self, x: Tensor, context: Tensor | None = None) -> Callable[[int], Tensor]:
        adds = self._added(context, len(self.blocks))
        length = 0 if self.prefix is None else self.context_shape[0]
        caches = [block.cache(len(x), length + self.num_steps) for block in self.blocks]

        def step(t: int) -> Tensor:
            h = self.entered_at(x, t - 1) if t else self.start.expand(len(x), -1)
            h = (h + self.positions[t])[:, None]
            first = length + t
            if not t and self.prefix is not None:
                h = torch.cat([self.prefix(context) + self.prefix_positions, h], 1)
                first = 0
            for block, cache, c in zip(self.blocks, caches, adds, strict=True):
                here = part(c, t)
                h = block(h + (here if isinstance(here, float) else here[:, None]), cache, first)
            return self.of_step(self.last(self.norm(h[:, -1])))

        return step


class _Block(nn.Module):
    """Causal attention, then an MLP, each added to its input."""

    def __init__(self, channels: int, num_heads: int, num_layers: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm, self.norm_mlp = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.qkv, self.out = nn.Linear(channels, 3 * channels), nn.Linear(channels, channels)
        self.mlp = nn.Sequential(
            nn.Linear(channels, 4 * channels), nn.GELU(), nn.Linear(4 * channels, channels)
        )
        self.drop = nn.Dropout(dropout)
        for layer in (self.out, self.mlp[-1]):  # the sum over layers starts at the size of one
            nn.init.normal_(layer.weight, std=0.02 / math.sqrt(2 * num_layers))

    def cache(self, num: int, length: int) -> Tensor:
        """Returns room for keys and values, [2, N, heads, length, features]."""
        channels = self.out.weight.shape[0]
        shape = 2, num, self.num_heads, length, channels // self.num_heads
        return self.out.weight.new_zeros(shape)

    def forward(self, h: Tensor, cache: Tensor | None = None, first: int = 0) -> Tensor:
        """Returns h [N, T, channels] after the block; with a cache, T steps from `first` on."""
        qkv = self.qkv(self.norm(h)).unflatten(-1, (3, self.num_heads, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        if cache is not None:
            end = first + h.shape[1]
            cache[0, :, :, first:end], cache[1, :, :, first:end] = k, v
            k, v = cache[:, :, :, :end]
        y = F.scaled_dot_product_attention(q, k, v, is_causal=h.shape[1] > 1)
        h = h + self.drop(self.out(y.transpose(1, 2).flatten(2)))
        return h + self.drop(self.mlp(self.norm_mlp(h)))
