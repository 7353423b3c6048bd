"""The autoregressive distribution: a network that respects an order, and a head."""

import math
from collections.abc import Callable
from typing import Any, Self

import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor, nn
from torch.distributions import constraints
from torch.utils._python_dispatch import _get_current_dispatch_mode

from pvae.distributions.head import Head
from pvae.distributions.stepwise import (
    draw_steps,
    known_values,
    num_known,
    once,
    steps_of,
    zeros_of,
)
from pvae.errors import PvaeError
from pvae.nn import Steps

__all__ = ["Autoregressive", "reads_values"]


class Autoregressive(TorchDistribution):
    r"""A distribution that draws x step by step, each step given those before it.

    .. math:: \log p(x \mid c) = \sum_t \log p(x_t \mid f_t(x_{<t}, c))

    The network gives f, and the head the distribution of x_t at f_t. A step is one value of x (for
    images the channels of a pixel in order), or a pixel, where the head models its channels
    jointly, as `heads.LogisticMixture` does. `log_prob` takes one pass of the network. `sample`
    takes one pass for each step, unless the network has a `stepper`, as those of `pvae.nn` do:
    then all steps together cost about one pass.

    A network is any module with `forward(x, context=None)`, [..., *event_shape] to
    [..., *head.out_shape], where f at step t does not depend on x from step t on. Optional are
    `order`, the step of each value of x [*event_shape] (default: `pvae.nn.raster`);
    `context_shape` (default: the context is a vector); and `stepper` (see `pvae.nn.Ordered`).
    The first use of a network, once in training and once in evaluation mode, compares f for data
    that differ from some step on. This finds a leak unless it is rare or its weights are zero.

    Args:
        network: The network.
        head: The head, for data of one shape (`Head.sized`, `make_head`).
        context: c, [*batch_shape, *context_shape]: a code, a label's embedding, a map. None where
            the network takes none.
        cached: Whether `sample` uses the network's `stepper`.

    Shape:
        Batch shape that of the context, or [] without one; event shape `head.event_shape`.

    Raises:
        PvaeError: If the network sees the future, or shapes do not fit.

    Source: van den Oord et al. 2016, *Pixel Recurrent Neural Networks* (arXiv:1601.06759);
    Ramachandran et al. 2017, *Fast Generation for Convolutional Autoregressive Models*
    (arXiv:1704.06001), for the caches.

    Example:
        >>> from pvae.distributions import heads
        >>> from pvae.nn import MADE
        >>> head = heads.Bernoulli().sized((1, 8, 8))
        >>> p = Autoregressive(MADE((1, 8, 8), head.out_shape), head)
        >>> p.log_prob(p.sample((5,))).shape
        torch.Size([5])
    """

    arg_constraints = {}  # noqa: RUF012
    has_rsample = False

    def __init__(
        self,
        network: nn.Module,
        head: Head,
        context: Tensor | None = None,
        *,
        cached: bool = True,
        validate_args: bool | None = None,
    ) -> None:
        self.network, self.head, self.context, self.cached = network, head, context, cached
        out = getattr(network, "out_shape", head.out_shape)
        for ours, theirs in (
            (getattr(network, "event_shape", head.event_shape), head.event_shape),
            (out, head.out_shape),
        ):
            if tuple(ours) != tuple(theirs):
                raise PvaeError(
                    f"The network gives f of shape {tuple(out)} for x of shape "
                    f"{tuple(getattr(network, 'event_shape', head.event_shape))}; "
                    f"{type(head).__name__} for data of shape {head.event_shape} takes f of shape "
                    f"{head.out_shape}. Make the network with the head's out_shape."
                )
        batch = torch.Size()
        if hasattr(network, "context_batch"):
            batch = network.context_batch(context) or batch
        elif context is not None:
            batch = context.shape[: context.ndim - self._context_dim]
        super().__init__(batch, torch.Size(head.event_shape), validate_args=validate_args)
        if reads_values():
            once(_refuse_leaks, network, (_training(network), head.out_shape), self)

    @property
    def support(self) -> constraints.Constraint:
        """The head's, for each value."""
        return constraints.independent(self.head.support, self._event_dim_of_values)

    def expand(self, batch_shape: torch.Size, _instance: Any = None) -> Self:
        """Returns the distribution with a larger batch shape."""
        new = self._get_checked_instance(Autoregressive, _instance)
        batch_shape = torch.Size(batch_shape)
        new.network, new.head, new.cached = self.network, self.head, self.cached
        new.context = self.context  # It broadcasts, and a pass is not repeated.
        TorchDistribution.__init__(new, batch_shape, self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        """Returns log p(x|c), [...], for x [..., *event_shape], in nats.

        Raises:
            PvaeError: If x has another shape, or values that the head does not know.
        """
        if self._validate_args:
            self._check(value)
        log_p = self._given(value).log_prob(value)
        batch = value.shape[: value.ndim - len(self.event_shape)]
        return log_p.expand(torch.broadcast_shapes(self.batch_shape, batch, log_p.shape))

    @torch.no_grad()
    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        """Draws x, [*sample_shape, *batch_shape, *event_shape]."""
        return self._drawn(torch.Size(sample_shape) + self.batch_shape)

    @torch.no_grad()
    def complete(self, x: Tensor, known: Tensor) -> Tensor:
        r"""Draws the unknown values of x given its known ones, and returns both.

        .. math:: x_{\text{unknown}} \sim p(x_{\text{unknown}} \mid x_{\text{known}}, c)

        The known values must be the first ones in the network's order: those of upper rows, or of
        the first frames. Only then are draws step by step draws from this conditional.

        Args:
            x: [..., *event_shape]; its unknown values are not read. Expand it for several draws.
            known: Which values are known, booleans [*event_shape], or of its first dimensions.

        Returns:
            x, [..., *event_shape], with the batch shape of the distribution if it is larger.

        Raises:
            PvaeError: If a known value comes after an unknown one, a known value is outside of
                the head's support, or a shape does not fit.

        Example:
            >>> from pvae.distributions import heads
            >>> from pvae.nn import GatedPixelCNN
            >>> head = heads.Bernoulli().sized((1, 8, 8))
            >>> p = Autoregressive(GatedPixelCNN((1, 8, 8), head.out_shape, channels=8), head)
            >>> upper = torch.zeros(1, 8, 8, dtype=torch.bool)
            >>> upper[:, :4] = True
            >>> p.complete(torch.ones(1, 8, 8).expand(5, 1, 8, 8), upper).mean((0, 1, 3))[:4]
            tensor([1., 1., 1., 1.])
        """
        known = known_values(known, self.event_shape).to(x.device)
        self._check(x, known)
        first = num_known(steps_of(self.network, self.head), known)
        batch = x.shape[: x.ndim - len(self.event_shape)]
        shape = torch.broadcast_shapes(self.batch_shape, batch)
        return self._drawn(shape, torch.where(known, x, 0), first)

    def _drawn(self, shape: torch.Size, given: Tensor | None = None, first: int = 0) -> Tensor:
        """Draws x, [*shape, *event_shape], from a step on, with the values given before it."""
        num, context = math.prod(shape), self.context
        if context is not None:
            of_one = context.shape[context.ndim - self._context_dim :]
            context = context.expand(*shape, *of_one).reshape(num, *of_one)
        f = zeros_of(self.network, self.head, context, num)
        x = torch.zeros_like(self.head(f[:1]).sample()).repeat(num, *[1] * len(self.event_shape))
        if given is not None:
            x.copy_(given.expand(*shape, *self.event_shape).reshape(x.shape))
        if num:
            steps = steps_of(self.network, self.head)
            draw_steps(x, f, self.head, steps, self._stepper(x, context, steps), first)
        return x.reshape(*shape, *self.event_shape)

    @property
    def mean(self) -> Tensor:
        """An unbiased estimate of E[x]: E[x_t | x_<t] for each t, at one x that is drawn for it.

        E[x] has no closed form. The estimate is random, costs a sample, and looks like one: the
        values are the means of the steps. Averaged over many calls it is E[x].
        """
        return self.mean_given(self.sample())

    def mean_given(self, x: Tensor) -> Tensor:
        """Returns E[x_t | x_<t] for each t, [..., *event_shape], for x [..., *event_shape]."""
        batch = x.shape[: x.ndim - len(self.event_shape)]
        mean = self._given(x).mean
        return mean.expand(*torch.broadcast_shapes(self.batch_shape, batch), *self.event_shape)

    def _given(self, x: Tensor) -> TorchDistribution:
        f = self.network(x) if self.context is None else self.network(x, self.context)
        return self.head(self.head.shaped(f, x.shape[: x.ndim - len(self.event_shape)]))

    def _stepper(self, x: Tensor, context: Tensor | None, steps: Steps) -> Callable[[int], Tensor]:
        if self.cached and hasattr(self.network, "stepper"):
            return self.network.stepper(x, context)
        args = () if context is None else (context,)
        return lambda t: steps.of(self.head.shaped(self.network(x, *args), x.shape[:1]), t)

    @property
    def _context_dim(self) -> int:
        shape = getattr(self.network, "context_shape", None)
        return 1 if shape is None else len(shape)

    @property
    def _event_dim_of_values(self) -> int:
        return len(self.event_shape) - self.head.support.event_dim

    def _check(self, value: Tensor, known: Tensor | None = None) -> None:
        n = len(self.event_shape)
        if value.shape[max(0, value.ndim - n) :] != self.event_shape:
            raise PvaeError(
                f"This distribution has events of shape {tuple(self.event_shape)}; x has shape "
                f"{tuple(value.shape)}, whose last dimensions differ."
            )
        valid = self.head.support.check(value)
        valid = valid if known is None else valid | ~known
        if not reads_values() or valid.all():
            return
        where = (~valid).nonzero()[0].tolist()
        raise PvaeError(
            f"x has {int((~valid).sum())} values outside of the support of "
            f"{type(self.head).__name__} ({self.head.support}): the first is "
            f"{value[tuple(where)].tolist()} at {where}. Choose a head whose levels hold all of "
            "the data, or transform them."
        )


def _training(network: nn.Module) -> bool:
    return any(module.training for module in network.modules())


def reads_values() -> bool:
    """Returns whether tensors have values now; they have none while a graph is recorded.

    Example:
        >>> reads_values()
        True
    """
    return _get_current_dispatch_mode() is None and not torch.compiler.is_compiling()


@torch.no_grad()
def _refuse_leaks(p: Autoregressive) -> bool:
    """Compares f for two data that are equal before some step, for 32 such steps.

    Raises:
        PvaeError: If f up to that step differs.
    """
    network, head, num = p.network, p.head, 32
    steps, f = steps_of(network, head), zeros_of(network, head, p.context, num)
    devices = [f.device] if f.device.type == "cuda" else []
    first = (torch.arange(num, device="cpu") * steps.num // num).view(num, *[1] * steps.order.ndim)
    args = ()
    if p.context is not None:
        shape = p.context.shape[p.context.ndim - p._context_dim :]
        if not p.context.numel():
            return True
        args = (p.context.reshape(-1, *shape)[:1].expand(num, *shape),)
    with torch.random.fork_rng(devices):
        torch.manual_seed(0)
        x, other = head(f).sample(), head(f).sample()
        later = torch.where((steps.order >= first).to(x.device), other, x)
        found = []
        for value in (x, later):
            torch.manual_seed(0)  # of dropout
            found.append(head.shaped(network(value, *args), (num,)))
    seen = (steps.f_order <= first.view(num, *[1] * steps.f_order.ndim)).to(f.device)
    seen = seen.view(num, *[1] * len(steps.lead), *steps.f_order.shape)
    apart = ((found[0] - found[1]).abs() * seen).flatten(1).amax(-1)
    if (apart <= 1e-5 * found[0].abs().max()).all():
        return True
    row = int(apart.argmax())
    changed = ((found[0] - found[1]).abs()[row] * seen[row]).flatten(0, len(steps.lead) - 1)
    changed = changed.amax(0) if steps.lead else (found[0] - found[1]).abs()[row] * seen[row]
    place = torch.unravel_index(changed.argmax().cpu(), steps.f_order.shape)
    step = int(steps.f_order[place])
    raise PvaeError(
        f"The network {type(network).__name__} sees the future: its output at step {step} "
        f"(place {[int(i) for i in place]}) changes with values of x at step {int(first[row])} or "
        "later. An autoregressive network must not let the output at a step depend on x from that "
        "step on; check its masks and its order (and normalisation over the batch or over pixels)."
    )
