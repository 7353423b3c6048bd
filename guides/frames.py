"""The guide of frames after a still: a Gaussian whose encoder takes all of them."""

from collections.abc import Sequence
from typing import Literal

import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from pyro.nn import PyroModule
from torch import Tensor

from pvae.errors import PvaeError
from pvae.nn import at_least_one, make_encoder

__all__ = ["FramesMeanField"]


class FramesMeanField(PyroModule):
    r"""A diagonal Gaussian given frames and the still before them.

    .. math::
        q_\phi(z \mid x, s) = \mathcal N(\mu_\phi(x, s), \operatorname{diag} \sigma_\phi^2(x, s))

    Its model is `pvae.models.NextFrames`. The encoder sees the frames as channels of one image.

    Args:
        event_shape: Shape of the frames, (T, C, H, W).
        latent_dim: Z, the size of the code.
        network: `"dense"`, one hidden layer by default, or `"conv"`, strided convolutions.
        hidden_dims: Widths of the dense encoder's hidden layers.
        channels: Channels of the convolutional encoder, from the frames to the code.
        activation: Nonlinearity of the dense encoder.

    Shape:
        `guide(x, still)` takes x [B, T, C, H, W] and stills [B, C, H, W], and returns z [B, Z].

    Raises:
        PvaeError: If a size or the network is not valid, or the still is missing or has another
            shape.

    Source: Walker et al. 2016, *An Uncertain Future: Forecasting from Static Images using
    Variational Autoencoders* (arXiv:1606.07873).

    Example:
        >>> guide = FramesMeanField((5, 1, 16, 16), latent_dim=8)
        >>> guide(torch.zeros(3, 5, 1, 16, 16), torch.zeros(3, 1, 16, 16)).shape
        torch.Size([3, 8])
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        latent_dim: int = 20,
        network: Literal["dense", "conv"] = "dense",
        hidden_dims: Sequence[int] = (400,),
        channels: Sequence[int] = (32, 64),
        activation: Literal["relu", "tanh"] = "relu",
    ) -> None:
        super().__init__()
        at_least_one(latent_dim=latent_dim)
        self.event_shape = tuple(event_shape)
        if len(self.event_shape) != 4:
            raise PvaeError(
                f"event_shape={self.event_shape} is not valid: it needs the frames after a still "
                "(T, C, H, W). Data of videos have it with frames='next' (in the shell "
                "--data.frames next)."
            )
        frames, c, *size = self.event_shape
        sizes = network, hidden_dims, channels, activation
        self.encoder = make_encoder(((frames + 1) * c, *size), (2, latent_dim), *sizes)

    def forward(self, x: Tensor, still: Tensor | None = None) -> Tensor:
        loc, scale = self.encode(x, still)
        with pyro.plate("data", len(x)):
            return pyro.sample("z", dist.Normal(loc, scale).to_event(1))

    def encode(self, x: Tensor, still: Tensor | None) -> tuple[Tensor, Tensor]:
        """Returns location and scale of q(z|x, s), each [..., Z]."""
        if still is None:
            raise PvaeError(
                "This is a guide of frames and the still before them, and no still was given: call "
                "guide(x, still). Data of videos have this field with frames='next'."
            )
        if still.shape[-3:] != self.event_shape[1:] or still.ndim != x.ndim - 1:
            raise PvaeError(
                f"still has the shape {tuple(still.shape)}, and x has {tuple(x.shape)}: this guide "
                f"needs stills [..., {', '.join(map(str, self.event_shape[1:]))}], one for each x."
            )
        both = torch.cat([still.unsqueeze(-4), x], -4).flatten(-4, -3)
        loc, raw = self.encoder(both).unbind(-2)
        return loc, F.softplus(raw) + 1e-6
