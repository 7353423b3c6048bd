"""Convolutions that keep a map: strided layers and residual blocks, as in the VQ-VAE."""

import itertools
import math
from collections.abc import Sequence

from torch import Tensor, nn

from pvae.errors import PvaeError
from pvae.nn.networks import batch_shape, pyramid
from pvae.nn.upsample import Upsample

__all__ = ["ResidualBlock", "ResidualDecoder", "ResidualEncoder"]


class ResidualBlock(nn.Module):
    """x + conv1x1(relu(conv3x3(relu(x))))."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


class ResidualEncoder(nn.Module):
    """Strided convolutions, each halving height and width, then residual blocks.

    Args:
        in_shape: Event shape (C, H, W) of the images, or (T, C, H, W) of videos, whose frames are
            encoded one by one.
        out_channels: D, values at each place of the map.
        channels: Channels after each strided convolution (kernel 4, stride 2, padding 1).
        num_blocks: Number of residual blocks.

    Attributes:
        map_shape: (h, w), the height and width of the map; (T, h, w) for videos.

    Shape:
        [..., C, H, W] to [..., h, w, D].

    Raises:
        PvaeError: If the images are too small or are no images.

    Source: van den Oord, Vinyals & Kavukcuoglu 2017 (arXiv:1711.00937), section 4.1.

    Example:
        >>> import torch
        >>> ResidualEncoder((1, 28, 28), 64)(torch.zeros(5, 1, 28, 28)).shape
        torch.Size([5, 7, 7, 64])
    """

    def __init__(
        self,
        in_shape: Sequence[int],
        out_channels: int,
        channels: Sequence[int] = (64, 128),
        num_blocks: int = 2,
    ) -> None:
        super().__init__()
        self.in_shape = tuple(in_shape)
        image = self.in_shape[-3:]
        self.map_shape = (*self.in_shape[:-3], *pyramid(image, channels)[-1])
        layers: list[nn.Module] = []
        for before, after in zip([image[0], *channels], channels, strict=False):
            layers += [nn.Conv2d(before, after, 4, stride=2, padding=1), nn.ReLU()]
        layers[-1] = nn.Conv2d(channels[-1], channels[-1], 3, padding=1)
        blocks = [ResidualBlock(channels[-1]) for _ in range(num_blocks)]
        out = nn.Conv2d(channels[-1], out_channels, 1)
        self.layers = nn.Sequential(*layers, *blocks, nn.ReLU(), out)

    def forward(self, x: Tensor) -> Tensor:
        batch = batch_shape(x, self.in_shape)
        y = self.layers(x.reshape(-1, *self.in_shape[-3:])).movedim(-3, -1)
        return y.reshape(*batch, *self.map_shape, y.shape[-1])


class ResidualDecoder(nn.Module):
    """Residual blocks, then transposed convolutions: the mirror of `ResidualEncoder`.

    Args:
        in_channels: D, values at each place of the map.
        out_shape: Event shape (C, H, W) of the output; several dimensions in place of C are
            channels too.
        channels: Channels before each transposed convolution (kernel 4, stride 2, padding 1).
        num_blocks: Number of residual blocks.
        num_frames: T, for videos of shape (T, C, H, W) in place of (C, H, W), whose frames are
            decoded one by one. None for images.

    Attributes:
        in_shape: (h, w, D), or (T, h, w, D) for videos.

    Shape:
        [..., *in_shape] to [..., *out_shape].

    Raises:
        PvaeError: As `ResidualEncoder`.

    Example:
        >>> import torch
        >>> ResidualDecoder(64, (1, 28, 28))(torch.zeros(5, 7, 7, 64)).shape
        torch.Size([5, 1, 28, 28])
    """

    def __init__(
        self,
        in_channels: int,
        out_shape: Sequence[int],
        channels: Sequence[int] = (128, 64),
        num_blocks: int = 2,
        num_frames: int | None = None,
    ) -> None:
        super().__init__()
        self.out_shape, frames = tuple(out_shape), [] if num_frames is None else [num_frames]
        self.of_frame = self.out_shape
        if frames:
            if self.out_shape[-4:-3] != (num_frames,):
                raise PvaeError(
                    f"num_frames={num_frames} does not fit out_shape={self.out_shape}: its last "
                    "dimensions must be (frames, channels, height, width)."
                )
            self.of_frame = self.out_shape[:-4] + self.out_shape[-3:]
        flat = (math.prod(self.of_frame[:-2]), *self.of_frame[-2:])
        sizes = pyramid(flat, channels)[::-1]
        self.in_shape = (*frames, *sizes[0], in_channels)
        layers: list[nn.Module] = [nn.Conv2d(in_channels, channels[0], 3, padding=1)]
        layers += [ResidualBlock(channels[0]) for _ in range(num_blocks)]
        for i, (before, after) in enumerate(itertools.pairwise([*channels, flat[0]])):
            padding = tuple(size % 2 for size in sizes[i + 1])
            layers += [
                nn.ReLU(),
                Upsample(before, after, padding),
            ]
        self.layers = nn.Sequential(*layers)

    def forward(self, e: Tensor) -> Tensor:
        batch = batch_shape(e, self.in_shape)
        y = self.layers(e.reshape(-1, *self.in_shape[-3:]).movedim(-1, -3))
        y = y.reshape(*batch, *self.in_shape[:-3], *self.of_frame)
        return y.movedim(len(batch), -4) if self.in_shape[:-3] else y
