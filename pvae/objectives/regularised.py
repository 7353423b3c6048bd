"""ELBOs whose KL term is weighted, floored or replaced."""

import math
from typing import Any

import torch
from pyro.poutine import Trace
from torch import Tensor

from pvae.objectives.base import Call, ParticleELBO, needs_rsample
from pvae.objectives.importance_weighted import IWAE_ELBO, STL_ELBO, DReG_ELBO
from pvae.pair import Program, latent_sites, observed_sites
from pvae.runtime import number, weight

__all__ = ["IWAE_ELBO", "STL_ELBO", "Beta_ELBO", "DReG_ELBO", "FreeBits_ELBO", "InfoVAE_ELBO"]


class Beta_ELBO(ParticleELBO):
    r"""The ELBO with a weight on the KL divergence.

    .. math:: L = \sum_b E_{q_\phi(z|x_b)} [\log p_\theta(x_b | z)]
        - \beta \sum_i KL_{ib}, \qquad
        KL_{ib} = E_{q_\phi(z|x_b)} \left[ \log
        \frac{q_\phi(z_i | \cdot, x_b)}{p_\theta(z_i | \cdot)} \right]

    The expectations are means over the particles' draws, also where a KL has a closed form. Sites
    of the guide without rsample use the score function, with the mean of the other particles as
    baseline.

    Args:
        num_particles: K, samples of z for each datum.
        beta: β, a number or a tensor of one number. The attribute may be changed between steps.
            `LatentScale` puts a β around any objective.
        plate: Name of the batch plate, where it is ambiguous.

    Raises:
        PvaeError: As `ParticleELBO`, and if beta is negative, which would reward the KL, or NaN.

    Source: Higgins et al. 2017, *β-VAE: Learning Basic Visual Concepts with a Constrained
    Variational Framework*, ICLR.

    Example:
        >>> import torch
        >>> from pvae import SVI, guides, models
        >>> model, guide = models.VAE((1, 8, 8)), guides.MeanField((1, 8, 8))
        >>> svi = SVI(model, guide, torch.optim.Adam, Beta_ELBO(beta=4.0))
        >>> svi.step(torch.zeros(16, 1, 8, 8)) > 0
        True
    """

    def __init__(
        self, num_particles: int = 1, beta: float | Tensor = 1.0, *, plate: str | None = None
    ) -> None:
        super().__init__(num_particles, plate=plate)
        self.beta = weight("beta", beta)

    def differentiable_loss(
        self, model: Program, guide: Program, *args: Any, **kwargs: Any
    ) -> Tensor:
        """Returns a scalar whose value is the loss and whose gradient is the estimator's."""
        call = self._call(model, guide, args, kwargs)
        draws = call.guide()
        model_trace = call.model(draws)
        log_p, log_q = call.terms(latent_sites(model_trace)), call.terms(latent_sites(draws))
        kl = sum(self._floor(term - log_p.get(name, 0.0)) for name, term in log_q.items())
        likelihood = sum(call.terms(observed_sites(model_trace)).values())
        value = likelihood - self.beta * kl - call.penalty(draws)
        bound, score = value.mean(0), call.score(draws)
        if score is not None:
            others = (value.sum(0) - value) / max(call.num - 1, 1)
            surrogate = ((value - others).detach() * score).mean(0)
            bound = bound + (surrogate - surrogate.detach())
        return -call.scale * (bound.sum() - call.size * self._divergence(call, draws))

    def _floor(self, kl: Tensor) -> Tensor:
        return kl

    def _divergence(self, call: Call, draws: Trace) -> Tensor | float:
        return 0.0


class FreeBits_ELBO(Beta_ELBO):
    r"""The ELBO with a few nats of KL free of charge for each latent site.

    .. math:: L = B \left( \overline{\log p} - \beta \sum_i
        \max(\lambda, \overline{KL_i}) \right)

    A bar is a mean over the minibatch of B data and over particles. There is one KL for each latent
    *site*: to give each group of dimensions its own free bits, make each group a site. A site whose
    KL is below λ has no gradient from it.

    Args:
        num_particles: K, samples of z for each datum.
        free_bits: λ, nats of each latent site and datum.
        beta: β, a number or a tensor of one number.
        plate: Name of the batch plate, where it is ambiguous.

    Raises:
        PvaeError: As `ParticleELBO`, and if free_bits or beta is negative or NaN.

    Source: Kingma et al. 2016, *Improving Variational Inference with Inverse Autoregressive
    Flow*, equation 15 (arXiv:1606.04934).

    Example:
        >>> import torch
        >>> from pvae import SVI, guides, models
        >>> model, guide = models.VAE((1, 8, 8)), guides.MeanField((1, 8, 8))
        >>> svi = SVI(model, guide, torch.optim.Adam, FreeBits_ELBO(free_bits=2.0))
        >>> svi.step(torch.zeros(16, 1, 8, 8)) > 0
        True
    """

    def __init__(
        self,
        num_particles: int = 1,
        free_bits: float = 0.5,
        beta: float | Tensor = 1.0,
        *,
        plate: str | None = None,
    ) -> None:
        super().__init__(num_particles, beta, plate=plate)
        self.free_bits = number("free_bits", free_bits, zero=True)

    def _floor(self, kl: Tensor) -> Tensor:
        return torch.where(kl.detach().mean() > self.free_bits, kl, self.free_bits)


class InfoVAE_ELBO(Beta_ELBO):
    r"""InfoVAE: part of the KL is replaced by a divergence between q(z) and p(z).

    .. math:: L = \sum_b \left( E_{q_\phi(z|x_b)} [\log p_\theta(x_b | z)]
        - (1 - \alpha) KL_b \right) - B \, (\alpha + \lambda - 1) \, MMD(q_\phi(z), p_\theta(z))

    with β = 1 − α, :math:`q_\phi(z)` the mean of :math:`q_\phi(z|x_b)` over the data, and

    .. math:: MMD = E_{z, z' \sim q}[k(z, z')] + E_{z, z' \sim p}[k(z, z')]
        - 2 E_{z \sim q, z' \sim p}[k(z, z')], \qquad
        k(z, z') = e^{- \| z - z' \|^2 / 2 h^2}

    The estimate of the MMD uses one draw of q(z|x) for each datum and as many draws of p(z), and is
    averaged over the particles. It is unbiased, so it may be negative. All latent sites count as
    one vector of Z dimensions. A minibatch of one datum has no pairs and keeps only the last term.

    Args:
        num_particles: K, samples of z for each datum.
        beta: β = 1 − α; 0 is the MMD-VAE.
        mmd_weight: α + λ − 1, nats for each datum.
        bandwidth: h; by default :math:`\sqrt Z`.
        plate: Name of the batch plate, where it is ambiguous.

    Raises:
        PvaeError: As `ParticleELBO`, if a latent site has no rsample, if beta or mmd_weight is
            negative or NaN, or if bandwidth is not positive.

    Source: Zhao, Song & Ermon 2017, *InfoVAE: Information Maximizing Variational Autoencoders*
    (arXiv:1706.02262); Gretton et al. 2012, *A Kernel Two-Sample Test* (the estimator).

    Example:
        >>> import torch
        >>> from pvae import SVI, guides, models
        >>> model, guide = models.VAE((1, 8, 8)), guides.MeanField((1, 8, 8))
        >>> svi = SVI(model, guide, torch.optim.Adam, InfoVAE_ELBO(mmd_weight=100.0))
        >>> svi.step(torch.zeros(16, 1, 8, 8)) > 0
        True
    """

    def __init__(
        self,
        num_particles: int = 1,
        beta: float | Tensor = 0.0,
        mmd_weight: float | Tensor = 10.0,
        bandwidth: float | None = None,
        *,
        plate: str | None = None,
    ) -> None:
        super().__init__(num_particles, beta, plate=plate)
        self.mmd_weight = weight("mmd_weight", mmd_weight)
        self.bandwidth = None if bandwidth is None else number("bandwidth", bandwidth)

    def _divergence(self, call: Call, draws: Trace) -> Tensor:
        needs_rsample(self, draws, "Use Beta_ELBO.")
        z, prior = call.rows(draws), call.rows(call.prior())
        width = math.sqrt(z.shape[-1]) if self.bandwidth is None else self.bandwidth
        return self.mmd_weight * _mmd(z, prior, width)


def _mmd(z: Tensor, other: Tensor, width: float) -> Tensor:
    """Returns the unbiased estimate of the MMD of two samples [K, B, Z], averaged over K."""
    off = 1 - torch.eye(z.shape[1], dtype=z.dtype, device=z.device)
    pairs = max(z.shape[1] * (z.shape[1] - 1), 1)

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        distance = (a[:, :, None] - b[:, None]).square().sum(-1)
        return torch.exp(-distance / (2 * width**2))

    within = ((kernel(z, z) + kernel(other, other)) * off).sum((1, 2)) / pairs
    return (within - 2 * kernel(z, other).mean((1, 2))).mean()
