"""An amortised mixture of Gaussians with implicit reparameterisation gradients."""

from collections.abc import Sequence
from typing import Any

import pyro
import torch.nn.functional as F
from pyro.nn import PyroModule
from torch import Tensor, nn

from pvae.distributions import DiagonalMixture
from pvae.nn import at_least_one, make_encoder

__all__ = ["MixtureOfGaussians"]


class MixtureOfGaussians(PyroModule):
    r"""A mixture of diagonal Gaussians whose parameters are the output of one encoder.

    .. math:: q_\phi(z \mid x) = \sum_{k=1}^K \pi_k(x) \,
        \mathcal N(\mu_k(x), \operatorname{diag} \sigma_k^2(x))

    The density sums over the components. Samples have gradients with respect to all parameters,
    including the weights; see `pvae.distributions.DiagonalMixture`.

    Args:
        event_shape: Shape of one datum, (C, H, W) or (D,).
        latent_dim: Z, the size of the code.
        num_components: K.
        encoder: A network [..., *event_shape] to [..., K (1 + 2 Z)] in place of the built-in one:
            K logits of π, K Z locations, K Z scales before softplus.
        **options: `network`, `hidden_dims`, `channels` and `activation` of the built-in encoder,
            as in `MeanField`.

    Shape:
        `guide(x)` takes x [B, *event_shape] and returns z [B, Z].

    Raises:
        PvaeError: If there is no component, or a size or the network is not valid.

    Source: Morningstar et al. 2021, *Automatic Differentiation Variational Inference with
    Mixtures* (arXiv:2003.01687); Figurnov, Mohamed & Mnih 2018, *Implicit Reparameterization
    Gradients* (arXiv:1805.08498).

    Example:
        >>> import torch
        >>> guide = MixtureOfGaussians((1, 28, 28), latent_dim=20, num_components=4)
        >>> logits, loc, scale = guide.encode(torch.zeros(16, 1, 28, 28))
        >>> logits.shape, loc.shape, scale.shape
        (torch.Size([16, 4]), torch.Size([16, 4, 20]), torch.Size([16, 4, 20]))
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        latent_dim: int = 20,
        num_components: int = 4,
        encoder: nn.Module | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        at_least_one(latent_dim=latent_dim, num_components=num_components)
        self.latent_dim, self.num_components = latent_dim, num_components
        outputs = (num_components * (1 + 2 * latent_dim),)
        if encoder is None:
            encoder = make_encoder(event_shape, outputs, **options)
        self.encoder = encoder

    def forward(self, x: Tensor) -> Tensor:
        logits, loc, scale = self.encode(x)
        with pyro.plate("data", len(x)):
            return pyro.sample("z", DiagonalMixture(logits, loc, scale))

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns logits [..., K], locations and scales, each [..., K, Z], for x."""
        k, dim = self.num_components, self.latent_dim
        logits, loc, raw = self.encoder(x).split([k, k * dim, k * dim], -1)
        loc, raw = (t.unflatten(-1, (k, dim)) for t in (loc, raw))
        return logits, loc, F.softplus(raw) + 1e-6
