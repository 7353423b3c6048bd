"""The variational autoencoder with categorical latents."""

from collections.abc import Sequence
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor

from pvae.models.vae import VAE
from pvae.nn import at_least_one

__all__ = ["CategoricalVAE"]


class CategoricalVAE(VAE):
    r"""A VAE whose code is N categorical variables of C values each, with a uniform prior.

    .. math::
        z_i &\sim \mathrm{Categorical}(1/C, \ldots, 1/C), \qquad i = 1, \ldots, N \\
        x \mid z &\sim p(x \mid f_\theta(\sqrt C z))

    z is in one-hot form. f takes it as a vector of N C values, whose mean square is one after the
    factor of √C; without it training starts slowly. The guide is `pvae.guides.Categorical`. With
    C = 2 the code is N bits.

    Args:
        event_shape: Shape of one datum, (C, H, W) or (D,).
        num_latents: N.
        num_categories: C.
        **options: `network`, `hidden_dims`, `likelihood` and the other options of `VAE`. A
            `decoder` maps [..., N C] to [..., *out_shape].

    Shape:
        `model(x)` takes x [B, *event_shape] and returns it; `model(size=n)` draws
        n samples [n, *event_shape] from p(x).

    Raises:
        PvaeError: If a size is not valid; see also `VAE`.

    Source: Jang, Gu & Poole 2017, *Categorical Reparameterization with Gumbel-Softmax*
    (arXiv:1611.01144), with 30 × 10 and 20 × 2 variables.

    Example:
        >>> model = CategoricalVAE((1, 28, 28), num_latents=30, num_categories=10)
        >>> model.prior().sample((16,)).shape
        torch.Size([16, 30, 10])
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        num_latents: int = 30,
        num_categories: int = 10,
        **options: Any,
    ) -> None:
        at_least_one(num_latents=num_latents, num_categories=num_categories)
        super().__init__(event_shape, num_latents * num_categories, **options)
        equal = torch.zeros(num_latents, num_categories)
        self.register_buffer("equal", equal, persistent=False)

    def prior(self) -> dist.Distribution:
        """Returns p(z), batch shape [] and event shape [N, C]."""
        # Unvalidated, because a guide may give relaxed values in training.
        return dist.OneHotCategorical(logits=self.equal, validate_args=False).to_event(1)

    def likelihood(self, z: Tensor) -> dist.Distribution:
        """Returns p(x|z), batch shape [...] and event shape `event_shape`, for z [..., N, C]."""
        return super().likelihood(self.equal.shape[-1] ** 0.5 * z.flatten(-2))
