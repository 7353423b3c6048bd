"""Equally spaced levels between 0 and 1 as a support, and the binomial on them."""

from typing import Any, Self

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

from pvae.errors import PvaeError

__all__ = ["BinomialProportion", "Levels", "OfLevels", "at_least_two"]


class Levels(constraints.Constraint):
    """The n + 1 levels 0, 1/n, 2/n, …, 1, within float32's precision.

    Example:
        >>> Levels(3).check(torch.tensor([0.0, 0.5, 0.75, 1.0]))
        tensor([ True,  True, False,  True])
    """

    is_discrete = True

    def __init__(self, levels: int) -> None:
        self.levels = at_least_two(levels)

    def check(self, value: Tensor) -> Tensor:
        k = value * (self.levels - 1)
        # In float32, k / 65535 has an error of 0.004 / 65535.
        return ((k - k.round()).abs() < 1e-2) & (k > -0.5) & (k < self.levels - 0.5)

    def __repr__(self) -> str:
        return f"levels={self.levels}, values k / {self.levels - 1}"


class OfLevels(TorchDistribution):
    """Base class: a distribution on levels, with the tensors that `_tensors` names."""

    _tensors: tuple[str, ...]

    def expand(self, batch_shape: torch.Size, _instance: Any = None) -> Self:
        """Returns the distribution with a larger batch shape."""
        new = self._get_checked_instance(type(self), _instance)
        batch_shape, cut = torch.Size(batch_shape), len(self.batch_shape)
        for name in self._tensors:
            value = getattr(self, name)
            if value is not None:
                value = value.expand(*batch_shape, *value.shape[cut:])
            setattr(new, name, value)
        new.levels = self.levels
        TorchDistribution.__init__(new, batch_shape, self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new


class BinomialProportion(OfLevels):
    r"""The share of successes among n trials, :math:`x = k / n`, :math:`k \sim \mathrm{Bin}(n, p)`.

    For counts k = 0 … n that are stored as values in [0, 1], like grey levels. (Pyro's Binomial is
    for k itself.)

    Args:
        logits: log p / (1 − p), [...].
        levels: n + 1, at least 2; 17 for the counts 0 … 16 of scikit-learn's digits.

    Raises:
        PvaeError: If there are fewer than two levels.

    Example:
        >>> import torch
        >>> BinomialProportion(torch.zeros(3), levels=17).mean
        tensor([0.5000, 0.5000, 0.5000])
    """

    arg_constraints = {"logits": constraints.real}  # noqa: RUF012
    _tensors = ("logits",)

    def __init__(self, logits: Tensor, levels: int, *, validate_args: bool | None = None) -> None:
        self.logits, self.levels = logits, at_least_two(levels)
        super().__init__(logits.shape, validate_args=validate_args)

    @property
    def support(self) -> constraints.Constraint:
        """The levels k / n."""
        return Levels(self.levels)

    @property
    def mean(self) -> Tensor:
        """E[x] = p."""
        return self.logits.sigmoid()

    @torch.no_grad()
    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        """Returns levels [*sample_shape, ...]."""
        return self._counts().sample(sample_shape) / (self.levels - 1)

    def log_prob(self, value: Tensor) -> Tensor:
        """Returns log P(x), [...]."""
        if self._validate_args:
            self._validate_sample(value)
        return self._counts().log_prob(value * (self.levels - 1))

    def _counts(self) -> dist.Binomial:
        return dist.Binomial(self.levels - 1, logits=self.logits, validate_args=False)


def at_least_two(levels: int) -> int:
    if levels < 2:
        raise PvaeError(
            f"levels={levels} is not valid: give at least 2 (256 for 8-bit images, 17 for "
            "scikit-learn's digits)."
        )
    return levels
