"""A distribution over integers, with its values in one-hot form."""

from typing import Any, Self

import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

from pvae.distributions.support import peeled, support_of
from pvae.errors import PvaeError

__all__ = ["OneHot"]


class OneHot(TorchDistribution):
    r"""A distribution over integers 0 … K − 1, with each integer as zeros and a one.

    .. math:: \log p(z) = \log p_{\mathrm{base}}(k), \qquad z_{ik} = \mathbb 1 [k = k_i]

    So a density of maps of codes [h, w], such as a PixelCNN with the head `heads.Categorical`, is
    the prior of a site z [h, w, K]. log p(z) has no gradient with respect to z.

    Args:
        base: A distribution over integers below K.
        num_codes: K.

    Shape:
        Batch shape that of the base; event shape that of the base and K.

    Raises:
        PvaeError: If the base is not over integers 0 … K − 1.

    Example:
        >>> import pyro.distributions as dist
        >>> p = OneHot(dist.Categorical(torch.ones(7, 7, 5)).to_event(2), 5)
        >>> p.sample((3,)).shape, p.log_prob(p.sample((3,))).shape
        (torch.Size([3, 7, 7, 5]), torch.Size([3]))
    """

    arg_constraints = {}  # noqa: RUF012
    has_rsample = False

    def __init__(
        self, base: TorchDistribution, num_codes: int, *, validate_args: bool | None = None
    ) -> None:
        support = support_of(peeled(base))
        while isinstance(support, constraints.independent):
            support = support.base_constraint
        if not isinstance(support, constraints.integer_interval):
            raise PvaeError(
                f"{type(peeled(base)).__name__} is not a distribution over integers (its support: "
                f"{support}). Give one over 0 to {num_codes - 1}: likelihood='categorical', "
                f"levels={num_codes}."
            )
        low, high = support.lower_bound, support.upper_bound
        if (low, high) != (0, num_codes - 1):
            raise PvaeError(
                f"The distribution is over the integers {low} to {high}, and there are {num_codes} "
                f"codes. Give one over 0 to {num_codes - 1}: levels={num_codes}."
            )
        self.base, self.num_codes = base, num_codes
        event_shape = torch.Size((*base.event_shape, num_codes))
        super().__init__(base.batch_shape, event_shape, validate_args=validate_args)

    @property
    def support(self) -> constraints.Constraint:
        """Zeros and a one, along the last dimension."""
        return constraints.independent(constraints.one_hot, len(self.event_shape) - 1)

    def expand(self, batch_shape: torch.Size, _instance: Any = None) -> Self:
        """Returns the distribution with a larger batch shape."""
        new = self._get_checked_instance(OneHot, _instance)
        batch_shape = torch.Size(batch_shape)
        new.base, new.num_codes = self.base.expand(batch_shape), self.num_codes
        TorchDistribution.__init__(new, batch_shape, self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        """Returns log p(z), [...], for z [..., *event_shape], in nats."""
        if self._validate_args:
            self._validate_sample(value)
        return self.base.log_prob(value.argmax(-1))

    @torch.no_grad()
    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        """Draws z, [*sample_shape, *batch_shape, *event_shape]."""
        return self._in_one_hot(self.base.sample(sample_shape))

    @torch.no_grad()
    def complete(self, z: Tensor, known: Tensor) -> Tensor:
        """Draws the unknown integers given the known ones, as `Autoregressive.complete`.

        Args:
            z: [..., *event_shape]; what is unknown is not read.
            known: Which integers are known, booleans [*base.event_shape], or of its first
                dimensions.

        Raises:
            PvaeError: As `Autoregressive.complete`; or if the base is no such distribution.
        """
        if not hasattr(self.base, "complete"):
            raise PvaeError(
                f"{type(peeled(self.base)).__name__} cannot be completed: it does not draw its "
                "values in an order. Give a pvae.distributions.Autoregressive."
            )
        return self._in_one_hot(self.base.complete(z.argmax(-1), known))

    @property
    def mean(self) -> Tensor:
        """E[z], the probabilities of the K integers, if the base has them (`probs`)."""
        probs = getattr(peeled(self.base), "probs", None)
        if probs is None:
            raise NotImplementedError(f"{type(self.base).__name__} has no probabilities.")
        return probs.expand(self.batch_shape + self.event_shape)

    @property
    def mode(self) -> Tensor:
        """The most probable z, if the base has a mode."""
        return self._in_one_hot(self.base.mode)

    def _in_one_hot(self, k: Tensor) -> Tensor:
        one_hot = torch.nn.functional.one_hot(k.long(), self.num_codes)
        return one_hot.to(torch.get_default_dtype())
