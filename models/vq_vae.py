"""The VQ-VAE, whose latents are places in a codebook."""

from collections.abc import Sequence
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import Tensor, nn

from pvae.distributions import Head, Likelihood, make_head
from pvae.nn import Codebook, ResidualDecoder

__all__ = ["VQVAE"]


class VQVAE(PyroModule):
    r"""The VQ-VAE's decoder: a map of codes, each a vector of a codebook, decoded by a network.

    .. math::
        z_{ij} &\sim \mathrm{Categorical}(1/K, \ldots, 1/K), \qquad
            i = 1, \ldots, h, \quad j = 1, \ldots, w \\
        x \mid z &\sim p(x \mid f_\theta(e(z))), \qquad e(z)_{ij} = \sum_k z_{ijk} e_k

    z is in one-hot form. Its guide is `pvae.guides.NearestCode`: a point mass on one z, which
    has probability one, so that log p(x, z(x)) is a lower bound on log p(x).

    Args:
        event_shape: Shape of one image, (C, H, W).
        num_codes: K.
        code_dim: D, the size of a code's vector.
        channels: Channels of the decoder, from the codes to the image. Each layer doubles height
            and width.
        num_blocks: Number of residual blocks.
        decay: Of the codebook's moving averages; None to learn it by gradients.
        likelihood: The name of a head, or a head, as in `VAE`.
        decoder: A network [..., h, w, D] to [..., *out_shape] in place of the built-in one.
        **options: Of a head that is given by name.

    Attributes:
        codebook: e, a `pvae.nn.Codebook`.
        map_shape: (h, w).

    Shape:
        `model(x)` takes x [B, *event_shape] and returns it; `model(size=n)` draws
        n samples [n, *event_shape] from p(x).

    Raises:
        PvaeError: If a name is not known, or a size or an option does not fit.

    Source: van den Oord, Vinyals & Kavukcuoglu 2017, *Neural Discrete Representation Learning*
    (arXiv:1711.00937).

    Example:
        >>> VQVAE((1, 28, 28), num_codes=128)(size=16).shape
        torch.Size([16, 1, 28, 28])
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        num_codes: int = 512,
        code_dim: int = 64,
        channels: Sequence[int] = (128, 64),
        num_blocks: int = 2,
        decay: float | None = 0.99,
        likelihood: Likelihood | Head = "bernoulli",
        decoder: nn.Module | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        self.event_shape = tuple(event_shape)
        self.head = make_head(likelihood, self.event_shape, **options)
        self.codebook = Codebook(num_codes, code_dim, decay)
        built_in = ResidualDecoder(code_dim, self.head.out_shape, channels, num_blocks)
        self.map_shape = built_in.in_shape[:-1]
        self.decoder = built_in if decoder is None else decoder
        self.register_buffer("equal", torch.zeros(*self.map_shape, num_codes), persistent=False)

    def forward(self, x: Tensor | None = None, *, size: int = 1) -> Tensor:
        with pyro.plate("data", size if x is None else len(x)):
            z = pyro.sample("z", self.prior())
            return pyro.sample("x", self.likelihood(z), obs=x)

    def prior(self) -> dist.Distribution:
        """Returns p(z), batch shape [] and event shape [h, w, K]."""
        return dist.OneHotCategorical(logits=self.equal).to_event(2)

    def likelihood(self, z: Tensor) -> dist.Distribution:
        """Returns p(x|z), batch shape [...] and event shape `event_shape`, for z [..., h, w, K]."""
        f = self.decoder(self.codebook.embed(z))
        return self.head(self.head.shaped(f, z.shape[:-3]))
