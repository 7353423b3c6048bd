"""The guide of a VQ-VAE: the nearest vectors of the codebook."""

from collections.abc import Sequence

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import Tensor, nn

from pvae.errors import PvaeError
from pvae.nn import Codebook, ResidualEncoder

__all__ = ["NearestCode", "draw_together", "frozen", "not_negative", "point_mass"]


class NearestCode(PyroModule):
    r"""A point mass on the codes whose vectors are nearest to an encoding.

    .. math:: q_\phi(z \mid x) = \prod_{ij} \mathbb 1 \left[
        z_{ij} = \operatorname{onehot} \left( \arg\min_k \| h_\phi(x)_{ij} - e_k \|^2 \right)
        \right]

    A point mass on a discrete z has probability one, so the ELBO is log p(x, z(x)). Training
    passes the gradient of e(z) to h (straight-through) and subtracts

    .. math:: \sum_{ij} \beta \| h_{ij} - \bar e_{ij} \|^2 + \| \bar h_{ij} - e_{ij} \|^2, \qquad
        \bar a = a \text{ without a gradient}

    in nats for each datum; the second term only where the codebook has no moving averages.
    Evaluation does not count them. While the encoder or the model is frozen
    (`requires_grad_(False)`), the codebook's moving averages stand still too.

    Args:
        model: A model with a `codebook` (`pvae.nn.Codebook`), such as `pvae.models.VQVAE`.
        event_shape: Shape of one image, (C, H, W), or of one video, (T, C, H, W).
        channels: Channels of the encoder, from the image to the codes. Each layer halves height
            and width.
        num_blocks: Number of residual blocks.
        commitment: β. The paper finds little difference between 0.1 and 2.
        encoder: A network [..., *event_shape] to [..., h, w, D] in place of the built-in one.

    Shape:
        `guide(x)` takes x [B, *event_shape] and returns z [B, h, w, K].

    Raises:
        PvaeError: If the model has no codebook, or its map of codes has another size.

    Source: van den Oord, Vinyals & Kavukcuoglu 2017, *Neural Discrete Representation Learning*
    (arXiv:1711.00937).

    Example:
        >>> import torch
        >>> from pvae.models import VQVAE
        >>> guide = NearestCode(VQVAE((1, 8, 8), num_codes=16), (1, 8, 8))
        >>> guide(torch.zeros(5, 1, 8, 8)).shape
        torch.Size([5, 2, 2, 16])
    """

    def __init__(
        self,
        model: PyroModule,
        event_shape: Sequence[int],
        channels: Sequence[int] = (64, 128),
        num_blocks: int = 2,
        commitment: float = 1.0,
        encoder: nn.Module | None = None,
    ) -> None:
        super().__init__()
        if not hasattr(model, "codebook"):
            raise PvaeError(
                f"{type(model).__name__} has no codebook. NearestCode is the guide of models with "
                "one, such as VQVAE."
            )
        # Not a submodule, whose parameters would be saved twice.
        self.__dict__["model"] = model
        self.event_shape, self.commitment = tuple(event_shape), not_negative(commitment)
        if encoder is None:
            code_dim = model.codebook.code_dim
            encoder = ResidualEncoder(event_shape, code_dim, channels, num_blocks)
        self.encoder = encoder

    def forward(self, x: Tensor) -> Tensor:
        with pyro.plate("data", len(x)):
            h = self.encode(x)
            learn = self.training and not (frozen(self.encoder) or frozen(self.model))
            z = self.model.codebook(h, learn=learn)
            if self.training:
                draw_together("quantisation", self.model.codebook, h, z, self.commitment)
            return pyro.sample("z", point_mass(z))

    def encode(self, x: Tensor) -> Tensor:
        """Returns the encodings h before they are quantised, [..., h, w, D]."""
        h = self.encoder(x)
        theirs = tuple(h.shape[x.ndim - len(self.event_shape) : -1])
        if theirs != self.model.map_shape:
            raise PvaeError(
                f"The encoder gives a map of {theirs} codes, the model has "
                f"{self.model.map_shape}. Give both as many channels (each halves the image)."
            )
        return h


def draw_together(name: str, codebook: Codebook, h: Tensor, z: Tensor, commitment: float) -> None:
    """Adds the factor that draws encodings h [B, ..., D] and their vectors to each other."""
    penalty = codebook.penalty(h, z, commitment).sum(list(range(1, h.ndim - 1)))
    pyro.factor(name, penalty, has_rsample=True)  # a guide's factor is subtracted from the bound


class _Point(dist.Delta):
    """A point mass that knows what it has drawn: the density of that needs no comparison."""

    _drawn: Tensor | None = None

    def rsample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        self._drawn = super().rsample(sample_shape)
        return self._drawn

    def log_prob(self, x: Tensor) -> Tensor:
        if x is not self._drawn:
            return super().log_prob(x)
        return self.log_density.expand(x.shape[: x.ndim - self.event_dim])


def point_mass(z: Tensor) -> dist.Delta:
    """Returns the distribution of codes z [B, ..., K] that are known."""
    return _Point(z, event_dim=z.ndim - 1)


def not_negative(commitment: float) -> float:
    """Returns β, if it is valid."""
    if not commitment >= 0:
        raise PvaeError(f"commitment={commitment} is not valid: give 0 or a positive number.")
    return commitment


def frozen(module: nn.Module) -> bool:
    """Whether no parameter of a module is trained."""
    parameters = list(module.parameters())
    return bool(parameters) and not any(p.requires_grad for p in parameters)
