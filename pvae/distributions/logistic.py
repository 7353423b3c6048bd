"""Logistic distributions rounded to levels, and mixtures of them for images."""

import math

import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.utils import broadcast_all

from pvae.distributions.levels import Levels, OfLevels, at_least_two
from pvae.errors import PvaeError

__all__ = ["DiscretizedLogistic", "MixtureOfDiscretizedLogistics"]


class DiscretizedLogistic(OfLevels):
    r"""A logistic rounded to the nearest of equally spaced levels in [0, 1].

    With n + 1 levels :math:`x = k / n` and :math:`h = 1 / 2n` half their distance,

    .. math:: P(x) = \sigma\left(\frac{x + h - \mu}{s}\right)
        - \sigma\left(\frac{x - h - \mu}{s}\right),

    except that the lowest level takes the whole left tail (its second term is 0) and the highest
    the whole right tail (its first term is 1). The probabilities then add up to one. With
    :math:`a > b` for the two arguments, the logarithm is computed as

    .. math:: \log(\sigma(a) - \sigma(b)) = \log \sigma(a) + \log \sigma(-b)
        + \log(1 - e^{b - a}),

    which neither cancels nor underflows.

    Args:
        loc: μ, in the units of x, [...].
        scale: s, positive, [...].
        levels: n + 1, at least 2; 256 for 8-bit images, 17 for scikit-learn's digits.

    Raises:
        PvaeError: If there are fewer than two levels.

    Source: Salimans et al. 2017, *PixelCNN++*, section 2.1, with pixels in [0, 1]
    (arXiv:1701.05517).

    Example:
        >>> import torch
        >>> x = torch.arange(256) / 255
        >>> DiscretizedLogistic(torch.tensor(0.3), 0.05).log_prob(x).exp().sum()
        tensor(1.0000)
    """

    arg_constraints = {"loc": constraints.real, "scale": constraints.positive}  # noqa: RUF012
    _tensors = ("loc", "scale")

    def __init__(
        self,
        loc: Tensor | float,
        scale: Tensor | float,
        levels: int = 256,
        *,
        validate_args: bool | None = None,
    ) -> None:
        self.loc, self.scale = broadcast_all(loc, scale)
        self.levels = at_least_two(levels)
        super().__init__(self.loc.shape, validate_args=validate_args)

    @property
    def support(self) -> constraints.Constraint:
        """The levels."""
        return Levels(self.levels)

    @property
    def mean(self) -> Tensor:
        """E[x] = Σ_k P(x ≥ k/n) / n."""
        n = self.levels - 1
        total = torch.zeros_like(self.loc)
        for k in range(1, self.levels):
            total = total + torch.sigmoid((self.loc - (k - 0.5) / n) / self.scale)
        return total / n

    @torch.no_grad()
    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        """Returns levels [*sample_shape, ...]."""
        return _draw(self.loc.expand(self._extended_shape(sample_shape)), self.scale, self.levels)

    def log_prob(self, value: Tensor) -> Tensor:
        """Returns log P(x), [...]."""
        if self._validate_args:
            self._validate_sample(value)
        return _log_prob(value, self.loc, self.scale, self.levels)


class MixtureOfDiscretizedLogistics(OfLevels):
    r"""A mixture of discretised logistics for each pixel, with dependent channels.

    .. math::
        m &\sim \mathrm{Cat}(\pi) \\
        x_c \mid m, x_{<c} &\sim \mathrm{DiscretizedLogistic}\Big(
        \mu_{mc} + \sum_{j < c} r_{mcj} \big(x_j - \tfrac12\big), s_{mc} \Big)

    for each pixel. All of its channels share the component m, and the location of a channel
    depends on the channels before it.

    Args:
        logits: log π up to a constant, [..., M, H, W].
        loc: μ, [..., M, C, H, W].
        scale: s, positive, [..., M, C, H, W].
        coefficients: r, [..., M, C(C−1)/2, H, W], in the order (c, j) = (1, 0), (2, 0), (2, 1),
            …; None for independent channels given m.
        levels: The number of levels of a channel, at least 2.

    Shape:
        Batch shape [...], event shape [C, H, W].

    Raises:
        PvaeError: If there is no component, or there are fewer than two levels.

    Source: Salimans et al. 2017, *PixelCNN++*, sections 2.1 and 2.2, with pixels in [0, 1]
    (arXiv:1701.05517).

    Example:
        >>> import torch
        >>> logits, loc = torch.zeros(16, 5, 32, 32), torch.rand(16, 5, 3, 32, 32)
        >>> p = MixtureOfDiscretizedLogistics(logits, loc, 0.1 * torch.ones_like(loc))
        >>> p.log_prob(p.sample()).shape
        torch.Size([16])
    """

    arg_constraints = {  # noqa: RUF012
        "logits": constraints.independent(constraints.real, 3),
        "loc": constraints.independent(constraints.real, 4),
        "scale": constraints.independent(constraints.positive, 4),
    }
    _tensors = ("logits", "loc", "scale", "coefficients")

    def __init__(
        self,
        logits: Tensor,
        loc: Tensor,
        scale: Tensor,
        coefficients: Tensor | None = None,
        levels: int = 256,
        *,
        validate_args: bool | None = None,
    ) -> None:
        if logits.ndim < 3 or not logits.shape[-3]:
            raise PvaeError(
                f"The logits of a mixture have shape {tuple(logits.shape)}: give [..., M, H, W] "
                "with M of at least 1."
            )
        pairs = math.comb(loc.shape[-3], 2)
        if coefficients is not None and coefficients.shape[-3] != pairs:
            raise PvaeError(
                f"The coefficients have shape {tuple(coefficients.shape)}: {loc.shape[-3]} "
                f"channels have {pairs} pairs, so give [..., M, {pairs}, H, W]."
            )
        self.logits, self.loc, self.scale = logits, loc, scale
        self.coefficients, self.levels = coefficients, at_least_two(levels)
        super().__init__(loc.shape[:-4], loc.shape[-3:], validate_args=validate_args)

    @property
    def support(self) -> constraints.Constraint:
        """The levels, for every channel of every pixel."""
        return constraints.independent(Levels(self.levels), 3)

    @property
    def mean(self) -> Tensor:
        """E[x], exact for one channel; of more, each is given the means of those before it."""
        weights, channels = self.logits.softmax(-3), []
        for c in range(self.event_shape[0]):
            loc = self.loc[..., c, :, :] + self._shift(c, channels)
            part = DiscretizedLogistic(loc, self.scale[..., c, :, :], self.levels)
            channels.append(part.mean)
        return torch.stack([(weights * each).sum(-3) for each in channels], -3)

    @torch.no_grad()
    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        """Returns images of levels, [*sample_shape, ..., C, H, W]."""
        whole = self.expand(torch.Size(sample_shape) + self.batch_shape)
        m = dist.Categorical(logits=whole.logits.movedim(-3, -1)).sample().unsqueeze(-3)

        def chosen(values: Tensor) -> Tensor:
            return values.gather(-3, m).squeeze(-3)

        channels: list[Tensor] = []
        for c in range(self.event_shape[0]):
            loc = whole.loc[..., c, :, :] + whole._shift(c, [x.unsqueeze(-3) for x in channels])
            channels.append(_draw(chosen(loc), chosen(whole.scale[..., c, :, :]), self.levels))
        return torch.stack(channels, -3)

    def log_prob(self, value: Tensor) -> Tensor:
        """Returns log P(x), [...], for x [..., C, H, W]."""
        if self._validate_args:
            self._validate_sample(value)
        before = list(value.unsqueeze(-4).unbind(-3))
        log_p = self.logits.log_softmax(-3)
        for c, x in enumerate(before):
            loc = self.loc[..., c, :, :] + self._shift(c, before)
            log_p = log_p + _log_prob(x, loc, self.scale[..., c, :, :], self.levels)
        return log_p.logsumexp(-3).sum((-2, -1))

    def _shift(self, c: int, before: list[Tensor]) -> Tensor:
        """Returns the shift of channel c's location by the channels before it, [..., M, H, W]."""
        if self.coefficients is None or not c:
            return self.loc.new_zeros(())
        first = math.comb(c, 2)
        return sum(self.coefficients[..., first + j, :, :] * (before[j] - 0.5) for j in range(c))


def _log_prob(x: Tensor, loc: Tensor, scale: Tensor, levels: int) -> Tensor:
    width = 1 / (levels - 1)
    a, b = (x + width / 2 - loc) / scale, (x - width / 2 - loc) / scale
    log_below, log_above = F.logsigmoid(a), F.logsigmoid(-b)
    inside = log_below + log_above + torch.log(-torch.expm1(-width / scale))
    lowest, highest = x < width / 2, x > 1 - width / 2
    return torch.where(lowest, log_below, torch.where(highest, log_above, inside))


def _draw(loc: Tensor, scale: Tensor, levels: int) -> Tensor:
    u = torch.rand_like(loc).clamp(min=torch.finfo(loc.dtype).tiny)
    y = loc + scale * (u.log() - torch.log1p(-u))
    return (y * (levels - 1)).round().clamp(0, levels - 1) / (levels - 1)
