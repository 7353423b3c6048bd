"""Member: a distribution for each datum, whose ELBO can be optimised."""

from collections.abc import Iterator

import torch
from torch import Tensor

from pvae.importance import Sampler

__all__ = ["LARGEST", "Member", "elbo_terms"]

LARGEST = 2.0  # step of a logarithm


class Member:
    """A distribution for each of B data.

    Attributes:
        size: B.
        dim: D, the sampled latent coordinates of a datum, if `smooth`.
        offset: Offsets of its parameters from an origin, [B, P], in units of the scales there.
        limit: The largest step of each offset, [P]: infinite for locations; for scales and logits
            a factor of e².
        smooth: Whether samples are smooth functions of fixed noise and the parameters.
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
        """Yields terms whose mean is the ELBO, [k, B], a few samples at a time, with gradients.

        Args:
            num: K, the number of samples.
            noise: Standard normal noise of the samples, [K, B, D]; None draws new noise.
            still: Whether log q is constant in its parameters: gradients then have no noise
                if q is the posterior.
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
        """Returns `parameters` for the data where `which`, [B], is true, else `others`."""
        raise NotImplementedError

    def chunks(self, num: int) -> list[tuple[int, int]]:
        """Cuts samples into chunks whose graphs fit into memory."""
        step = max(1, self._sampler.gradient_rows // self.size)
        return [(start, min(start + step, num)) for start in range(0, num, step)]


def elbo_terms(sampler: Sampler, batch: tuple[Tensor, ...], num: int, first: int) -> Tensor:
    """Returns terms of the ELBO, [num, B], without gradients."""
    return torch.cat([d.elbo.double() for d in sampler.stream(batch, num, first)])
