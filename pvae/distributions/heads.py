"""Likelihood heads: each turns the output f of a network into a distribution p(x|z)."""

import math
from collections.abc import Sequence
from typing import Literal, Self

import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import SoftplusTransform, constraints

from pvae.distributions import logistic
from pvae.distributions.head import Head
from pvae.distributions.levels import BinomialProportion, Levels
from pvae.distributions.softmax import Categorical, Softmax
from pvae.errors import PvaeError
from pvae.nn import remember

__all__ = [
    "Bernoulli",
    "Binomial",
    "Categorical",
    "ContinuousBernoulli",
    "DiscretizedLogistic",
    "Gaussian",
    "Head",
    "LogisticMixture",
    "NegativeBinomial",
    "Poisson",
    "Softmax",
    "ZeroInflatedNegativeBinomial",
    "ZeroInflatedPoisson",
]

Scale = float | Literal["learned", "network"]


class _OfOdds(Head):
    """f is the log odds of a mean in [0, 1]."""

    def bias(self, x: Tensor) -> Tensor:
        r"""Returns :math:`\log (\bar x / (1 - \bar x))`, the mean clamped to [0.001, 0.999]."""
        return x.mean(0).clamp(0.001, 0.999).logit()


class Bernoulli(_OfOdds):
    """For x of 0 and 1: x ~ Bernoulli(sigmoid(f)).

    Example:
        >>> Bernoulli().sized((3,))(torch.zeros(3)).mean
        tensor([0.5000, 0.5000, 0.5000])
    """

    support = constraints.boolean

    def forward(self, f: Tensor) -> dist.Distribution:
        return dist.Bernoulli(logits=f).to_event(self.event_dim)


class ContinuousBernoulli(_OfOdds):
    """For x in [0, 1], a density: p(x) ∝ λ^x (1 − λ)^(1 − x), λ = sigmoid(f).

    Source: Loaiza-Ganem & Cunningham 2019, *The continuous Bernoulli: fixing a pervasive error
    in variational autoencoders* (arXiv:1907.06845).

    Example:
        >>> ContinuousBernoulli().sized((3,))(torch.zeros(2, 3)).mean[0]
        tensor([0.5000, 0.5000, 0.5000])
    """

    support = constraints.unit_interval

    def forward(self, f: Tensor) -> dist.Distribution:
        return dist.ContinuousBernoulli(logits=f).to_event(self.event_dim)


class Binomial(_OfOdds):
    """For x of levels k / n, where k counts successes: k ~ Bin(n, sigmoid(f)).

    Data with `observation="grey"` have such values.

    Args:
        levels: n + 1, at least 2; 256 for 8-bit images, 17 for scikit-learn's digits.

    Raises:
        PvaeError: If there are fewer than two levels.

    Example:
        >>> Binomial(levels=17).sized((3,))(torch.zeros(2, 3)).mean[0]
        tensor([0.5000, 0.5000, 0.5000])
    """

    def __init__(self, levels: int = 256) -> None:
        super().__init__()
        self.support = Levels(levels)

    def forward(self, f: Tensor) -> dist.Distribution:
        p = BinomialProportion(f, self.support.levels)
        return p.to_event(self.event_dim)


class _LocationScale(Head):
    """A location for each value, and a scale that is fixed, learned, or given by the network."""

    _first = 1.0

    def __init__(self, scale: Scale = 1.0) -> None:
        super().__init__()
        if not (scale in ("learned", "network") or (not isinstance(scale, str) and scale > 0)):
            raise PvaeError(
                f"scale={scale!r} is not valid: give a positive number, 'learned' or 'network'."
            )
        self.two_outputs = scale == "network"
        if scale == "learned":
            self.log_scale = nn.Parameter(torch.tensor(self._first).log())
        elif not self.two_outputs:
            self.register_buffer("fixed_scale", torch.tensor(float(scale)))

    @property
    def out_shape(self) -> tuple[int, ...]:
        """`event_shape`; [2, *event_shape] (location, scale before softplus) for "network"."""
        return (2, *self.event_shape) if self.two_outputs else self.event_shape

    @property
    def scale(self) -> Tensor | None:
        """s, a scalar; None if the network gives it."""
        if self.two_outputs:
            return None
        return self.fixed_scale if "fixed_scale" in self._buffers else self.log_scale.exp()

    def _loc_scale(self, f: Tensor) -> tuple[Tensor, Tensor]:
        if not self.two_outputs:
            return f, self.scale
        loc, raw = f.unbind(-1 - self.event_dim)
        return loc, F.softplus(raw) + 1e-4

    def bias(self, x: Tensor) -> Tensor:
        """Returns the mean."""
        return x.mean(0)


class Gaussian(_LocationScale):
    """For real x: x ~ N(f, s²).

    Args:
        scale: s: a positive number; `"learned"`, one number that starts at 1; or `"network"`, a
            second output for each value, s = softplus(f_2) + 1e-4.

    Raises:
        PvaeError: If the scale is not valid.

    Example:
        >>> Gaussian(scale="learned").sized((3,)).scale
        tensor(1., grad_fn=<ExpBackward0>)
    """

    def forward(self, f: Tensor) -> dist.Distribution:
        return dist.Normal(*self._loc_scale(f)).to_event(self.event_dim)


class DiscretizedLogistic(_LocationScale):
    r"""For x of levels k / n: a logistic of location f and scale s, rounded to the nearest level.

    Data with `observation="grey"` have such values. See
    `pvae.distributions.DiscretizedLogistic` for the probabilities.

    Args:
        levels: n + 1, at least 2; 256 for 8-bit images, 17 for scikit-learn's digits.
        scale: s, as in `Gaussian`; a learned one starts at 0.1.

    Raises:
        PvaeError: If the scale is not valid, or there are fewer than two levels.

    Source: Salimans et al. 2017, *PixelCNN++*, section 2.1 (arXiv:1701.05517).

    Example:
        >>> DiscretizedLogistic(levels=17).sized((3,)).out_shape
        (2, 3)
        >>> DiscretizedLogistic(levels=17, scale=0.1).sized((3,)).out_shape
        (3,)
    """

    _first = 0.1  # at 1, as wide as all levels, the gradient almost vanishes

    def __init__(self, levels: int = 256, scale: Scale = "network") -> None:
        super().__init__(scale)
        self.support = Levels(levels)

    def forward(self, f: Tensor) -> dist.Distribution:
        p = logistic.DiscretizedLogistic(*self._loc_scale(f), self.support.levels)
        return p.to_event(self.event_dim)


class LogisticMixture(Head):
    r"""For images of levels k / n: a mixture for each pixel, with dependent channels.

    The distribution is `pvae.distributions.MixtureOfDiscretizedLogistics`. The network gives
    [M, 1 + 2C + C(C−1)/2, H, W]: logits, locations, scales before softplus, and coefficients
    before tanh.

    Args:
        levels: n + 1, at least 2; 256 for 8-bit images, 17 for scikit-learn's digits.
        num_mixtures: M, components for each pixel.

    Raises:
        PvaeError: If a number is too small, or the data are not images [C, H, W].

    Source: Salimans et al. 2017, *PixelCNN++*, sections 2.1 and 2.2 (arXiv:1701.05517).

    Example:
        >>> head = LogisticMixture(levels=17, num_mixtures=5).sized((1, 8, 8))
        >>> head(torch.zeros(2, *head.out_shape)).sample().shape
        torch.Size([2, 1, 8, 8])
    """

    def __init__(self, levels: int = 256, num_mixtures: int = 5) -> None:
        super().__init__()
        if num_mixtures < 1:
            raise PvaeError(f"num_mixtures={num_mixtures}: it must be at least 1.")
        self.support, self.num_mixtures = Levels(levels), num_mixtures

    def sized(self, event_shape: Sequence[int]) -> Self:
        if len(event_shape) != 3:
            raise PvaeError(
                "likelihood='logistic_mixture' needs images (channels, height, width), because it "
                f"mixes over the channels of a pixel, not {tuple(event_shape)}. Reshape the data, "
                "or choose 'discretized_logistic'."
            )
        return super().sized(event_shape)

    @property
    def out_shape(self) -> tuple[int, ...]:
        """[M, 1 + 2C + C(C−1)/2, H, W]."""
        c, *size = self.event_shape
        return (self.num_mixtures, 1 + 2 * c + math.comb(c, 2), *size)

    def forward(self, f: Tensor) -> dist.Distribution:
        c = self.event_shape[0]
        logits, loc, raw, r = f.split([1, c, c, math.comb(c, 2)], -3)
        scale = F.softplus(raw) + 1e-4
        return logistic.MixtureOfDiscretizedLogistics(
            logits.squeeze(-3), loc, scale, r.tanh(), self.support.levels
        )


class Poisson(Head):
    """For counts: x ~ Poisson(μ), μ = softplus(f).

    Data with `observation="counts"` have such values. μ has 1e-6 added.

    Example:
        >>> Poisson().sized((2,))(torch.tensor([-1.0, 3.0])).mean
        tensor([0.3133, 3.0486])
    """

    support = constraints.nonnegative_integer

    def forward(self, f: Tensor) -> dist.Distribution:
        return dist.Poisson(_rate(f)).to_event(self.event_dim)

    def bias(self, x: Tensor) -> Tensor:
        """Returns the inverse softplus of the mean, which is clamped at 0.001."""
        return SoftplusTransform().inv(x.mean(0).clamp(min=0.001))


class ZeroInflatedPoisson(Poisson):
    r"""For counts with more zeros: zero with probability π, else a Poisson.

    .. math:: p(x) = \pi [x = 0] + (1 - \pi) \, \mathrm{Poisson}(x; \mathrm{softplus}(f_1)),
        \qquad \pi = \sigma(f_2)

    The network gives [2, *event_shape].

    Example:
        >>> ZeroInflatedPoisson().sized((3,)).out_shape
        (2, 3)
    """

    @property
    def out_shape(self) -> tuple[int, ...]:
        """[2, *event_shape]: μ before softplus, then the logit of π."""
        return (2, *self.event_shape)

    def forward(self, f: Tensor) -> dist.Distribution:
        f, gate_logits = f.unbind(-1 - self.event_dim)
        p = dist.ZeroInflatedPoisson(_rate(f), gate_logits=gate_logits)
        return p.to_event(self.event_dim)


class NegativeBinomial(Poisson):
    r"""For over-dispersed counts, of mean μ and variance μ + μ²/r.

    .. math:: x \sim \mathrm{NB}(\mu, r), \qquad \mu = \mathrm{softplus}(f)

    with one learned r for each dimension of x, which starts at 1.

    Example:
        >>> NegativeBinomial().sized((3,))(torch.zeros(2, 3)).mean[0]
        tensor([0.6931, 0.6931, 0.6931], grad_fn=<SelectBackward0>)
    """

    def sized(self, event_shape: Sequence[int]) -> Self:
        head = super().sized(event_shape)
        head.log_total_count = nn.Parameter(torch.zeros(head.event_shape))
        return head

    def _arguments(self, f: Tensor) -> dict[str, Tensor]:
        log_r = self.log_total_count
        return {"total_count": log_r.exp(), "logits": _rate(f).log() - log_r}

    def forward(self, f: Tensor) -> dist.Distribution:
        return dist.NegativeBinomial(**self._arguments(f)).to_event(self.event_dim)


class ZeroInflatedNegativeBinomial(NegativeBinomial):
    r"""For over-dispersed counts with more zeros: zero with probability π.

    .. math:: p(x) = \pi [x = 0] + (1 - \pi) \, \mathrm{NB}(x; \mathrm{softplus}(f_1), r),
        \qquad \pi = \sigma(f_2)

    The network gives [2, *event_shape].

    Example:
        >>> ZeroInflatedNegativeBinomial().sized((3,)).out_shape
        (2, 3)
    """

    out_shape = ZeroInflatedPoisson.out_shape

    def forward(self, f: Tensor) -> dist.Distribution:
        f, gate_logits = f.unbind(-1 - self.event_dim)
        p = dist.ZeroInflatedNegativeBinomial(**self._arguments(f), gate_logits=gate_logits)
        return p.to_event(self.event_dim)


def _rate(f: Tensor) -> Tensor:
    return F.softplus(f) + 1e-6


remember(*(globals()[name] for name in __all__))
