"""The missing values of x given the known ones, where x's values are independent given z."""

from typing import Any, Self

import torch
from pyro.distributions import Independent, MaskedDistribution
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

from pvae.distributions.support import peeled
from pvae.errors import PvaeError

__all__ = ["Completed", "only"]


def only(fn: Any, kept: Tensor) -> Any:
    r"""Returns the density of some values of x, by itself.

    .. math:: \log p(x_S) = \sum_{d \in S} \log p(x_d)

    Args:
        fn: A distribution of independent values, such as `Bernoulli(logits).to_event(3)`.
        kept: S, booleans that broadcast with [*batch_shape, *event_shape].

    Returns:
        A distribution of the same shape. Its samples have all values.

    Raises:
        PvaeError: If the values are not independent.

    Example:
        >>> import pyro.distributions as dist
        >>> fn = dist.Normal(torch.zeros(3), 1.0).to_event(1)
        >>> first = torch.tensor([True, False, False])
        >>> only(fn, first).log_prob(torch.zeros(3))
        tensor(-0.9189)
    """
    if isinstance(fn, Completed):
        raise PvaeError(
            "This density is one of the missing values given the known ones already. Complete x by "
            "pvae.generate(model, n, x, mask)."
        )
    if isinstance(fn, MaskedDistribution):
        return only(fn.base_dist, kept).mask(fn._mask)
    base, dims = fn, 0
    while isinstance(base, Independent):
        base, dims = base.base_dist, dims + base.reinterpreted_batch_ndims
    if base.event_dim:
        raise PvaeError(
            f"The density {type(peeled(fn)).__name__} is one of {list(base.event_shape)} values "
            "together, and does not factorise over them: some of them have no density that could "
            "be computed by itself. Use a likelihood of independent values, such as "
            "Bernoulli(…).to_event(3). An autoregressive density is completed by pvae.complete."
        )
    return base.mask(kept).to_event(dims)


class Completed(TorchDistribution):
    r"""The density of the missing values of x; the known ones are given.

    .. math:: \log p(x_{\text{missing}} \mid x_{\text{known}})
        = \sum_{d \text{ missing}} \log p(x_d)

    `sample` and `mean` have the known values of x. `log_prob` does not read them.

    Args:
        base: A distribution of independent values, batch shape [...] and event shape E.
        x: The data, [..., *E], whose missing values are not read.
        known: Which values are known, booleans [..., *E].

    Raises:
        PvaeError: If the values of the base are not independent.

    Example:
        >>> import pyro.distributions as dist
        >>> base = dist.Normal(torch.zeros(2), 1.0).to_event(1)
        >>> fn = Completed(base, torch.tensor([5.0, 7.0]), torch.tensor([True, False]))
        >>> fn.mean
        tensor([5., 0.])
    """

    arg_constraints = {}  # noqa: RUF012
    has_rsample = False

    def __init__(
        self, base: Any, x: Tensor, known: Tensor, *, validate_args: bool | None = None
    ) -> None:
        self.base, self.x, self.known = base, x, known
        self.base_dist = only(base, ~known)  # where Pyro's distributions show their mask
        super().__init__(self.base_dist.batch_shape, base.event_shape, validate_args=validate_args)

    @property
    def support(self) -> constraints.Constraint:
        """That of the base."""
        return self.base.support

    @property
    def mean(self) -> Tensor:
        """The known values, and the means of the missing ones."""
        return torch.where(self.known, self.x, self.base.mean)

    def expand(self, batch_shape: torch.Size, _instance: Any = None) -> Self:
        """Returns the distribution with a larger batch shape."""
        new = self._get_checked_instance(Completed, _instance)
        batch_shape = torch.Size(batch_shape)
        new.base, new.x, new.known = self.base.expand(batch_shape), self.x, self.known
        new.base_dist = self.base_dist.expand(batch_shape)
        TorchDistribution.__init__(new, batch_shape, self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        """Returns the log density of the missing values, [...]."""
        return self.base_dist.log_prob(value)

    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        """Draws the missing values; the known ones are those of x."""
        with torch.no_grad():
            drawn = self.base_dist.sample(torch.Size(sample_shape))
            return torch.where(self.known, self.x, drawn.to(self.x.dtype))
