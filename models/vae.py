"""The variational autoencoder of Kingma & Welling 2014: Gaussian latents, one decoder."""

import math
from collections.abc import Sequence
from typing import Literal, get_args

import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from pyro.nn import PyroModule
from torch import Tensor, nn

from pvae.distributions import (
    BinomialProportion,
    DiscretizedLogistic,
    MixtureOfDiscretizedLogistics,
)
from pvae.errors import PvaeError
from pvae.nn import MLP, ConvDecoder

__all__ = ["VAE"]

Likelihood = Literal[
    "bernoulli",
    "continuous_bernoulli",
    "gaussian",
    "binomial",
    "discretized_logistic",
    "logistic_mixture",
    "poisson",
    "negative_binomial",
    "zero_inflated_poisson",
    "zero_inflated_negative_binomial",
]

_LEVELS = ("binomial", "discretized_logistic", "logistic_mixture")
_COUNTS = get_args(Likelihood)[-4:]


class VAE(PyroModule):
    r"""The variational autoencoder: a standard normal code, decoded by a network.

    .. math::
        z &\sim \mathcal N(0, I) \\
        x \mid z &\sim p(x \mid f_\theta(z))

    where :math:`f_\theta(z)` has the parameters of a distribution for each pixel:

    - `"bernoulli"`: x is 0 or 1, with probability :math:`\sigma(f)`;
    - `"continuous_bernoulli"`: x is in [0, 1], with parameter :math:`\sigma(f)`;
    - `"gaussian"`: x is real, :math:`\mathcal N(f, s^2)`;
    - `"binomial"`: x is one of `levels` values k / (levels − 1), with k counting successes of
      probability :math:`\sigma(f)`;
    - `"discretized_logistic"`: x is one of these values, a logistic of location f and scale s,
      rounded;
    - `"logistic_mixture"`: likewise, a mixture for each pixel, whose channels depend on each
      other;
    - `"poisson"`: x is a count, of rate :math:`\mu = \mathrm{softplus}(f)`;
    - `"negative_binomial"`: a count of mean μ and variance :math:`\mu + \mu^2 / r`, with one
      learned r for each dimension;
    - `"zero_inflated_poisson"`, `"zero_inflated_negative_binomial"`: likewise, but zero with a
      probability :math:`\pi` of its own, a second output.

    The three with `levels` are for data with `observation="grey"`, and give bits/dim; the four
    of counts are for data with `observation="counts"`.

    Args:
        event_shape: Shape of one datum, (C, H, W) or (D,).
        latent_dim: Z, the size of the code.
        network: `"dense"`, one hidden layer by default, or `"conv"`, transposed convolutions.
        hidden_dims: Widths of the dense decoder's hidden layers.
        channels: Channels of the convolutional decoder, from the code to the image.
        activation: Nonlinearity of the dense decoder.
        likelihood: One of the above.
        scale: s of the Gaussian and the logistic: a number, `"learned"` (one number) or
            `"network"` (a second output for each pixel); None is 1 for the Gaussian, `"network"`
            for the logistic.
        levels: Of the three likelihoods of levels: 256 for 8-bit images, 17 for digits.
        num_mixtures: M, components of the logistic mixture.
        decoder: A network [..., Z] to [..., *event_shape] in place of the built-in one; for
            `scale="network"`, to [..., 2, *event_shape] (location, then scale before softplus);
            for the mixture, to [..., M, 1 + 2C + C(C−1)/2, H, W] (logits, locations, scales
            before softplus, coefficients before tanh); for the zero-inflated, to
            [..., 2, *event_shape] (μ before softplus, then the logit of π).

    Shape:
        `model(x)` takes x [B, *event_shape] and returns it; `model(size=n)` draws
        n samples [n, *event_shape] from p(x).

    Raises:
        PvaeError: If the likelihood, the scale or the shape is not one of the above, or a size
            is not positive.

    Source: Kingma & Welling 2014, *Auto-Encoding Variational Bayes*; Loaiza-Ganem &
    Cunningham 2019, *The continuous Bernoulli*; Salimans et al. 2017, *PixelCNN++*.

    Example:
        >>> model = VAE((1, 28, 28), latent_dim=20)
        >>> model(size=16).shape
        torch.Size([16, 1, 28, 28])
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        latent_dim: int = 20,
        network: Literal["dense", "conv"] = "dense",
        hidden_dims: Sequence[int] = (400,),
        channels: Sequence[int] = (64, 32),
        activation: Literal["relu", "tanh"] = "relu",
        likelihood: Likelihood = "bernoulli",
        scale: float | Literal["learned", "network"] | None = None,
        levels: int = 256,
        num_mixtures: int = 5,
        decoder: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.event_shape, self.latent_dim = tuple(event_shape), latent_dim
        self.kind, self.levels = likelihood, levels
        self.scale_kind = _scale_kind(likelihood, scale)
        _check(self.event_shape, latent_dim, likelihood, levels, num_mixtures)
        channels_out, *rest = self.event_shape
        self.two_outputs = self.scale_kind == "network" or likelihood.startswith("zero_inflated")
        if self.two_outputs:
            channels_out = 2 * channels_out
        self.mixture_shape: tuple[int, ...] = ()
        if likelihood == "logistic_mixture":
            parameters = 1 + 2 * channels_out + math.comb(channels_out, 2)
            self.mixture_shape = (num_mixtures, parameters, *rest)
            channels_out = num_mixtures * parameters
        if decoder is None and network == "dense":
            decoder = MLP((latent_dim,), (channels_out, *rest), hidden_dims, activation)
        elif decoder is None and network == "conv":
            decoder = ConvDecoder((latent_dim,), (channels_out, *rest), channels)
        elif decoder is None:
            raise PvaeError(f"network={network!r}: known are dense, conv.")
        self.decoder = decoder
        if self.scale_kind == "learned":
            # A logistic as wide as all levels would say nothing for long.
            start = 1.0 if likelihood == "gaussian" else 0.1
            self.log_scale = nn.Parameter(torch.tensor(start).log())
        elif self.scale_kind not in (None, "network"):
            self.register_buffer("fixed_scale", torch.tensor(float(self.scale_kind)))
        if likelihood.endswith("negative_binomial"):
            self.log_total_count = nn.Parameter(torch.zeros(self.event_shape))
        self.register_buffer("zeros", torch.zeros(latent_dim), persistent=False)

    def forward(self, x: Tensor | None = None, *, size: int = 1) -> Tensor:
        with pyro.plate("data", size if x is None else len(x)):
            z = pyro.sample("z", self.prior())
            return pyro.sample("x", self.likelihood(z), obs=x)

    @property
    def scale(self) -> Tensor:
        """s, a scalar, where it is a number or learned."""
        return self.log_scale.exp() if self.scale_kind == "learned" else self.fixed_scale

    @torch.no_grad()
    def set_output_bias(self, x: Tensor) -> None:
        r"""Lets p(x|z) begin at the mean of the data: the built-in decoder's last bias is f(mean).

        .. math:: b_d = \log \frac{\bar x_d}{1 - \bar x_d}, \qquad
            \bar x_d = \min(\max(\tfrac1N \sum_n x_{nd}, 0.001), 0.999)

        where f is a logit, the mean itself where it is a location, and its inverse softplus where
        it is that of a count; for convolutions, one number for each channel. A decoder of one's
        own, and the logistic mixture, are left as they are.

        Args:
            x: Data [N, *event_shape].

        Source: Burda, Grosse & Salakhutdinov 2016, their code.
        """
        if not isinstance(self.decoder, MLP | ConvDecoder) or self.kind == "logistic_mixture":
            return
        mean = x.mean(0)
        if self.kind in _COUNTS:
            mean = mean.clamp(min=0.001)
            mean = mean + (-(-mean).expm1()).log()  # the inverse of softplus
        elif self.kind not in ("gaussian", "discretized_logistic"):
            mean = mean.clamp(0.001, 0.999).logit()
        if isinstance(self.decoder, ConvDecoder):
            mean = mean.mean((1, 2))
        # With a scale for each pixel, the locations come first.
        bias = self.decoder.layers[-1].bias
        bias[: mean.numel()] = mean.flatten().to(bias)

    def prior(self) -> dist.Distribution:
        """Returns p(z), batch shape [] and event shape [Z]."""
        return dist.Normal(self.zeros, 1.0).to_event(1)

    def likelihood(self, z: Tensor) -> dist.Distribution:
        """Returns p(x|z), batch shape [...] and event shape `event_shape`, for z [..., Z]."""
        f, scale, raw = self.decoder(z), None, None
        if self.kind == "logistic_mixture":
            return self._mixture(f.reshape(*z.shape[:-1], *self.mixture_shape))
        if self.two_outputs:
            f = f.reshape(*z.shape[:-1], 2, *self.event_shape)
            f, raw = f.unbind(-1 - len(self.event_shape))
        if self.kind in _COUNTS:
            return self._counts(F.softplus(f) + 1e-6, raw).to_event(len(self.event_shape))
        if self.scale_kind == "network":
            scale = F.softplus(raw) + 1e-4
        elif self.scale_kind is not None:
            scale = self.scale
        if self.kind == "bernoulli":
            p = dist.Bernoulli(logits=f)
        elif self.kind == "continuous_bernoulli":
            p = dist.ContinuousBernoulli(logits=f)
        elif self.kind == "gaussian":
            p = dist.Normal(f, scale)
        elif self.kind == "binomial":
            p = BinomialProportion(f, self.levels)
        else:
            p = DiscretizedLogistic(f, scale, self.levels)
        return p.to_event(len(self.event_shape))

    def _counts(self, mean: Tensor, gate_logits: Tensor | None) -> dist.Distribution:
        """Distribution of counts of a mean μ; for the zero-inflated, μ before the inflation."""
        if self.kind == "poisson":
            return dist.Poisson(mean)
        if self.kind == "zero_inflated_poisson":
            return dist.ZeroInflatedPoisson(mean, gate_logits=gate_logits)
        r = self.log_total_count.exp()
        logits = mean.log() - self.log_total_count
        if self.kind == "negative_binomial":
            return dist.NegativeBinomial(r, logits=logits)
        return dist.ZeroInflatedNegativeBinomial(r, logits=logits, gate_logits=gate_logits)

    def _mixture(self, f: Tensor) -> dist.Distribution:
        c = self.event_shape[0]
        logits, loc, raw, r = f.split([1, c, c, f.shape[-3] - 1 - 2 * c], -3)
        scale = F.softplus(raw) + 1e-4
        return MixtureOfDiscretizedLogistics(logits.squeeze(-3), loc, scale, r.tanh(), self.levels)


def _scale_kind(likelihood: str, scale: float | str | None) -> float | str | None:
    """What the scale is: a number, `"learned"`, `"network"`, or None where there is none."""
    if likelihood not in ("gaussian", "discretized_logistic"):
        return None
    if scale is None:
        return 1.0 if likelihood == "gaussian" else "network"
    if not (scale in ("learned", "network") or (not isinstance(scale, str) and scale > 0)):
        raise PvaeError(f"scale={scale!r}: a positive number, 'learned' or 'network'.")
    return scale


def _check(
    event_shape: tuple[int, ...], latent_dim: int, likelihood: str, levels: int, num_mixtures: int
) -> None:
    if likelihood not in get_args(Likelihood):
        known = ", ".join(get_args(Likelihood))
        raise PvaeError(f"likelihood={likelihood!r}: known are {known}.")
    for name, value, least in (
        ("latent_dim", latent_dim, 1),
        ("levels", levels, 2),
        ("num_mixtures", num_mixtures, 1),
    ):
        if value < least:
            raise PvaeError(f"{name}={value}: it must be at least {least}.")
    if likelihood == "logistic_mixture" and len(event_shape) != 3:
        raise PvaeError(
            f"likelihood='logistic_mixture' mixes over the channels of a pixel, so it needs images "
            f"(channels, height, width), not {event_shape}. Reshape the data, or choose "
            "'discretized_logistic'."
        )
