"""The variational autoencoder of Kingma & Welling."""

from collections.abc import Sequence
from typing import Any, Literal

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import Tensor, nn

from pvae.distributions import Head, Likelihood, make_head
from pvae.nn import at_least_one, make_decoder

__all__ = ["VAE"]


class VAE(PyroModule):
    r"""The variational autoencoder: a standard normal code, decoded by a network.

    .. math::
        z &\sim \mathcal N(0, I) \\
        x \mid z &\sim p(x \mid f_\theta(z))

    The network f gives the parameters of a distribution for each value of x. A head of
    `pvae.distributions.heads` says which one:

    - `"bernoulli"`: x is 0 or 1, with probability :math:`\sigma(f)`;
    - `"continuous_bernoulli"`: x is in [0, 1];
    - `"gaussian"`: x is real, :math:`\mathcal N(f, s^2)`, with `scale` s;
    - `"binomial"`, `"discretized_logistic"` (with `scale`), `"logistic_mixture"` (with
      `num_mixtures`): x is one of `levels` grey values between 0 and 1. They are for data with
      `observation="grey"`, and their bounds are also given in bits/dim;
    - `"poisson"`, `"negative_binomial"`, `"zero_inflated_poisson"`,
      `"zero_inflated_negative_binomial"`: x is a count. They are for data with
      `observation="counts"`.

    Args:
        event_shape: Shape of one datum, (C, H, W) or (D,).
        latent_dim: Z, the size of the code.
        network: `"dense"`, one hidden layer by default, or `"conv"`, transposed convolutions.
        hidden_dims: Widths of the dense decoder's hidden layers.
        channels: Channels of the convolutional decoder, from the code to the image.
        activation: Nonlinearity of the dense decoder.
        likelihood: The name of a head, or a head, as in `likelihood=heads.Gaussian(scale=0.1)`.
        decoder: A network [..., Z] to [..., *out_shape] in place of the built-in one. The head's
            `out_shape` is `event_shape`, except for `heads.LogisticMixture`, and for heads with
            two outputs for each value (`scale="network"`, zero-inflated): [2, *event_shape].
        **options: `scale`, `levels` and `num_mixtures` of a head that is given by name.

    Attributes:
        head: The head.

    Shape:
        `model(x)` takes x [B, *event_shape] and returns it; `model(size=n)` draws
        n samples [n, *event_shape] from p(x).

    Raises:
        PvaeError: If a name, a size or an option is not valid.

    Source: Kingma & Welling 2014, *Auto-Encoding Variational Bayes* (arXiv:1312.6114).

    Example:
        >>> model = VAE((1, 28, 28), latent_dim=20)
        >>> model(size=16).shape
        torch.Size([16, 1, 28, 28])
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        latent_dim: int = 20,
        network: Literal["dense", "conv"] = "dense",
        hidden_dims: Sequence[int] = (400,),
        channels: Sequence[int] = (64, 32),
        activation: Literal["relu", "tanh"] = "relu",
        likelihood: Likelihood | Head = "bernoulli",
        decoder: nn.Module | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        at_least_one(latent_dim=latent_dim)
        self.event_shape, self.latent_dim = tuple(event_shape), latent_dim
        self.head = make_head(likelihood, self.event_shape, **options)
        if decoder is None:
            sizes = network, hidden_dims, channels, activation
            decoder = make_decoder((latent_dim,), self.head.out_shape, *sizes)
        self.decoder = decoder
        self.register_buffer("zeros", torch.zeros(latent_dim), persistent=False)

    def forward(self, x: Tensor | None = None, *, size: int = 1) -> Tensor:
        with pyro.plate("data", size if x is None else len(x)):
            z = pyro.sample("z", self.prior())
            return pyro.sample("x", self.likelihood(z), obs=x)

    def prior(self) -> dist.Distribution:
        """Returns p(z), batch shape [] and event shape [Z]."""
        return dist.Normal(self.zeros, 1.0).to_event(1)

    def likelihood(self, z: Tensor) -> dist.Distribution:
        """Returns p(x|z), batch shape [...] and event shape `event_shape`, for z [..., Z]."""
        f = self.decoder(z)
        return self.head(self.head.shaped(f, z.shape[:-1]))

    def set_output_bias(self, x: Tensor) -> None:
        """Makes p(x|z) start at the mean of data x [N, *event_shape].

        The bias of the decoder's last layer becomes the head's `bias(x)`; for convolutions, its
        mean over the pixels of each channel. A decoder without `set_bias` is left unchanged.

        Source: Burda, Grosse & Salakhutdinov 2016, their code.
        """
        bias = self.head.bias(x)
        if bias is not None and hasattr(self.decoder, "set_bias"):
            self.decoder.set_bias(bias)
