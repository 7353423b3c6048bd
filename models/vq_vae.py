"""The VQ-VAE, whose latents are places in a codebook."""

from collections.abc import Sequence
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import Tensor, nn

from pvae.distributions import Head, Likelihood, OneHot, make_head
from pvae.errors import PvaeError
from pvae.nn import Codebook, ResidualDecoder

__all__ = ["VQVAE"]


class VQVAE(PyroModule):
    r"""The VQ-VAE's decoder: a map of codes, each a vector of a codebook, decoded by a network.

    .. math::
        z &\sim p(z), \qquad z_{ij} \in \{1, \ldots, K\}, \quad
            i = 1, \ldots, h, \quad j = 1, \ldots, w \\
        x \mid z &\sim p(x \mid f_\theta(e(z))), \qquad e(z)_{ij} = \sum_k z_{ijk} e_k

    z is in one-hot form. Its guide is `pvae.guides.NearestCode`: a point mass on one z, which
    has probability one, so that log p(x, z(x)) is a lower bound on log p(x).

    In the paper, p(z) is uniform, K^(−hw), while the vectors and the networks are trained. Then a
    density of the codes is trained, on `pvae.codes(run)`, and becomes the p(z) of a model
    with the same sizes that starts from the run: `VQVAE(..., prior=density)`, `pvae.warm_start`.

    Args:
        event_shape: Shape of one image, (C, H, W); or of one video, (T, C, H, W), whose frames have
            a map of codes each, so that (h, w) becomes (T, h, w).
        num_codes: K.
        code_dim: D, the size of a code's vector.
        channels: Channels of the decoder, from the codes to the image. Each layer doubles height
            and width.
        num_blocks: Number of residual blocks.
        decay: Of the codebook's moving averages; None to learn it by gradients.
        likelihood: The name of a head, or a head, as in `VAE`.
        decoder: A network [..., h, w, D] to [..., *out_shape] in place of the built-in one. Its
            attribute `in_shape`, if it has one, says which maps it takes: (c, h, w, D) for c codes
            at each place.
        prior: A model of the codes, integers [h, w], whose method `distribution()` returns p(z),
            such as `GatedPixelCNN((h, w), likelihood="categorical", levels=K)`; None for the
            uniform p(z).
        **options: Of a head that is given by name.

    Attributes:
        codebook: e, a `pvae.nn.Codebook`.
        map_shape: (h, w), or the shape that a decoder of your own takes.
        code_prior: Holds the model of the codes as `density`; None for the uniform p(z).

    Shape:
        `model(x)` takes x [B, *event_shape] and returns it; `model(size=n)` draws
        n samples [n, *event_shape] from p(x).

    Raises:
        PvaeError: If a name is not known, a size or an option does not fit, or the prior is of
            codes of another size or number.

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
        prior: nn.Module | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        self.event_shape = tuple(event_shape)
        self.head = make_head(likelihood, self.event_shape, **options)
        self.codebook = Codebook(num_codes, code_dim, decay)
        frames = self.event_shape[0] if len(self.event_shape) == 4 else None
        sizes = code_dim, self.head.out_shape, channels, num_blocks
        built_in = ResidualDecoder(*sizes, num_frames=frames)
        self.decoder = built_in if decoder is None else decoder
        self.map_shape = tuple(getattr(self.decoder, "in_shape", built_in.in_shape)[:-1])
        self.register_buffer("equal", torch.zeros(*self.map_shape, num_codes), persistent=False)
        self.code_prior = None if prior is None else _CodePrior(prior, self.map_shape, num_codes)

    def forward(self, x: Tensor | None = None, *, size: int = 1) -> Tensor:
        with pyro.plate("data", size if x is None else len(x)):
            z = pyro.sample("z", self.prior())
            return pyro.sample("x", self.likelihood(z), obs=x)

    def prior(self) -> dist.Distribution:
        """Returns p(z), batch shape [] and event shape [h, w, K]."""
        if self.code_prior is not None:
            return self.code_prior()
        return dist.OneHotCategorical(logits=self.equal).to_event(len(self.map_shape))

    def likelihood(self, z: Tensor) -> dist.Distribution:
        """Returns p(x|z), batch shape [...] and event shape `event_shape`, for z [..., h, w, K]."""
        f = self.decoder(self.codebook.embed(z))
        return self.head(self.head.shaped(f, z.shape[: -1 - len(self.map_shape)]))


class _CodePrior(nn.Module):
    """p(z), or p(z) given something, by a density of maps of integers.

    It is no PyroModule, because Pyro lets no module in that has run by itself before.
    """

    def __init__(
        self, density: nn.Module, shape: tuple[int, ...], num_codes: int, *given: Tensor
    ) -> None:
        super().__init__()
        self.density, self.num_codes = density, num_codes
        name = type(density).__name__
        if not hasattr(density, "distribution"):
            raise PvaeError(
                f"prior={name} is not a model of codes: it has no method distribution(). Give a "
                "density without latent variables, such as pvae.models.GatedPixelCNN("
                f"{shape}, likelihood='categorical', levels={num_codes})."
            )
        if (theirs := tuple(self(*given).event_shape[:-1])) != shape:
            raise PvaeError(
                f"The prior {name} is a model of codes of shape {theirs}; the codes of this model "
                f"have shape {shape}, with {num_codes} values."
            )

    def forward(self, *given: Tensor) -> dist.Distribution:
        return OneHot(self.density.distribution(*given), self.num_codes)
