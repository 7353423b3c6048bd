"""A density of the maps of codes of a VQ-VAE-2: each map given the smaller ones."""

import itertools
from collections.abc import Sequence
from typing import Any

import pyro
from pyro.nn import PyroModule
from torch import Tensor, nn

from pvae.distributions import Autoregressive
from pvae.errors import PvaeError
from pvae.models.conditional import Conditional, one_hot_labels
from pvae.models.explicit import GatedPixelCNN
from pvae.nn import ResidualDecoder, at_least_one

__all__ = ["HierarchicalCodes"]


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
