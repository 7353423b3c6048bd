"""Objectives of several samples: the importance-weighted bound, and gradients by the path."""

import contextlib
import math
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from pyro.poutine import Trace
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd

from pvae.errors import PvaeError
from pvae.pair import Program, latent_sites, modules, name_of
from pvae.particle_elbo import Call, ParticleELBO, needs_rsample

__all__ = ["IWAE_ELBO", "STL_ELBO", "DReG_ELBO", "held"]


class IWAE_ELBO(ParticleELBO):
    r"""The importance-weighted bound, taken datum by datum and then summed.

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

    Source: Burda, Grosse & Salakhutdinov 2016, *Importance Weighted Autoencoders*; Mnih &
    Rezende 2016, *Variational Inference for Monte Carlo Objectives*; pyro issue 3104.

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
    """With φ held in log q, its gradient reaches φ along the path of z alone."""

    def _draw(self, model: Program, guide: Program, args: Any, kwargs: Any) -> tuple[Call, Trace]:
        call = self._call(model, guide, args, kwargs)
        draws = call.guide()
        instead = "Use IWAE_ELBO, which takes VIMCO's signal there, or Trace_ELBO."
        needs_rsample(self, draws, instead)
        return call, draws

    def _held_log_w(self, call: Call, values: Trace, guide: Program) -> Tensor:
        with held(guide):  # also while log q is computed: a flow asks its network only then
            log_q = call.log_q(call.guide(values))
        return call.log_p(call.model(values)) - log_q


class DReG_ELBO(_PathELBO):
    r"""The importance-weighted bound, with the doubly reparameterised gradient of φ.

    The loss is that of `IWAE_ELBO`, and so is θ's gradient. φ's is

    .. math:: \nabla_\phi L_K = E \sum_{k=1}^K \tilde w_k^2 \,
        \frac{\partial \log w_k}{\partial z_k} \frac{\partial z_k}{\partial \phi},
        \qquad \tilde w_k = \frac{w_k}{\sum_j w_j}

    with φ held in log q: unbiased, and its signal-to-noise grows with K where that of the plain
    gradient falls. Under a KL weight β, :math:`\tilde w_k^2` is
    :math:`\tilde w_k (1 - \beta + \beta \tilde w_k)`, with one β for all sites of the guide.

    The guide runs twice, so that its dropout is refused, and a normalising flow in it needs an
    inverse. A parameter that model and guide share is still trained by the model's terms.

    Args:
        num_particles: K, samples of z for each datum.
        plate: Name of the batch plate, where it is ambiguous.

    Raises:
        PvaeError: As `ParticleELBO`, and if a latent site has no rsample, the guide has dropout,
            or its latent sites have different scales.

    Source: Tucker, Lawson, Gu & Maddison 2019, *Doubly Reparameterized Gradient Estimators for
    Monte Carlo Objectives*.

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
        call, draws = self._draw(model, guide, args, kwargs)
        betas = {name: call.inner_scale(site) for name, site in latent_sites(draws).items()}
        if len({beta for beta in betas.values() if not isinstance(beta, Tensor)}) > 1:
            raise PvaeError(
                f"DReG_ELBO takes one scale for all latent sites of the guide; they have {betas}. "
                "Use IWAE_ELBO."
            )
        shares: list[Tensor] = []  # the normalised weights, known when the gradient is computed
        values = call.crossing(draws, lambda name: 1 - betas[name] * (1 - shares[0]))
        log_w = self._held_log_w(call, values, guide)
        shares.append(log_w.detach().softmax(0))
        # The gradient of this logarithm brings the first factor, the crossing the second.
        return -call.scale * (_log_mean(log_w) - call.penalty(draws).mean(0)).sum()


class STL_ELBO(_PathELBO):
    r"""The ELBO, with the gradient that sticks the landing.

    .. math:: \nabla_\phi L = \sum_b \frac1K \sum_{k=1}^K \frac{\partial
        [\log p_\theta(x_b, z_{kb}) - \log q_\phi(z_{kb} | x_b)]}{\partial z_{kb}}
        \frac{\partial z_{kb}}{\partial \phi}

    with φ held in log q: the score, whose mean is zero, is left out, so that the noise vanishes
    where q is the posterior. θ's gradient is the usual one.

    The guide runs twice, so that its dropout is refused, and a normalising flow in it needs an
    inverse. A parameter that model and guide share is still trained by the model's terms.

    Args:
        num_particles: K, samples of z for each datum.
        plate: Name of the batch plate, where it is ambiguous.

    Raises:
        PvaeError: As `ParticleELBO`, and if a latent site has no rsample or the guide has dropout.

    Source: Roeder, Wu & Duvenaud 2017, *Sticking the Landing*.

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
        call, draws = self._draw(model, guide, args, kwargs)
        log_w = self._held_log_w(call, call.crossing(draws), guide)
        return -call.scale * (log_w - call.penalty(draws)).mean(0).sum()


def _log_mean(log_w: Tensor) -> Tensor:
    """Returns the log of the mean weight over the particles, [B]."""
    return log_w.logsumexp(0) - math.log(len(log_w))


def _vimco(log_w: Tensor) -> Tensor:
    """Returns the signal of each particle, [K, B]: the bound less the one that leaves it out."""
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


@contextlib.contextmanager
def held(program: Program) -> Iterator[None]:
    """Inside this context a program's parameters are constants; its draws keep their paths.

    Every parameter of every module that the program reaches is replaced by a detached view, and
    a `pyro.param` gives a detached value. Distributions are not touched: q(z_2 | z_1) still
    depends on z_1. Batch normalisation does not update its running statistics.

    Args:
        program: A guide.

    Raises:
        PvaeError: If a module draws noise of its own (dropout in training mode): a second run
            would be of another density.
    """
    found = modules(program, program).values()
    parts = {id(part): part for module in found for part in module.modules()}.values()
    for part in parts:
        rate = part.p if isinstance(part, _DropoutNd) else getattr(part, "dropout", None)
        if part.training and isinstance(rate, float) and rate > 0:
            raise PvaeError(
                f"{name_of(program)} drops units at random ({type(part).__name__}), and this "
                "objective runs the guide twice. Leave dropout out of the guide, or use "
                "IWAE_ELBO or Trace_ELBO."
            )
    live = [(part._parameters, dict(part._parameters)) for part in parts]
    norms = [part for part in parts if isinstance(part, _NormBase) and part.training]
    live += [(part._buffers, dict(part._buffers)) for part in norms]
    with warnings.catch_warnings(), _Constants():
        # pyro.module warns of parameters that are constant.
        warnings.filterwarnings("ignore", ".* was not registered in the param store")
        try:
            for tensors, values in live:
                tensors.update({n: v.detach() for n, v in values.items() if v is not None})
            for part in norms:  # which update their statistics in place
                kept = {name: b for name, b in part._buffers.items() if b is not None}
                part._buffers.update({name: b.clone() for name, b in kept.items()})
            yield
        finally:
            for tensors, values in live:
                tensors.clear()
                tensors.update(values)


class _Constants(Messenger):
    def _pyro_post_param(self, msg: dict[str, Any]) -> None:
        msg["value"] = msg["value"].detach()
