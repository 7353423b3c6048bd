"""What autoregressive networks of sequences share: steps in a row, and what a context adds."""

import math
from collections.abc import Sequence

from torch import Tensor, nn

from pvae.errors import PvaeError
from pvae.nn.autoregressive.inputs import Values
from pvae.nn.autoregressive.ordered import Ordered
from pvae.nn.sizes import at_least_one

__all__ = ["Sequences"]


class Sequences(Ordered):
    """A network that sees x of any shape as a sequence of T steps, in the order of `raster`.

    Args:
        event_shape: Shape of x.
        out_shape: Shape of f, a head's `out_shape`. None for `event_shape`.
        channels: Features of a step.
        context_shape: Shape of the context. None for no context.
        num_values: V, if x holds integers 0 … V − 1, which enter through an embedding.
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        out_shape: Sequence[int] | None,
        channels: int,
        context_shape: Sequence[int] | None,
        num_values: int | None,
    ) -> None:
        super().__init__(event_shape, out_shape, context_shape, num_values)
        at_least_one(channels=channels)
        steps = self.steps
        self.values = Values(num_values)
        self.enter = nn.Linear(steps.x_index.shape[1] * self.values.features, channels)
        self.register_buffer("_x_index", steps.x_index, persistent=False)
        self.register_buffer("_f_places", steps.f_index.flatten().argsort(), persistent=False)
        self.out_features = math.prod(steps.lead) * steps.f_index.shape[1]

    def entered(self, x: Tensor) -> Tensor:
        """Returns the features of the steps, [N, T, channels], for x [N, *event_shape]."""
        return self.enter(self.values(x.flatten(1)[:, self._x_index]).flatten(2))

    def entered_at(self, x: Tensor, t: int) -> Tensor:
        """Returns the features of step t, [N, channels]."""
        places = self.steps.x_index[t].tolist()
        return self.enter(self.values(x.flatten(1)[:, places]).flatten(1))

    def of_steps(self, y: Tensor) -> Tensor:
        """Returns f [N, *out_shape] for outputs [N, T, out_features]."""
        y = y.unflatten(-1, (-1, self.steps.f_index.shape[1])).transpose(1, 2).flatten(2)
        return y[..., self._f_places].reshape(len(y), *self.out_shape)

    def of_step(self, y: Tensor) -> Tensor:
        """Returns f of a step, [N, *lead, n], for its output [N, out_features]."""
        return y.reshape(len(y), *self.steps.lead, self.steps.f_index.shape[1])

    def _contexts(self, num_layers: int, features: int) -> nn.ModuleList:
        """Makes the layers that turn a vector, or a map of x's size, into what is added."""
        shape = self.context_shape
        if shape is None:
            return nn.ModuleList()
        if len(shape) > 1 and shape[1:] != self.steps.f_order.shape[-2:]:
            raise PvaeError(
                f"context_shape={shape}: a vector (D,), or a map (D, …) whose other dimensions are "
                f"{tuple(self.steps.f_order.shape[-2:])} as in x."
            )
        layers = (nn.Linear(shape[0], features, bias=False) for _ in range(num_layers))
        return nn.ModuleList(layers)

    def _added(self, context: Tensor | None, num_layers: int) -> list[Tensor | float]:
        """Returns what a context adds in each layer, [N, 1 or T, features]."""
        if context is None or not self.contexts:
            return [0.0] * num_layers
        if context.ndim == 2:
            context = context[:, None]
        else:
            at = self._x_index[:, 0] % math.prod(self.context_shape[1:])
            context = context.flatten(2)[..., at].mT
        return [layer(context) for layer in self.contexts]


def part(added: Tensor | float, t: int) -> Tensor | float:
    """Returns what is added at step t, [N, features]."""
    return added if isinstance(added, float) else added[:, min(t, added.shape[1] - 1)]
