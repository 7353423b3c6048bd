"""A network of videos: a Gated PixelCNN of each frame, given the frames before it."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pvae.errors import PvaeError
from pvae.nn.autoregressive.gated import GatedPixelCNN
from pvae.nn.autoregressive.inputs import Values
from pvae.nn.autoregressive.ordered import Ordered, raster
from pvae.nn.residual import ResidualBlock
from pvae.nn.sizes import at_least_one

__all__ = ["VideoPixelCNN"]


class VideoPixelCNN(Ordered):
    r"""Draws frame by frame, and each frame pixel by pixel.

    .. math:: f_{t,i} = f_i(x_{t,<i}, c_t), \qquad c_t = c(x_{t-m}, \ldots, x_{t-1})

    c is a map that convolutions make of the m frames before, with zeros before the first frame.
    The pixels of a frame are those of a `GatedPixelCNN` with the context c_t. All frames have the
    same weights, so that a pass costs O(T).

    Args:
        event_shape: (T, C, H, W), or (T, H, W) as maps of codes are.
        out_shape: Shape of f, a head's `out_shape`. None for `event_shape`.
        memory: m, the number of frames that a frame sees; 0 for independent frames.
        channels: Features of the convolutions, a multiple of C.
        num_layers: Number of gated layers.
        num_blocks: Number of residual blocks of c.
        kernel_size: Size of the gated convolutions, odd.
        num_values: V, if x holds integers 0 … V − 1, which enter through an embedding.

    Raises:
        PvaeError: If x is no video, or a size does not fit.

    Source: Kalchbrenner et al. 2016, *Video Pixel Networks* (arXiv:1610.00527), with convolutions
    over the last frames in place of its LSTM; for codes, Walker, Razavi & van den Oord 2021,
    *Predicting Video with VQVAE* (arXiv:2103.01950).

    Example:
        >>> network = VideoPixelCNN((5, 4, 4), (9, 5, 4, 4), channels=8, num_values=9)
        >>> network(torch.zeros(3, 5, 4, 4, dtype=torch.long)).shape
        torch.Size([3, 9, 5, 4, 4])
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        out_shape: Sequence[int] | None = None,
        memory: int = 4,
        channels: int = 64,
        num_layers: int = 8,
        num_blocks: int = 4,
        kernel_size: int = 3,
        num_values: int | None = None,
    ) -> None:
        shape = tuple(event_shape)
        if len(shape) not in (3, 4) or memory < 0:
            raise PvaeError(
                f"event_shape={shape}, memory={memory}: this network takes videos (frames, "
                "channels, height, width) or maps (frames, height, width), and a memory of 0 "
                "frames or more."
            )
        pixels = raster(shape[1:])
        order = torch.stack([pixels + t * pixels.numel() for t in range(shape[0])])
        super().__init__(shape, out_shape, None, num_values, order)
        at_least_one(num_blocks=num_blocks)
        self.memory, lead = memory, self.steps.lead
        context_shape = (channels, *shape[-2:]) if memory else None
        out = (*lead, *shape[1:])
        sizes = channels, num_layers, kernel_size
        self.pixels = GatedPixelCNN(shape[1:], out, *sizes, context_shape, num_values)
        if memory:
            self.values = Values(num_values)
            colours = shape[1] if len(shape) == 4 else 1
            kernel = memory, 3, 3
            self.enter = nn.Conv3d(colours * self.values.features, channels, kernel)
            self.blocks = nn.Sequential(*(ResidualBlock(channels) for _ in range(num_blocks)))

    def outputs(self, x: Tensor, context: Tensor | None) -> Tensor:
        num, frames = x.shape[:2]
        c = self._past(x).flatten(0, 1) if self.memory else None
        f = self.pixels(x.flatten(0, 1), c).unflatten(0, (num, frames))
        return f.movedim(1, 1 + len(self.steps.lead))

    def _past(self, x: Tensor) -> Tensor:
        """Returns c [N, T, channels, H, W] for frames x [N, T, ...]; c_t sees those before t."""
        x = x[:, :, None] if x.ndim == 4 else x
        y = self.values(x).movedim(-1, 3).flatten(2, 3).transpose(1, 2)[:, :, :-1]
        y = self.enter(F.pad(y, (1, 1, 1, 1, self.memory, 0))).transpose(1, 2)
        return self.blocks(y.flatten(0, 1)).unflatten(0, y.shape[:2])

    def stepper(self, x: Tensor, context: Tensor | None = None) -> Callable[[int], Tensor]:
        of_frame: list[Callable[[int], Tensor]] = []

        def step(t: int) -> Tensor:
            frame, pixel = divmod(t, self.pixels.num_steps)
            if not pixel:
                seen = x[:, max(0, frame - self.memory) : frame + 1]
                c = self._past(seen)[:, -1] if self.memory else None
                of_frame[:] = [self.pixels.stepper(x[:, frame], c)]
            return of_frame[0](pixel)

        return step
