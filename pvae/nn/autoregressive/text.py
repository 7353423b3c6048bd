"""A causal transformer over a text, then x."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pvae.nn.autoregressive.inputs import Values
from pvae.nn.autoregressive.ordered import Ordered
from pvae.nn.autoregressive.transformer import CausalTransformer
from pvae.nn.sizes import at_least_one

__all__ = ["TextTransformer"]


class TextTransformer(CausalTransformer):
    r"""One causal transformer over the L words of a text c, then the T steps of x.

    .. math::
        (h_1, \ldots, h_{L+T}) &= \mathrm{transformer}
            (c_1, \ldots, c_L, \mathrm{start}, x_1, \ldots, x_{T-1}) \\
        f_t &= V h_{L+t}, \qquad g_1 = b, \qquad g_i = W h_{i-1}

    f has the parameters of p(x | c), where c is the context, and g those of p(c); both come from
    the same layers. The attribute `text` is the network from c to g.

    Args:
        event_shape: Shape of x, any. It is a sequence in the order of `raster`.
        out_shape: Shape of f, a head's `out_shape`.
        num_words: V. Words are integers 0 … V − 1.
        length: L, the words of a text.
        **options: `channels`, `num_layers`, `num_heads`, `dropout` and `num_values` of
            `CausalTransformer`.

    Attributes:
        text: A network of the words: integers [..., L] to g [..., V, L].

    Shape:
        x [..., *event_shape] and words, integers [..., L], to f [..., *out_shape].

    Raises:
        PvaeError: If a size does not fit, or a text has another length.

    Source: Ramesh et al. 2021, *Zero-Shot Text-to-Image Generation* (arXiv:2102.12092).

    Example:
        >>> network = TextTransformer((7, 7), (512, 7, 7), num_words=40, length=5, num_values=512)
        >>> x, words = torch.zeros(3, 7, 7, dtype=torch.long), torch.zeros(3, 5, dtype=torch.long)
        >>> network(x, words).shape, network.text(words).shape
        (torch.Size([3, 512, 7, 7]), torch.Size([3, 40, 5]))
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        out_shape: Sequence[int] | None = None,
        num_words: int = 2,
        length: int = 1,
        **options: int | float,
    ) -> None:
        super().__init__(event_shape, out_shape, **options)
        at_least_one(length=length)
        channels = len(self.start)
        self.context_shape = (length,)
        self.text = _Text(self, num_words, length, channels)
        self.prefix = Values(num_words, channels)
        self.prefix_positions = nn.Parameter(0.02 * torch.randn(length, channels))


class _Text(Ordered):
    """From words to the parameters of each, given those before it, by the transformer's layers."""

    def __init__(
        self, transformer: CausalTransformer, num_words: int, length: int, channels: int
    ) -> None:
        super().__init__((length,), (num_words, length), num_values=num_words)
        # Not a submodule, which would contain this module.
        self.__dict__["transformer"] = transformer
        self.first = nn.Parameter(torch.zeros(num_words))
        self.last = nn.Linear(channels, num_words)

    def outputs(self, x: Tensor, context: Tensor | None) -> Tensor:
        whole, g = self.transformer, self.first.expand(len(x), 1, -1)
        if x.shape[1] > 1:
            h = whole.prefix(x[:, :-1]) + whole.prefix_positions[:-1]
            for block in whole.blocks:
                h = block(h)
            g = torch.cat([g, self.last(whole.norm(h))], 1)
        return g.mT
