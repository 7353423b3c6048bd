"""The multimodal VAE: several views of a datum that are independent given its code."""

from collections.abc import Mapping, Sequence
from typing import Literal

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.nn import PyroModule
from torch import Tensor, nn

from pvae.distributions import Head, Likelihood, make_head
from pvae.errors import PvaeError
from pvae.nn import at_least_one, make_decoder

__all__ = ["MVAE"]


class MVAE(PyroModule):
    r"""A VAE of several fields, such as an image and its label, any of which may be missing.

    .. math::
        z &\sim \mathcal N(0, I) \\
        x_m \mid z &\sim p(x_m \mid f_m(z)), \quad m = 1, …, M

    Its guide is `pvae.guides.ProductOfExperts`. Fields that are missing are left out of the
    density: a datum of which the fields S are seen has the bound of log p(x_S). A field is missing
    for all data if it is not among the arguments, and for some by `seen`. Train with every part of
    the fields, so that each can be inferred from any others: `pvae.data.drop_fields(data, names)`
    draws `seen` for each minibatch.

    One field from others: `z = pvae.encode(guide, y=y)`, then `pvae.decode(model, z, site="x")`.

    Args:
        shapes: The fields by name, with the shape of one datum: `{"x": [1, 28, 28], "y": []}`.
        likelihoods: For each field the name of a head, or a head; Bernoulli if it is not here.
            Labels and tokens take `heads.Categorical(levels)`.
        latent_dim: Z, the size of the code.
        network: Of images: `"dense"`, one hidden layer by default, or `"conv"`, transposed
            convolutions. Other fields have dense networks.
        hidden_dims: Widths of the dense decoders' hidden layers.
        channels: Channels of the convolutional decoders, from the code to the image.
        activation: Nonlinearity of the dense decoders.
        weights: For some fields a factor on their log density in training, as for labels, which
            are few numbers beside an image. Evaluation leaves it out.
        decoders: For some fields a network [..., Z] to [..., *out_shape] of their head.

    Shape:
        `model(x=x, y=y, seen=seen)` takes the fields by name and booleans [B, M] in the order of
        `shapes`; `model(size=n)` draws all fields. Returns the first field that is there.

    Raises:
        PvaeError: If a name, a size or `seen` is not valid, or an argument is no field.

    Source: Wu & Goodman 2018, *Multimodal Generative Models for Scalable Weakly-Supervised
    Learning* (arXiv:1802.05335).

    Example:
        >>> from pvae.distributions import heads
        >>> model = MVAE({"x": (1, 28, 28), "y": ()}, {"y": heads.Categorical(10)})
        >>> model(size=16).shape
        torch.Size([16, 1, 28, 28])
    """

    def __init__(
        self,
        shapes: Mapping[str, Sequence[int]],
        likelihoods: Mapping[str, Likelihood | Head] | None = None,
        latent_dim: int = 20,
        network: Literal["dense", "conv"] = "dense",
        hidden_dims: Sequence[int] = (400,),
        channels: Sequence[int] = (64, 32),
        activation: Literal["relu", "tanh"] = "relu",
        weights: Mapping[str, float] | None = None,
        decoders: Mapping[str, nn.Module] | None = None,
    ) -> None:
        super().__init__()
        at_least_one(latent_dim=latent_dim)
        likelihoods, decoders = dict(likelihoods or {}), dict(decoders or {})
        self.weights = dict(weights or {})
        for option, given in (
            ("likelihoods", likelihoods), ("decoders", decoders), ("weights", self.weights),
        ):  # fmt: skip
            if unknown := [name for name in given if name not in shapes]:
                raise PvaeError(
                    f"{option} has {unknown[0]!r}, which is no field; the fields of shapes: "
                    f"{', '.join(shapes)}."
                )
        self.names, self.latent_dim = tuple(shapes), latent_dim
        self.event_shape = tuple(next(iter(shapes.values())))
        self.heads, self.decoders = nn.ModuleDict(), nn.ModuleDict()
        for name, shape in shapes.items():
            head = make_head(likelihoods.get(name, "bernoulli"), shape)
            kind = network if len(head.out_shape) == 3 else "dense"
            sizes = kind, hidden_dims, channels, activation
            decoder = decoders.get(name) or make_decoder((latent_dim,), head.out_shape, *sizes)
            self.heads[name], self.decoders[name] = head, decoder
        self.register_buffer("zeros", torch.zeros(latent_dim), persistent=False)

    def forward(
        self,
        x: Tensor | None = None,
        *,
        seen: Tensor | None = None,
        size: int | None = None,
        **fields: Tensor,
    ) -> Tensor:
        fields = fields if x is None else {"x": x, **fields}
        if fields and size is not None:
            raise PvaeError(
                "model(size=n) draws all fields from the prior, and takes none. For a field given "
                'others, z = pvae.encode(guide, y=y), then pvae.decode(model, z, site="x").'
            )
        masks, size = self.seen(fields, seen) if fields else ({}, size or 1)
        drawn = []
        with pyro.plate("data", size):
            z = pyro.sample("z", dist.Normal(self.zeros, 1.0).to_event(1))
            for name in fields or self.names:
                x = self.filled(name, fields[name], masks) if fields else None
                mask, weight = masks.get(name, True), self.weights.get(name, 1.0)
                with poutine.mask(mask=mask), poutine.scale(scale=weight):
                    drawn.append(pyro.sample(name, self.likelihood(name, z), obs=x))
        return drawn[0]

    def likelihood(self, name: str, z: Tensor) -> dist.Distribution:
        """Returns p(x_m|z) of a field, batch shape [...], for z [..., Z]."""
        head, f = self.heads[name], self.decoders[name](z)
        return head(head.shaped(f, z.shape[:-1]))

    def seen(
        self, fields: Mapping[str, Tensor], seen: Tensor | None
    ) -> tuple[dict[str, Tensor], int]:
        """Returns for each field which data have it, [B], and B."""
        if unknown := [name for name in fields if name not in self.names]:
            raise PvaeError(
                f"There is no field {unknown[0]!r}; the fields: {', '.join(self.names)}."
            )
        size = len(next(iter(fields.values())))
        if seen is None:
            return {}, size
        if seen.shape[-1:] != (len(self.names),) or seen.dtype != torch.bool:
            raise PvaeError(
                f"seen={seen.dtype} of shape {tuple(seen.shape)} is not valid: give booleans "
                f"[B, {len(self.names)}], one for each of the fields {', '.join(self.names)}."
            )
        return {name: seen[..., self.names.index(name)] for name in fields}, size

    def filled(self, name: str, x: Tensor, masks: Mapping[str, Tensor]) -> Tensor:
        """Returns a field with 0 for the data that do not have it."""
        if name not in masks:
            return x
        mask = masks[name][(...,) + (None,) * self.heads[name].event_dim]
        return torch.where(mask, x, torch.zeros_like(x))
