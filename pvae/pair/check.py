"""check(): runs a pair once and explains what is wrong with it."""

import dataclasses
import warnings
from typing import Any

import pyro
import torch
from pyro.infer.autoguide import AutoGuide
from pyro.poutine import Trace
from torch import Tensor

from pvae.distributions import unvalidated
from pvae.errors import PvaeError
from pvae.pair.admission import bounded_sites, check_observed, in_steps
from pvae.pair.alone import alone
from pvae.pair.arguments import Arguments
from pvae.pair.bounded import in_free_memory
from pvae.pair.dense import check_tensor
from pvae.pair.fields import opened
from pvae.pair.measures import other_mask, other_measure, outside_draws
from pvae.pair.parameters import OwnParameters
from pvae.pair.program import Program, evaluating, innermost, name_of, refuse_meta, same_buffers
from pvae.pair.sites import check_event, check_match, check_shape, is_enumerated
from pvae.pair.structure import Structure
from pvae.pair.together import trace_pair
from pvae.pair.traces import latent_sites, observed_sites, sample_sites, trace_guide

__all__ = ["check", "look"]

Sites = dict[str, dict[str, Any]]


@alone
def check(model: Program, guide: Program, *batch: Any, **kwargs: Any) -> Structure:
    """Runs a pair once and raises an error that explains what is wrong, if anything is.

    Args:
        model: Pyro program p(z) p(x|z), called as `model(*batch, **kwargs)`.
        guide: Pyro program q(z|x), called as `guide(*batch, **kwargs)`.
        *batch: One minibatch: tensors of leading size B, and any other arguments of the programs
            (`pvae.pair.arguments.Arguments` says which of them hold data). Or a dataset, of which
            64 test data are taken.
        **kwargs: Arguments of the programs by name.

    Returns:
        The pair's structure. The random state and all buffers are unchanged.

    Raises:
        PvaeError: If the batch is empty or not finite, a program fails, the sites of model
            and guide do not match, nothing is observed, a site's shape does not fit its
            distribution or its plates, or an observed value lies outside its support.

    Warns:
        UserWarning: If the guide, in eval mode, draws outside the model's support, has a density
            where the model has probabilities, or masks a site differently. There is no bound then.

    Example:
        >>> import torch
        >>> from pvae import check, guides, models
        >>> model, guide = models.VAE((1, 8, 8)), guides.MeanField((1, 8, 8))
        >>> check(model, guide, torch.zeros(4, 1, 8, 8)).latent
        ('z',)
    """
    batch, kwargs, (model, guide) = opened(batch, kwargs, model, guide, few=64)
    with same_buffers(model, guide):
        structure = look(model, guide, *batch, **kwargs)
        if structure.remarks:  # a guide that is relaxed in training alone has a bound
            with evaluating(model, guide):
                remarks = look(model, guide, *batch, **kwargs).remarks
            structure = dataclasses.replace(structure, remarks=remarks)
    for remark in structure.remarks:
        warnings.warn(remark, stacklevel=3)
    return structure


@torch.no_grad()
@in_free_memory("one call of the pair")
def look(model: Program, guide: Program, *batch: Any, **kwargs: Any) -> Structure:
    """Does what `check` does, but returns its remarks in the structure instead of warning."""
    arguments = Arguments(batch, kwargs)
    _check_batch(arguments)
    _check_first_seen(guide, arguments.size)
    model, guide = arguments.bind(model, guide)
    batch = arguments.batch
    own = OwnParameters(model, guide)
    with torch.random.fork_rng(_devices(batch)), own, pyro.validation_enabled(True):
        guide_trace, model_trace, together_only = _traces(model, guide, batch)
        refuse_meta(own.parameters)
        sites = [
            (role, name, site)
            for role, trace in (("guide", guide_trace), ("model", model_trace))
            for name, site in sample_sites(trace).items()
        ]
        for role, name, site in sites:
            check_tensor(f"The value of site {name!r} in the {role}", site["value"])
        check_match(model, guide, guide_trace, model_trace)
    # Validation would refuse grey values under a Bernoulli, which get a caveat instead.
    for trace in (guide_trace, model_trace):
        for site in trace.nodes.values():
            if site["type"] == "sample":
                site["fn"] = unvalidated(site["fn"])
    for role, name, site in sites:
        check_shape(role, name, site)

    def observed_again() -> Sites:
        with OwnParameters(model, guide), pyro.validation_enabled(False):
            return observed_sites(_traces(model, guide, batch)[1])

    in_guide, in_model = latent_sites(guide_trace), latent_sites(model_trace)
    observed, caveat = observed_sites(model_trace), None
    for name, site in observed.items():
        caveat = check_observed(name, site, observed_again) or in_steps(name, site) or caveat
    summed = [name for name, site in in_guide.items() if is_enumerated(site, "sequential")]
    summed += [n for n, s in in_model.items() if n not in in_guide and is_enumerated(s)]
    stacks = [s["cond_indep_stack"] for ss in (in_guide, in_model, observed) for s in ss.values()]
    dims = [frame.dim for stack in stacks for frame in stack if frame.vectorized]
    return Structure(
        latent=tuple(in_guide),
        observed=tuple(observed),
        enumerated=tuple(summed),
        max_plate_nesting=-min(dims, default=0),
        caveat=caveat,
        bounded=frozenset(bounded_sites(guide_trace, model_trace, batch)),
        remarks=_remarks(in_guide, in_model, batch),
        guide_trace=guide_trace,
        model_trace=model_trace,
        together_only=together_only,
    )


def _remarks(in_guide: Sites, in_model: Sites, batch: tuple[Tensor, ...]) -> tuple[str, ...]:
    found = []
    with torch.random.fork_rng(_devices(batch)):
        for name, q in in_guide.items():
            if (p := in_model.get(name)) is None:
                continue
            measure = other_measure(name, q, p)
            found += [measure, other_mask(name, q, p)]
            if measure is None and not is_enumerated(q):
                found.append(outside_draws(name, q, p))
    return tuple(filter(None, found))


def _devices(batch: tuple[Tensor, ...]) -> list[torch.device]:
    return [tensor.device for tensor in batch[:1] if tensor.is_cuda]


def _traces(model: Program, guide: Program, batch: tuple[Tensor, ...]) -> tuple[Trace, Trace, bool]:
    try:
        return trace_pair(model, guide, batch)
    except PvaeError as error:
        # If the sites do not match, the model's failure is only a consequence.
        prior = _sites_alone(model, batch)
        for name, site in _sites_alone(guide, batch).items():
            if name in prior:
                check_event(name, site, prior[name])
        raise error


def _sites_alone(program: Program, batch: tuple[Tensor, ...]) -> Sites:
    try:
        return latent_sites(trace_guide(program, *batch))
    except PvaeError:
        return {}


def _check_first_seen(guide: Program, size: int) -> None:
    """Refuses an AutoGuide whose parameters belong to another number of data."""
    guide = innermost(guide)
    first = getattr(guide, "prototype_trace", None) if isinstance(guide, AutoGuide) else None
    if first is None:
        return
    frames = [f for s in latent_sites(first).values() for f in s["cond_indep_stack"]]
    sizes = {f.size for f in frames if f.vectorized and f.full_size == f.size}
    if sizes and size not in sizes:
        raise PvaeError(
            f"The guide {name_of(guide)} keeps separate parameters for each of the {min(sizes)} "
            f"data of its first call, but it is called with {size} data: it is not amortised. Call "
            "it with all its data together (pvae.log_weights; batch_size in pvae.fit), or let a "
            "network compute the parameters from x, as pvae.guides.MeanField does."
        )


def _check_batch(arguments: Arguments) -> None:
    for name, tensor in zip(arguments.names, arguments.batch, strict=True):
        if tensor.shape[0] == 0:
            raise PvaeError(
                f"Argument {name} of the batch has shape {tuple(tensor.shape)}: there is no datum "
                "in it. The leading dimension counts the data."
            )
    arguments.check_finite()
