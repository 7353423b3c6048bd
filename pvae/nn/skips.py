"""A network with a code in its middle, whose way up sees what was found on the way down."""

import math
from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

from pvae.errors import PvaeError
from pvae.nn.networks import batch_shape, pyramid
from pvae.nn.upsample import Upsample

__all__ = ["SkipNetwork"]


class SkipNetwork(nn.Module):
    r"""Features of an input, a code's parameters from them, and an output from code and features.

    .. math::
        h_0 = u, \quad h_l = \sigma(W_l h_{l-1}), \qquad c = W h_L \\
        g_L = \sigma(V_L z + S_L h_L), \quad g_{l-1} = \sigma(V_{l-1} g_l + S_{l-1} h_{l-1}),
        \quad y = V_0 g_1 + S_0 h_0

    The maps W and V are linear (dense), or convolutions that halve and double height and width;
    S are the skip connections, linear or of 3×3. Those of a datum are computed once for all codes.

    Args:
        in_shape: Event shape of the input u.
        code_shape: Event shape of c.
        latent_dim: Z, the size of the code z.
        out_shape: Event shape of the output.
        network: `"dense"` or `"conv"`, for images.
        hidden_dims: Widths of the dense network's hidden layers.
        channels: Channels of the convolutions, on the way down.

    Shape:
        `down` takes [..., *in_shape] and returns h_0 … h_L; `code` takes these and returns
        [..., *code_shape]; `up` takes z [..., Z] and these, and returns [..., *out_shape].

    Raises:
        PvaeError: If a size or the network is not valid.

    Source: Ronneberger, Fischer & Brox 2015, *U-Net* (arXiv:1505.04597).

    Example:
        >>> import torch
        >>> net = SkipNetwork((2, 8, 8), (2, 3), 3, (1, 8, 8), "conv")
        >>> features = net.down(torch.zeros(5, 2, 8, 8))
        >>> net.code(features).shape, net.up(torch.zeros(7, 5, 3), features).shape
        (torch.Size([5, 2, 3]), torch.Size([7, 5, 1, 8, 8]))
    """

    def __init__(
        self,
        in_shape: Sequence[int],
        code_shape: Sequence[int],
        latent_dim: int,
        out_shape: Sequence[int],
        network: Literal["dense", "conv"] = "dense",
        hidden_dims: Sequence[int] = (400,),
        channels: Sequence[int] = (32, 64),
    ) -> None:
        super().__init__()
        self.in_shape, self.out_shape = tuple(in_shape), tuple(out_shape)
        self.code_shape, code = tuple(code_shape), math.prod(code_shape)
        if network == "dense":
            widths = [math.prod(self.in_shape), *hidden_dims]
            if min(widths) < 1 or len(widths) < 2:
                raise PvaeError(
                    f"hidden_dims={tuple(hidden_dims)} is not valid: give one layer or more, each "
                    "of at least one unit."
                )
            outs = [math.prod(self.out_shape), *hidden_dims]
            self._shapes = [(width,) for width in widths]
            self._out = (outs[0],)
            pairs = range(len(hidden_dims))
            downs = [nn.Linear(widths[i], widths[i + 1]) for i in pairs]
            ups = [nn.Linear(outs[i + 1], outs[i]) for i in pairs]
            skips = [nn.Linear(a, b, bias=False) for a, b in zip(widths, outs, strict=True)]
        elif network == "conv":
            sizes, top = pyramid(self.in_shape, channels), math.prod(self.out_shape[:-2])
            widths, outs = [self.in_shape[0], *channels], [top, *channels]
            self._shapes = [(c, *size) for c, size in zip(widths, sizes, strict=True)]
            self._out = (top, *sizes[0])
            downs, ups = [], []
            for i in range(len(channels)):
                odd = tuple(length % 2 for length in sizes[i])
                downs.append(nn.Conv2d(widths[i], widths[i + 1], 4, 2, padding=1))
                ups.append(Upsample(outs[i + 1], outs[i], odd))
            skips = [
                nn.Conv2d(a, b, 3, padding=1, bias=False) for a, b in zip(widths, outs, strict=True)
            ]
        else:
            raise PvaeError(f"network={network!r} is not valid: give 'dense' or 'conv'.")
        self.downs, self.ups, self.skips = map(nn.ModuleList, (downs, ups, skips))
        deepest = math.prod(self._shapes[-1])
        self.to_code, self.from_code = nn.Linear(deepest, code), nn.Linear(latent_dim, deepest)

    def down(self, u: Tensor) -> list[Tensor]:
        """Returns h_0 … h_L of an input [..., *in_shape]."""
        batch = batch_shape(u, self.in_shape)
        found = [u.reshape(-1, *self._shapes[0])]
        for layer in self.downs:
            found.append(layer(found[-1]).relu())
        return [h.view(*batch, *h.shape[1:]) for h in found]

    def code(self, features: list[Tensor]) -> Tensor:
        """Returns c, [..., *code_shape]."""
        deepest = features[-1].flatten(-len(self._shapes[-1]))
        return self.to_code(deepest).unflatten(-1, self.code_shape)

    def up(self, z: Tensor, features: list[Tensor]) -> Tensor:
        """Returns the output [..., *out_shape] for codes [..., Z] and h_0 … h_L."""
        g = self.from_code(z).unflatten(-1, self._shapes[-1])
        for i in reversed(range(len(features))):
            skip = _each(self.skips[i], features[i], len(self._shapes[i]))
            g = g + skip
            if i:
                g = _each(self.ups[i - 1], g.relu(), len(self._shapes[i]))
        return g.reshape(*g.shape[: g.ndim - len(self._out)], *self.out_shape)


def _each(layer: nn.Module, h: Tensor, event_dim: int) -> Tensor:
    """Applies a layer to events [..., *event] with any dimensions on the left."""
    batch = h.shape[: h.ndim - event_dim]
    y = layer(h.reshape(-1, *h.shape[h.ndim - event_dim :]))
    return y.view(*batch, *y.shape[1:])
