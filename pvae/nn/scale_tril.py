"""A learned Cholesky factor."""

import torch
from torch import Tensor, nn

__all__ = ["ScaleTril"]


class ScaleTril(nn.Module):
    r"""A learned lower triangular matrix with a positive diagonal, a Gaussian's Cholesky factor.

    .. math:: L = \operatorname{diag}(e^s) (I + T), \qquad T \text{ strictly lower triangular}

    T is in units of each row's scale, so that one step size fits wide and narrow dimensions.

    Args:
        scale_tril: L at the start, [..., D, D].

    Shape:
        `scale_tril()` returns L, [..., D, D].

    Example:
        >>> import torch
        >>> ScaleTril(2 * torch.eye(2))().tolist()
        [[2.0, 0.0], [0.0, 2.0]]
    """

    def __init__(self, scale_tril: Tensor) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.empty(scale_tril.shape[:-1]))
        self.below = nn.Parameter(torch.empty(scale_tril.shape))
        self.set(scale_tril)

    def forward(self) -> Tensor:
        unit = self.below.tril(-1) + torch.ones_like(self.log_scale).diag_embed()
        return self.log_scale.exp()[..., None] * unit

    @torch.no_grad()
    def set(self, scale_tril: Tensor) -> None:
        """Sets L, [..., D, D]."""
        scale = scale_tril.diagonal(dim1=-2, dim2=-1)
        self.log_scale.copy_(scale.log())
        self.below.copy_((scale_tril / scale[..., None]).tril(-1))
