"""The VQ-VAE-2: two maps of codes, a small one above a larger one, and their densities."""

import itertools
from collections.abc import Sequence
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import Tensor, nn

from pvae.distributions import Autoregressive, Head, Likelihood, OneHot, make_head
from pvae.errors import PvaeError
from pvae.models.conditional import Conditional, one_hot_labels
from pvae.models.explicit import GatedPixelCNN
from pvae.nn import Codebook, ResidualDecoder, at_least_one

__all__ = ["VQVAE2", "ConditionalVQVAE2", "HierarchicalCodes"]


class VQVAE2(PyroModule):
    r"""The VQ-VAE-2's decoder: a map of codes z_2, a larger map z_1 given it, and the image.

    .. math::
        z_2 &\sim p(z_2), \qquad z_1 \mid z_2 \sim p(z_1 \mid z_2) \\
        x \mid z_1, z_2 &\sim p(x \mid f_\theta(e_1(z_1), u_\theta(e_2(z_2))))

    Each place of a map holds one of K codes in one-hot form, with a vector e of its level's
    codebook; u is a decoder from the small map to the size of the large one. Its guide is
    `pvae.guides.NearestCodes`, a point mass on one z_2 and one z_1, so that the ELBO is
    log p(x, z_1(x), z_2(x)), a lower bound on log p(x).

    While vectors and networks are trained, both densities are uniform. Then `HierarchicalCodes` is
    trained on `pvae.codes(run)`, whose fields are z_1 and z_2, and becomes the prior of a model
    with the same sizes that starts from the run: `VQVAE2(..., prior=density)`, `pvae.warm_start`.

    Args:
        event_shape: Shape of one image, (C, H, W).
        num_codes: K of each level.
        code_dim: D, the size of a code's vector.
        channels: For z_1 and z_2, channels of the decoder below: from z_1 to the image, and from
            z_2 to z_1. Each layer doubles height and width.
        num_blocks: Number of residual blocks of each decoder.
        decay: Of the codebooks' moving averages; None to learn them by gradients.
        likelihood: The name of a head, or a head, as in `VAE`.
        prior: A `HierarchicalCodes`; None for uniform densities.
        **options: Of a head that is given by name.

    Attributes:
        codebooks: e_1 and e_2, each a `pvae.nn.Codebook`.
        map_shapes: Height and width of z_1, and of z_2.

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
        if len(channels) != 2:
            raise PvaeError(f"channels={channels}: give the channels of two decoders, [[…], […]].")
        self.event_shape, self.num_codes = tuple(event_shape), num_codes
        self.head = make_head(likelihood, self.event_shape, **options)
        self.codebooks = nn.ModuleList(Codebook(num_codes, code_dim, decay) for _ in range(2))
        self.decoder = ResidualDecoder(2 * code_dim, self.head.out_shape, channels[0], num_blocks)
        large = self.decoder.in_shape[:-1]
        self.up = ResidualDecoder(code_dim, (code_dim, *large), channels[1], num_blocks)
        self.map_shapes = large, self.up.in_shape[:-1]
        for level, shape in enumerate(self.map_shapes, 1):
            equal = torch.zeros(*shape, num_codes)
            self.register_buffer(f"equal_{level}", equal, persistent=False)
        # In a ModuleDict, because Pyro lets no module in that has run by itself before.
        self.code_prior = None if prior is None else nn.ModuleDict({"density": self._fits(prior)})

    def forward(self, x: Tensor | None = None, *, size: int = 1) -> Tensor:
        return self._draw(x, None, size)

    def _draw(self, x: Tensor | None, y: Tensor | None, size: int) -> Tensor:
        with pyro.plate("data", size if x is None else len(x)):
            z_2 = pyro.sample("z_2", self.prior(y))
            z_1 = pyro.sample("z_1", self.conditional(z_2, y))
            return pyro.sample("x", self.likelihood(z_1, z_2), obs=x)

    def prior(self, y: Tensor | None = None) -> dist.Distribution:
        """Returns p(z_2), event shape [h_2, w_2, K]."""
        if self.code_prior is None:
            return dist.OneHotCategorical(logits=self.equal_2).to_event(2)
        return OneHot(self.code_prior["density"].prior(y), self.num_codes)

    def conditional(self, z_2: Tensor, y: Tensor | None = None) -> dist.Distribution:
        """Returns p(z_1|z_2), event shape [h_1, w_1, K], for z_2 [..., h_2, w_2, K]."""
        if self.code_prior is None:
            return dist.OneHotCategorical(logits=self.equal_1).to_event(2)
        density = self.code_prior["density"].conditional(z_2.argmax(-1), y)
        return OneHot(density, self.num_codes)

    def from_above(self, z_2: Tensor) -> Tensor:
        """Returns u(e_2(z_2)), [..., h_1, w_1, D], for z_2 [..., h_2, w_2, K]."""
        return self.up(self.codebooks[1].embed(z_2)).movedim(-3, -1)

    def likelihood(self, z_1: Tensor, z_2: Tensor) -> dist.Distribution:
        """Returns p(x|z_1, z_2), batch shape [...] and event shape `event_shape`."""
        e = torch.cat(
            [*torch.broadcast_tensors(self.codebooks[0].embed(z_1), self.from_above(z_2))], -1
        )
        return self.head(self.head.shaped(self.decoder(e), e.shape[:-3]))

    def _fits(self, prior: nn.Module) -> nn.Module:
        if not isinstance(prior, HierarchicalCodes):
            raise PvaeError(
                f"prior={type(prior).__name__} is not a model of two maps of codes: give a "
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


class HierarchicalCodes(PyroModule):
    r"""A density of two maps of codes: the small one, and the large one given it.

    .. math:: p(z_1, z_2 \mid y) = p(z_2 \mid y) \, p(z_1 \mid c(z_2), y)

    Both are Gated PixelCNNs over integers 0 … K − 1; c is an embedding of z_2, decoded to a map of
    z_1's size, and y is a label, or nothing. It has no latent variables: its guide is
    `pvae.guides.NoLatents`, and its ELBO is log p(z_1, z_2 | y). Its data are
    `pvae.codes(run)` of a trained `VQVAE2`, whose prior it becomes.

    Args:
        map_shapes: Height and width of z_1, and of z_2, `VQVAE2.map_shapes`. Halved some times,
            those of z_1 are those of z_2.
        num_codes: K.
        channels: Features of the networks.
        num_layers: Gated layers of each PixelCNN.
        kernel_size: Size of their convolutions, odd.
        num_classes: Number of labels; None for no labels.

    Shape:
        `model(z_1, z_2)` or `model(z_1, z_2, y)` takes integers [B, h_1, w_1] and [B, h_2, w_2] and
        labels [B], and returns z_1. `model(size=n)` or `model(y=y, size=n)` draws both.

    Raises:
        PvaeError: If a size does not fit, or y is missing or no label.

    Source: Razavi, van den Oord & Vinyals 2019, *Generating Diverse High-Fidelity Images with
    VQ-VAE-2* (arXiv:1906.00446), without attention.

    Example:
        >>> model = HierarchicalCodes(((7, 7), (3, 3)), num_codes=16, channels=8, num_layers=2)
        >>> model(size=5).shape
        torch.Size([5, 7, 7])
    """

    def __init__(
        self,
        map_shapes: Sequence[Sequence[int]],
        num_codes: int = 512,
        channels: int = 64,
        num_layers: int = 8,
        kernel_size: int = 3,
        num_classes: int | None = None,
    ) -> None:
        super().__init__()
        at_least_one(num_classes=1 if num_classes is None else num_classes, channels=channels)
        large, small = self.map_shapes = tuple(tuple(shape) for shape in map_shapes)
        self.event_shape, self.num_codes, self.num_classes = large, num_codes, num_classes
        sizes = channels, num_layers, kernel_size, "categorical"
        if num_classes is None:
            self.top = GatedPixelCNN(small, *sizes, levels=num_codes)
        else:
            density = GatedPixelCNN(small, *sizes, (num_classes,), levels=num_codes)
            self.top = Conditional(density)
            self.label = nn.Linear(num_classes, channels, bias=False)
        self.embedding = nn.Embedding(num_codes, channels)
        self.up = ResidualDecoder(
            channels, (channels, *large), [channels] * _halvings(large, small)
        )
        self.bottom = GatedPixelCNN(large, *sizes, (channels, *large), levels=num_codes)

    def forward(
        self,
        z_1: Tensor | None = None,
        z_2: Tensor | None = None,
        y: Tensor | None = None,
        *,
        size: int = 1,
    ) -> Tensor:
        with pyro.plate("data", size if z_2 is None else len(z_2)):
            z_2 = pyro.sample("z_2", self.prior(y), obs=z_2)
            return pyro.sample("z_1", self.conditional(z_2, y), obs=z_1)

    def prior(self, y: Tensor | None = None) -> Autoregressive:
        """Returns p(z_2|y), event shape [h_2, w_2]."""
        return self.top.distribution() if self.num_classes is None else self.top.distribution(y)

    def conditional(self, z_2: Tensor, y: Tensor | None = None) -> Autoregressive:
        """Returns p(z_1|z_2, y), event shape [h_1, w_1], for z_2 [..., h_2, w_2]."""
        # Values outside are refused by p(z_2); here they must not crash a device.
        c = self.up(self.embedding(z_2.long().clamp(0, self.num_codes - 1)))
        if self.num_classes is not None:
            c = c + self.label(one_hot_labels(y, self.num_classes).to(c))[..., None, None]
        return self.bottom.distribution(c)

    def log_px(self, z_1: Tensor, z_2: Tensor, y: Tensor | None = None) -> Tensor:
        """Returns log p(z_1, z_2 | y), [...], exactly, in nats."""
        return self.prior(y).log_prob(z_2) + self.conditional(z_2, y).log_prob(z_1)


def _halvings(large: tuple[int, ...], small: tuple[int, ...]) -> int:
    for depth in itertools.count(1):
        here = tuple(size >> depth for size in large)
        if here == small:
            return depth
        if min(here, default=0) < 1:
            raise PvaeError(
                f"map_shapes={large, small}: the second one must be the first one, halved once or "
                "more. Give the map_shapes of a VQVAE2."
            )
    raise AssertionError
