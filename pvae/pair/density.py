"""Which density of the data a model has: of which fields, and given which."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pvae.distributions import Completed
from pvae.errors import PvaeError
from pvae.pair.fields import signature_of
from pvae.pair.parameters import quiet
from pvae.pair.structure import Inspection
from pvae.pair.traces import observed_sites, sample_sites, trace_model
from pvae.runtime import own_random_state

__all__ = ["density_of"]


def density_of(inspection: Inspection, names: Sequence[str] | None = None) -> str:
    """Returns the density whose logarithm the weights bound, such as `p(x)` or `p(x | y)`.

    To find out about a field, its rows are moved by one datum. It is observed if a site has its
    name, or if an observed value changes with it and with no field before it; it is left out if
    nothing in the model changes; otherwise it is given. Of a field in a `Completed` density, the
    missing values are observed and the known ones are given.

    Args:
        inspection: An inspection of the pair.
        names: The names of the fields in the batch. None for positional arguments: the first one
            is x, and the others have the names of the model's arguments.

    Example:
        >>> import torch
        >>> from pvae import guides, inspect, models
        >>> model = models.ConditionalVAE((1, 8, 8))
        >>> guide = guides.ConditionalMeanField(model, (1, 8, 8))
        >>> density_of(inspect(model, guide, torch.zeros(4, 1, 8, 8), torch.arange(4)))
        'p(x | y)'
    """
    names = _positional(inspection) if names is None else names
    sites, seen = observed_sites(inspection.structure.model_trace), set()
    observed, given, before = [], [], _numbers(inspection, inspection.batch)
    for i, name in enumerate(names):
        changed = _changed(inspection, i, before)
        values = {site for what, site in changed if what == "value"}
        if not {name, f"{name}_observed"}.isdisjoint(sites) or values - seen:
            observed.append(name)
        elif changed:
            given.append(name)
        seen |= values
    if observed and any(isinstance(site["fn"], Completed) for site in sites.values()):
        given = [f"{observed[0]}_known", *given]
        observed[0] = f"{observed[0]}_missing"
    observed = observed or [name for name in names[:1] if name not in given] or [*sites]
    return f"p({' | '.join(', '.join(each) for each in (observed, given) if each)})"


def _positional(inspection: Inspection) -> list[str]:
    signature, count = signature_of(inspection.model), len(inspection.batch)
    names = [] if signature is None else [*signature.parameters][:count]
    numbered = [f"argument {i + 1}" for i in range(len(names), count)]
    return ["x", *[*names, *numbered][1:]]


def _changed(
    inspection: Inspection, index: int, before: dict[tuple[str, str], Tensor]
) -> set[tuple[str, str]]:
    """Returns the observed values and the densities that change with a field."""
    batch = list(inspection.batch)
    moved = batch[index].roll(1, 0)
    if torch.equal(moved, batch[index]):  # one datum, or the same value everywhere
        moved = (moved == 0).to(moved.dtype)
    batch[index] = moved
    after = _numbers(inspection, batch)
    if not after:  # the model needs this field's own values
        return {key for key in before if key[0] == "density"}
    return {key for key in before.keys() | after.keys() if not _same(before, after, key)}


def _numbers(inspection: Inspection, batch: Sequence[Tensor]) -> dict[tuple[str, str], Tensor]:
    """Returns the observed values and the densities of the model; none if it does not run."""
    model, draws = inspection.model, inspection.structure.guide_trace
    try:
        with quiet(model, inspection.guide), own_random_state(0):
            trace = trace_model(model, draws, *batch)
            found = {("density", name): _log_prob(s) for name, s in sample_sites(trace).items()}
    except PvaeError:
        return {}
    values = {("value", name): site["value"] for name, site in observed_sites(trace).items()}
    return found | values


def _log_prob(site: dict[str, Any]) -> Tensor:
    found = site["fn"].log_prob(site["value"])
    return found if site["mask"] is None else torch.where(torch.as_tensor(site["mask"]), found, 0.0)


def _same(before: dict[Any, Tensor], after: dict[Any, Tensor], key: Any) -> bool:
    a, b = before.get(key), after.get(key)
    return (
        a is not None
        and b is not None
        and a.shape == b.shape
        and torch.allclose(a.double(), b.double(), 0, 0, equal_nan=True)
    )
