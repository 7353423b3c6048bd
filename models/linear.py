"""Probabilistic PCA: the linear-Gaussian model, whose log p(x) is known."""

import math
from collections.abc import Sequence
from typing import Literal

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import Tensor, nn

from pvae.errors import PvaeError

__all__ = ["PPCA"]


class PPCA(PyroModule):
    r"""Probabilistic PCA: a standard normal code, a linear decoder, isotropic noise.

    .. math::
        z &\sim \mathcal N(0, I) \\
        x \mid z &\sim \mathcal N(W z + b, \sigma^2 I)

    With :math:`M = W^\top W + \sigma^2 I` the marginal and the posterior are

    .. math::
        x &\sim \mathcal N(b, W W^\top + \sigma^2 I) \\
        z \mid x &\sim \mathcal N(M^{-1} W^\top (x - b), \sigma^2 M^{-1})

    `pvae.guides.LinearGaussian` contains this posterior, so its bound can reach log p(x). With
    the point z = Vx + c of `pvae.guides.Code(hidden_dims=())` the pair is the linear autoencoder,
    whose W spans the principal subspace at the optimum.

    Args:
        event_shape: Shape of one datum, (C, H, W) or (D,).
        latent_dim: Z, the size of the code, below D.
        scale: σ: a number, or `"learned"`.

    Shape:
        `model(x)` takes x [B, *event_shape] and returns it; `model(size=n)` draws
        n samples [n, *event_shape] from p(x).

    Raises:
        PvaeError: If latent_dim is not between 1 and D - 1, or the scale is not valid.

    Source: Tipping & Bishop 1999, *Probabilistic Principal Component Analysis*
    (doi:10.1111/1467-9868.00196); Baldi & Hornik 1989, *Neural Networks and Principal Component
    Analysis* (the linear autoencoder, doi:10.1016/0893-6080(89)90014-2).

    Example:
        >>> x = torch.randn(100, 6) @ torch.randn(6, 6)
        >>> model = PPCA((6,), latent_dim=2).maximise(x)
        >>> model.log_px(x).shape
        torch.Size([100])
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        latent_dim: int = 20,
        scale: float | Literal["learned"] = "learned",
    ) -> None:
        super().__init__()
        self.event_shape, self.latent_dim = tuple(event_shape), latent_dim
        dim = math.prod(self.event_shape)
        if not 1 <= latent_dim < dim:
            raise PvaeError(
                f"latent_dim={latent_dim} is not valid: a datum of shape {self.event_shape} has "
                f"{dim} dimensions, of which at least 1 is left to the noise. Give 1 to {dim - 1}."
            )
        if not (scale == "learned" or (not isinstance(scale, str) and scale > 0)):
            raise PvaeError(f"scale={scale!r} is not valid: give a positive number or 'learned'.")
        self.weight = nn.Parameter(torch.randn(dim, latent_dim) / math.sqrt(dim))
        self.bias = nn.Parameter(torch.zeros(dim))
        self.learns_scale = scale == "learned"
        if self.learns_scale:
            self.log_scale = nn.Parameter(torch.tensor(0.0))
        else:
            self.register_buffer("fixed_scale", torch.tensor(float(scale)))
        self.register_buffer("zeros", torch.zeros(latent_dim), persistent=False)

    def forward(self, x: Tensor | None = None, *, size: int = 1) -> Tensor:
        with pyro.plate("data", size if x is None else len(x)):
            z = pyro.sample("z", dist.Normal(self.zeros, 1.0).to_event(1))
            loc = (z @ self.weight.T + self.bias).unflatten(-1, self.event_shape)
            p = dist.Normal(loc, self.scale).to_event(len(self.event_shape))
            return pyro.sample("x", p, obs=x)

    @property
    def scale(self) -> Tensor:
        """σ, a scalar."""
        return self.log_scale.exp() if self.learns_scale else self.fixed_scale

    def log_px(self, x: Tensor) -> Tensor:
        """Returns log p(x), [...], exactly, for x [..., *event_shape], in nats."""
        px = dist.LowRankMultivariateNormal(
            self.bias, self.weight, self.scale.square().expand_as(self.bias)
        )
        return px.log_prob(self._flat(x))

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Returns mean [..., Z] and Cholesky factor [Z, Z] of p(z|x); all x share the factor."""
        inverse = self._posterior_covariance() / self.scale.square()
        loc = (self._flat(x) - self.bias) @ self.weight @ inverse
        return loc, torch.linalg.cholesky(self._posterior_covariance())

    @torch.no_grad()
    def maximise(self, x: Tensor) -> "PPCA":
        r"""Sets the parameters to their maximum likelihood estimate, in closed form.

        .. math::
            W = U_Z (\Lambda_Z - \sigma^2 I)^{1/2}, \qquad
            \sigma^2 = \frac{1}{D - Z} \sum_{j > Z} \lambda_j

        with λ and U the eigenvalues and eigenvectors of the covariance of x (divided by N), and
        b its mean. A fixed σ is kept, and W is the best for it.

        Args:
            x: Data [N, *event_shape].

        Returns:
            The model.
        """
        flat = self._flat(x).double()
        centred = flat - flat.mean(0)
        values, vectors = torch.linalg.eigh(centred.T @ centred / len(flat))
        values, vectors = values.flip(0).clamp(min=0), vectors.flip(1)
        noise = values[self.latent_dim :].mean()
        variance = noise if self.learns_scale else self.scale.double().square()
        stretch = (values[: self.latent_dim] - variance).clamp(min=0).sqrt()
        self.bias.copy_(flat.mean(0))
        self.weight.copy_(vectors[:, : self.latent_dim] * stretch)
        if self.learns_scale:
            self.log_scale.copy_(variance.log() / 2)
        return self

    def _posterior_covariance(self) -> Tensor:
        """Returns σ² M⁻¹, [Z, Z]."""
        precision = self.weight.T @ self.weight / self.scale.square()
        return torch.linalg.inv(precision + torch.eye(self.latent_dim).to(precision))

    def _flat(self, x: Tensor) -> Tensor:
        return x.flatten(x.ndim - len(self.event_shape))
