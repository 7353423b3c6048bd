"""The conditional variational autoencoder: a VAE of x given y."""

from collections.abc import Sequence
from typing import Any, Literal

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pvae.distributions import Head, Likelihood, make_head
from pvae.errors import PvaeError
from pvae.models.conditional import one_hot_labels
from pvae.models.vae import VAE
from pvae.nn import at_least_one, make_decoder

__all__ = ["ConditionalVAE"]


class ConditionalVAE(VAE):
    r"""A VAE of x given y, such as a label: the decoder takes the code and y.

    .. math::
        z &\sim \mathcal N(0, I) \\
        x \mid z, y &\sim p(x \mid f_\theta(z, c(y)))

    By default y holds labels 0 … C − 1, and c(y) is their one-hot form. The code holds what the
    label does not tell. Its guide is `pvae.guides.ConditionalMeanField`, and its bound is one on
    log p(x|y).

    Args:
        event_shape: Shape of one datum, (C, H, W) or (D,).
        num_classes: Number of labels; the size of c(y) with a `context`.
        latent_dim: Z, the size of the code.
        network: `"dense"`, one hidden layer by default, or `"conv"`, transposed convolutions.
        hidden_dims: Widths of the dense decoder's hidden layers.
        channels: Channels of the convolutional decoder, from the code to the image.
        activation: Nonlinearity of the dense decoder.
        likelihood: The name of a head, or a head, as in `VAE`.
        context: c, a network from y to [..., num_classes]; None for labels.
        decoder: A network [..., Z + num_classes] to [..., *out_shape] in place of the built-in one.
        **options: Of a head that is given by name.

    Shape:
        `model(x, y)` takes x [B, *event_shape] and labels y [B] (or what the network takes) and
        returns x; `model(y=y, size=n)` draws a sample for each of n rows of y, or n samples of one
        label y [], [n, *event_shape].

    Raises:
        PvaeError: If a name, a size or an option is not valid, or y is missing or no label.

    Source: Sohn, Lee & Yan 2015, *Learning Structured Output Representation using Deep Conditional
    Generative Models* (NIPS), with a prior that does not depend on y; Kingma et al. 2014,
    *Semi-Supervised Learning with Deep Generative Models* (arXiv:1406.5298).

    Example:
        >>> model = ConditionalVAE((1, 28, 28), num_classes=10)
        >>> model(y=torch.arange(10), size=10).shape
        torch.Size([10, 1, 28, 28])
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        num_classes: int = 10,
        latent_dim: int = 20,
        network: Literal["dense", "conv"] = "dense",
        hidden_dims: Sequence[int] = (400,),
        channels: Sequence[int] = (64, 32),
        activation: Literal["relu", "tanh"] = "relu",
        likelihood: Likelihood | Head = "bernoulli",
        context: nn.Module | None = None,
        decoder: nn.Module | None = None,
        **options: Any,
    ) -> None:
        at_least_one(num_classes=num_classes, latent_dim=latent_dim)
        head = make_head(likelihood, event_shape, **options)
        if decoder is None:
            sizes = network, hidden_dims, channels, activation
            decoder = make_decoder((latent_dim + num_classes,), head.out_shape, *sizes)
        super().__init__(event_shape, latent_dim, likelihood=head, decoder=decoder)
        self.num_classes, self.context = num_classes, context

    def forward(self, x: Tensor | None = None, y: Tensor | None = None, *, size: int = 1) -> Tensor:
        c = self.condition(y)
        with pyro.plate("data", size if x is None else len(x)):
            z = pyro.sample("z", self.prior())
            return pyro.sample("x", self.likelihood(z, c), obs=x)

    def condition(self, y: Tensor | None) -> Tensor:
        """Returns c(y), [..., num_classes]."""
        if y is None:
            raise PvaeError(
                "This is a model of x given y, and no y was given: call model(x, y), with "
                "labels=True for data by name (in the shell --given y), or model(y=y, size=n)."
            )
        return one_hot_labels(y, self.num_classes) if self.context is None else self.context(y)

    def likelihood(self, z: Tensor, c: Tensor) -> dist.Distribution:
        """Returns p(x|z, y), batch shape [...], for z [..., Z] and c(y) [..., num_classes]."""
        batch = torch.broadcast_shapes(z.shape[:-1], c.shape[:-1])
        both = [each.to(z.dtype).expand(*batch, -1) for each in (z, c)]
        return super().likelihood(torch.cat(both, -1))
