"""Chooses the ELBO that a pair is trained with."""

import copy
from typing import Literal

from pyro.infer import (
    ELBO,
    Trace_ELBO,
    TraceEnum_ELBO,
    TraceMeanField_ELBO,
    TraceTailAdaptive_ELBO,
)

from pvae.errors import PvaeError, nearest
from pvae.objectives.importance_weighted import IWAE_ELBO, STL_ELBO, DReG_ELBO
from pvae.objectives.semi_supervised import SemiSupervised_ELBO
from pvae.pair import Structure, latent_sites, refuse_unlisted
from pvae.runtime import whole

__all__ = ["LossName", "choose_elbo", "plain_elbo"]


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
    labelled: float | None = None,
) -> ELBO:
    r"""Returns the ELBO to train a pair with.

    `"auto"` is `TraceEnum_ELBO` if a site is enumerated in parallel, `TraceMeanField_ELBO` (KL in
    closed form) if every latent site is reparameterised and both programs have the sites in the
    same order, and `Trace_ELBO` otherwise.

    Args:
        loss: An ELBO of `pyro.infer`, an objective from here, or one of the names.
        structure: What `pvae.check` found.
        num_particles: L, the number of samples of :math:`z \sim q(z|x)` in each step.
        labelled: The share of labelled data among all, if minibatches hold another one; `"auto"` is
            `SemiSupervised_ELBO` then.

    Raises:
        PvaeError: If the name is unknown; if num_particles is below one, contradicts that of the
            ELBO, or is 1 for an objective that weighs particles; if TraceMeanField_ELBO cannot take
            the guide; if TraceEnum_ELBO cannot list the values of a site; or if minibatches hold
            another share of labelled data than the objective can weigh.

    Example:
        >>> import pvae, torch
        >>> model, guide = pvae.models.VAE((4,), 2), pvae.guides.MeanField((4,), 2)
        >>> structure = pvae.check(model, guide, torch.ones(8, 4))
        >>> type(choose_elbo("auto", structure)).__name__
        'TraceMeanField_ELBO'
    """
    num_particles = whole("num_particles", num_particles, why="at least one sample of z is needed")
    if labelled is not None:
        loss = _weighing(loss, num_particles, labelled)
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
            nesting = structure.max_plate_nesting
            return _that_fits(TraceEnum_ELBO(num_particles, max_plate_nesting=nesting), structure)
        loss = "TraceMeanField_ELBO" if _mean_field(structure) else "Trace_ELBO"
    if loss not in _ELBOS:
        raise PvaeError(f"loss={loss!r} is not known. {nearest(str(loss), ['auto', *_ELBOS])}")
    return _that_fits(_ELBOS[loss](num_particles), structure)


def _weighing(loss: ELBO | LossName, num_particles: int, labelled: float) -> ELBO:
    loss = SemiSupervised_ELBO(num_particles) if loss == "auto" else copy.copy(loss)
    if not isinstance(loss, SemiSupervised_ELBO):
        name = loss if isinstance(loss, str) else type(loss).__name__
        raise PvaeError(
            f"The minibatches have a labelled_share, and {name} would count labelled data more "
            "often than there are. Train with SemiSupervised_ELBO, which weighs them, or load the "
            "data without labelled_share."
        )
    loss.labelled = labelled if loss.labelled is None else loss.labelled
    return loss


def plain_elbo(loss: ELBO) -> ELBO:
    """Returns the ELBO, or for one of Pyro's `Jit…_ELBO` classes the same ELBO without `Jit`.

    PyTorch's old tracer does not see parameters that stay in their modules, and `pvae.SVI`
    compiles by itself.

    Raises:
        PvaeError: If it is not an ELBO, or an ELBO without a value of its loss.

    Example:
        >>> from pyro.infer import JitTrace_ELBO
        >>> type(plain_elbo(JitTrace_ELBO())).__name__
        'Trace_ELBO'
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
    if isinstance(loss, TraceEnum_ELBO):
        refuse_unlisted(structure)
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
            "num_particles=1 there is only one: it would be the ELBO. Give num_particles=5 or "
            "more, or loss='auto'."
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
