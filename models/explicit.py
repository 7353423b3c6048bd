"""Models without latent variables, whose log p(x) is exact: autoregressive networks."""

from collections.abc import Sequence
from typing import Any, Literal

import pyro
from pyro.nn import PyroModule
from torch import Tensor, nn

import pvae.nn as networks
from pvae.distributions import Autoregressive, Head, Likelihood, heads, make_head

__all__ = ["MADE", "GatedPixelCNN", "PixelCNN", "PixelRNN"]


class Explicit(PyroModule):
    """x ~ p(x), given by a network that respects an order and by a head: base class of those here.

    Args:
        head: The head, for data of one shape.
        network: The network.
    """

    def __init__(self, head: Head, network: nn.Module) -> None:
        super().__init__()
        self.event_shape, self.head, self.network = head.event_shape, head, network

    def forward(self, x: Tensor | None = None, *, size: int = 1) -> Tensor:
        with pyro.plate("data", size if x is None else len(x)):
            return pyro.sample("x", self.distribution(), obs=x)

    def distribution(self, context: Tensor | None = None) -> Autoregressive:
        """Returns p(x), or p(x|c), event shape `event_shape` and the batch shape of the context."""
        return Autoregressive(self.network, self.head, context)

    def log_px(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Returns log p(x), or log p(x|c), [...], exactly, for x [..., *event_shape], in nats."""
        return self.distribution(context).log_prob(x)


class MADE(Explicit):
    r"""A dense network whose masks respect an order.

    .. math:: p(x) = \prod_i p(x_i \mid f_i(x_{<i}))

    It has no latent variables, and its guide is `pvae.guides.NoLatents`. `pvae.nn.MADE` describes
    the network.

    Args:
        event_shape: Shape of one datum, any.
        hidden_dims: Widths of the hidden layers.
        order: `"natural"` or `"random"`.
        direct: Whether x is also connected to f directly.
        likelihood: The name of a head, or a head (see `VAE`), also `"softmax"`: any probability
            for each of `levels` values between 0 and 1; `"categorical"`: of `levels` integers.
        context_shape: Shape of what x is given, for `Conditional` and `distribution(context)`; None
            for p(x).
        **options: `scale` and `levels` of a head that is given by name.

    Attributes:
        head: The head.
        network: The network.

    Shape:
        `model(x)` takes x [B, *event_shape] and returns it; `model(size=n)` draws
        n samples [n, *event_shape] from p(x).

    Raises:
        PvaeError: If a name is not known, or a size or an option does not fit.

    Source: Germain et al. 2015, *MADE: Masked Autoencoder for Distribution Estimation*
    (arXiv:1502.03509).

    Example:
        >>> MADE((1, 8, 8), hidden_dims=[100])(size=16).shape
        torch.Size([16, 1, 8, 8])
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        hidden_dims: Sequence[int] = (500, 500),
        order: Literal["natural", "random"] = "natural",
        direct: bool = True,
        likelihood: Likelihood | Head = "bernoulli",
        context_shape: Sequence[int] | None = None,
        **options: Any,
    ) -> None:
        head = make_head(likelihood, event_shape, **options)
        sizes = hidden_dims, order, direct
        network = networks.MADE(
            event_shape, head.out_shape, *sizes, context_shape, num_values_of(head)
        )
        super().__init__(head, network)

    def set_output_bias(self, x: Tensor) -> None:
        """Lets p(x) start near the mean of data x [N, *event_shape]."""
        bias = self.head.bias(x)
        if bias is not None:
            self.network.set_bias(bias)


class PixelCNN(Explicit):
    r"""Masked convolutions over the pixels above and to the left.

    .. math:: p(x) = \prod_i p(x_i \mid f_i(x_{<i}))

    over the pixels row by row, and over the channels of a pixel in order. It has no latent
    variables, and its guide is `pvae.guides.NoLatents`. `pvae.nn.PixelCNN` describes the network.

    Args:
        event_shape: Shape of one image, (C, H, W).
        channels: Features between the blocks, a multiple of 2C.
        num_blocks: Number of residual blocks.
        kernel_size: Size of the first convolution, odd.
        likelihood: The name of a head, or a head (see `VAE`), also `"softmax"`: any probability
            for each of `levels` values between 0 and 1; `"categorical"`: of `levels` integers.
            `"logistic_mixture"` draws whole pixels.
        context_shape: Shape of what x is given, a vector (D,) or a map (D, H, W), for `Conditional`
            and `distribution(context)`; None for p(x).
        **options: `scale`, `levels` and `num_mixtures` of a head that is given by name.

    Attributes:
        head: The head.
        network: The network.

    Shape:
        `model(x)` takes x [B, *event_shape] and returns it; `model(size=n)` draws
        n samples [n, *event_shape] from p(x).

    Raises:
        PvaeError: If a name is not known, or a size or an option does not fit.

    Source: van den Oord et al. 2016, *Pixel Recurrent Neural Networks* (arXiv:1601.06759).

    Example:
        >>> PixelCNN((1, 8, 8), channels=8, num_blocks=2)(size=16).shape
        torch.Size([16, 1, 8, 8])
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        channels: int = 64,
        num_blocks: int = 7,
        kernel_size: int = 7,
        likelihood: Likelihood | Head = "bernoulli",
        context_shape: Sequence[int] | None = None,
        **options: Any,
    ) -> None:
        head = make_head(likelihood, event_shape, **options)
        sizes = channels, num_blocks, kernel_size
        network = networks.PixelCNN(
            event_shape, head.out_shape, *sizes, context_shape, num_values_of(head)
        )
        super().__init__(head, network)


class GatedPixelCNN(Explicit):
    r"""Gated convolutions in a vertical and a horizontal stack, without a blind spot.

    .. math:: p(x) = \prod_i p(x_i \mid f_i(x_{<i}))

    over the pixels row by row, and over the channels of a pixel in order. It has no latent
    variables, and its guide is `pvae.guides.NoLatents`. `pvae.nn.GatedPixelCNN` describes the
    network.

    Args:
        event_shape: Shape of one image, (C, H, W).
        channels: Features of each stack, a multiple of C.
        num_layers: Number of gated layers.
        kernel_size: Size of the convolutions, odd.
        likelihood: The name of a head, or a head (see `VAE`), also `"softmax"`: any probability
            for each of `levels` values between 0 and 1; `"categorical"`: of `levels` integers.
            `"logistic_mixture"` draws whole pixels.
        context_shape: Shape of what x is given, a vector (D,) or a map (D, H, W), for `Conditional`
            and `distribution(context)`; None for p(x).
        first_kernel_size: Size of the first convolution, odd. It is cheap where x has few channels;
            with twice the image's width less one it sees all that came before.
        **options: `scale`, `levels` and `num_mixtures` of a head that is given by name.

    Attributes:
        head: The head.
        network: The network.

    Shape:
        `model(x)` takes x [B, *event_shape] and returns it; `model(size=n)` draws
        n samples [n, *event_shape] from p(x).

    Raises:
        PvaeError: If a name is not known, or a size or an option does not fit.

    Source: van den Oord et al. 2016, *Conditional Image Generation with PixelCNN Decoders*
    (arXiv:1606.05328).

    Example:
        >>> GatedPixelCNN((1, 8, 8), channels=8, num_layers=2)(size=16).shape
        torch.Size([16, 1, 8, 8])
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        channels: int = 64,
        num_layers: int = 8,
        kernel_size: int = 3,
        likelihood: Likelihood | Head = "bernoulli",
        context_shape: Sequence[int] | None = None,
        first_kernel_size: int = 7,
        **options: Any,
    ) -> None:
        head = make_head(likelihood, event_shape, **options)
        sizes = channels, num_layers, kernel_size
        values = num_values_of(head)
        network = networks.GatedPixelCNN(
            event_shape, head.out_shape, *sizes, context_shape, values, first_kernel_size
        )
        super().__init__(head, network)


class PixelRNN(Explicit):
    r"""LSTMs over the rows or the diagonals of an image.

    .. math:: p(x) = \prod_i p(x_i \mid f_i(x_{<i}))

    over the pixels row by row, and over the channels of a pixel in order. It has no latent
    variables, and its guide is `pvae.guides.NoLatents`. `pvae.nn.PixelRNN` describes the network.

    Args:
        event_shape: Shape of one image, (C, H, W).
        kind: `"row"` for the row LSTM, `"diagonal"` for the diagonal BiLSTM.
        channels: Features between the layers, a multiple of 2C.
        num_layers: Number of LSTM layers.
        kernel_size: Size of the first convolution, odd.
        likelihood: The name of a head, or a head (see `VAE`), also `"softmax"`: any probability
            for each of `levels` values between 0 and 1; `"categorical"`: of `levels` integers.
            `"logistic_mixture"` draws whole pixels.
        context_shape: Shape of what x is given, a vector (D,) or a map (D, H, W), for `Conditional`
            and `distribution(context)`; None for p(x).
        **options: `scale`, `levels` and `num_mixtures` of a head that is given by name.

    Attributes:
        head: The head.
        network: The network.

    Shape:
        `model(x)` takes x [B, *event_shape] and returns it; `model(size=n)` draws
        n samples [n, *event_shape] from p(x).

    Raises:
        PvaeError: If a name is not known, or a size or an option does not fit.

    Source: van den Oord et al. 2016, *Pixel Recurrent Neural Networks* (arXiv:1601.06759).

    Example:
        >>> PixelRNN((1, 8, 8), channels=8, num_layers=2)(size=16).shape
        torch.Size([16, 1, 8, 8])
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        kind: Literal["row", "diagonal"] = "diagonal",
        channels: int = 64,
        num_layers: int = 4,
        kernel_size: int = 7,
        likelihood: Likelihood | Head = "bernoulli",
        context_shape: Sequence[int] | None = None,
        **options: Any,
    ) -> None:
        head = make_head(likelihood, event_shape, **options)
        sizes = kind, channels, num_layers, kernel_size
        network = networks.PixelRNN(
            event_shape, head.out_shape, *sizes, context_shape, num_values_of(head)
        )
        super().__init__(head, network)


def num_values_of(head: Head) -> int | None:
    """Returns V for integers 0 … V − 1, which enter the network through an embedding."""
    return head.levels if isinstance(head, heads.Categorical) else None
