"""A probability for each of a few values: for levels between 0 and 1, and for integers."""

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints

from pvae.distributions.head import Head
from pvae.distributions.levels import Levels, OfLevels, at_least_two

__all__ = ["Categorical", "CategoricalLevels", "Softmax"]


class CategoricalLevels(OfLevels):
    r"""A categorical distribution over equally spaced levels in [0, 1], :math:`P(x = k/n) = \pi_k`.

    Args:
        logits: log π up to a constant, [..., n + 1].

    Shape:
        Batch shape [...], event shape [].

    Raises:
        PvaeError: If there are fewer than two levels.

    Example:
        >>> p = CategoricalLevels(torch.tensor([0.0, 0.0, 0.0]))
        >>> p.log_prob(torch.tensor([0.0, 0.5, 1.0])).exp()
        tensor([0.3333, 0.3333, 0.3333])
    """

    arg_constraints = {"logits": constraints.real_vector}  # noqa: RUF012
    _tensors = ("logits",)

    def __init__(self, logits: Tensor, *, validate_args: bool | None = None) -> None:
        self.logits, self.levels = logits, at_least_two(logits.shape[-1])
        super().__init__(logits.shape[:-1], validate_args=validate_args)

    @property
    def support(self) -> constraints.Constraint:
        """The levels."""
        return Levels(self.levels)

    @property
    def mean(self) -> Tensor:
        """E[x] = Σ_k π_k k / n."""
        values = torch.linspace(0, 1, self.levels, dtype=self.logits.dtype).to(self.logits.device)
        return self.logits.softmax(-1) @ values

    @torch.no_grad()
    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        """Returns levels [*sample_shape, ...]."""
        k = dist.Categorical(logits=self.logits, validate_args=False).sample(sample_shape)
        return k.to(self.logits.dtype) / (self.levels - 1)

    def log_prob(self, value: Tensor) -> Tensor:
        """Returns log P(x), [...]."""
        if self._validate_args:
            self._validate_sample(value)
        return _pick(self.logits, value * (self.levels - 1))


class _OfLogits(Head):
    """The network gives V logits for each value, [V, *event_shape]."""

    def __init__(self, levels: int) -> None:
        super().__init__()
        self.levels = at_least_two(levels)

    @property
    def out_shape(self) -> tuple[int, ...]:
        """[V, *event_shape]."""
        return (self.levels, *self.event_shape)

    def _logits(self, f: Tensor) -> Tensor:
        return f.movedim(-1 - self.event_dim, -1)


class Softmax(_OfLogits):
    r"""For x of levels k / n: any probability for each, :math:`\pi = \mathrm{softmax}(f)`.

    Data with `observation="grey"` have such values.

    Args:
        levels: V = n + 1, at least 2; 256 for 8-bit images, 17 for scikit-learn's digits.

    Raises:
        PvaeError: If there are fewer than two levels.

    Source: van den Oord et al. 2016, *Pixel Recurrent Neural Networks*, section 2.2
    (arXiv:1601.06759).

    Example:
        >>> Softmax(17).sized((1, 8, 8)).out_shape
        (17, 1, 8, 8)
    """

    def __init__(self, levels: int = 256) -> None:
        super().__init__(levels)
        self.support = Levels(levels)

    def forward(self, f: Tensor) -> dist.Distribution:
        return CategoricalLevels(self._logits(f)).to_event(self.event_dim)


class Categorical(_OfLogits):
    r"""For x of integers 0 … V − 1, as codes are: :math:`x \sim \mathrm{Cat}(\mathrm{softmax}(f))`.

    Args:
        levels: V, at least 2.

    Raises:
        PvaeError: If there are fewer than two values.

    Example:
        >>> Categorical(512).sized((7, 7))(torch.zeros(512, 7, 7)).sample().dtype
        torch.int64
    """

    def __init__(self, levels: int = 256) -> None:
        super().__init__(levels)
        self.support = constraints.integer_interval(0, levels - 1)

    def forward(self, f: Tensor) -> dist.Distribution:
        return _normalised(self._logits(f)).to_event(self.event_dim)


def _normalised(logits: Tensor) -> dist.Categorical:
    """Returns a Categorical whose logits torch's `log_softmax` has normalised.

    Its constructor subtracts `logsumexp`. For hundreds of codes that takes twice as long, density
    and gradient together.
    """
    fn = dist.Categorical.__new__(dist.Categorical)
    fn.logits = fn._param = logits.log_softmax(-1)  # as `expand` makes one
    fn._num_events = logits.shape[-1]
    torch.distributions.Distribution.__init__(fn, logits.shape[:-1])
    return fn


def _pick(logits: Tensor, k: Tensor) -> Tensor:
    """Returns log softmax(logits)[k], [...], with k rounded."""
    log_p = logits.log_softmax(-1)
    k = k.round().long().clamp(0, logits.shape[-1] - 1)
    batch = torch.broadcast_shapes(log_p.shape[:-1], k.shape)
    log_p = log_p.expand(*batch, logits.shape[-1])
    return log_p.gather(-1, k.expand(batch)[..., None])[..., 0]
