"""The guide of a VQ-VAE-2: the nearest vectors of each level's codebook."""

from collections.abc import Sequence

import pyro
import torch
from pyro.nn import PyroModule
from torch import Tensor, nn

from pvae.errors import PvaeError
from pvae.guides.nearest_code import draw_together, frozen, not_negative, point_mass
from pvae.nn import ResidualEncoder

__all__ = ["NearestCodes"]


class NearestCodes(PyroModule):
    r"""A point mass on two maps of codes, the small one first, the large one given it.

    .. math::
        z_2 &= \operatorname{nearest}(h_2(h_1(x))), \qquad
        z_1 = \operatorname{nearest}(W \, [h_1(x), u_\theta(e_2(z_2))]) \\
        q_\phi(z_1, z_2 \mid x) &= \mathbb 1[z_1 = z_1(x), \, z_2 = z_2(x)]

    h_1 is a map of features of x, h_2 an encoder from it to the small map, and u the model's
    decoder from the small map to the large one. With more levels, each h_l goes on from the one
    below, and each z_l is given all z above it. Each level trains as in `NearestCode`.

    Args:
        model: A model with a codebook for each level, `pvae.models.VQVAE2`.
        event_shape: Shape of one image, (C, H, W).
        channels: For z_1, z_2, …, channels of the encoders: from the image to z_1, from there to
            z_2, … Each layer halves height and width.
        num_blocks: Number of residual blocks of each encoder.
        commitment: β, as in `NearestCode`.

    Shape:
        `guide(x)` takes x [B, *event_shape] and returns z_1 [B, h_1, w_1, K].

    Raises:
        PvaeError: If the model has not as many codebooks, or its maps of codes have other sizes.

    Source: Razavi, van den Oord & Vinyals 2019, *Generating Diverse High-Fidelity Images with
    VQ-VAE-2* (arXiv:1906.00446).

    Example:
        >>> from pvae.models import VQVAE2
        >>> guide = NearestCodes(VQVAE2((1, 8, 8), num_codes=16), (1, 8, 8))
        >>> guide(torch.zeros(5, 1, 8, 8)).shape
        torch.Size([5, 2, 2, 16])
    """

    def __init__(
        self,
        model: PyroModule,
        event_shape: Sequence[int],
        channels: Sequence[Sequence[int]] = ((64, 128), (128,)),
        num_blocks: int = 2,
        commitment: float = 1.0,
    ) -> None:
        super().__init__()
        if len(getattr(model, "codebooks", ())) != len(channels):
            raise PvaeError(
                f"{type(model).__name__} has not {len(channels)} codebooks, one for each level of "
                f"channels={channels}: NearestCodes is for a VQVAE2 of as many levels."
            )
        # Not a submodule, whose parameters would be saved twice.
        self.__dict__["model"] = model
        self.event_shape, self.commitment = tuple(event_shape), not_negative(commitment)
        code_dim, shape, shapes = model.codebooks[0].code_dim, self.event_shape, []
        self.encoders, self.out = nn.ModuleList(), nn.ModuleList()
        for widths in channels:
            last = len(shapes) == len(channels) - 1
            wide = code_dim if last else widths[-1]
            self.encoders.append(ResidualEncoder(shape, wide, widths, num_blocks))
            shapes.append(self.encoders[-1].map_shape)
            shape = wide, *shapes[-1]
            if not last:
                self.out.append(nn.Linear(wide + code_dim, code_dim))
        if tuple(shapes) != model.map_shapes:
            raise PvaeError(
                f"The encoders give maps of {tuple(shapes)} codes, the model has "
                f"{model.map_shapes}. Give both as many channels at each level (each halves the "
                "image)."
            )

    def forward(self, x: Tensor) -> Tensor:
        still = frozen(self) or frozen(self.model)
        with pyro.plate("data", len(x)):
            maps = [self.encoders[0](x)]
            for encoder in self.encoders[1:]:
                maps.append(encoder(maps[-1].movedim(-1, -3)))
            # z itself and not its sample, which has the particles' dimension too.
            z = (self._nearest(len(maps), maps.pop(), still),)
            drawn = pyro.sample(f"z_{len(maps) + 1}", point_mass(z[0]))
            while maps:
                h = torch.cat([maps.pop(), self.model.from_above(*z)], -1)
                level = len(maps) + 1
                z = (self._nearest(level, self.out[level - 1](h), still), *z)
                drawn = pyro.sample(f"z_{level}", point_mass(z[0]))
            return drawn

    def _nearest(self, level: int, h: Tensor, still: bool) -> Tensor:
        codebook = self.model.codebooks[level - 1]
        z = codebook(h, learn=self.training and not still)
        if self.training:
            draw_together(f"quantisation_{level}", codebook, h, z, self.commitment)
        return z
