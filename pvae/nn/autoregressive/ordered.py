"""The base class of networks whose output at each step depends on earlier steps alone."""

import functools
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from pvae.errors import PvaeError

__all__ = ["Ordered", "Steps", "raster"]


def raster(event_shape: Sequence[int], *, jointly: bool = False) -> Tensor:
    """Returns the step at which each value of x is drawn, [*event_shape].

    Images [C, H, W] go row by row and pixel by pixel; in a pixel, the channels follow in order
    (R, G, B). Other shapes go in the order of their memory.

    Args:
        event_shape: Shape of one datum.
        jointly: Whether the channels of a pixel share one step.

    Example:
        >>> raster((2, 1, 2)).tolist()
        [[[0, 2]], [[1, 3]]]
        >>> raster((2, 1, 2), jointly=True).tolist()
        [[[0, 1]], [[0, 1]]]
    """
    shape = tuple(event_shape)
    if len(shape) != 3:
        return torch.arange(math.prod(shape)).view(shape)
    c, h, w = shape
    if jointly:
        return torch.arange(h * w).view(1, h, w).repeat(c, 1, 1)
    return torch.arange(c * h * w).view(h, w, c).permute(2, 0, 1).contiguous()


class Steps:
    """Where the values of x and the outputs f of each step lie.

    f has the shape of x, or for images [C, H, W] its [H, W], after leading dimensions that hold the
    parameters of a value, or of a pixel.

    Args:
        event_shape: Shape of x.
        out_shape: Shape of f.
        order: The step of each value of x, [*event_shape]: 0, 1, … T − 1, each of them equally
            often. None for `raster`.

    Attributes:
        num: T.
        lead: The leading dimensions of f.
        x_index: Places of each step in x, flat, [T, k].
        f_index: Places of each step in f after its leading dimensions, flat, [T, n]; n is k, or 1
            for f of pixels.
        f_order: The step of each of f's last dimensions.

    Raises:
        PvaeError: If f is not aligned with x, or the order is not valid.

    Example:
        >>> steps = Steps((1, 2, 2), (1, 2, 2))
        >>> steps.num, steps.x_index.flatten().tolist()
        (4, [0, 1, 2, 3])
    """

    def __init__(
        self, event_shape: Sequence[int], out_shape: Sequence[int], order: Tensor | None = None
    ) -> None:
        event, out = tuple(event_shape), tuple(out_shape)
        self.jointly = len(event) == 3 and out[-3:] != event and out[-2:] == event[1:]
        if not self.jointly and (not event or out[len(out) - len(event) :] != event):
            raise PvaeError(
                f"f of shape {out} is not aligned with x of shape {event}: its last dimensions "
                "must be x's, or the height and width of images. Choose another likelihood."
            )
        order = raster(event, jointly=self.jointly) if order is None else order
        self.order = order.detach().cpu()
        if tuple(order.shape) != event:
            raise PvaeError(
                f"The network's order has shape {tuple(order.shape)}, but x has {event}."
            )
        counts = self.order.flatten().bincount() if self.order.min() >= 0 else torch.zeros(1)
        if counts.min() < 1 or counts.min() != counts.max():
            raise PvaeError(
                "The network's order must hold the steps 0, 1, 2, … of each value of x, each of "
                "them equally often, none left out."
            )
        if self.jointly and (self.order != self.order[:1]).any():
            raise PvaeError(
                f"f of shape {out} holds the parameters of whole pixels, so all channels of a "
                "pixel must have the same step in the network's order. Choose a network of pixels, "
                "such as PixelCNN, or another likelihood."
            )
        self.f_order = self.order[0] if self.jointly else self.order
        self.lead = out[: len(out) - self.f_order.ndim]
        self.num = len(counts)
        self.x_index = self.order.flatten().argsort(stable=True).view(self.num, -1)
        self.f_index = self.f_order.flatten().argsort(stable=True).view(self.num, -1)

    def of(self, f: Tensor, t: int) -> Tensor:
        """Returns f of step t, [N, *lead, n], from f [N, *out_shape]."""
        return f.flatten(f.ndim - self.f_order.ndim)[..., self.f_index[t].to(f.device)]


class Ordered(nn.Module):
    r"""A network from x to f, where f at step t depends on x before step t alone.

    .. math:: f_t = f_t(x_{<t}, c)

    Base class of the networks here. `pvae.distributions.Autoregressive` takes any module with
    `forward(x, context=None)`; it looks for `order`, `context_shape` and `stepper`, and does
    without those that are missing. A subclass of this class overrides `outputs`, and `stepper`
    where it can draw faster than by a full pass for each step.

    Args:
        event_shape: Shape of x.
        out_shape: Shape of f, a head's `out_shape`. None for `event_shape`.
        context_shape: Shape of the context c. None for a network without one.
        num_values: V, if x holds integers 0 … V − 1. They enter through an embedding.
        order: The step of each value of x, [*event_shape]. None for `raster`.

    Attributes:
        order: The step of each value of x, [*event_shape].

    Shape:
        x [..., *event_shape] and context [..., *context_shape] to f [..., *out_shape].

    Raises:
        PvaeError: If a shape is not valid.

    Example:
        >>> class Markov(Ordered):  # x_i given x_{i-1}
        ...     def outputs(self, x, context):
        ...         return torch.nn.functional.pad(x, (1, -1))
        >>> Markov((3,))(torch.tensor([5.0, 6.0, 7.0]))
        tensor([0., 5., 6.])
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        out_shape: Sequence[int] | None = None,
        context_shape: Sequence[int] | None = None,
        num_values: int | None = None,
        order: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.event_shape = tuple(event_shape)
        self.out_shape = self.event_shape if out_shape is None else tuple(out_shape)
        self.context_shape = None if context_shape is None else tuple(context_shape)
        self.num_values = num_values
        if min(self.event_shape, default=0) < 1 or (num_values is not None and num_values < 2):
            raise PvaeError(
                f"event_shape={self.event_shape}, num_values={num_values}: x must have at least "
                "one value, and integers at least two values that they can take."
            )
        steps = Steps(self.event_shape, self.out_shape, order)
        self.register_buffer("order", steps.order)
        self.num_steps = steps.num

    @functools.cached_property
    def steps(self) -> Steps:
        """Where each step lies in x and f."""
        return Steps(self.event_shape, self.out_shape, self.order)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        n = len(self.event_shape)
        if tuple(x.shape[max(0, x.ndim - n) :]) != self.event_shape:
            raise PvaeError(
                f"This network was built for events of shape {self.event_shape}; it was called "
                f"with a tensor of shape {tuple(x.shape)}, whose last dimensions differ."
            )
        batch = x.shape[: x.ndim - n]
        if (left := self.context_batch(context)) is not None:
            batch = torch.broadcast_shapes(batch, left)
            context = context.expand(*batch, *self.context_shape)
            context = context.reshape(batch.numel(), *self.context_shape)
            x = x.expand(*batch, *self.event_shape)
        f = self.outputs(x.reshape(batch.numel(), *self.event_shape), context)
        return f.reshape(*batch, *self.out_shape)

    def context_batch(self, context: Tensor | None) -> torch.Size | None:
        """Returns the batch shape of a context, None without one.

        Raises:
            PvaeError: If the network takes no context, needs one, or needs one of another size.
        """
        if context is None and self.context_shape is None:
            return None
        if context is None:
            raise PvaeError(
                f"This network needs a context of shape [..., {_listed(self.context_shape)}], and "
                "none was given."
            )
        if self.context_shape is None:
            raise PvaeError(
                f"This network takes no context, and one of shape {tuple(context.shape)} was "
                "given. Make the network with context_shape=(…)."
            )
        cut = context.ndim - len(self.context_shape)
        if cut < 0 or tuple(context.shape[cut:]) != self.context_shape:
            raise PvaeError(
                f"This network takes a context of shape [..., {_listed(self.context_shape)}]; it "
                f"was given one of shape {tuple(context.shape)}, whose last dimensions differ."
            )
        return context.shape[:cut]

    def outputs(self, x: Tensor, context: Tensor | None) -> Tensor:
        """Returns f [N, *out_shape] for x [N, *event_shape] and context [N, *context_shape]."""
        raise NotImplementedError

    def stepper(self, x: Tensor, context: Tensor | None = None) -> Callable[[int], Tensor]:
        """Starts to draw x step by step.

        Args:
            x: A tensor [N, *event_shape] that the caller fills: at step t it holds the values of
                the steps before.
            context: [N, *context_shape].

        Returns:
            A function that is called for t = 0, 1, 2, … and returns f of step t, [N, *lead, n]
            (see `Steps`). This one does a full pass at each step.
        """
        return lambda t: self.steps.of(self(x, context), t)


def _listed(shape: tuple[int, ...] | None) -> str:
    return ", ".join(map(str, shape or ()))
