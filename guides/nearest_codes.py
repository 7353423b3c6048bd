"""The guide of a VQ-VAE-2: the nearest vectors of two codebooks."""

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
        z_2 &= \operatorname{nearest}(h_2(h(x))), \qquad
        z_1 = \operatorname{nearest}(h_1(h(x), u_\theta(e_2(z_2)))) \\
        q_\phi(z_1, z_2 \mid x) &= \mathbb 1[z_1 = z_1(x), \, z_2 = z_2(x)]

    h is a map of features of x, h_2 an encoder from it to the small map, and u the model's decoder
    from the small map to the large one. Each level trains as in `NearestCode`.

    Args:
        model: A model with two codebooks, `pvae.models.VQVAE2`.
        event_shape: Shape of one image, (C, H, W).
        channels: For z_1 and z_2, channels of the encoders: from the image to z_1, and from there
            to z_2. Each layer halves height and width.
        num_blocks: Number of residual blocks of each encoder.
        commitment: β, as in `NearestCode`.

    Shape:
        `guide(x)` takes x [B, *event_shape] and returns z_1 [B, h_1, w_1, K].

    Raises:
        PvaeError: If the model has not two codebooks, or its maps of codes have other sizes.

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
        if len(getattr(model, "codebooks", ())) != 2:
            raise PvaeError(
                f"{type(model).__name__} has not two codebooks: NearestCodes is for VQVAE2."
            )
        # Not a submodule, whose parameters would be saved twice.
        self.__dict__["model"] = model
        self.event_shape, self.commitment = tuple(event_shape), not_negative(commitment)
        wide, code_dim = channels[0][-1], model.codebooks[0].code_dim
        self.encoder = ResidualEncoder(event_shape, wide, channels[0], num_blocks)
        large = self.encoder.map_shape
        self.top = ResidualEncoder((wide, *large), code_dim, channels[1], num_blocks)
        self.bottom = nn.Linear(wide + code_dim, code_dim)
        if (ours := (large, self.top.map_shape)) != model.map_shapes:
            raise PvaeError(
                f"The encoders give maps of {ours} codes, the model has {model.map_shapes}. Give "
                "both as many channels at each level (each halves the image)."
            )

    def forward(self, x: Tensor) -> Tensor:
        still = frozen(self) or frozen(self.model)
        with pyro.plate("data", len(x)):
            h = self.encoder(x)
            z_2 = self._nearest(2, self.top(h.movedim(-1, -3)), still)
            # z_2 itself, because its sample has the particles' dimension too.
            pyro.sample("z_2", point_mass(z_2))
            h_1 = self.bottom(torch.cat([h, self.model.from_above(z_2)], -1))
            return pyro.sample("z_1", point_mass(self._nearest(1, h_1, still)))

    def _nearest(self, level: int, h: Tensor, still: bool) -> Tensor:
        codebook = self.model.codebooks[level - 1]
        z = codebook(h, learn=self.training and not still)
        if self.training:
            draw_together(f"quantisation_{level}", codebook, h, z, self.commitment)
        return z
