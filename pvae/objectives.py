"""Objectives: which of Pyro's ELBOs suits a pair, and what Pyro's ELBOs lack."""

from typing import Any, Literal

from pyro.infer import ELBO, Trace_ELBO, TraceEnum_ELBO, TraceMeanField_ELBO
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample

from pvae.errors import PvaeError, nearest
from pvae.pair import latent_sites
from pvae.structure import Structure

__all__ = ["LatentScale", "choose_elbo"]

_ELBOS = {"Trace_ELBO": Trace_ELBO, "TraceMeanField_ELBO": TraceMeanField_ELBO}


def choose_elbo(
    loss: ELBO | Literal["auto", "Trace_ELBO", "TraceMeanField_ELBO"],
    structure: Structure,
    num_particles: int = 1,
) -> ELBO:
    r"""Returns the ELBO to train a pair with.

    `"auto"` takes the closed-form KL (`TraceMeanField_ELBO`) where it is known to be right:
    every latent site is reparameterised, and model and guide have them in the same order;
    `TraceEnum_ELBO` where a site is enumerated in parallel; else `Trace_ELBO`.

    Args:
        loss: An ELBO of `pyro.infer` or one of the names.
        structure: What `pvae.check` found.
        num_particles: L, the number of samples of :math:`z \sim q(z|x)` in each step.

    Raises:
        PvaeError: If the name is unknown or num_particles is below one.
    """
    if isinstance(loss, ELBO):
        return loss
    if num_particles < 1:
        raise PvaeError(f"num_particles={num_particles}: at least one sample of z is needed.")
    if loss == "auto":
        if structure.enumerated:
            return TraceEnum_ELBO(num_particles, max_plate_nesting=structure.max_plate_nesting)
        loss = "TraceMeanField_ELBO" if _mean_field(structure) else "Trace_ELBO"
    if loss not in _ELBOS:
        raise PvaeError(f"loss={loss!r} is not known. {nearest(str(loss), ['auto', *_ELBOS])}")
    return _ELBOS[loss](num_particles)


def _mean_field(structure: Structure) -> bool:
    guide = latent_sites(structure.guide_trace)
    return list(guide) == list(latent_sites(structure.model_trace)) and all(
        site["fn"].has_rsample for site in guide.values()
    )


class LatentScale(Messenger):
    r"""Scales the latent sites of every program in its context: a KL weight.

    With both programs' latent sites scaled by :math:`\beta`, Pyro's ELBO becomes
    :math:`E_q[\log p(x|z)] - \beta \, KL(q(z|x) \| p(z))`.

    Args:
        weight: β.

    Source: Bowman et al. 2016, *Generating Sentences from a Continuous Space* (warm-up);
    Higgins et al. 2017, *β-VAE*.
    """

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.weight = weight

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        if not msg["is_observed"] and not site_is_subsample(msg):
            msg["scale"] = msg["scale"] * self.weight
