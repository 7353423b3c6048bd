"""How x and the context enter an autoregressive network."""

import torch
from torch import Tensor, nn

from pvae.errors import PvaeError

__all__ = ["Values", "context_layer"]


class Values(nn.Module):
    """Turns each value of x into E features: itself, or for integers an embedding.

    Args:
        num_values: V, if x holds integers 0 … V − 1; else None.
        features: E of the embedding.

    Shape:
        [...] to [..., E]; E is 1 for numbers.
    """

    def __init__(self, num_values: int | None, features: int = 16) -> None:
        super().__init__()
        self.num_values = num_values
        self.features = features if num_values else 1
        if num_values:
            self.embedding = nn.Embedding(num_values, features)

    def forward(self, x: Tensor) -> Tensor:
        if self.num_values:
            # Values outside are the distribution's business; here they must not crash a device.
            return self.embedding(x.long().clamp(0, self.num_values - 1))
        return x.to(torch.get_default_dtype() if not x.is_floating_point() else x.dtype)[..., None]


def context_layer(context_shape: tuple[int, ...] | None, features: int) -> nn.Module | None:
    """Makes a layer from a context to features that are added in a network of images.

    A vector [D] gives [N, features, 1, 1]; a map [D, H, W] gives [N, features, H, W].

    Raises:
        PvaeError: If the context is neither.
    """
    if context_shape is None:
        return None
    if len(context_shape) == 1:
        return nn.Sequential(
            nn.Linear(context_shape[0], features, bias=False), nn.Unflatten(-1, (features, 1, 1))
        )
    if len(context_shape) == 3:
        return nn.Conv2d(context_shape[0], features, 1, bias=False)
    raise PvaeError(
        f"context_shape={context_shape}: a vector (D,) or a map (D, height, width) of the image's "
        "size."
    )
