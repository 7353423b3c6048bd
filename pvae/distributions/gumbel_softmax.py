"""A categorical distribution that is differentiated through relaxed samples."""

from typing import Any

import torch
from pyro.distributions import OneHotCategorical
from torch import Tensor
from torch.distributions import constraints

from pvae.nn import positive

__all__ = ["GumbelSoftmax"]


class GumbelSoftmax(OneHotCategorical):
    r"""A categorical distribution in one-hot form, with Gumbel-softmax samples.

    .. math:: y = \mathrm{softmax} \left( \frac{\log \pi + g}{\tau} \right), \qquad
        g_c \sim \mathrm{Gumbel}(0, 1), \qquad
        z = \operatorname{onehot} \left( \arg\max_c y_c \right) \sim \mathrm{Categorical}(\pi)

    `hard=True` draws z, which has the gradient of y (straight-through): a right categorical
    distribution, with a biased gradient. `hard=False` draws y, which training may use in place of
    z. y is no sample of the categorical distribution, so evaluation refuses it.

    `log_prob` is :math:`\sum_c z_c \log \pi_c`: for a one-hot z its log probability, for y the
    linear function that has this value at each z. Two of these distributions, or one and a
    OneHotCategorical, have a KL divergence in closed form.

    Args:
        temperature: τ, a positive number, or a tensor that broadcasts with [..., 1]. The smaller,
            the closer is y to z, and the noisier the gradient.
        logits: log π up to a constant, [..., C].
        hard: Whether to draw z.

    Shape:
        Batch shape [...], event shape [C].

    Raises:
        PvaeError: If the temperature is a number that is not positive.

    Source: Jang, Gu & Poole 2017, *Categorical Reparameterization with Gumbel-Softmax*
    (arXiv:1611.01144); Maddison, Mnih & Teh 2017, *The Concrete Distribution*
    (arXiv:1611.00712).

    Example:
        >>> q = GumbelSoftmax(0.5, torch.zeros(5, 3))
        >>> q.rsample().sum(-1).round(decimals=4)
        tensor([1., 1., 1., 1., 1.])
        >>> GumbelSoftmax(0.5, torch.zeros(5, 3), hard=True).rsample().unique()
        tensor([0., 1.])
    """

    has_rsample = True

    def __init__(
        self,
        temperature: float | Tensor,
        logits: Tensor,
        hard: bool = False,
        *,
        validate_args: bool | None = None,
    ) -> None:
        if not isinstance(temperature, Tensor):
            positive(temperature=temperature)
        self.temperature, self.hard = temperature, hard
        super().__init__(logits=logits, validate_args=validate_args)

    @property
    def support(self) -> constraints.Constraint:
        """One-hot vectors; the simplex, if `hard` is false."""
        return constraints.one_hot if self.hard else constraints.simplex

    def expand(self, batch_shape: torch.Size, _instance: Any = None) -> "GumbelSoftmax":
        """Returns the distribution with another batch shape."""
        new = self._get_checked_instance(GumbelSoftmax, _instance)
        new.temperature, new.hard = self.temperature, self.hard
        return super().expand(batch_shape, _instance=new)

    def rsample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        """Returns z, or y if `hard` is false, [*sample_shape, ..., C]."""
        logits = self.logits.expand(self._extended_shape(sample_shape))
        tiny = torch.finfo(logits.dtype).tiny  # rounding can make a draw zero
        gumbel = -torch.empty_like(logits).exponential_().clamp(min=tiny).log()
        y = ((logits + gumbel) / self.temperature).softmax(-1)
        if not self.hard:
            return y
        z = torch.zeros_like(y).scatter(-1, y.argmax(-1, keepdim=True), 1.0)
        return z + (y - y.detach())

    def log_prob(self, value: Tensor) -> Tensor:
        """Returns Σ_c value_c log π_c, [...]."""
        if self._validate_args and self.hard:  # rounding can put y off the simplex
            self._validate_sample(value)
        # A probability of zero times log 0 would be NaN.
        low = torch.finfo(self.logits.dtype).min
        return (value * self.logits.clamp(min=low)).sum(-1)
