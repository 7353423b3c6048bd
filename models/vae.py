"""The variational autoencoder of Kingma & Welling 2014: Gaussian latents, one decoder."""

from collections.abc import Sequence
from typing import Literal

import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from pyro.nn import PyroModule, PyroParam
from torch import Tensor, nn
from torch.distributions import constraints

from pvae.errors import PvaeError
from pvae.nn import MLP, ConvDecoder

__all__ = ["VAE"]


class VAE(PyroModule):
    r"""The variational autoencoder: a standard normal code, decoded by a network.

    .. math::
        z &\sim \mathcal N(0, I) \\
        x \mid z &\sim p(x \mid f_\theta(z))

    with :math:`p(x | f)` Bernoulli :math:`(\sigma(f))`, continuous Bernoulli
    :math:`(\sigma(f))`, or Gaussian :math:`\mathcal N(f, \sigma^2)`, whose :math:`\sigma` is
    a number, one learned number, or a second output of the network (a diagonal covariance).

    Args:
        event_shape: Shape of one datum, (C, H, W) or (D,).
        latent_dim: Z, the size of the code.
        network: `"dense"`, one hidden layer by default, or `"conv"`, transposed convolutions.
        hidden_dims: Widths of the dense decoder's hidden layers.
        channels: Channels of the convolutional decoder, from the code to the image.
        likelihood: `"bernoulli"` for binary data, `"continuous_bernoulli"` for values in
            [0, 1], `"gaussian"` for real values.
        scale: The Gaussian's standard deviation: a number, `"learned"` or `"network"`.
        decoder: A network [..., Z] to [..., *event_shape] in place of the built-in one; for
            `scale="network"`, to [..., 2, *event_shape] (location, then scale before softplus).

    Shape:
        `model(x)` takes x [B, *event_shape] and returns it; `model(size=n)` draws
        n samples [n, *event_shape] from p(x).

    Raises:
        PvaeError: If the likelihood, the scale or the shape is not one of the above.

    Source: Kingma & Welling 2014, *Auto-Encoding Variational Bayes*; Loaiza-Ganem &
    Cunningham 2019, *The continuous Bernoulli*.

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
        likelihood: Literal["bernoulli", "continuous_bernoulli", "gaussian"] = "bernoulli",
        scale: float | Literal["learned", "network"] = 1.0,
        decoder: nn.Module | None = None,
    ) -> None:
        super().__init__()
        if likelihood not in ("bernoulli", "continuous_bernoulli", "gaussian"):
            raise PvaeError(
                f"likelihood={likelihood!r}: known are bernoulli, continuous_bernoulli, gaussian."
            )
        if not (scale in ("learned", "network") or (not isinstance(scale, str) and scale > 0)):
            raise PvaeError(f"scale={scale!r}: a positive number, 'learned' or 'network'.")
        self.event_shape, self.latent_dim = tuple(event_shape), latent_dim
        self.kind, self.scale_kind = likelihood, scale if likelihood == "gaussian" else None
        channels_out, *rest = self.event_shape
        outputs = 2 if self.scale_kind == "network" else 1
        if decoder is None and network == "dense":
            decoder = MLP((latent_dim,), (outputs * channels_out, *rest), hidden_dims)
        elif decoder is None and network == "conv":
            decoder = ConvDecoder((latent_dim,), (outputs * channels_out, *rest), channels)
        elif decoder is None:
            raise PvaeError(f"network={network!r}: known are dense, conv.")
        self.decoder = decoder
        if self.scale_kind == "learned":
            self.scale = PyroParam(torch.tensor(1.0), constraints.positive)
        elif likelihood == "gaussian" and scale != "network":
            self.register_buffer("scale", torch.tensor(float(scale)))
        self.register_buffer("zeros", torch.zeros(latent_dim), persistent=False)

    def forward(self, x: Tensor | None = None, *, size: int = 1) -> Tensor:
        with pyro.plate("data", size if x is None else len(x)):
            z = pyro.sample("z", dist.Normal(self.zeros, 1.0).to_event(1))
            return pyro.sample("x", self.likelihood(z), obs=x)

    def likelihood(self, z: Tensor) -> dist.Distribution:
        """Returns p(x|z), batch shape [...] and event shape `event_shape`, for z [..., Z]."""
        f = self.decoder(z)
        if self.kind == "bernoulli":
            p = dist.Bernoulli(logits=f)
        elif self.kind == "continuous_bernoulli":
            p = dist.ContinuousBernoulli(logits=f)
        elif self.scale_kind == "network":
            f = f.reshape(*z.shape[:-1], 2, *self.event_shape)
            loc, raw = f.unbind(-1 - len(self.event_shape))
            p = dist.Normal(loc, F.softplus(raw) + 1e-4)
        else:
            p = dist.Normal(f, self.scale)
        return p.to_event(len(self.event_shape))
