"""The VQ-VAE-2: a stack of maps of codes, smaller ones above larger ones, and their densities."""

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


class HierarchicalCodes(PyroModule):
    r"""A density of two maps of codes: the small one, and the large one given it.

    .. math:: p(z_1, z_2 \mid y) = p(z_2 \mid y) \, p(z_1 \mid c(z_2), y)

    All are Gated PixelCNNs over integers 0 … K − 1; c is an embedding of z_2, decoded to a map of
    z_1's size, and y is a label, or nothing. With more maps, z_L, …, z_1, each is given all that
    are smaller: their embeddings are added on the way down.

    It has no latent variables: its guide is `pvae.guides.NoLatents`, and its ELBO is
    log p(z_1, z_2 | y). Its data are `pvae.codes(run)` of a trained `VQVAE2`, whose prior it
    becomes.

    Args:
        map_shapes: Height and width of z_1, of z_2, …, `VQVAE2.map_shapes`. Halved some times,
            those of a map are those of the next one.
        num_codes: K.
        channels: Features of the networks.
        num_layers: Gated layers of each PixelCNN.
        kernel_size: Size of their convolutions, odd.
        num_classes: Number of labels; None for no labels.

    Shape:
        `model(z_1, z_2)` or `model(z_1, z_2, y)` takes integers [B, h_1, w_1] and [B, h_2, w_2] and
        labels [B], and returns z_1; further maps have names, `model(z_1, z_2, z_3=z_3)`.
        `model(size=n)` or `model(y=y, size=n)` draws all.

    Raises:
        PvaeError: If a size does not fit, a map is missing, or y is missing or no label.

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
        if len(map_shapes) < 2:
            raise PvaeError(f"map_shapes={map_shapes}: give two or more, from large to small.")
        shapes = self.map_shapes = tuple(tuple(shape) for shape in map_shapes)
        self.event_shape, self.num_codes, self.num_classes = shapes[0], num_codes, num_classes
        sizes = channels, num_layers, kernel_size, "categorical"
        if num_classes is None:
            self.top = GatedPixelCNN(shapes[-1], *sizes, levels=num_codes)
        else:
            density = GatedPixelCNN(shapes[-1], *sizes, (num_classes,), levels=num_codes)
            self.top = Conditional(density)
        self.embedding, self.up, self.below, self.label = (nn.ModuleList() for _ in range(4))
        for large, small in itertools.pairwise(shapes):
            self.embedding.append(nn.Embedding(num_codes, channels))
            halvings = _halvings(large, small)
            self.up.append(ResidualDecoder(channels, (channels, *large), [channels] * halvings))
            self.below.append(GatedPixelCNN(large, *sizes, (channels, *large), levels=num_codes))
            if num_classes is not None:
                self.label.append(nn.Linear(num_classes, channels, bias=False))

    def forward(
        self,
        z_1: Tensor | None = None,
        z_2: Tensor | None = None,
        y: Tensor | None = None,
        *,
        size: int = 1,
        **others: Tensor,
    ) -> Tensor:
        levels = len(self.map_shapes)
        given = self._maps(z_1, z_2, others) if z_1 is not None or others else (None,) * levels
        with pyro.plate("data", size if z_1 is None else len(z_1)):
            z = (pyro.sample(f"z_{levels}", self.prior(y), obs=given[-1]),)
            for level in range(levels - 1, 0, -1):
                p = self.conditional(*z, y=y)
                z = (pyro.sample(f"z_{level}", p, obs=given[level - 1]), *z)
        return z[0]

    def prior(self, y: Tensor | None = None) -> Autoregressive:
        """Returns p(z_L|y) of the smallest map, event shape [h_L, w_L]."""
        return self.top.distribution() if self.num_classes is None else self.top.distribution(y)

    def conditional(self, *above: Tensor, y: Tensor | None = None) -> Autoregressive:
        """Returns p(z_l | z_{l+1}, …, z_L, y), event shape [h_l, w_l].

        Args:
            *above: z_{l+1}, …, z_L, integers [..., h, w].
            y: Labels [...].
        """
        index = len(self.map_shapes) - len(above) - 1
        c = self._from_above(index, *above)
        if self.num_classes is not None:
            y = one_hot_labels(y, self.num_classes).to(c)
            c = c + self.label[index](y)[..., None, None]
        return self.below[index].distribution(c)

    def log_px(self, z_1: Tensor, z_2: Tensor, y: Tensor | None = None, **others: Tensor) -> Tensor:
        """Returns log p(z_1, z_2, … | y), [...], exactly, in nats."""
        z = self._maps(z_1, z_2, others)
        log_p = self.prior(y).log_prob(z[-1])
        for index, each in enumerate(z[:-1]):
            log_p = log_p + self.conditional(*z[index + 1 :], y=y).log_prob(each)
        return log_p

    def _from_above(self, index: int, z: Tensor, *above: Tensor) -> Tensor:
        # Values outside are refused by p(z_l); here they must not crash a device.
        e = self.embedding[index](z.long().clamp(0, self.num_codes - 1))
        if above:
            e = e + self._from_above(index + 1, *above).movedim(-3, -1)
        return self.up[index](e)

    def _maps(self, z_1: Any, z_2: Any, others: dict[str, Tensor]) -> tuple[Tensor, ...]:
        given = {"z_1": z_1, "z_2": z_2} | others
        names = [f"z_{level}" for level in range(1, len(self.map_shapes) + 1)]
        if missing := [name for name in names if given.get(name) is None]:
            raise PvaeError(f"This is a density of {', '.join(names)}; give {missing[0]} too.")
        # Other fields of the data are none of its business.
        if more := [name for name in given if name.startswith("z_") and name not in names]:
            raise PvaeError(f"This is a density of {', '.join(names)}, without {more[0]}.")
        return tuple(given[name] for name in names)


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
