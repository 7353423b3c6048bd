"""Amortised Gaussians whose dimensions are correlated."""

from collections.abc import Sequence
from typing import Any

import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from pyro.nn import PyroModule
from torch import Tensor, nn

from pvae.errors import PvaeError
from pvae.nn import at_least_one, make_encoder

__all__ = ["FullCovariance", "LowRank"]


class FullCovariance(PyroModule):
    r"""A Gaussian with a full covariance, given by one encoder.

    .. math::
        q_\phi(z \mid x) &= \mathcal N(\mu, L L^\top), \qquad
            L = \operatorname{diag}(\sigma) (I + A) \\
        \mu, \sigma, A &= \mathrm{encoder}_\phi(x), \qquad A_{ij} = 0 \text{ unless } i > j

    At the start A = 0, which is the mean field. The family contains the posterior of a
    linear-Gaussian model.

    Args:
        event_shape: Shape of one datum, (C, H, W) or (D,).
        latent_dim: Z, the size of the code.
        encoder: A network [..., *event_shape] to [..., Z (Z + 3) / 2] in place of the built-in
            one: Z locations, Z scales before softplus, and A row by row.
        **options: `network`, `hidden_dims`, `channels` and `activation` of the built-in encoder,
            as in `MeanField`.

    Shape:
        `guide(x)` takes x [B, *event_shape] and returns z [B, Z].

    Raises:
        PvaeError: If a size or the network is not valid.

    Source: Titsias & Lázaro-Gredilla 2014, *Doubly Stochastic Variational Bayes*, ICML; Rezende,
    Mohamed & Wierstra 2014, *Stochastic Backpropagation* (arXiv:1401.4082).

    Example:
        >>> import torch
        >>> guide = FullCovariance((1, 28, 28), latent_dim=20)
        >>> loc, scale_tril = guide.encode(torch.zeros(16, 1, 28, 28))
        >>> loc.shape, scale_tril.shape
        (torch.Size([16, 20]), torch.Size([16, 20, 20]))
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        latent_dim: int = 20,
        encoder: nn.Module | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        at_least_one(latent_dim=latent_dim)
        self.latent_dim = latent_dim
        outputs = latent_dim * (latent_dim + 3) // 2
        if encoder is None:
            encoder = make_encoder(event_shape, (outputs,), **options)
            with torch.no_grad():  # starts as the mean field
                encoder.layers[-1].weight[2 * latent_dim :] = 0
                encoder.layers[-1].bias[2 * latent_dim :] = 0
        self.encoder = encoder
        below = torch.zeros(latent_dim, latent_dim, dtype=torch.long)
        rows, columns = torch.tril_indices(latent_dim, latent_dim, -1)
        below[rows, columns] = 1 + torch.arange(len(rows))
        self.register_buffer("below", below, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        loc, scale_tril = self.encode(x)
        with pyro.plate("data", len(x)):
            return pyro.sample("z", dist.MultivariateNormal(loc, scale_tril=scale_tril))

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Returns μ [..., Z] and L [..., Z, Z] of q(z|x), for x [..., *event_shape]."""
        dim, found = self.latent_dim, self.encoder(x)
        loc, raw, below = found.split([dim, dim, found.shape[-1] - 2 * dim], -1)
        scale = F.softplus(raw) + 1e-6
        a = F.pad(below, (1, 0))[..., self.below]
        return loc, scale[..., None] * a + scale.diag_embed()


class LowRank(PyroModule):
    r"""A Gaussian whose covariance is a diagonal and a few directions, given by one encoder.

    .. math::
        q_\phi(z \mid x) &= \mathcal N\left(\mu, \;
            \operatorname{diag}(\sigma) (I + W W^\top) \operatorname{diag}(\sigma)\right) \\
        \mu, \sigma, W &= \mathrm{encoder}_\phi(x), \qquad W \in \mathbb R^{Z \times R}

    With W = 0 this is the mean field, and training starts near it. In units of σ, q can be wider
    than the mean field, but never narrower.

    Args:
        event_shape: Shape of one datum, (C, H, W) or (D,).
        latent_dim: Z, the size of the code.
        rank: R, from 1 to Z.
        encoder: A network [..., *event_shape] to [..., 2 + R, Z] in place of the built-in one:
            locations, scales before softplus, and the columns of W.
        **options: `network`, `hidden_dims`, `channels` and `activation` of the built-in encoder,
            as in `MeanField`.

    Shape:
        `guide(x)` takes x [B, *event_shape] and returns z [B, Z].

    Raises:
        PvaeError: If the rank is not between 1 and Z, or a size or the network is not valid.

    Source: Ong, Nott & Smith 2018, *Gaussian variational approximation with a factor covariance
    structure* (arXiv:1701.03208); with rank 1, Rezende, Mohamed & Wierstra 2014, *Stochastic
    Backpropagation* (arXiv:1401.4082).

    Example:
        >>> import torch
        >>> guide = LowRank((1, 28, 28), latent_dim=20, rank=3)
        >>> loc, scale, factor = guide.encode(torch.zeros(16, 1, 28, 28))
        >>> loc.shape, scale.shape, factor.shape
        (torch.Size([16, 20]), torch.Size([16, 20]), torch.Size([16, 20, 3]))
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        latent_dim: int = 20,
        rank: int = 2,
        encoder: nn.Module | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        at_least_one(latent_dim=latent_dim)
        if not 1 <= rank <= latent_dim:
            raise PvaeError(
                f"rank={rank} is not valid: give 1 to latent_dim={latent_dim}. Rank 0 is "
                "pvae.guides.MeanField, and a rank above latent_dim adds nothing."
            )
        if encoder is None:
            encoder = make_encoder(event_shape, (2 + rank, latent_dim), **options)
            with torch.no_grad():  # near the mean field: at W = 0 the gradient vanishes
                encoder.layers[-1].weight[2 * latent_dim :] *= 0.1
                encoder.layers[-1].bias[2 * latent_dim :] *= 0.1
        self.encoder = encoder

    def forward(self, x: Tensor) -> Tensor:
        loc, scale, factor = self.encode(x)
        with pyro.plate("data", len(x)):
            return pyro.sample("z", dist.LowRankMultivariateNormal(loc, factor, scale.square()))

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns μ, σ, each [..., Z], and diag(σ) W [..., Z, R], for x [..., *event_shape]."""
        found = self.encoder(x)
        loc, raw, w = found[..., 0, :], found[..., 1, :], found[..., 2:, :].transpose(-1, -2)
        scale = F.softplus(raw) + 1e-3  # because σ² is inverted
        return loc, scale, scale[..., None] * w
