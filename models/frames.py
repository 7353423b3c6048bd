"""Frames of a video given other frames: the one between two, and those after a still."""

import math
from collections.abc import Sequence
from typing import Any, Literal

import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from pyro.nn import PyroModule
from torch import Tensor, nn

from pvae.distributions import Head, Likelihood, make_head
from pvae.errors import PvaeError
from pvae.nn import ResidualDecoder, ResidualEncoder, SkipNetwork, at_least_one, warp

__all__ = ["FrameBetween", "NextFrames"]

_LOG_ODDS = 2.0  # of the mask at the start: most of a frame is moved, and little is painted


class FrameBetween(PyroModule):
    r"""A density of the frame between two frames, whose location is both of them, moved.

    .. math::
        F, m &= h_\theta(x_{t-1}, x_{t+1}) \\
        f &= m \odot \mathrm{warp}(\ell(x_{t-1}), -F)
            + (1 - m) \odot \mathrm{warp}(\ell(x_{t+1}), F) \\
        x_t \mid x_{t-1}, x_{t+1} &\sim p(x_t \mid f)

    F is a field of displacements in pixels, the same in both directions of time, m a mask in
    [0, 1], and ℓ the head's link: the identity of a Gaussian or a logistic, the log odds of a
    Bernoulli. Without motion, F = 0 and m = 1/2, f is the mean of both neighbours. A head with
    `scale="network"` takes a scale for each value from h too: large where the frame is hard to
    tell. There are no latent variables, so log p(x_t | x_{t−1}, x_{t+1}) is exact, and the guide
    is `pvae.guides.NoLatents`.

    `pvae.data.load(videos, frames="between")` cuts videos into such data.

    Args:
        event_shape: Shape of a frame, (C, H, W).
        channels: Channels of h, from the frames to its middle; each halves height and width.
        num_blocks: Number of residual blocks in the middle, and as many again on the way back.
        likelihood: The name of a head, or a head, as in `VAE`, that has a location for each value.
        network: h, a network [..., 2C, H, W] to [..., O, H, W] in place of the built-in one; O is
            3, or 3 + C for a head with two outputs: F (down, right), the log odds of m, and the
            head's second output.
        **options: Of a head that is given by name.

    Shape:
        `model(x, before, after)` takes three frames, [B, C, H, W] each, and returns x;
        `model(before=before, after=after, size=n)` draws for n rows, or n times for one row.

    Raises:
        PvaeError: If a name, a size or an option is not valid, or a neighbour is missing or has
            another shape.

    Source: Liu et al. 2017, *Video Frame Synthesis using Deep Voxel Flow* (arXiv:1702.02463), whose
    frame is f and has no density.

    Example:
        >>> model = FrameBetween((1, 24, 24), likelihood="discretized_logistic")
        >>> before, after = torch.zeros(5, 1, 24, 24), torch.ones(5, 1, 24, 24)
        >>> model(before=before, after=after, size=5).shape
        torch.Size([5, 1, 24, 24])
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        channels: Sequence[int] = (32, 64),
        num_blocks: int = 2,
        likelihood: Likelihood | Head = "bernoulli",
        network: nn.Module | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        self.event_shape = _checked(event_shape, 3, "a frame (C, H, W)")
        self.head = _with_location(make_head(likelihood, self.event_shape, **options))
        c, *size = self.event_shape
        if network is None:
            out = 3 + (_outputs(self.head) - 1) * c
            encoder = ResidualEncoder((2 * c, *size), channels[-1], channels, num_blocks)
            back = channels[::-1], num_blocks
            network = nn.Sequential(encoder, ResidualDecoder(channels[-1], (out, *size), *back))
        self.network = network

    def forward(
        self,
        x: Tensor | None = None,
        before: Tensor | None = None,
        after: Tensor | None = None,
        *,
        size: int = 1,
    ) -> Tensor:
        size = size if x is None else len(x)
        before = _given("before", before, self.event_shape, size, "between")
        after = _given("after", after, self.event_shape, size, "between")
        with pyro.plate("data", size):
            return pyro.sample("x", self.likelihood(before, after), obs=x)

    def likelihood(self, before: Tensor, after: Tensor) -> dist.Distribution:
        """Returns p(x_t | x_{t−1}, x_{t+1}), batch shape [...], for frames [..., C, H, W]."""
        flow, mask, rest = self.fields(before, after)
        ours, theirs = (_link(self.head, frame) for frame in (before, after))
        f = mask * warp(ours, -flow) + (1 - mask) * warp(theirs, flow)
        return self.head(_with_second(self.head, f, rest))

    def fields(self, before: Tensor, after: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns F [..., 2, H, W], m [..., 1, H, W], and what the network gives to the head."""
        u = torch.cat([before, after], -3)
        parts = self.network(u)
        flow, odds, rest = parts.split([2, 1, parts.shape[-3] - 3], -3)
        return flow, odds.sigmoid(), rest


class NextFrames(PyroModule):
    r"""A VAE of the frames after a still, of which several futures are possible.

    .. math::
        z \mid s &\sim \mathcal N(\mu_\psi(s), \operatorname{diag} \sigma_\psi^2(s)) \\
        F_t, m_t, g_t &= h_\theta(z, s) \\
        f_t &= m_t \odot \mathrm{warp}(\ell(s), F_t) + (1 - m_t) \odot g_t \\
        x_t \mid z, s &\sim p(x_t \mid f_t), \quad t = 1, …, T

    The code z holds what the still s does not tell, such as the direction of a motion. Each frame
    is the still, moved by a field of displacements F_t, and where the mask m_t is 0 it is painted:
    g_t. ℓ is the head's link, as in `FrameBetween`. One network gives the prior of z and, through
    skip connections, the rest. The guide is `pvae.guides.FramesMeanField`.

    `pvae.data.load(videos, frames="next")` cuts videos into such data.
    `pvae.generate(model, n, x, still)` draws n futures, of the stills repeated to n.

    Args:
        event_shape: Shape of the frames, (T, C, H, W).
        latent_dim: Z, the size of the code.
        network: `"dense"`, one hidden layer by default, or `"conv"`, strided convolutions.
        hidden_dims: Widths of the dense network's hidden layers.
        channels: Channels of the convolutions, from the still to the code.
        likelihood: The name of a head, or a head, as in `VAE`, that has a location for each value.
        **options: Of a head that is given by name.

    Shape:
        `model(x, still)` takes x [B, T, C, H, W] and stills [B, C, H, W] and returns x;
        `model(still=still, size=n)` draws for n rows, or n futures of one row.

    Raises:
        PvaeError: If a name, a size or an option is not valid, or the still is missing or has
            another shape.

    Source: Walker et al. 2016, *An Uncertain Future: Forecasting from Static Images using
    Variational Autoencoders* (arXiv:1606.07873), for futures as codes; Liu et al. 2017
    (arXiv:1702.02463), for frames that are moved; a prior as in Sohn, Lee & Yan 2015, *Learning
    Structured Output Representation using Deep Conditional Generative Models* (NIPS).

    Example:
        >>> model = NextFrames((5, 1, 16, 16), latent_dim=8)
        >>> model(still=torch.zeros(1, 1, 16, 16), size=3).shape
        torch.Size([3, 5, 1, 16, 16])
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        latent_dim: int = 20,
        network: Literal["dense", "conv"] = "dense",
        hidden_dims: Sequence[int] = (400,),
        channels: Sequence[int] = (32, 64),
        likelihood: Likelihood | Head = "bernoulli",
        **options: Any,
    ) -> None:
        super().__init__()
        at_least_one(latent_dim=latent_dim)
        self.event_shape = _checked(event_shape, 4, "the frames after a still (T, C, H, W)")
        self.latent_dim = latent_dim
        self.head = _with_location(make_head(likelihood, self.event_shape, **options))
        frames, c, *size = self.event_shape
        self.net = SkipNetwork(
            self.event_shape[1:], (2, latent_dim), latent_dim,
            (frames, 3 + _outputs(self.head) * c, *size), network, hidden_dims, channels,
        )  # fmt: skip

    def forward(
        self, x: Tensor | None = None, still: Tensor | None = None, *, size: int = 1
    ) -> Tensor:
        size = size if x is None else len(x)
        still = _given("still", still, self.event_shape[1:], size, "next")
        features = self.net.down(still)
        with pyro.plate("data", size):
            z = pyro.sample("z", self.prior(features))
            return pyro.sample("x", self.likelihood(z, still, features), obs=x)

    def prior(self, features: list[Tensor]) -> dist.Distribution:
        """Returns p(z|s), batch shape [...] and event shape [Z]."""
        loc, raw = self.net.code(features).unbind(-2)
        return dist.Normal(loc, F.softplus(raw) + 1e-6).to_event(1)

    def likelihood(self, z: Tensor, still: Tensor, features: list[Tensor]) -> dist.Distribution:
        """Returns p(x|z, s), batch shape [...], for z [..., Z] and stills [..., C, H, W]."""
        parts, c = self.net.up(z, features), self.event_shape[1]
        flow, odds, painted, rest = parts.split([2, 1, c, parts.shape[-3] - 3 - c], -3)
        mask = (odds + _LOG_ODDS).sigmoid()
        moved = warp(_link(self.head, still).unsqueeze(-4), flow)
        f = mask * moved + (1 - mask) * painted
        return self.head(_with_second(self.head, f, rest))


def _checked(shape: Sequence[int], dims: int, what: str) -> tuple[int, ...]:
    """Returns a shape; raises a PvaeError unless it is one of frames, of 2×2 pixels or more."""
    shape = tuple(shape)
    if len(shape) != dims or min(shape) < 1 or min(shape[-2:]) < 2:
        kind = "between" if dims == 3 else "next"
        raise PvaeError(
            f"event_shape={shape} is not valid: it needs {what} of 2×2 pixels or more. Data of "
            f"videos have it with frames={kind!r} (in the shell --data.frames {kind})."
        )
    return shape


def _with_location(head: Head) -> Head:
    """Returns a head; raises a PvaeError if it has no location for each value."""
    shape, event = head.out_shape, head.event_shape
    location = head.bias(torch.zeros(1, *event))
    if location is None or tuple(location.shape) != event or shape not in (event, (2, *event)):
        raise PvaeError(
            f"The likelihood {type(head).__name__} has no location for each value, which frames "
            "that are moved could give. Choose gaussian, discretized_logistic or bernoulli."
        )
    return head


def _outputs(head: Head) -> int:
    """Returns the head's outputs for each value, 1 or 2."""
    return math.prod(head.out_shape) // math.prod(head.event_shape)


def _link(head: Head, frames: Tensor) -> Tensor:
    """Returns the location at which each value of the frames is the mean."""
    return head.bias(frames.unsqueeze(0))


def _with_second(head: Head, f: Tensor, rest: Tensor) -> Tensor:
    """Returns the outputs that a head takes, the location first."""
    return f if _outputs(head) == 1 else torch.stack([f, rest], -1 - head.event_dim)


def _given(name: str, frame: Tensor | None, shape: tuple[int, ...], size: int, kind: str) -> Tensor:
    """Returns a given frame for each of `size` data.

    Raises:
        PvaeError: If it is missing, or has another shape or number of rows.
    """
    if frame is None:
        arguments = "x, before, after" if kind == "between" else "x, still"
        raise PvaeError(
            f"This is a model of frames given others, and {name} was not given: call "
            f"model({arguments}), or pvae.generate(model, n, {arguments}). Data of videos have "
            f"these fields with frames={kind!r} (in the shell --data.frames {kind})."
        )
    if tuple(frame.shape[1:]) != shape or len(frame) not in (1, size):
        raise PvaeError(
            f"{name} has the shape {tuple(frame.shape)}, and this model needs "
            f"{(size, *shape)}, a frame for each datum, or {(1, *shape)} for all of them."
        )
    return frame.expand(size, *shape)
