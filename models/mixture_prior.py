"""The variational autoencoder with a mixture of Gaussians as its prior."""

from collections.abc import Sequence
from typing import Any

import pyro.distributions as dist
import torch
from torch import nn

from pvae.models.vae import VAE
from pvae.nn import at_least_one

__all__ = ["MixturePriorVAE"]


class MixturePriorVAE(VAE):
    r"""A VAE whose prior is a learned mixture of diagonal Gaussians.

    .. math::
        z &\sim \sum_{k=1}^K \pi_k \, \mathcal N(\mu_k, \operatorname{diag} \sigma_k^2) \\
        x \mid z &\sim p(x \mid f_\theta(z))

    The density of z sums over the components, so a guide infers z alone.

    Args:
        event_shape: Shape of one datum, (C, H, W) or (D,).
        latent_dim: Z, the size of the code.
        num_components: K; 1 is a learned Gaussian.
        **options: `network`, `hidden_dims`, `likelihood` and the other options of `VAE`.

    Shape:
        `model(x)` takes x [B, *event_shape] and returns it; `model(size=n)` draws
        n samples [n, *event_shape] from p(x).

    Raises:
        PvaeError: If there is no component; see also `VAE`.

    Source: Dilokthanakul et al. 2016, *Deep Unsupervised Clustering with Gaussian Mixture
    Variational Autoencoders* (arXiv:1611.02648); Tomczak & Welling 2018, *VAE with a VampPrior*
    (the "MoG" prior, arXiv:1705.07120).

    Example:
        >>> model = MixturePriorVAE((1, 28, 28), latent_dim=20, num_components=10)
        >>> model.prior().sample((3,)).shape
        torch.Size([3, 20])
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        latent_dim: int = 20,
        num_components: int = 10,
        **options: Any,
    ) -> None:
        super().__init__(event_shape, latent_dim, **options)
        at_least_one(num_components=num_components)
        self.mixture = nn.ParameterDict(
            {
                "logits": torch.zeros(num_components),
                "loc": torch.randn(num_components, latent_dim),
                "log_scale": torch.zeros(num_components, latent_dim),
            }
        )

    def prior(self) -> dist.Distribution:
        """Returns p(z), batch shape [] and event shape [Z]."""
        mixture = self.mixture
        components = dist.Normal(mixture["loc"], mixture["log_scale"].exp()).to_event(1)
        return dist.MixtureSameFamily(dist.Categorical(logits=mixture["logits"]), components)
