"""Upsample: the transposed convolution of the decoders, computed in a faster way on a CPU."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["Upsample"]

_FEW = 4  # channels of an output that is faster as a convolution
# For output row 2y + a, the row of the kernel that input row y + d meets, d = −1, 0, 1; 4 is none.
_ROWS = torch.tensor([[k if 0 <= k < 4 else 4 for k in (a + 3, a + 1, a - 1)] for a in (0, 1)])


class Upsample(nn.ConvTranspose2d):
    r"""A transposed convolution with kernel 4, stride 2 and padding 1: twice the height and width.

    Without gradients on a CPU, images have their channels last in memory. If the output has few
    channels, it is that of a convolution with kernel 3, which has four outputs for each input
    pixel: they are the pixels of a square of 2 × 2 (a sub-pixel convolution). The values are the
    same up to rounding, except that a pixel which is not finite spreads one pixel further.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        odd: For height and width, 1 if the output is one larger than twice the input.

    Shape:
        [N, in_channels, H, W] to [N, out_channels, 2 H + odd[0], 2 W + odd[1]].

    Source: Shi et al. 2016, *Is the deconvolution layer the same as a convolutional layer?*
    (arXiv:1609.07009).

    Example:
        >>> Upsample(32, 1, (1, 0))(torch.zeros(5, 32, 7, 7)).shape
        torch.Size([5, 1, 15, 14])
    """

    def __init__(self, in_channels: int, out_channels: int, odd: tuple[int, int] = (0, 0)) -> None:
        super().__init__(in_channels, out_channels, 4, 2, padding=1, output_padding=odd)

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        plain = x.ndim == 4 and self.bias is not None and output_size is None
        mapped = torch._C._functorch.maybe_current_level() is not None  # in vmap or jvp
        single = x.device.type == "cpu" and x.dtype == torch.float32
        if torch.is_grad_enabled() or mapped or not (plain and single):
            return super().forward(x, output_size)
        x = x.contiguous(memory_format=torch.channels_last)
        if self.out_channels > _FEW:
            return super().forward(x)
        down, right = self.output_padding
        if down or right:  # one more row or column of zeros, cut off below
            x = F.pad(x, (0, right, 0, down)).contiguous(memory_format=torch.channels_last)
        rows, columns = _ROWS[:, None, :, None], _ROWS[None, :, None, :]
        kernel = F.pad(self.weight, (0, 1, 0, 1))[:, :, rows, columns]
        kernel = kernel.permute(1, 2, 3, 0, 4, 5).reshape(-1, self.in_channels, 3, 3)
        kernel = kernel.contiguous(memory_format=torch.channels_last)
        y = F.pixel_shuffle(F.conv2d(x, kernel, self.bias.repeat_interleave(4), padding=1), 2)
        return y[..., : y.shape[-2] - down, : y.shape[-1] - right]
