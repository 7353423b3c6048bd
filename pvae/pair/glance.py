"""Finds faults that a pair's traces and one more call of its guide show."""

from pvae.errors import PvaeError
from pvae.pair.parameters import quiet
from pvae.pair.structure import Inspection, Structure
from pvae.pair.traces import latent_sites, sample_sites, trace_guide

__all__ = ["at_a_glance", "plate_sizes"]


def at_a_glance(inspection: Inspection) -> list[str]:
    """Returns the faults that the traces and one more call of the guide show."""
    return plate_sizes(inspection.structure) + _shared(inspection)


def _shared(inspection: Inspection) -> list[str]:
    """Finds a guide that keeps a parameter for each row of a minibatch, whatever its data."""
    model, guide, size = inspection.model, inspection.guide, inspection.size
    half = tuple(t[: size // 2] for t in inspection.batch)
    cure = (
        "Parameters that a guide keeps for the rows of a minibatch, as Pyro's AutoGuides do, are "
        "shared by all minibatches, though their rows are other data each time. Let the guide "
        "compute them from x (pvae.guides.MeanField), or keep them for all data and pass the index "
        "of each datum."
    )
    try:
        dim = inspection.dim
    except PvaeError:
        return []
    if size < 2:
        return []
    try:
        with quiet(model, guide):
            sites = latent_sites(trace_guide(guide, *half))
    except PvaeError as error:
        return [f"The guide runs with {size} data and not with {size // 2}. {error} {cure}"]
    for name, site in sites.items():
        shape = site["value"].shape[: site["value"].ndim - site["fn"].event_dim]
        if len(shape) >= -dim and shape[dim] == size:
            return [
                f"Site {name!r} of the guide has {size} rows for {size // 2} data: it does not "
                f"depend on them. {cure}"
            ]
    return []


def plate_sizes(structure: Structure) -> list[str]:
    """Finds plates of one name that count different data in the two programs."""
    sizes: dict[str, dict[str, int]] = {}
    for role, trace in (("guide", structure.guide_trace), ("model", structure.model_trace)):
        for site in sample_sites(trace).values():
            for frame in site["cond_indep_stack"]:
                if frame.vectorized and frame.full_size not in (None, -1):
                    sizes.setdefault(frame.name, {})[role] = frame.full_size
    return [
        f"The plate {name!r} counts {by['guide']} data in the guide and {by['model']} in the "
        "model, so their terms are weighted differently. Give it the same size in both: "
        f'pyro.plate("{name}", len(x)).'
        for name, by in sizes.items()
        if len(set(by.values())) > 1
    ]
