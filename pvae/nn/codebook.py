"""A quantiser: the nearest of K learned vectors."""

from typing import Any

import torch
import torch.distributed
from torch import Tensor, nn

from pvae.errors import PvaeError
from pvae.nn.sizes import at_least_one

__all__ = ["Codebook"]

_EPS = 1e-10  # of the mean eigenvalue, against a codebook that does not span its space


class Codebook(nn.Module):
    r"""K vectors e_1, …, e_K, and which of them is nearest to a vector h.

    .. math:: z = \operatorname{onehot}\left( \arg\min_k \| h - e_k \|^2 \right), \qquad
        e(z) = \sum_k z_k e_k

    The straight-through estimator gives h the gradient of e(z) unchanged. The vectors themselves
    get none from e(z); they are learned in one of two ways:

    - `decay=None`: by the gradient of the first part of `penalty`;
    - `decay=γ`: as moving averages of the h that they are nearest to, in training mode,

    .. math:: n_k \leftarrow \gamma n_k + (1 - \gamma) \sum_i z_{ik}, \qquad
        m_k \leftarrow \gamma m_k + (1 - \gamma) \sum_i z_{ik} h_i, \qquad
        e_k = \frac{m_k}{n_k}

    With moving averages, a vector that is hardly used any more starts again at an h of the
    minibatch, drawn at random. All vectors start there, in the first call in training mode.

    Args:
        num_codes: K.
        code_dim: D.
        decay: γ, or None for gradients.
        restart: A vector starts again when n_k, its mean number of uses in a minibatch, falls
            below this; 0 for never. Without moving averages it has no effect.

    Attributes:
        weight: e, [K, D].
        synchronised: False; set it to True in processes of `torch.distributed` that each train on a
            part of a minibatch. The moving averages are then those of all parts, and restarts take
            the vectors of the first process, so that all keep the same codebook. All of them must
            call it together.

    Shape:
        `codebook(h)` takes h [..., D] and returns z [..., K], zeros and a one. With `learn=False`
        the moving averages stand still, as they do in eval mode.

    Raises:
        PvaeError: If a size is below one, decay is not in (0, 1), or restart is negative.

    Source: van den Oord, Vinyals & Kavukcuoglu 2017, *Neural Discrete Representation Learning*
    (arXiv:1711.00937); moving averages: its appendix A.1; restarts: Dhariwal et al. 2020,
    *Jukebox* (arXiv:2005.00341).

    Example:
        >>> codebook = Codebook(num_codes=4, code_dim=2).eval()
        >>> h = torch.randn(5, 2)
        >>> z = codebook(h)
        >>> z.shape, codebook.embed(z).shape
        (torch.Size([5, 4]), torch.Size([5, 2]))
    """

    synchronised = False

    def __init__(
        self,
        num_codes: int = 512,
        code_dim: int = 64,
        decay: float | None = None,
        restart: float = 0.1,
    ) -> None:
        super().__init__()
        at_least_one(num_codes=num_codes, code_dim=code_dim)
        if decay is not None and not 0 < decay < 1:
            raise PvaeError(
                f"decay={decay} is not valid: give a number between 0 and 1, such as 0.99, or "
                "None to learn the codebook by gradients."
            )
        if not restart >= 0:
            raise PvaeError(f"restart={restart} is not valid: give 0 or a positive number.")
        self.num_codes, self.code_dim = num_codes, code_dim
        self.decay, self.restart = decay, restart
        weight = (2 * torch.rand(num_codes, code_dim) - 1) / num_codes
        if decay is None:
            self.weight = nn.Parameter(weight)
        else:
            self.register_buffer("weight", weight)
            self.register_buffer("sums", torch.zeros_like(weight))
            self.register_buffer("uses", torch.zeros(num_codes))

    def forward(self, h: Tensor, *, learn: bool = True) -> Tensor:
        if h.shape[-1:] != (self.code_dim,):
            raise PvaeError(
                f"The codebook has vectors of {self.code_dim} values; it was called with a tensor "
                f"of shape {tuple(h.shape)}, whose last dimension differs."
            )
        flat = h.detach().reshape(-1, self.code_dim)
        moving = learn and self.training and self.decay is not None
        if moving and self.restart:
            self._restart(flat)
        weight = self.weight.detach()
        with torch.autocast(h.device.type, enabled=False):  # two vectors may be close
            mean = weight.mean(0)
            e, to = weight - mean, flat.to(weight.dtype) - mean
            # |h|^2 is the same for every code. In place: with many codes memory is what takes time.
            distance = (to @ (-2 * e).T).add_(e.square().sum(-1))
        nearest = distance.argmin(-1, keepdim=True)
        z = torch.zeros_like(distance, dtype=h.dtype).scatter_(-1, nearest, 1.0)
        if moving:
            self._average(flat, z, nearest[:, 0])
        centred = weight - weight.mean(0)  # of the vectors that `embed` takes
        return _StraightThrough.apply(h, z.reshape(*h.shape[:-1], -1), centred)

    def embed(self, z: Tensor) -> Tensor:
        """Returns e(z), [..., D], for z [..., K]. The vectors get no gradient from it."""
        weight = self.weight.detach()
        mean = weight.mean(0)
        return z @ (weight - mean) + mean

    def penalty(self, h: Tensor, z: Tensor, commitment: float = 1.0) -> Tensor:
        r"""Returns the terms that draw vectors and encodings to each other, [...].

        .. math:: \| \bar h - e(z) \|^2 + \beta \| h - \bar e(z) \|^2, \qquad
            \bar a = a \text{ without a gradient}

        The first is left out where moving averages take its place.

        Args:
            h: Encodings, [..., D].
            z: Their codes, [..., K].
            commitment: β.
        """
        e = z.detach() @ self.weight
        found = commitment * (h - e.detach()).square().sum(-1)
        return found if self.decay else found + (h.detach() - e).square().sum(-1)

    @torch.no_grad()
    def _restart(self, h: Tensor) -> None:
        """Starts unused vectors again, and before the first use all of them."""
        unused = (self.uses < self.restart) | (self.uses.sum() == 0)
        some = h[torch.randint(len(h), (self.num_codes,), device=h.device)]
        if self.synchronised:
            torch.distributed.broadcast(some, 0)
        unused &= some.isfinite().all(-1)  # a NaN would stay in the averages
        self.uses.masked_fill_(unused, 1.0)
        for vectors in (self.weight, self.sums):
            vectors.copy_(torch.where(unused[:, None], some, vectors))

    @torch.no_grad()
    def _average(self, h: Tensor, z: Tensor, nearest: Tensor) -> None:
        finite = h.isfinite().all(-1)
        counts = torch.zeros_like(self.uses).scatter_add_(0, nearest, finite.to(self.uses))
        sums = z.T @ torch.where(finite[:, None], h, 0)
        if self.synchronised:
            for total in (counts, sums):
                torch.distributed.all_reduce(total)
        self.uses.mul_(self.decay).add_((1 - self.decay) * counts)
        self.sums.mul_(self.decay).add_((1 - self.decay) * sums)
        used = self.uses[:, None] > 1e-5
        self.weight.copy_(torch.where(used, self.sums / self.uses[:, None], self.weight))


class _StraightThrough(torch.autograd.Function):
    r"""z as a function of h, so that :math:`e = z E` passes its gradient to h unchanged.

    The gradient of z is :math:`g = g_e E^\top`. With C the vectors minus their mean, which sum to
    zero, :math:`g_e = g C (C^\top C)^{-1}`. What is equal for all codes drops out.
    """

    @staticmethod
    def forward(ctx: Any, h: Tensor, z: Tensor, centred: Tensor) -> Tensor:
        ctx.save_for_backward(centred)
        return z

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, None, None]:
        c = ctx.saved_tensors[0].double()
        gram = c.T @ c
        floor = (_EPS * gram.diagonal().mean()).clamp(min=1e-300)
        factor, _ = torch.linalg.cholesky_ex(gram + floor * torch.eye(len(gram)).to(gram))
        return slope @ torch.cholesky_solve(c.T, factor).T.to(slope), None, None
