"""The VQ-VAE-2: a stack of maps of codes, smaller ones above larger ones."""

from collections.abc import Sequence
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import Tensor, nn

from pvae.distributions import Head, Likelihood, OneHot, make_head
from pvae.errors import PvaeError
from pvae.models.hierarchical_codes import HierarchicalCodes
from pvae.nn import Codebook, ResidualDecoder

__all__ = ["VQVAE2", "ConditionalVQVAE2"]


class VQVAE2(PyroModule):
    r"""The VQ-VAE-2's decoder: a map of codes z_2, a larger map z_1 given it, and the image.

    .. math::
        z_2 &\sim p(z_2), \qquad z_1 \mid z_2 \sim p(z_1 \mid z_2) \\
        x \mid z_1, z_2 &\sim p(x \mid f_\theta(e_1(z_1), u_\theta(e_2(z_2))))

    Each place of a map holds one of K codes in one-hot form, with a vector e of its level's
    codebook; u is a decoder from the small map to the size of the large one. With more levels,
    z_L, …, z_1, each u takes what comes from above together with the vectors of its own map.

    Its guide is `pvae.guides.NearestCodes`, a point mass on one code of each level, so that the
    ELBO is log p(x, z_1(x), z_2(x)), a lower bound on log p(x).

    While vectors and networks are trained, the densities are uniform. Then `HierarchicalCodes` is
    trained on `pvae.codes(run)`, whose fields are z_1, z_2, …, and becomes the prior of a model
    with the same sizes that starts from the run: `VQVAE2(..., prior=density)`, `pvae.warm_start`.

    Args:
        event_shape: Shape of one image, (C, H, W).
        num_codes: K of each level.
        code_dim: D, the size of a code's vector.
        channels: For z_1, z_2, … (two levels or more), channels of the decoder below: from z_1 to
            the image, from z_2 to z_1, … Each layer doubles height and width.
        num_blocks: Number of residual blocks of each decoder.
        decay: Of the codebooks' moving averages; None to learn them by gradients.
        likelihood: The name of a head, or a head, as in `VAE`.
        prior: A `HierarchicalCodes`; None for uniform densities.
        **options: Of a head that is given by name.

    Attributes:
        codebooks: e_1, e_2, …, each a `pvae.nn.Codebook`.
        map_shapes: Height and width of z_1, of z_2, …

    Shape:
        `model(x)` takes x [B, *event_shape] and returns it; `model(size=n)` draws
        n samples [n, *event_shape] from p(x).

    Raises:
        PvaeError: If a name is not known, a size or an option does not fit, or the prior is of
            codes of other sizes or another number, or needs labels.

    Source: Razavi, van den Oord & Vinyals 2019, *Generating Diverse High-Fidelity Images with
    VQ-VAE-2* (arXiv:1906.00446).

    Example:
        >>> model = VQVAE2((1, 28, 28), num_codes=128)
        >>> model.map_shapes, model(size=16).shape
        (((7, 7), (3, 3)), torch.Size([16, 1, 28, 28]))
    """

    _needs_labels = False

    def __init__(
        self,
        event_shape: Sequence[int],
        num_codes: int = 512,
        code_dim: int = 64,
        channels: Sequence[Sequence[int]] = ((128, 64), (128,)),
        num_blocks: int = 2,
        decay: float | None = 0.99,
        likelihood: Likelihood | Head = "bernoulli",
        prior: nn.Module | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        if len(channels) < 2:
            raise PvaeError(
                f"channels={channels}: give the channels of two decoders or more, [[…], […]]."
            )
        self.event_shape, self.num_codes = tuple(event_shape), num_codes
        self.head = make_head(likelihood, self.event_shape, **options)
        self.codebooks = nn.ModuleList(Codebook(num_codes, code_dim, decay) for _ in channels)
        self.decoder = ResidualDecoder(2 * code_dim, self.head.out_shape, channels[0], num_blocks)
        shapes, self.up = [self.decoder.in_shape[:-1]], nn.ModuleList()
        for level, widths in enumerate(channels[1:], 2):
            into = code_dim if level == len(channels) else 2 * code_dim
            self.up.append(ResidualDecoder(into, (code_dim, *shapes[-1]), widths, num_blocks))
            shapes.append(self.up[-1].in_shape[:-1])
        self.map_shapes = tuple(shapes)
        for level, shape in enumerate(self.map_shapes, 1):
            equal = torch.zeros(*shape, num_codes)
            self.register_buffer(f"equal_{level}", equal, persistent=False)
        # In a ModuleDict, because Pyro lets no module in that has run by itself before.
        self.code_prior = None if prior is None else nn.ModuleDict({"density": self._fits(prior)})

    def forward(self, x: Tensor | None = None, *, size: int = 1) -> Tensor:
        return self._draw(x, None, size)

    def _draw(self, x: Tensor | None, y: Tensor | None, size: int) -> Tensor:
        with pyro.plate("data", size if x is None else len(x)):
            z = (pyro.sample(f"z_{len(self.map_shapes)}", self.prior(y)),)
            for level in range(len(self.map_shapes) - 1, 0, -1):
                z = (pyro.sample(f"z_{level}", self.conditional(*z, y=y)), *z)
            return pyro.sample("x", self.likelihood(*z), obs=x)

    def prior(self, y: Tensor | None = None) -> dist.Distribution:
        """Returns p(z_L) of the smallest map, event shape [h_L, w_L, K]."""
        if self.code_prior is None:
            return self._uniform(len(self.map_shapes))
        return OneHot(self.code_prior["density"].prior(y), self.num_codes)

    def conditional(self, *above: Tensor, y: Tensor | None = None) -> dist.Distribution:
        """Returns p(z_l | z_{l+1}, …, z_L), event shape [h_l, w_l, K].

        Args:
            *above: z_{l+1}, …, z_L, each [..., h, w, K].
            y: Labels [...] of a `ConditionalVQVAE2`.
        """
        if self.code_prior is None:
            return self._uniform(len(self.map_shapes) - len(above))
        density = self.code_prior["density"].conditional(*(z.argmax(-1) for z in above), y=y)
        return OneHot(density, self.num_codes)

    def from_above(self, *above: Tensor) -> Tensor:
        """Returns what z_{l+1}, …, z_L, each [..., h, w, K], say at level l: [..., h_l, w_l, D]."""
        level = len(self.map_shapes) - len(above)
        e = self._vectors(level, *above)
        return self.up[level - 1](e).movedim(-3, -1)

    def likelihood(self, *z: Tensor) -> dist.Distribution:
        """Returns p(x | z_1, …, z_L), batch shape [...] and event shape `event_shape`."""
        e = self._vectors(0, *z)
        return self.head(self.head.shaped(self.decoder(e), e.shape[:-3]))

    def _vectors(self, level: int, z: Tensor, *above: Tensor) -> Tensor:
        e = self.codebooks[level].embed(z)
        if above:
            e = torch.cat(torch.broadcast_tensors(e, self.from_above(*above)), -1)
        return e

    def _uniform(self, level: int) -> dist.Distribution:
        return dist.OneHotCategorical(logits=getattr(self, f"equal_{level}")).to_event(2)

    def _fits(self, prior: nn.Module) -> nn.Module:
        if not isinstance(prior, HierarchicalCodes):
            raise PvaeError(
                f"prior={type(prior).__name__} is not a model of maps of codes: give a "
                f"HierarchicalCodes({self.map_shapes}, num_codes={self.num_codes})."
            )
        theirs = prior.map_shapes, prior.num_codes
        if theirs != (self.map_shapes, self.num_codes):
            raise PvaeError(
                f"The prior is a model of maps of codes {theirs[0]} with {theirs[1]} values; this "
                f"model has {self.map_shapes} with {self.num_codes} values."
            )
        if self._needs_labels != bool(prior.num_classes):
            other = "VQVAE2" if self._needs_labels else "ConditionalVQVAE2"
            raise PvaeError(f"The prior has num_classes={prior.num_classes}, which is for {other}.")
        return prior


class ConditionalVQVAE2(VQVAE2):
    r"""A VQ-VAE-2 whose codes are drawn given a label y.

    .. math::
        z_2 \sim p(z_2 \mid y), \qquad z_1 \sim p(z_1 \mid z_2, y), \qquad
        x \sim p(x \mid f_\theta(e_1(z_1), u_\theta(e_2(z_2))))

    Its bound is one on log p(x|y). It starts from the run of a `VQVAE2`, and its prior is a
    `HierarchicalCodes` with `num_classes`, which it needs. Its guide is `pvae.guides.NearestCodes`.

    Args:
        event_shape: Shape of one image, (C, H, W).
        prior: A `HierarchicalCodes` with labels.
        **options: Those of `VQVAE2`.

    Shape:
        `model(x, y)` takes x [B, *event_shape] and labels y [B] and returns x;
        `model(y=y, size=n)` draws an image for each of n labels, [n, *event_shape].

    Raises:
        PvaeError: As `VQVAE2`; or if the prior has no labels, or y is missing or no label.

    Source: Razavi, van den Oord & Vinyals 2019, *Generating Diverse High-Fidelity Images with
    VQ-VAE-2* (arXiv:1906.00446).

    Example:
        >>> prior = HierarchicalCodes(((2, 2), (1, 1)), 16, channels=8, num_classes=10)
        >>> model = ConditionalVQVAE2((1, 8, 8), prior, num_codes=16)
        >>> model(y=torch.arange(10), size=10).shape
        torch.Size([10, 1, 8, 8])
    """

    _needs_labels = True

    def __init__(self, event_shape: Sequence[int], prior: nn.Module, **options: Any) -> None:
        super().__init__(event_shape, prior=prior, **options)

    def forward(self, x: Tensor | None = None, y: Tensor | None = None, *, size: int = 1) -> Tensor:
        return self._draw(x, y, size)
