"""check(): runs a pair once and explains what is wrong with it."""

import functools
import warnings
from typing import Any

import pyro
import torch
from pyro.distributions import Delta, Unit
from pyro.infer.autoguide import AutoGuide
from pyro.poutine import Trace
from torch import Tensor

from pvae.distributions import is_discrete, log_prob, unvalidated
from pvae.errors import PvaeError, first_line
from pvae.pair.admission import bounded_sites, check_observed
from pvae.pair.alone import alone
from pvae.pair.arguments import Arguments, check_tensor
from pvae.pair.bounded import in_free_memory
from pvae.pair.fields import opened
from pvae.pair.measures import other_mask, other_measure, outside_draws
from pvae.pair.parameters import OwnParameters
from pvae.pair.program import Program, name_of, refuse_meta
from pvae.pair.structure import Structure, base_distribution, listed, plates_in_words
from pvae.pair.together import trace_pair
from pvae.pair.traces import latent_sites, observed_sites, trace_guide
from pvae.runtime import is_out_of_memory

__all__ = ["check", "look"]


@alone
def check(model: Program, guide: Program, *batch: Any, **kwargs: Any) -> Structure:
    """Runs a pair once and raises an error that explains what is wrong, if anything is.

    Args:
        model: Pyro program p(z) p(x|z), called as `model(*batch, **kwargs)`.
        guide: Pyro program q(z|x), called as `guide(*batch, **kwargs)`.
        *batch: One minibatch, tensors of leading size B, and what else the programs take: see
            `pvae.pair.arguments.Arguments` for what counts the data. Or a dataset, of which 64
            test data are taken.
        **kwargs: Arguments of the programs by name.

    Returns:
        The pair's structure. The random state is as it was before the call.

    Raises:
        PvaeError: If the batch is empty or not finite, a program fails, the sites of model
            and guide do not match, nothing is observed, a site's shape does not fit its
            distribution or its plates, or an observed value lies outside its support.

    Warns:
        UserWarning: If the guide draws outside of the model's support, has a density where the
            model has probabilities, or masks a site otherwise: no bound comes from that.

    Example:
        >>> import torch
        >>> from pvae import check, guides, models
        >>> model, guide = models.VAE((1, 8, 8)), guides.MeanField((1, 8, 8))
        >>> check(model, guide, torch.zeros(4, 1, 8, 8)).latent
        ('z',)
    """
    batch, kwargs, (model, guide) = opened(batch, kwargs, model, guide, few=64)
    structure = look(model, guide, *batch, **kwargs)
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
        _check_tensors(own, guide_trace, model_trace)
        _check_sites(model, guide, guide_trace, model_trace)
    # Grey values under a Bernoulli are told of later, where validation would refuse them.
    for site in (s for t in (guide_trace, model_trace) for s in t.nodes.values()):
        if site["type"] == "sample":
            site["fn"] = unvalidated(site["fn"])
    for role, trace in (("guide", guide_trace), ("model", model_trace)):
        for name, site in {**latent_sites(trace), **observed_sites(trace)}.items():
            _check_shape(role, name, site)

    def sites_again() -> dict[str, dict[str, Any]]:
        with OwnParameters(model, guide), pyro.validation_enabled(False):
            return observed_sites(_traces(model, guide, batch)[1])

    caveat = None
    for name, site in observed_sites(model_trace).items():
        caveat = check_observed(name, site, sites_again) or _discrete_data(name, site) or caveat
    in_guide, in_model = latent_sites(guide_trace), latent_sites(model_trace)
    sites = [*in_guide.items(), *in_model.items(), *observed_sites(model_trace).items()]
    summed = [name for name, site in in_guide.items() if _is_enumerated(site, "sequential")]
    summed += [n for n, s in in_model.items() if n not in in_guide and _is_enumerated(s)]
    dims = [frame.dim for _, s in sites for frame in s["cond_indep_stack"] if frame.vectorized]
    return Structure(
        latent=tuple(latent_sites(guide_trace)),
        observed=tuple(observed_sites(model_trace)),
        enumerated=tuple(summed),
        max_plate_nesting=-min(dims, default=0),
        caveat=caveat,
        bounded=frozenset(bounded_sites(guide_trace, model_trace, batch)),
        remarks=_remarks(guide_trace, model_trace, batch),
        guide_trace=guide_trace,
        model_trace=model_trace,
        together_only=together_only,
    )


def _remarks(guide_trace: Trace, model_trace: Trace, batch: tuple[Tensor, ...]) -> tuple[str, ...]:
    found, in_model = [], latent_sites(model_trace)
    with torch.random.fork_rng(_devices(batch)):
        for name, site in latent_sites(guide_trace).items():
            other = in_model.get(name)
            if other is None:
                continue
            say = [other_measure(name, site, other), other_mask(name, site, other)]
            if say[0] is None and not _is_enumerated(site):
                say.append(outside_draws(name, site, other))
            found += filter(None, say)
    return tuple(found)


def _devices(batch: tuple[Tensor, ...]) -> list[torch.device]:
    return [tensor.device for tensor in batch[:1] if tensor.is_cuda]


def _traces(model: Program, guide: Program, batch: tuple[Tensor, ...]) -> tuple[Trace, Trace, bool]:
    try:
        return trace_pair(model, guide, batch)
    except PvaeError as error:
        # Where the sites do not match, the model's failure is only a consequence.
        prior = _sites_alone(model, batch)
        for name, site in _sites_alone(guide, batch).items():
            if name in prior:
                _check_event(name, site, prior[name])
        raise error


def _sites_alone(model: Program, batch: tuple[Tensor, ...]) -> dict[str, dict[str, Any]]:
    try:
        return latent_sites(trace_guide(model, *batch))
    except PvaeError:
        return {}


def _check_first_seen(guide: Program, size: int) -> None:
    """Refuses an AutoGuide whose parameters belong to another number of data."""
    while isinstance(guide, functools.partial):
        guide = guide.args[-1] if guide.args else guide.func
    first = getattr(guide, "prototype_trace", None) if isinstance(guide, AutoGuide) else None
    if first is None:
        return
    latent = latent_sites(first).values()
    frames = [f for s in latent for f in s["cond_indep_stack"] if f.vectorized]
    sizes = {f.size for f in frames if f.full_size == f.size}
    if sizes and size not in sizes:
        raise PvaeError(
            f"The guide {name_of(guide)} has parameters of its own for each of the {min(sizes)} "
            f"data that it first saw, and is called with {size}: it is not amortised. Call it with "
            "all its data together (pvae.log_weights; batch_size in pvae.fit), or let a network "
            "compute the parameters from x, as pvae.guides.MeanField does."
        )


def _check_batch(arguments: Arguments) -> None:
    for name, tensor in zip(arguments.names, arguments.batch, strict=True):
        if tensor.shape[0] == 0:
            raise PvaeError(
                f"Argument {name} of the batch has shape {tuple(tensor.shape)}: there is no datum "
                "in it. The leading dimension counts the data."
            )
    arguments.check_finite()


def _check_tensors(own: OwnParameters, guide_trace: Trace, model_trace: Trace) -> None:
    refuse_meta(own.parameters)
    for role, trace in (("guide", guide_trace), ("model", model_trace)):
        for name, site in {**latent_sites(trace), **observed_sites(trace)}.items():
            check_tensor(f"The value of site {name!r} in the {role}", site["value"])


def _check_sites(model: Program, guide: Program, guide_trace: Trace, model_trace: Trace) -> None:
    in_guide, in_model = latent_sites(guide_trace), latent_sites(model_trace)
    observed = observed_sites(model_trace)
    known = f"latent sites of {name_of(model)}: {listed(in_model)}; of {name_of(guide)}: "
    known += listed(in_guide)
    both = [name for name in in_guide if name in observed]
    if both:
        raise PvaeError(
            f"Site {both[0]!r} is observed in the model and sampled in the guide; a guide samples "
            f"only what the model leaves latent. {known[0].upper()}{known[1:]}. Take it out of the "
            "guide."
        )
    only_guide = [
        n for n, s in in_guide.items() if n not in in_model and not s["infer"].get("is_auxiliary")
    ]
    only_model = [n for n, s in in_model.items() if n not in in_guide and not _is_enumerated(s)]
    if only_guide or only_model:
        parts = []
        if only_guide:
            parts.append(f"the guide samples {listed(only_guide)}, which the model does not have")
        if only_model:
            parts.append(f"the model samples {listed(only_model)}, which the guide does not have")
        if not observed:
            parts.append("the model observes nothing (pass obs=x to the data's pyro.sample)")
        raise PvaeError(
            f"The sites of model and guide do not match: {' and '.join(parts)} ({known}). Give "
            "both programs the same latent sites by name."
        )
    if not observed:
        raise PvaeError(
            f"The model {name_of(model)} observes nothing: pass obs=x to the pyro.sample of the "
            f"data. Its sample sites: {listed(in_model)}."
        )
    for name, site in in_guide.items():
        if name in in_model:
            _check_event(name, site, in_model[name])
    for name, site in observed.items():
        event = site["fn"].event_shape
        value = site["value"].shape[site["value"].ndim - len(event) :]
        if value != event and site["value"].numel():
            raise PvaeError(
                f"Site {name!r}: the observed value has shape {tuple(site['value'].shape)}, whose "
                f"last {len(event)} dimensions {tuple(value)} are not the event shape "
                f"{tuple(event)} of the model's {_kind(site)}. Reshape the data, or the "
                "parameters of the distribution."
            )


def _check_event(name: str, guide_site: dict[str, Any], model_site: dict[str, Any]) -> None:
    ours, theirs = guide_site["fn"], model_site["fn"]
    if ours.event_shape != theirs.event_shape:
        raise PvaeError(
            f"Site {name!r}: the guide's {_kind(guide_site)} has event shape "
            f"{tuple(ours.event_shape)}, the model's {_kind(model_site)} has "
            f"{tuple(theirs.event_shape)}. Make both the same: the same latent_dim, and the same "
            ".to_event(n)."
        )


def _check_shape(role: str, name: str, site: dict[str, Any]) -> None:
    _check_plates(role, name, site, site["fn"].batch_shape)
    try:
        log_p = log_prob(site["fn"], site["value"], observed=site["is_observed"])
        shape = log_p.shape
    except Exception as error:
        value = site["value"]
        if is_out_of_memory(error):
            raise
        if site["is_observed"] and not (value.is_floating_point() or value.is_complex()):
            raise PvaeError(
                f"Site {name!r} of the {role}: {_kind(site)} has no density of values of the type "
                f"{value.dtype} ({first_line(error)}). Observe them as floats: obs=x.float()."
            ) from error
        raise PvaeError(
            f"Site {name!r} of the {role}: a value of shape {tuple(site['value'].shape)} does not "
            f"fit {_kind(site)} with batch shape {tuple(site['fn'].batch_shape)} and event shape "
            f"{tuple(site['fn'].event_shape)}: {error}. Make its parameters, and .to_event(n), fit "
            "the value."
        ) from error
    if log_p.is_complex():
        cure = (
            "Give pyro.factor a real number, x.real"
            if isinstance(base_distribution(site["fn"]), Unit)
            else "Let it be of real values: torch.view_as_real(x) is [..., 2]"
        )
        raise PvaeError(
            f"Site {name!r} of the {role}: the log density of its {_kind(site)} is complex "
            f"({log_p.dtype}), and a log density is a real number. {cure}."
        )
    _check_plates(role, name, site, shape)


def _check_plates(role: str, name: str, site: dict[str, Any], shape: torch.Size) -> None:
    plates = {frame.dim: frame for frame in site["cond_indep_stack"] if frame.vectorized}
    here = plates_in_words(site["cond_indep_stack"])
    for i, size in enumerate(reversed(shape)):
        frame = plates.get(-1 - i)
        if frame is None and size > 1:
            raise PvaeError(
                f"Site {name!r} of the {role}: its {_kind(site)} has batch shape {tuple(shape)}, "
                f"but no plate stands at dim {-1 - i}, of size {size} (plates here: {here}). "
                "If this dimension is part of one datum, write .to_event(n) to count the last n "
                "dimensions to the event; if it counts "
                f'the data, put the site in pyro.plate("data", len(x), dim={-1 - i}).'
            )
        if frame is not None and frame.size not in (-1, size) and size > 1:
            raise PvaeError(
                f"Site {name!r} of the {role}: batch shape {tuple(shape)} does not fit the plates "
                f"{here}: at dim {-1 - i} the plate has size "
                f"{frame.size}, the distribution {size}. Take both sizes from the data: len(x)."
            )


def _discrete_data(name: str, site: dict[str, Any]) -> str | None:
    """Returns a caveat if a continuous density is used for values in equal steps."""
    fn, value = site["fn"], site["value"]
    if isinstance(base_distribution(fn), Delta | Unit) or not value.is_floating_point():
        return None
    if is_discrete(fn):
        return None
    known = value[value.isfinite()].double()
    steps = known.unique()
    # Values that were measured hardly ever come again; levels do, each of them many times.
    if not 2 <= len(steps) <= 256 or known.numel() < 8 * len(steps):
        return None
    low, step = steps[0], steps.diff().min()
    k = (steps - low) / step
    if not ((k - k.round()).abs() < 0.02).all() or k[-1] > 255.5:
        return None
    return (
        f"not a likelihood: site {name!r} has a {_kind(site)} density, which is for continuous "
        f"values, and the data take {len(steps)} values in steps of {float(step):.3g}; the numbers "
        "are log densities at these points, which grow without bound as the scale shrinks, and "
        "no log probabilities"
    )


def _is_enumerated(site: dict[str, Any], *marks: str) -> bool:
    """Whether a site is marked to be summed out, not to be sampled `num_samples` times."""
    infer = site["infer"]
    return infer.get("enumerate") in ("parallel", *marks) and not infer.get("num_samples")


def _kind(site: dict[str, Any]) -> str:
    return type(base_distribution(site["fn"])).__name__
