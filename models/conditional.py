"""A density of x given y: labels, or whatever a network turns into a context."""

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import Tensor, nn

from pvae.distributions import reads_values
from pvae.errors import PvaeError

__all__ = ["Conditional", "one_hot_labels"]


class Conditional(PyroModule):
    r"""A density without latent variables of x given y.

    .. math:: p(x \mid y) = \prod_i p(x_i \mid f_i(x_{<i}, c(y)))

    By default y holds labels 0 … C − 1, and c(y) is their one-hot form: a network with the context
    adds a vector of its own for each label in each layer. Its guide is `pvae.guides.NoLatents`.

    Args:
        density: A model with a context, such as `GatedPixelCNN(..., context_shape=(C,))`.
        context: c, a network from y to [..., *context_shape]; None for labels.

    Shape:
        `model(x, y)` takes x [B, *event_shape] and y [B] (or what the network takes) and returns
        x; `model(y=y, size=n)` draws a sample for each of n rows of y, [n, *event_shape].

    Raises:
        PvaeError: If the density takes no context, or y is missing or holds other values.

    Source: van den Oord et al. 2016, *Conditional Image Generation with PixelCNN Decoders*
    (arXiv:1606.05328).

    Example:
        >>> from pvae.models import GatedPixelCNN
        >>> sizes = {"channels": 8, "num_layers": 2}
        >>> model = Conditional(GatedPixelCNN((1, 8, 8), context_shape=(10,), **sizes))
        >>> model(y=torch.arange(10), size=10).shape
        torch.Size([10, 1, 8, 8])
    """

    def __init__(self, density: nn.Module, context: nn.Module | None = None) -> None:
        super().__init__()
        shape = getattr(getattr(density, "network", None), "context_shape", None)
        if shape is None or (context is None and len(shape) != 1):
            needed = "(C,) for labels 0 … C − 1" if context is None else "the shape of c(y)"
            raise PvaeError(
                f"{type(density).__name__} has context_shape={shape}, which does not fit: give the "
                f"density context_shape={needed}."
            )
        self.density, self.context = density, context
        self.event_shape = density.event_shape

    def forward(self, x: Tensor | None = None, y: Tensor | None = None, *, size: int = 1) -> Tensor:
        with pyro.plate("data", size if x is None else len(x)):
            return pyro.sample("x", self.distribution(y), obs=x)

    def distribution(self, y: Tensor | None) -> dist.Distribution:
        """Returns p(x|y), batch shape that of y and event shape `event_shape`."""
        if y is None:
            raise PvaeError(
                "This is a model of x given y, and no y was given: call model(x, y), with "
                "labels=True for data by name (in the shell --given y), or model(y=y, size=n)."
            )
        if self.context is not None:
            return self.density.distribution(self.context(y))
        network = self.density.network
        c = one_hot_labels(y, network.context_shape[0])
        return self.density.distribution(c.to(next(network.parameters()).dtype))

    def log_px(self, x: Tensor, y: Tensor) -> Tensor:
        """Returns log p(x|y), [...], exactly, for x [..., *event_shape], in nats."""
        return self.distribution(y).log_prob(x)


def one_hot_labels(y: Tensor, num_classes: int) -> Tensor:
    """Returns labels [...] as zeros and a one, [..., C].

    Raises:
        PvaeError: If a label is not one of 0 … C − 1.
    """
    classes = torch.arange(num_classes, device=y.device)
    z = (y[..., None] == classes).to(torch.get_default_dtype())
    if reads_values() and not (known := z.any(-1)).all():
        wrong = y[~known][0].item()
        raise PvaeError(
            f"y holds {wrong}, but the labels of this model are 0 to {num_classes - 1}. Make "
            "it for as many labels as the data have, and leave data of unknown labels out."
        )
    return z
