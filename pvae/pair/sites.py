"""Checks that the sites of model and guide match, and fit their distributions and plates."""

import re
from typing import Any

import torch
from pyro.distributions import Unit
from pyro.poutine import Trace

from pvae.distributions import log_prob
from pvae.errors import PvaeError, first_line
from pvae.pair.program import Program, name_of
from pvae.pair.structure import (
    base_distribution,
    kind_of,
    listed,
    mask_of,
    plates_in_words,
)
from pvae.pair.traces import latent_sites, observed_sites
from pvae.runtime import is_out_of_memory

__all__ = ["check_event", "check_match", "check_shape", "is_enumerated"]


def check_match(model: Program, guide: Program, guide_trace: Trace, model_trace: Trace) -> None:
    """Checks that both programs have the same latent sites, and that the model observes data.

    Raises:
        PvaeError: If a site is missing on one side, nothing is observed, or events differ in shape.
    """
    in_guide, in_model = latent_sites(guide_trace), latent_sites(model_trace)
    observed = observed_sites(model_trace)
    known = (
        f"Latent sites of {name_of(model)}: {listed(in_model)}; of {name_of(guide)}: "
        f"{listed(in_guide)}."
    )
    both = [name for name in in_guide if name in observed]
    if both:
        raise PvaeError(
            f"Site {both[0]!r} is observed in the model and sampled in the guide, but a guide "
            f"samples only the model's latent sites. {known} Remove {both[0]!r} from the guide."
        )
    if not observed:
        raise PvaeError(
            f"The model {name_of(model)} observes nothing. {known} Pass obs=x to the pyro.sample "
            "of the data."
        )
    only_guide = [
        n for n, s in in_guide.items() if n not in in_model and not s["infer"].get("is_auxiliary")
    ]
    only_model = [
        n for n, s in in_model.items()
        if n not in in_guide and not is_enumerated(s) and not _is_masked(s)
    ]  # fmt: skip
    if only_guide or only_model:
        parts = []
        if only_guide:
            parts.append(f"the guide samples {listed(only_guide)}, which the model does not have")
        if only_model:
            parts.append(f"the model samples {listed(only_model)}, which the guide does not have")
        raise PvaeError(
            f"The sites of model and guide do not match: {', and '.join(parts)}. {known} Give both "
            "programs latent sites of the same names."
        )
    for name, site in in_guide.items():
        if name in in_model:
            check_event(name, site, in_model[name])
    for name, site in observed.items():
        event = site["fn"].event_shape
        value = site["value"].shape[site["value"].ndim - len(event) :]
        if value != event and site["value"].numel():
            raise PvaeError(
                f"Site {name!r}: the observed value of shape {tuple(site['value'].shape)} ends in "
                f"{tuple(value)}, but the model's {kind_of(site['fn'])} has event shape "
                f"{tuple(event)}. Reshape the data, or the parameters of the distribution."
            )


def _is_masked(site: dict[str, Any]) -> bool:
    """Whether a mask leaves a site out for all data, as if every label were known."""
    mask = mask_of(site)
    return mask is not None and not mask.any()


def check_event(name: str, in_guide: dict[str, Any], in_model: dict[str, Any]) -> None:
    """Raises a PvaeError if a latent site's events have different shapes in the two programs."""
    q, p = in_guide["fn"], in_model["fn"]
    if q.event_shape != p.event_shape:
        raise PvaeError(
            f"Site {name!r}: the guide's {kind_of(q)} has event shape {tuple(q.event_shape)}, the "
            f"model's {kind_of(p)} has {tuple(p.event_shape)}. Give both the same latent_dim and "
            "the same .to_event(n)."
        )


def check_shape(role: str, name: str, site: dict[str, Any]) -> None:
    """Raises a PvaeError if a site's value, distribution and plates do not fit together."""
    fn, value, stack = site["fn"], site["value"], site["cond_indep_stack"]
    where = f"Site {name!r} of the {role}"
    _check_plates(where, fn, stack, fn.batch_shape)
    try:
        log_p = log_prob(fn, value, observed=site["is_observed"])
        shape = log_p.shape
    except Exception as error:
        if is_out_of_memory(error):
            raise
        if site["is_observed"] and not (value.is_floating_point() or value.is_complex()):
            raise PvaeError(
                f"{where}: {kind_of(fn)} has no density of values of type {value.dtype} "
                f"({first_line(error)}). Observe them as floats: obs=x.float()."
            ) from error
        if re.search(r"same dtype|scalar type|type .*should be the same", str(error)):
            raise PvaeError(
                f"{where}: {first_line(error)}. Give the data the type of the parameters: "
                "x.float()."
            ) from error
        raise PvaeError(
            f"{where}: a value of shape {tuple(value.shape)} does not fit {kind_of(fn)} with batch "
            f"shape {tuple(fn.batch_shape)} and event shape {tuple(fn.event_shape)}: {error}. "
            "Change the shape of its parameters, or its .to_event(n)."
        ) from error
    if log_p.is_complex():
        cure = (
            "Give pyro.factor a real number: x.real."
            if isinstance(base_distribution(fn), Unit)
            else "Use real values: torch.view_as_real(x) is [..., 2]."
        )
        raise PvaeError(
            f"{where}: the log density of its {kind_of(fn)} is complex ({log_p.dtype}), but a log "
            f"density is a real number. {cure}"
        )
    _check_plates(where, fn, stack, shape)


def _check_plates(where: str, fn: Any, stack: Any, shape: torch.Size) -> None:
    plates = {frame.dim: frame.size for frame in stack if frame.vectorized}
    here = plates_in_words(stack)
    for dim, size in zip(range(-1, -1 - len(shape), -1), reversed(shape), strict=True):
        if size > 1 and dim not in plates:
            raise PvaeError(
                f"{where}: its {kind_of(fn)} has batch shape {tuple(shape)}, but there is no plate "
                f"at dim {dim}, of size {size} (the site is in {here}). If this dimension is part "
                "of one datum, write .to_event(n), which makes the last n dimensions the event. If "
                f'it counts the data, put the site in pyro.plate("data", len(x), dim={dim}).'
            )
        if size > 1 and plates[dim] not in (-1, size):
            raise PvaeError(
                f"{where}: batch shape {tuple(shape)} does not fit the plates {here}. At dim {dim} "
                f"the plate has size {plates[dim]}, the distribution {size}. Take both sizes from "
                "the data: len(x)."
            )


def is_enumerated(site: dict[str, Any], *marks: str) -> bool:
    """Whether a site is marked to be summed out, not to be sampled `num_samples` times."""
    infer = site["infer"]
    return infer.get("enumerate") in ("parallel", *marks) and not infer.get("num_samples")
