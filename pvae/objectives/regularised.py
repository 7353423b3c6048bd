"""Objectives: which of Pyro's ELBOs suits a pair, and what Pyro's ELBOs lack."""

import copy
import math
from typing import Any, Literal

import torch
from pyro.infer import (
    ELBO,
    Trace_ELBO,
    TraceEnum_ELBO,
    TraceMeanField_ELBO,
    TraceTailAdaptive_ELBO,
)
from pyro.poutine import Trace
from pyro.poutine.messenger import Messenger
from pyro.poutine.replay_messenger import ReplayMessenger
from pyro.poutine.runtime import _PYRO_STACK
from pyro.poutine.trace_messenger import TraceMessenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from pvae.errors import PvaeError, nearest
from pvae.objectives.base import Call, ParticleELBO, needs_rsample
from pvae.objectives.importance_weighted import IWAE_ELBO, STL_ELBO, DReG_ELBO
from pvae.pair import Program, Structure, latent_sites, listed, observed_sites
from pvae.runtime import number, weight, whole

__all__ = [
    "IWAE_ELBO",
    "STL_ELBO",
    "Beta_ELBO",
    "DReG_ELBO",
    "FreeBits_ELBO",
    "InfoVAE_ELBO",
    "LatentScale",
    "LossName",
    "choose_elbo",
    "plain_elbo",
]

LossName = Literal[
    "auto", "Trace_ELBO", "TraceMeanField_ELBO", "IWAE_ELBO", "DReG_ELBO", "STL_ELBO"
]

_ELBOS = {
    "Trace_ELBO": Trace_ELBO,
    "TraceMeanField_ELBO": TraceMeanField_ELBO,
    "IWAE_ELBO": IWAE_ELBO,
    "DReG_ELBO": DReG_ELBO,
    "STL_ELBO": STL_ELBO,
}


def choose_elbo(
    loss: ELBO | LossName,
    structure: Structure,
    num_particles: int = 1,
) -> ELBO:
    r"""Returns the ELBO to train a pair with.

    `"auto"` takes the closed-form KL (`TraceMeanField_ELBO`) where it is known to be right:
    every latent site is reparameterised, and model and guide have them in the same order;
    `TraceEnum_ELBO` where a site is enumerated in parallel; else `Trace_ELBO`.

    Args:
        loss: An ELBO of `pyro.infer`, an objective from here, or one of the names.
        structure: What `pvae.check` found.
        num_particles: L, the number of samples of :math:`z \sim q(z|x)` in each step.

    Raises:
        PvaeError: If the name is unknown, num_particles is below one, or not that of an ELBO, if
            it is 1 for an objective that weighs particles, or if the closed-form KL is asked for
            and Pyro's cannot take the guide.
    """
    num_particles = whole("num_particles", num_particles, why="at least one sample of z is needed")
    if isinstance(loss, ELBO):
        loss = plain_elbo(loss)
        if num_particles not in (1, loss.num_particles):
            raise PvaeError(
                f"num_particles={num_particles}, and the loss is a {type(loss).__name__} with "
                f"num_particles={loss.num_particles}: give the number to the loss alone."
            )
        return _that_fits(loss, structure)
    if loss == "auto":
        if structure.enumerated:
            return TraceEnum_ELBO(num_particles, max_plate_nesting=structure.max_plate_nesting)
        loss = "TraceMeanField_ELBO" if _mean_field(structure) else "Trace_ELBO"
    if loss not in _ELBOS:
        raise PvaeError(f"loss={loss!r} is not known. {nearest(str(loss), ['auto', *_ELBOS])}")
    return _that_fits(_ELBOS[loss](num_particles), structure)


def plain_elbo(loss: ELBO) -> ELBO:
    """Returns an ELBO whose steps can be taken and judged.

    Of an ELBO with Pyro's `Jit` in its name this is the same ELBO without it: PyTorch's old
    tracer cannot see parameters that stay in their modules, and `pvae.SVI` compiles by itself.

    Raises:
        PvaeError: If it is no ELBO, or one that gives no value of its loss.
    """
    if not isinstance(loss, ELBO):
        raise PvaeError(f"loss={loss!r}: expected an ELBO such as pyro.infer.Trace_ELBO().")
    if isinstance(loss, TraceTailAdaptive_ELBO):
        raise PvaeError(
            f"{type(loss).__name__} has a gradient and no value (Pyro returns infinity), so that "
            "no step can be judged by its loss. Use DReG_ELBO or IWAE_ELBO, which weigh several "
            "samples as well, or take its steps with pyro.infer.SVI."
        )
    kind = type(loss)
    if kind.__module__.startswith("pyro.infer.") and kind.__name__.startswith("Jit"):
        loss = copy.copy(loss)
        loss.__class__ = kind.__base__
    return loss


def _that_fits(loss: ELBO, structure: Structure) -> ELBO:
    extra = _observed_in_guide(structure)
    if isinstance(loss, TraceMeanField_ELBO) and extra:
        raise PvaeError(
            f"TraceMeanField_ELBO cannot take a guide with the site {extra[0]!r}, a "
            "pyro.deterministic or pyro.factor. Use loss='auto' or Trace_ELBO, or leave the site "
            "out of the guide."
        )
    if isinstance(loss, IWAE_ELBO | DReG_ELBO) and loss.num_particles == 1:
        raise PvaeError(
            f"{type(loss).__name__} weighs several samples of z against each other, and with "
            "num_particles=1 there is one: it would be the ELBO. Give it num_particles=5 or more, "
            "or take loss='auto'."
        )
    return loss


def _mean_field(structure: Structure) -> bool:
    guide = latent_sites(structure.guide_trace)
    same = list(guide) == list(latent_sites(structure.model_trace))
    known = not _observed_in_guide(structure)
    return same and known and all(site["fn"].has_rsample for site in guide.values())


def _observed_in_guide(structure: Structure) -> list[str]:
    """Names of a guide's `pyro.deterministic` and `pyro.factor` sites."""
    nodes = structure.guide_trace.nodes.items()
    return [n for n, s in nodes if s["type"] == "sample" and s["is_observed"]]


class Beta_ELBO(ParticleELBO):
    r"""The ELBO with a weight on the KL divergence.

    .. math:: L = \sum_b E_{q_\phi(z|x_b)} [\log p_\theta(x_b | z)]
        - \beta \sum_i KL_{ib}, \qquad
        KL_{ib} = E_{q_\phi(z|x_b)} \left[ \log
        \frac{q_\phi(z_i | \cdot, x_b)}{p_\theta(z_i | \cdot)} \right]

    The expectations are means over the particles' draws, also where a KL has a closed form. A
    guide's site without rsample takes the score function, with the mean of the other
    particles as its baseline.

    Args:
        num_particles: K, samples of z for each datum.
        beta: β, a number or a tensor of one number. The attribute may be changed between steps;
            `LatentScale` is a β around any objective.
        plate: Name of the batch plate, where it is ambiguous.

    Raises:
        PvaeError: As `ParticleELBO`, and if beta is negative, which would reward the KL, or NaN.

    Source: Higgins et al. 2017, *β-VAE*.

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
    r"""The ELBO in which each latent site may cost a few nats for free.

    .. math:: L = B \left( \overline{\log p} - \beta \sum_i
        \max(\lambda, \overline{KL_i}) \right)

    with bars for means over the minibatch of B data and over particles, and one KL for each
    latent *site*: where groups of dimensions are to be free each, make each group a site. A
    site below λ has no gradient from its KL.

    Args:
        num_particles: K, samples of z for each datum.
        free_bits: λ, nats of each latent site and datum.
        beta: β, a number or a tensor of one number.
        plate: Name of the batch plate, where it is ambiguous.

    Raises:
        PvaeError: As `ParticleELBO`, and if free_bits or beta is negative or NaN.

    Source: Kingma et al. 2016, *Improving Variational Inference with Inverse Autoregressive
    Flow*, equation 15.

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
    r"""InfoVAE: the ELBO with its KL exchanged, in part, for a divergence of q(z) from p(z).

    .. math:: L = \sum_b \left( E_{q_\phi(z|x_b)} [\log p_\theta(x_b | z)]
        - (1 - \alpha) KL_b \right) - B \, (\alpha + \lambda - 1) \, MMD(q_\phi(z), p_\theta(z))

    with β = 1 − α, :math:`q_\phi(z)` the mean of :math:`q_\phi(z|x_b)` over the data, and

    .. math:: MMD = E_{z, z' \sim q}[k(z, z')] + E_{z, z' \sim p}[k(z, z')]
        - 2 E_{z \sim q, z' \sim p}[k(z, z')], \qquad
        k(z, z') = e^{- \| z - z' \|^2 / 2 h^2}

    estimated without bias (so that it may fall below zero) from one draw of q(z|x) for each
    datum and as many of p(z), and averaged over the particles. All latent sites count as one
    vector of Z dimensions. A minibatch of one datum has no pairs, and keeps the last term alone.

    Args:
        num_particles: K, samples of z for each datum.
        beta: β = 1 − α; 0 is the MMD-VAE.
        mmd_weight: α + λ − 1, nats for each datum.
        bandwidth: h; by default :math:`\sqrt Z`.
        plate: Name of the batch plate, where it is ambiguous.

    Raises:
        PvaeError: As `ParticleELBO`, if a latent site has no rsample, if beta or mmd_weight is
            negative or NaN, or if bandwidth is not positive.

    Source: Zhao, Song & Ermon 2017, *InfoVAE: Information Maximizing Variational Autoencoders*;
    Gretton et al. 2012, *A Kernel Two-Sample Test* (the estimator).

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
    """Returns the unbiased estimate of the MMD of two samples [K, B, Z], meaned over K."""
    off = 1 - torch.eye(z.shape[1], dtype=z.dtype, device=z.device)
    pairs = max(z.shape[1] * (z.shape[1] - 1), 1)

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        distance = (a[:, :, None] - b[:, None]).square().sum(-1)
        return torch.exp(-distance / (2 * width**2))

    within = ((kernel(z, z) + kernel(other, other)) * off).sum((1, 2)) / pairs
    return (within - 2 * kernel(z, other).mean((1, 2))).mean()


class LatentScale(Messenger):
    r"""Scales the latent sites of every program in its context: a KL weight.

    With both programs' latent sites scaled by :math:`\beta`, Pyro's ELBO becomes
    :math:`E_q[\log p(x|z)] - \beta \, KL(q(z|x) \| p(z))`.

    A site y that the model alone has, and sums out, belongs to
    :math:`p(x|z) = \sum_y p(y) \, p(x|z, y)` and keeps its scale; where it is behind the prior,
    :math:`p(z) = \sum_y p(y) \, p(z|y)`, it is scaled as z is.

    Args:
        weight: β, a number or a tensor of one number.

    Raises:
        PvaeError: If the number is negative, which would reward the KL, or NaN; in use, if the
            model's sums hold terms of both log p(z) and log p(x|z).

    Source: Bowman et al. 2016, *Generating Sentences from a Continuous Space* (warm-up);
    Higgins et al. 2017, *β-VAE*.
    """

    def __init__(self, weight: float | Tensor) -> None:
        super().__init__()
        # A tensor may be an input of a recording, whose value is not known.
        unknown = isinstance(weight, Tensor)
        self.weight = weight if unknown else number("weight", weight, zero=True)
        self._fault: str | None = None

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        fault, self._fault = self._fault, None
        if fault is not None:
            raise PvaeError(fault) from None

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        if msg["is_observed"] or site_is_subsample(msg):
            return
        sums, dependent = _summed_by_model(msg)
        if msg["name"] not in sums or any(not site["is_observed"] for site in dependent):
            msg["scale"] = msg["scale"] * self.weight

    def _pyro_post_sample(self, msg: dict[str, Any]) -> None:
        sums, dependent = _summed_by_model(msg)
        if not any(site is msg for site in dependent):
            return
        likelihood = [site["name"] for site in dependent if site["is_observed"]]
        prior = [site["name"] for site in dependent if not site["is_observed"]]
        if likelihood and prior and (isinstance(self.weight, Tensor) or self.weight != 1):
            self._fault = (  # raised at the end: Pyro appends a table to what passes through it
                f"A KL weight (kl_warmup, LatentScale) is on log p(z) alone, and the model's sum "
                f"over {listed(sums)} holds both log p of {listed(prior)} and that of "
                f"{listed(likelihood)}: it cannot be weighed in part. Let the guide have "
                f"{listed(sums)} and sum it out there, or train without a KL weight."
            )
        if prior == [msg["name"]]:
            for site in sums.values():
                site["scale"] = site["scale"] * self.weight


def _summed_by_model(msg: dict[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Finds the sites that only the model has and sums out, and those that depend on them.

    Both are of the program that runs now, up to and with the message. In a guide, whose draws are
    not replayed, there are none.
    """
    replays = [h.trace for h in _PYRO_STACK if isinstance(h, ReplayMessenger)]
    traces = [h.trace for h in _PYRO_STACK if isinstance(h, TraceMessenger)]
    if not replays or not traces:
        return {}, []
    nodes = {**traces[-1].nodes, msg["name"]: msg}
    sites = {name: site for name, site in nodes.items() if site["type"] == "sample"}
    sums = {
        name: site
        for name, site in sites.items()
        if "_enumerate_dim" in site["infer"] and name not in (replays[-1] or ())
    }
    dims = [site["infer"]["_enumerate_dim"] for site in sums.values()]
    dependent = [
        site
        for name, site in sites.items()
        if name not in sums and not site["infer"].get("_deterministic")
        for shape in [getattr(site["fn"], "batch_shape", ())]
        if any(len(shape) >= -dim and shape[dim] > 1 for dim in dims)
    ]
    return sums, dependent
