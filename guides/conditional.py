"""The guide of a conditional VAE: a Gaussian whose encoder takes x and y."""

from collections.abc import Sequence
from typing import Literal

import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from pyro.nn import PyroModule
from torch import Tensor, nn

from pvae.errors import PvaeError
from pvae.nn import make_encoder

__all__ = ["ConditionalMeanField"]


class ConditionalMeanField(PyroModule):
    r"""A diagonal Gaussian given x and y.

    .. math::
        q_\phi(z \mid x, y) =
            \mathcal N(\mu_\phi(x, c(y)), \operatorname{diag} \sigma_\phi^2(x, c(y)))

    c is the model's: the one-hot form of labels, or its network. A dense encoder takes the values
    of x and c(y) side by side; a convolutional one takes a linear map of c(y) as one more channel.

    Args:
        model: A model with c, `pvae.models.ConditionalVAE`.
        event_shape: Shape of one datum, (C, H, W) or (D,).
        network: `"dense"`, one hidden layer by default, or `"conv"`, strided convolutions.
        hidden_dims: Widths of the dense encoder's hidden layers.
        channels: Channels of the convolutional encoder, from the image to the code.
        activation: Nonlinearity of the dense encoder.

    Shape:
        `guide(x, y)` takes x [B, *event_shape] and y [B] and returns z [B, Z].

    Raises:
        PvaeError: If the model has no c, a size or the network is not valid, or y is missing or no
            label.

    Source: Sohn, Lee & Yan 2015, *Learning Structured Output Representation using Deep Conditional
    Generative Models* (NIPS).

    Example:
        >>> from pvae.models import ConditionalVAE
        >>> guide = ConditionalMeanField(ConditionalVAE((1, 28, 28)), (1, 28, 28))
        >>> guide(torch.zeros(16, 1, 28, 28), torch.arange(16) % 10).shape
        torch.Size([16, 20])
    """

    def __init__(
        self,
        model: PyroModule,
        event_shape: Sequence[int],
        network: Literal["dense", "conv"] = "dense",
        hidden_dims: Sequence[int] = (400,),
        channels: Sequence[int] = (32, 64),
        activation: Literal["relu", "tanh"] = "relu",
    ) -> None:
        super().__init__()
        if not hasattr(model, "condition"):
            raise PvaeError(
                f"{type(model).__name__} takes no y: ConditionalMeanField is for ConditionalVAE. "
                "Choose MeanField."
            )
        # Not a submodule, whose parameters would be saved twice.
        self.__dict__["model"] = model
        self.event_shape, size = tuple(event_shape), model.num_classes
        self.plane = None
        if network == "conv":
            self.plane = nn.Linear(size, torch.Size(self.event_shape[1:]).numel())
            in_shape = self.event_shape[0] + 1, *self.event_shape[1:]
        else:
            in_shape = (torch.Size(self.event_shape).numel() + size,)
        sizes = network, hidden_dims, channels, activation
        self.encoder = make_encoder(in_shape, (2, model.latent_dim), *sizes)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        loc, scale = self.encode(x, y)
        with pyro.plate("data", len(x)):
            return pyro.sample("z", dist.Normal(loc, scale).to_event(1))

    def encode(self, x: Tensor, y: Tensor | None) -> tuple[Tensor, Tensor]:
        """Returns location and scale of q(z|x, y), each [..., Z]."""
        c = self.model.condition(y).to(x.dtype)
        batch = torch.broadcast_shapes(x.shape[: x.ndim - len(self.event_shape)], c.shape[:-1])
        x, c = x.expand(*batch, *self.event_shape), c.expand(*batch, -1)
        if self.plane is None:
            both = torch.cat([x.flatten(len(batch)), c], -1)
        else:
            plane = self.plane(c).view(*batch, 1, *self.event_shape[1:])
            both = torch.cat([x, plane], -len(self.event_shape))
        loc, raw = self.encoder(both).unbind(-2)
        return loc, F.softplus(raw) + 1e-6
