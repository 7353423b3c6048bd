"""Images moved by a field of displacements."""

import torch
import torch.nn.functional as F
from torch import Tensor

from pvae.errors import PvaeError

__all__ = ["warp"]


def warp(x: Tensor, flow: Tensor) -> Tensor:
    r"""Returns the values of images at displaced places, bilinear between the four pixels around.

    .. math:: y_{c,i,j} = x_{c,\; i + u_{i,j},\; j + v_{i,j}}

    The flow tells for each pixel of the result where it comes from. Places outside of the image
    take the value at its border. Gradients reach both arguments.

    Args:
        x: Images, [..., C, H, W].
        flow: (u, v), pixels down and to the right, [..., 2, H, W]; the dimensions on the left
            broadcast with those of x.

    Returns:
        [..., C, H, W].

    Raises:
        PvaeError: If the flow has another height or width than the images, or not two components,
            or an image has fewer than 2×2 pixels.

    Source: Jaderberg et al. 2015, *Spatial Transformer Networks* (arXiv:1506.02025).

    Example:
        >>> x = torch.arange(9.0).view(1, 3, 3)
        >>> right = torch.zeros(2, 3, 3)
        >>> right[1] = 1
        >>> warp(x, right)
        tensor([[[1., 2., 2.],
                 [4., 5., 5.],
                 [7., 8., 8.]]])
    """
    h, w = x.shape[-2:]
    if tuple(flow.shape[-3:]) != (2, h, w) or x.ndim < 3 or min(h, w) < 2:
        raise PvaeError(
            f"A flow of shape {tuple(flow.shape)} does not fit images of shape {tuple(x.shape)}: "
            "give images [..., C, H, W] of 2×2 pixels or more, and for them [..., 2, H, W]."
        )
    batch = torch.broadcast_shapes(x.shape[:-3], flow.shape[:-3])
    y = torch.arange(h, dtype=flow.dtype, device=flow.device)[:, None] + flow[..., 0, :, :]
    x_ = torch.arange(w, dtype=flow.dtype, device=flow.device) + flow[..., 1, :, :]
    # grid_sample counts from −1, the middle of the first pixel, to 1, that of the last one.
    place = torch.stack([x_ * (2 / (w - 1)) - 1, y * (2 / (h - 1)) - 1], -1)
    images = x.expand(*batch, *x.shape[-3:]).reshape(-1, *x.shape[-3:])
    place = place.expand(*batch, h, w, 2).reshape(-1, h, w, 2).to(images)
    found = F.grid_sample(images, place, "bilinear", "border", align_corners=True)
    return found.view(*batch, *x.shape[-3:])
