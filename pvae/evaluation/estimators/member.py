"""Member: a distribution for each datum whose ELBO can be ascended."""

from collections.abc import Iterator

import torch
from torch import Tensor

from pvae.importance import Sampler

__all__ = ["LARGEST", "Member", "elbo_terms"]

LARGEST = 2.0  # step of a logarithm


class Member:
    """A distribution for each of B data.

    `offset`, [B, P], moves its parameters away from an origin, in units of the scales there.
    `terms` yields terms whose mean is the ELBO, [k, B], a few samples at a time, with gradients.
    `draws` returns terms [num, B] without gradients.

    Attributes:
        size: B.
        dim: D, the latent coordinates of a datum that are drawn, if `smooth`.
        offset: Offsets of its parameters from the origin.
        limit: How far one step may move each of them, [P]: locations anywhere, scales and
            logits by a factor of e² at most.
        smooth: Whether draws are smooth functions of fixed noise and the parameters.
    """

    size: int
    dim: int
    offset: Tensor
    limit: Tensor
    smooth: bool = True
    _sampler: Sampler

    def terms(
        self, num: int, noise: Tensor | None = None, *, still: bool = False
    ) -> Iterator[Tensor]:
        """Yields terms of the ELBO, [k, B].

        Args:
            num: K, the number of samples.
            noise: Standard normal noise of the draws, [K, B, D]; None for noise of their own.
            still: Whether log q is held fixed in its parameters: gradients then have no noise
                where q is the posterior.
        """
        raise NotImplementedError

    def draws(self, num: int, first: int) -> Tensor:
        """Returns terms of the ELBO, [num, B], without gradients."""
        raise NotImplementedError

    def parameters(self) -> list[Tensor]:
        """Returns the unconstrained parameters at the offset."""
        raise NotImplementedError

    def recentre(self, parameters: list[Tensor]) -> None:
        """Makes these parameters the origin, and sets the offset to zero."""
        raise NotImplementedError

    def chosen(self, which: Tensor, parameters: list[Tensor], others: list[Tensor]) -> list[Tensor]:
        """Returns the parameters of the data of a mask [B], and the others' for the rest."""
        raise NotImplementedError

    def chunks(self, num: int) -> list[tuple[int, int]]:
        """Cuts samples so that a chunk's graph fits into memory."""
        step = max(1, self._sampler.gradient_rows // self.size)
        return [(start, min(start + step, num)) for start in range(0, num, step)]


def elbo_terms(sampler: Sampler, batch: tuple[Tensor, ...], num: int, first: int) -> Tensor:
    """The ELBO's terms, [num, B], without gradients."""
    return torch.cat([d.elbo.double() for d in sampler.stream(batch, num, first)])
