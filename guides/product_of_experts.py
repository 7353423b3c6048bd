"""The guide of a multimodal VAE: a product of one Gaussian expert for each field."""

from collections.abc import Mapping, Sequence
from typing import Literal

import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from pyro.nn import PyroModule
from torch import Tensor, nn

from pvae.distributions import heads
from pvae.errors import PvaeError
from pvae.nn import make_encoder

__all__ = ["ProductOfExperts"]


class ProductOfExperts(PyroModule):
    r"""A diagonal Gaussian that multiplies the prior and an expert for each field that is seen.

    .. math::
        q_\phi(z \mid x_S) \propto \mathcal N(z; 0, I)
            \prod_{m \in S} \mathcal N(z; \mu_m(x_m), \operatorname{diag} \sigma_m^2(x_m))

    so that the precision is :math:`1 + \sum_{m \in S} \sigma_m^{-2}`, and nothing seen gives the
    prior. Fields of integers enter through an embedding.

    Args:
        model: A `pvae.models.MVAE`.
        network: Of images: `"dense"`, one hidden layer by default, or `"conv"`, strided
            convolutions. Other fields have dense networks.
        hidden_dims: Widths of the dense encoders' hidden layers.
        channels: Channels of the convolutional encoders, from the image to the code.
        activation: Nonlinearity of the dense encoders.
        embedding_dim: Size of the embedding of an integer.
        encoders: For some fields a network [..., *shape] to [..., 2, Z] (μ, then σ before
            softplus).

    Shape:
        `guide(x=x, y=y, seen=seen)` takes what the model takes, and returns z [B, Z].

    Raises:
        PvaeError: If the model has no fields, a name or a size is not valid, or no field is given.

    Source: Wu & Goodman 2018, *Multimodal Generative Models for Scalable Weakly-Supervised
    Learning* (arXiv:1802.05335).

    Example:
        >>> from pvae.distributions import heads
        >>> from pvae.models import MVAE
        >>> model = MVAE({"x": (1, 28, 28), "y": ()}, {"y": heads.Categorical(10)})
        >>> guide = ProductOfExperts(model)
        >>> guide(y=torch.arange(10)).shape
        torch.Size([10, 20])
    """

    def __init__(
        self,
        model: PyroModule,
        network: Literal["dense", "conv"] = "dense",
        hidden_dims: Sequence[int] = (400,),
        channels: Sequence[int] = (32, 64),
        activation: Literal["relu", "tanh"] = "relu",
        embedding_dim: int = 32,
        encoders: Mapping[str, nn.Module] | None = None,
    ) -> None:
        super().__init__()
        if not hasattr(model, "seen"):
            raise PvaeError(
                f"{type(model).__name__} has no fields: ProductOfExperts is for MVAE. Choose "
                "MeanField."
            )
        # Not a submodule, whose parameters would be saved twice.
        self.__dict__["model"] = model
        encoders = dict(encoders or {})
        self.embeddings, self.encoders = nn.ModuleDict(), nn.ModuleDict()
        for name, head in model.heads.items():
            shape = tuple(head.event_shape)
            values = head.levels if isinstance(head, heads.Categorical) else None
            if name not in encoders:
                if values:
                    self.embeddings[name] = nn.Embedding(values, embedding_dim)
                    shape = (*shape, embedding_dim)
                kind = network if len(shape) == 3 and not values else "dense"
                sizes = kind, hidden_dims, channels, activation
                encoders[name] = make_encoder(shape, (2, model.latent_dim), *sizes)
            self.encoders[name] = encoders[name]

    def forward(
        self, x: Tensor | None = None, *, seen: Tensor | None = None, **fields: Tensor
    ) -> Tensor:
        fields = fields if x is None else {"x": x, **fields}
        if not fields:
            raise PvaeError("No field is given. Give one or more by name, as in guide(x=x, y=y).")
        loc, scale = self.encode(seen=seen, **fields)
        with pyro.plate("data", self.model.seen(fields, seen)[1]):
            return pyro.sample("z", dist.Normal(loc, scale).to_event(1))

    def encode(self, *, seen: Tensor | None = None, **fields: Tensor) -> tuple[Tensor, Tensor]:
        """Returns location and scale of q(z|x_S), each [..., Z]."""
        masks, _ = self.model.seen(fields, seen)
        precision, weighted = 1.0, 0.0
        for name, x in fields.items():
            x = self.model.filled(name, x, masks)
            x = self.embedded(name, x) if name in self.embeddings else x
            loc, raw = self.encoders[name](x).unbind(-2)
            each = (F.softplus(raw) + 1e-6) ** -2
            each = torch.where(masks[name][..., None], each, 0.0) if name in masks else each
            precision, weighted = precision + each, weighted + each * loc
        return weighted / precision, precision**-0.5

    def embedded(self, name: str, x: Tensor) -> Tensor:
        """Returns the vectors of a field of classes."""
        try:
            return self.embeddings[name](x)
        except IndexError as error:
            most = self.embeddings[name].num_embeddings - 1
            raise PvaeError(
                f"{name} has values outside 0 … {most}. Where a datum has no {name}, such as an "
                "unknown label of -1, say so by seen=, booleans of which fields each datum has, "
                f"and give {name} any value there, such as y.clamp(min=0)."
            ) from error
