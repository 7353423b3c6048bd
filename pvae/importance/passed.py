"""Checks the layout of most pairs in three runs, and remembers which pairs passed."""

import weakref
from typing import Any

import torch
from pyro.poutine import Trace
from pyro.poutine.runtime import _PYRO_STACK
from torch import Tensor

from pvae.importance.bits import digest
from pvae.importance.compared import FAILURES, agree, few, rows_at
from pvae.importance.particles import Particles
from pvae.importance.unchanged import marks_of
from pvae.pair import (
    Inspection,
    OwnParameters,
    base_distribution,
    latent_sites,
    observed_sites,
    plates_at,
)
from pvae.runtime import LiveBytes, is_out_of_memory

__all__ = ["pass_at_once"]

_SAMPLES = 3
_passed: weakref.WeakKeyDictionary[Any, tuple[Any, ...]] = weakref.WeakKeyDictionary()


def pass_at_once(inspection: Inspection) -> int | None:
    """Checks in three runs that a pair can be in a particle plate and mixes no data.

    The latents of a few data are sampled in the plate. All samples are replayed as rows, those of
    every second datum in one call and the others in another, together with the samples of the
    inspection. The terms of a row must be equal in the plate, in the replay, and among all data. So
    each datum is compared with and without the others, in batches of different sizes and orders.

    A pair that passed is not checked again until something that its code names has changed.

    Returns:
        An upper bound on the bytes of a call of the model for each row; None if the pair did not
        pass or is of an unusual kind.
    """
    if not _is_usual(inspection):
        return None
    known = all(isinstance(handler, OwnParameters) for handler in _PYRO_STACK)
    state = _state(inspection) if known else None
    if state is not None and (most := _recall(inspection, state)) is not None:
        return most
    try:
        most = _compare(inspection)
    except FAILURES as error:
        if is_out_of_memory(error):
            raise
        return None
    if most is not None and state is not None and _differ(inspection):
        _passed[inspection.model] = (*state, most)
    return most


def _is_usual(inspection: Inspection) -> bool:
    """Whether no site is summed out or auxiliary, and one plate counts the data."""
    structure = inspection.structure
    in_model = latent_sites(structure.model_trace)
    latent = latent_sites(structure.guide_trace)
    return (
        not structure.enumerated
        and not structure.together_only
        and latent.keys() <= in_model.keys()
        and not any(hasattr(site["value"], "_unquantize") for site in latent.values())
        and len(plates_at(structure.model_trace, inspection.dim)) == 1
    )


def _compare(inspection: Inspection) -> int | None:
    structure, size = inspection.structure, inspection.size
    pair = inspection.model, inspection.guide, structure, inspection.dim
    plate, single = Particles(*pair, "plate"), Particles(*pair, "loop")
    index = few(size).to(inspection.batch[0].device)
    small, count = rows_at(inspection.batch, index), len(index)
    draws = plate.guide(small, _SAMPLES)
    with LiveBytes() as made:
        model_trace = plate.model(small, _SAMPLES, draws)
        plate.log_terms(model_trace, _SAMPLES, count)
    together = _terms(plate, draws, model_trace, _SAMPLES, count)
    drawn = plate.rows_of(draws, _SAMPLES, count)
    before = _terms(single, structure.guide_trace, structure.model_trace, 1, size)
    drawn_before = single.rows_of(structure.guide_trace, 1, size)
    for start in (0, 1):
        at = torch.arange(start, count, 2, device=index.device)

        def joined(first: Tensor, rest: Tensor, at: Tensor = at) -> Tensor:
            return torch.cat([first[:, index[at]], rest[:, at].flatten(0, 1)[None]], 1)

        values = {name: joined(drawn_before[name], drawn[name]) for name in drawn}
        data = rows_at(small, at.repeat(_SAMPLES + 1))
        traces = single.guide(data, 1, values), single.model(data, 1, values)
        found = _terms(single, *traces, 1, len(data[0]))
        if not found.keys() == together.keys() == before.keys():
            return None
        for name, term in found.items():
            if not agree(term, joined(before[name], together[name])):
                return None
    return made.peak // (_SAMPLES * count) + 1


def _terms(
    particles: Particles, guide_trace: Trace, model_trace: Trace, num: int, size: int
) -> dict[str, Tensor]:
    q = particles.log_terms(guide_trace, num, size, observed=False)
    p = particles.log_terms(model_trace, num, size)
    return {f"q({n})": t for n, t in q.items()} | {f"p({n})": t for n, t in p.items()}


def _differ(inspection: Inspection) -> bool:
    """Whether the compared data differ: mixing equal data changes nothing."""
    small = rows_at(inspection.batch, few(inspection.size))
    return any(bool((tensor != tensor[:1]).any()) for tensor in small)


def _recall(inspection: Inspection, state: tuple[Any, ...]) -> int | None:
    try:
        *before, most = _passed[inspection.model]
    except (KeyError, TypeError):
        return None
    return most if before[0] == state[0] else None


def _state(inspection: Inspection) -> tuple[Any, ...] | None:
    """Returns all that the checks depend on, with the weak references that identify it.

    None if some of it cannot be identified: such a pair is checked each time.
    """
    try:
        hash(inspection.model), weakref.ref(inspection.model)
        marks, references = marks_of(inspection.model, inspection.guide)
    except (TypeError, RecursionError):
        return None
    traces = inspection.structure.guide_trace, inspection.structure.model_trace
    sites = [
        _signature(s) for t in traces for s in {**latent_sites(t), **observed_sites(t)}.values()
    ]
    learnt = [n["value"] for t in traces for n in t.nodes.values() if n["type"] == "param"]
    learnt = [int(digest(value)) for value in learnt]
    batch = [(t.shape, t.dtype, t.device) for t in inspection.batch]
    modes = (
        torch.get_default_dtype(),
        torch.is_autocast_enabled("cpu"),
        torch.is_autocast_enabled("cuda"),
    )
    where = inspection.plate, inspection.dim, inspection.structure.bounded
    return (marks, sites, learnt, batch, modes, where), references


def _signature(site: dict[str, Any]) -> tuple[Any, ...]:
    fn, frames = site["fn"], site["cond_indep_stack"]
    return (
        site["name"],
        type(base_distribution(fn)),
        fn.batch_shape,
        fn.event_shape,
        site["value"].shape,
        site["value"].dtype,
        site["mask"] is None,
        tuple((frame.name, frame.dim, frame.size) for frame in frames),
    )
