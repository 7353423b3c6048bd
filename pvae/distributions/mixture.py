"""A mixture of Gaussians with reparameterised samples."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

__all__ = ["DiagonalMixture"]


class DiagonalMixture(TorchDistribution):
    r"""A mixture of diagonal Gaussians whose samples have gradients.

    .. math:: q(z) = \sum_k \pi_k \prod_d \mathcal N(z_d; \mu_{kd}, \sigma_{kd}^2)

    The distribution function of each coordinate given the coordinates before it,

    .. math:: S_d(z) = \sum_k r_{kd} \Phi\left(\frac{z_d - \mu_{kd}}{\sigma_{kd}}\right), \qquad
        r_{kd} \propto \pi_k \prod_{j<d} \mathcal N(z_j; \mu_{kj}, \sigma_{kj}^2),

    maps z to uniform noise, which does not depend on the parameters λ. Implicit differentiation
    gives :math:`dz/d\lambda = -(\partial S / \partial z)^{-1} \, \partial S / \partial \lambda`, a
    triangular system. (The gradient of Pyro's MixtureOfDiagNormals overflows for about fifty narrow
    dimensions, and divides by the distance of the means.)

    Args:
        logits: log π up to a constant, [..., K].
        loc: μ, [..., K, D].
        scale: σ, [..., K, D], positive.

    Source: Graves 2016, *Stochastic Backpropagation through Mixture Density Distributions*
    (arXiv:1607.05690); Figurnov, Mohamed & Mnih 2018, *Implicit Reparameterization Gradients*
    (arXiv:1805.08498).

    Example:
        >>> import torch
        >>> loc = torch.tensor([[-3.0, 0.0], [3.0, 0.0]], requires_grad=True)
        >>> fn = DiagonalMixture(torch.zeros(2), loc, torch.ones(2, 2))
        >>> fn.rsample((5,)).requires_grad, fn.mean
        (True, tensor([0., 0.], grad_fn=<SumBackward1>))
    """

    arg_constraints = {  # noqa: RUF012
        "logits": constraints.real_vector,
        "loc": constraints.independent(constraints.real, 2),
        "scale": constraints.independent(constraints.positive, 2),
    }
    support = constraints.real_vector
    has_rsample = True

    def __init__(
        self, logits: Tensor, loc: Tensor, scale: Tensor, validate_args: bool | None = None
    ) -> None:
        batch = torch.broadcast_shapes(logits.shape[:-1], loc.shape[:-2], scale.shape[:-2])
        self.logits = logits.expand(*batch, -1)
        self.loc, self.scale = loc.expand(*batch, -1, -1), scale.expand(*batch, -1, -1)
        super().__init__(batch, loc.shape[-1:], validate_args=validate_args)

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> "DiagonalMixture":
        new = self._get_checked_instance(DiagonalMixture, _instance)
        DiagonalMixture.__init__(
            new,
            self.logits.expand(*batch_shape, -1),
            self.loc.expand(*batch_shape, -1, -1),
            self.scale.expand(*batch_shape, -1, -1),
            validate_args=False,
        )
        new._validate_args = self._validate_args
        return new

    @property
    def mean(self) -> Tensor:
        return (self.logits.softmax(-1)[..., None] * self.loc).sum(-2)

    @property
    def variance(self) -> Tensor:
        weight = self.logits.softmax(-1)[..., None]
        square = (weight * (self.loc.square() + self.scale.square())).sum(-2)
        return square - self.mean.square()

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        log_p = self._log_p(self._standard(value)).sum(-1)
        return (self.logits.log_softmax(-1) + log_p).logsumexp(-1)

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        z = self._draw(torch.Size(sample_shape))
        parameters = (self.logits, self.loc, self.scale)
        if not (torch.is_grad_enabled() and any(p.requires_grad for p in parameters)):
            return z
        return self._attach(z)

    @torch.no_grad()
    def _draw(self, sample_shape: torch.Size) -> Tensor:
        shape = sample_shape + self.batch_shape
        # torch.multinomial cannot be recorded in a graph, uniform numbers can.
        u = torch.rand(*shape, 1, dtype=self.loc.dtype, device=self.loc.device)
        noise = torch.randn(*shape, *self.event_shape, dtype=u.dtype, device=u.device)
        k = (u > self.logits.softmax(-1).cumsum(-1)[..., :-1]).sum(-1)
        k = k[..., None, None].expand(*shape, 1, *self.event_shape)
        loc, scale = (
            t.expand(*shape, *t.shape[-2:]).gather(-2, k).squeeze(-2)
            for t in (self.loc, self.scale)
        )
        return loc + scale * noise

    def _attach(self, z: Tensor) -> Tensor:
        """Returns z with its gradient: z - (∂S/∂z)⁻¹ (S - S), with ∂S/∂z and one S held fixed."""
        eps = self._standard(z)
        log_p = self._log_p(eps)
        before = log_p.cumsum(-1) - log_p  # of the coordinates before d, [..., K, D]
        r = (self.logits[..., None] + before).softmax(-2)
        phi = 0.5 * (1 + torch.erf(eps * math.sqrt(0.5)))
        s = (r * phi).sum(-2)
        with torch.no_grad():
            slope = -eps / self.scale  # of log_p, in z
            # ∂S_d/∂z_j = Σ_k r_kd (Φ_kd - S_d) slope_kj for j < d; the density for j = d.
            jacobian = ((r * (phi - s[..., None, :])).transpose(-1, -2) @ slope).tril(-1)
            jacobian = jacobian + (r * log_p.exp()).sum(-2).diag_embed()
        change = (s - s.detach())[..., None]
        return z - torch.linalg.solve_triangular(jacobian, change, upper=False).squeeze(-1)

    def _standard(self, z: Tensor) -> Tensor:
        return (z[..., None, :] - self.loc) / self.scale

    def _log_p(self, eps: Tensor) -> Tensor:
        return -0.5 * eps.square() - self.scale.log() - 0.5 * math.log(2 * math.pi)
