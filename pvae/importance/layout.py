"""Chooses the layout in which many samples of each datum are drawn together."""

import dataclasses
import functools
import warnings
from collections.abc import Callable, Sequence
from typing import Literal, get_args

import torch
from pyro.poutine import Trace
from torch import Tensor

from pvae.errors import PvaeError, first_line
from pvae.importance.compared import FAILURES, agree, few, rows_at, terms_of
from pvae.importance.enumerated import broadcasts_given, find_enumeration_fault
from pvae.importance.inner import refuse_dependent
from pvae.importance.jacobian import refuse_other_jacobian
from pvae.importance.mixing import refuse_mixing
from pvae.importance.particles import Particles
from pvae.importance.passed import pass_at_once
from pvae.importance.relaxed import with_noise
from pvae.pair import (
    Inspection,
    Structure,
    latent_sites,
    listed,
    memory_for_the_sum,
    trace_of,
)
from pvae.runtime import is_out_of_memory

__all__ = ["Layout", "Strategy", "find_fault", "first_right", "lay_out"]

Strategy = Literal["auto", "plate", "tile", "loop"]

_TRIED = {
    "plate": "a particle plate left of the batch plate",
    "tile": "a batch that repeats each datum",
}


@dataclasses.dataclass(frozen=True)
class Layout:
    """How samples of a pair are drawn together.

    Attributes:
        how: `"plate"`, `"tile"` or `"loop"`.
        structure: The pair's, which says how enumerated sites are summed out.
        small: The data on which layouts were compared.
        bound: Whether the pair only runs with as many data as it was checked with.
        most: An upper bound on the bytes of a call of the model for each row, if it is known.
    """

    how: str
    structure: Structure
    small: tuple[Tensor, ...]
    bound: bool = False
    most: int | None = None


def lay_out(inspection: Inspection, wanted: Strategy = "auto") -> Layout:
    """Finds a layout that is right for a pair; call it inside `quiet`.

    For most pairs three runs show that a particle plate is right and that no data are mixed.
    Otherwise each check runs by itself, to say what is wrong or to choose another layout.

    Args:
        inspection: The pair.
        wanted: The layout, or `"auto"` for the first that is right.

    Raises:
        PvaeError: If data are mixed across the batch, a density is not that of its draws, or
            `wanted` is not right for this pair.

    Warns:
        UserWarning: If a layout other than the plate was chosen, or a check was not possible.
    """
    if wanted not in get_args(Strategy):
        raise PvaeError(
            f"strategy={wanted!r} is not valid: give one of {', '.join(get_args(Strategy))}."
        )
    if wanted in ("auto", "plate") and (most := pass_at_once(inspection)) is not None:
        small = rows_at(inspection.batch, few(inspection.size))
        return Layout("plate", inspection.structure, small, most=most)
    with memory_for_the_sum(inspection.structure):
        small, bound = _small(inspection)
        structure = _choose_enumeration(inspection, small)
    single = _particles(inspection, structure, "loop")
    refuse_mixing(single, small)
    refuse_other_jacobian(single, small)
    layouts = ("plate", "tile", "loop") if wanted == "auto" else (wanted,)
    make = functools.partial(_particles, inspection, structure)
    how, faults = first_right(make, small, layouts)
    if how is None:
        raise PvaeError(f"strategy={wanted!r} is not right for this pair: {faults[0]}.")
    if faults:
        warnings.warn(f"log_weights uses a {how}: {'; '.join(faults)}.", stacklevel=4)
    return Layout(how, structure, small, bound)


def first_right(
    make: Callable[[str], Particles], batch: tuple[Tensor, ...], layouts: Sequence[str]
) -> tuple[str | None, list[str]]:
    """Returns the first layout that is right, or None, and what is wrong with those before it.

    Args:
        make: Returns the `Particles` of a pair in a layout.
        batch: Some data, on which layouts are compared with single samples.
        layouts: The layouts to try, in this order. A `"loop"` is always right.
    """
    single, faults = make("loop"), []
    for how in layouts:
        fault = None if how == "loop" else find_fault(make(how), single, batch)
        if fault is None:
            return how, faults
        faults.append(f"{_TRIED[how]} {fault}")
    return None, faults


def _particles(inspection: Inspection, structure: Structure, how: str) -> Particles:
    return Particles(inspection.model, inspection.guide, structure, inspection.dim, how)


def _small(inspection: Inspection) -> tuple[tuple[Tensor, ...], bool]:
    """Returns a few data, or all if the pair needs them all, and whether it does."""
    batch, structures = inspection.batch, [inspection.structure]
    small = rows_at(batch, few(inspection.size))
    if structures[0].enumerated and not structures[0].together_only:
        structures.append(dataclasses.replace(structures[0], one_by_one=True))
    for structure in structures:
        single = _particles(inspection, structure, "loop")
        try:
            _run(single, small)
            if len(small[0]) == inspection.size:  # too few to have been cut
                _run(single, tuple(torch.cat([t, t]) for t in batch))
        except PvaeError:
            continue
        return small, False
    return batch, True


def _run(single: Particles, batch: tuple[Tensor, ...]) -> None:
    guide_trace, size = single.guide(batch, 1), len(batch[0])
    single.log_terms(guide_trace, 1, size, observed=False)
    single.log_terms(single.model(batch, 1, guide_trace), 1, size)


def _choose_enumeration(inspection: Inspection, small: tuple[Tensor, ...]) -> Structure:
    """Sums discrete sites out one value at a time if a program does not broadcast."""
    structure = inspection.structure
    if not structure.enumerated:
        return structure
    if structure.together_only:
        refuse_dependent(_particles(inspection, structure, "loop"), small)
        return structure
    parallel = _particles(inspection, structure, "loop")
    looped = dataclasses.replace(structure, one_by_one=True)
    one_by_one = _particles(inspection, looped, "loop")
    fault = find_enumeration_fault(parallel, one_by_one, small)
    refuse_dependent(parallel if fault is None else one_by_one, small)
    if fault is not None:
        warnings.warn(
            f"{listed(structure.enumerated)}: summed out one value at a time, because {fault}. "
            'Let the networks take labels with more dimensions, or mark the site "sequential" in '
            "the guide.",
            stacklevel=5,
        )
        return looped
    if not broadcasts_given(parallel, one_by_one, small):
        return dataclasses.replace(structure, one_by_one_given=True)
    return structure


def find_fault(particles: Particles, single: Particles, batch: tuple[Tensor, ...]) -> str | None:
    """Returns how a layout's terms differ from single-sample replays of its draws."""
    num, size = (4 if len(batch[0]) == 3 else 3), len(batch[0])
    try:
        terms, trace = terms_of(particles, batch, num)
        for k in range(num):
            expected, _ = terms_of(single, batch, 1, _one(particles, trace, k, num, size))
            if particles.how == "plate" and len(expected) < len(terms):
                return "cannot be checked (the guide's density is known at its own draws only)"
            for name, value in expected.items():
                if not agree(terms[name].select(-2, k), value.select(-2, 0)):
                    return f"changes log {name}"
    except FAILURES as error:
        if is_out_of_memory(error):
            raise
        return f"fails ({first_line(error.__cause__ or error)[:200]})"
    return None


def _one(particles: Particles, trace: Trace, k: int, num: int, size: int) -> Trace:
    """Returns the values of sample k in the layout of one sample."""
    part, values = particles.cut(trace, k, k + 1, num, size), {}
    for name, site in latent_sites(trace).items():
        if name in particles.structure.enumerated:
            continue
        value = part.nodes[name]["value"]
        if particles.how == "plate":
            axis = value.ndim - site["fn"].event_dim - particles.wide
            value = with_noise(value, lambda t, axis=axis: t.squeeze(axis))
        values[name] = value
    return trace_of(values)
