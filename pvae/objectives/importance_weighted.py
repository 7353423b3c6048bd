"""Objectives of K samples: the importance-weighted bound, DReG and sticking the landing."""

import math
from typing import Any

import torch
from pyro.distributions import Delta
from torch import Tensor

from pvae.errors import PvaeError
from pvae.objectives.base import Call, ParticleELBO, needs_rsample
from pvae.objectives.path import Cut, along
from pvae.pair import Program, base_distribution, has_path, kind_of, latent_sites, trace_of

__all__ = ["IWAE_ELBO", "STL_ELBO", "DReG_ELBO"]


class IWAE_ELBO(ParticleELBO):
    r"""The importance-weighted bound: a logarithm for each datum, summed over the minibatch.

    .. math:: L_K = \sum_b \log \frac1K \sum_{k=1}^K w_{kb}, \qquad
        w_{kb} = \frac{p_\theta(x_b, z_{kb})}{q_\phi(z_{kb} | x_b)}, \quad
        z_{kb} \sim q_\phi(z | x_b)

    Its gradient is that of the bound on the draws, :math:`\sum_k \tilde w_k \nabla \log w_k`
    with :math:`\tilde w_k = w_k / \sum_j w_j`. Sites without rsample add VIMCO's signal,
    :math:`\sum_k (L_K - L_{-k}) \nabla_\phi \log q_\phi(z_k | x)`, where :math:`L_{-k}` has the
    geometric mean of the other weights in place of :math:`w_k` (for K = 1, the ELBO, it is 0).
    `pyro.infer.RenyiELBO` has scales inside the logarithm, and no such signal.

    Args:
        num_particles: K, samples of z for each datum.
        plate: Name of the batch plate, where it is ambiguous.

    Raises:
        PvaeError: As `ParticleELBO`.

    Source: Burda, Grosse & Salakhutdinov 2016, *Importance Weighted Autoencoders*
    (arXiv:1509.00519); Mnih & Rezende 2016, *Variational Inference for Monte Carlo Objectives*
    (arXiv:1602.06725); pyro issue 3104.

    Example:
        >>> import torch
        >>> from pvae import SVI, guides, models
        >>> model, guide = models.VAE((1, 8, 8)), guides.MeanField((1, 8, 8))
        >>> svi = SVI(model, guide, torch.optim.Adam, IWAE_ELBO(num_particles=5))
        >>> svi.step(torch.zeros(16, 1, 8, 8)) > 0
        True
    """

    def differentiable_loss(
        self, model: Program, guide: Program, *args: Any, **kwargs: Any
    ) -> Tensor:
        """Returns a scalar whose value is the loss and whose gradient is the estimator's."""
        call = self._call(model, guide, args, kwargs)
        draws = call.guide()
        log_w, penalty = call.log_p(call.model(draws)) - call.log_q(draws), call.penalty(draws)
        bound, score = _log_mean(log_w) - penalty.mean(0), call.score(draws)
        if score is not None:
            signal = (_vimco(log_w) - penalty / call.num).detach()
            surrogate = (signal * score).sum(0)
            bound = bound + (surrogate - surrogate.detach())
        return -call.scale * bound.sum()


class _PathELBO(ParticleELBO):
    """An objective whose gradient reaches φ only along the path of z: φ is constant in log q."""

    def _terms(
        self, model: Program, guide: Program, args: Any, kwargs: Any, shares: list[Tensor] | None
    ) -> tuple[Call, Tensor, Tensor]:
        """Returns a call, log w with φ held in log q, and the guide's penalty, each [K, B].

        With `shares`, the gradient is multiplied by the normalised weights that the caller puts
        into this list before it is computed.
        """
        call, cut = self._call(model, guide, args, kwargs), Cut()
        with cut:
            draws = call.guide()
        instead = "Use IWAE_ELBO, which takes VIMCO's signal there, or Trace_ELBO."
        needs_rsample(self, draws, instead)
        sites = latent_sites(draws)

        def weigh(name: str, grad: Tensor) -> Tensor:
            site = sites[name]
            if isinstance(base_distribution(site["fn"]), Delta):
                return grad  # no density, so no score for a second weight to take the place of
            mask = 1.0 if site["mask"] is None else torch.as_tensor(site["mask"])
            if isinstance(mask, Tensor):
                mask = mask.reshape(mask.shape + (1,) * site["fn"].event_dim).to(grad)
            kept = 1 - call.laid_out(shares[0], site)
            return grad * (1 - call.inner_scale(site) * mask * kept)

        log_q = torch.as_tensor(call.log_q(draws))
        log_q, values = along(log_q, cut, None if shares is None else weigh)
        values = {name: values.get(name, site["value"]) for name, site in sites.items()}
        values = trace_of(values, {name: site["infer"] for name, site in sites.items()})
        penalty = call.penalty(draws)
        if penalty.requires_grad:  # its own parameters still have a gradient
            penalty = penalty - penalty.detach() + along(penalty, cut)[0]
        model_trace = call.model(values)
        self._check_paths(sites, latent_sites(model_trace))
        return call, call.log_p(model_trace) - log_q, penalty

    def _check_paths(self, in_guide: dict[str, Any], in_model: dict[str, Any]) -> None:
        for name in in_guide:
            for fn in (each[name]["fn"] for each in (in_guide, in_model) if name in each):
                if not has_path(fn):
                    raise PvaeError(
                        f"Site {name!r}: {kind_of(fn)} has no density along a path of its samples, "
                        f"which {type(self).__name__} differentiates. Straight-through and relaxed "
                        "samples of discrete sites train with IWAE_ELBO or Trace_ELBO."
                    )


class DReG_ELBO(_PathELBO):
    r"""The importance-weighted bound, with the doubly reparameterised gradient of φ.

    The loss is that of `IWAE_ELBO`, and so is θ's gradient. φ's is

    .. math:: \nabla_\phi L_K = E \sum_{k=1}^K \tilde w_k^2 \,
        \frac{\partial \log w_k}{\partial z_k} \frac{\partial z_k}{\partial \phi},
        \qquad \tilde w_k = \frac{w_k}{\sum_j w_j}

    with φ constant in log q. It is unbiased, and its signal-to-noise ratio grows with K, while that
    of the plain gradient falls. For a site of the guide under a KL weight β,
    :math:`\tilde w_k^2` is :math:`\tilde w_k (1 - \beta + \beta \tilde w_k)`; for a Delta,
    which has no density, it is :math:`\tilde w_k`.

    Everything that q depends on except its draws is held, wherever the guide keeps it. A parameter
    that model and guide share is still trained by the model's terms. A normalising flow in the
    guide must have an inverse.

    Args:
        num_particles: K, samples of z for each datum.
        plate: Name of the batch plate, where it is ambiguous.

    Raises:
        PvaeError: As `ParticleELBO`, and if a latent site has no rsample, or is discrete (also
            with straight-through or relaxed samples).

    Source: Tucker, Lawson, Gu & Maddison 2019, *Doubly Reparameterized Gradient Estimators for
    Monte Carlo Objectives* (arXiv:1810.04152).

    Example:
        >>> import torch
        >>> from pvae import SVI, guides, models
        >>> model, guide = models.VAE((1, 8, 8)), guides.MeanField((1, 8, 8))
        >>> svi = SVI(model, guide, torch.optim.Adam, DReG_ELBO(num_particles=5))
        >>> svi.step(torch.zeros(16, 1, 8, 8)) > 0
        True
    """

    def differentiable_loss(
        self, model: Program, guide: Program, *args: Any, **kwargs: Any
    ) -> Tensor:
        """Returns a scalar whose value is the loss and whose gradient is the estimator's."""
        shares: list[Tensor] = []
        call, log_w, penalty = self._terms(model, guide, args, kwargs, shares)
        shares.append(log_w.detach().softmax(0))
        # The gradient of the logarithm brings the first factor of w̃².
        return -call.scale * (_log_mean(log_w) - penalty.mean(0)).sum()


class STL_ELBO(_PathELBO):
    r"""The ELBO, with the gradient that sticks the landing.

    .. math:: \nabla_\phi L = \sum_b \frac1K \sum_{k=1}^K \frac{\partial
        [\log p_\theta(x_b, z_{kb}) - \log q_\phi(z_{kb} | x_b)]}{\partial z_{kb}}
        \frac{\partial z_{kb}}{\partial \phi}

    with φ held in log q. This leaves out the score, whose mean is zero, so that the gradient has no
    noise where q is the posterior. θ's gradient is the usual one.

    Everything that q depends on except its draws is held, wherever the guide keeps it. A parameter
    that model and guide share is still trained by the model's terms. A normalising flow in the
    guide must have an inverse.

    Args:
        num_particles: K, samples of z for each datum.
        plate: Name of the batch plate, where it is ambiguous.

    Raises:
        PvaeError: As `ParticleELBO`, and if a latent site has no rsample, or is discrete (also
            with straight-through or relaxed samples).

    Source: Roeder, Wu & Duvenaud 2017, *Sticking the Landing* (arXiv:1703.09194).

    Example:
        >>> import torch
        >>> from pvae import SVI, guides, models
        >>> model, guide = models.VAE((1, 8, 8)), guides.MeanField((1, 8, 8))
        >>> svi = SVI(model, guide, torch.optim.Adam, STL_ELBO())
        >>> svi.step(torch.zeros(16, 1, 8, 8)) > 0
        True
    """

    def differentiable_loss(
        self, model: Program, guide: Program, *args: Any, **kwargs: Any
    ) -> Tensor:
        """Returns a scalar whose value is the loss and whose gradient is the estimator's."""
        call, log_w, penalty = self._terms(model, guide, args, kwargs, None)
        return -call.scale * (log_w - penalty).mean(0).sum()


def _log_mean(log_w: Tensor) -> Tensor:
    """Returns the log of the mean weight over the particles, [B]."""
    return log_w.logsumexp(0) - math.log(len(log_w))


def _vimco(log_w: Tensor) -> Tensor:
    """Returns each particle's signal, [K, B]: the bound minus the bound without the particle."""
    num = len(log_w)
    bound = _log_mean(log_w)
    if num == 1:
        return log_w
    mine = torch.eye(num, dtype=torch.bool, device=log_w.device)[..., None]
    others = log_w.expand(num, *log_w.shape)  # row k: the weights, and then without the k-th
    mean = others.masked_fill(mine, 0.0).sum(1, keepdim=True) / (num - 1)
    without = torch.where(mine, mean, others).logsumexp(1) - math.log(num)
    # Where all other weights are zero, no baseline is left.
    return bound - torch.where(without.isneginf(), 0.0, without)
