"""Reference measures: checks that log p and log q are densities against the same one."""

import contextlib
from typing import Any

import torch
from pyro.distributions import Delta

from pvae.distributions import inside, is_discrete, support_of
from pvae.errors import PvaeError
from pvae.pair.program import name_of
from pvae.pair.structure import Inspection, Structure, base_distribution, kind_of, mask_of
from pvae.pair.traces import latent_sites

__all__ = [
    "GLOBAL",
    "gives_a_point",
    "gives_one_code",
    "in_words",
    "other_mask",
    "other_measure",
    "outside_draws",
    "refuse_other_measure",
    "refuse_unbounded",
]

GLOBAL = (
    "Latent site {1!r} stands {0}: it is global, shared by all data, so log p(x) does not split "
    "into one number for each datum. Make it a pyro.param (a point estimate), move it into the "
    "batch plate, or estimate the bound of the whole data set with "
    "pyro.infer.Trace_ELBO().loss(model, guide, data)."
)


def other_measure(name: str, ours: dict[str, Any], theirs: dict[str, Any]) -> str | None:
    """Returns a fault if one program has a density at a site and the other probabilities."""
    q, p = base_distribution(ours["fn"]), base_distribution(theirs["fn"])
    discrete_model = is_discrete(p)
    if is_discrete(q) == discrete_model or isinstance(q, Delta):
        return None
    q, p = kind_of(q), kind_of(p)
    if discrete_model:
        return (
            f"Site {name!r}: the guide's {q} has a density, the model's {p} has probabilities, and "
            "their ratio gives no bound. A relaxed guide may train the pair. To evaluate it, give "
            f'the guide the discrete {p} (with infer={{"enumerate": "parallel"}} to sum it out), '
            "or make the model's site relaxed too."
        )
    return (
        f"Site {name!r}: the guide's {q} has probabilities, the model's {p} has a density, and "
        "their ratio gives no bound. Give both a distribution of the same kind."
    )


def other_mask(name: str, ours: dict[str, Any], theirs: dict[str, Any]) -> str | None:
    """Returns a fault if the two programs mask a site differently."""
    a, b = mask_of(ours), mask_of(theirs)
    if a is None and b is None:
        return None
    try:
        same = bool((torch.as_tensor(True) if b is None else b).eq(True if a is None else a).all())
    except RuntimeError:
        same = False
    if same:
        return None
    return (
        f"Site {name!r} is masked differently in the guide and in the model. The weights give no "
        "bound if only one of them counts its density. Use the same mask in both."
    )


def outside_draws(name: str, ours: dict[str, Any], theirs: dict[str, Any]) -> str | None:
    """Returns a fault if the guide draws values at which the model has no density."""
    fn, value = ours["fn"], ours["value"]
    if inside(theirs["fn"], value) is None:
        return None
    draws, count = [value], max(1, min(100, 2**18 // max(1, value.numel())))
    with contextlib.suppress(NotImplementedError, RuntimeError, TypeError):
        draws.append(fn.sample(torch.Size([count])))
    share = 0.0
    for each in draws:
        outside = ~inside(theirs["fn"], each)
        if theirs["mask"] is not None:
            outside = outside & torch.as_tensor(theirs["mask"], device=outside.device)
        share = max(share, float(outside.double().mean()))
    if not share:
        return None
    return (
        f"Site {name!r}: the guide's {kind_of(fn)} draws outside the support of the model's "
        f"{kind_of(theirs['fn'])} ({in_words(support_of(theirs['fn']))}): {100 * share:.0f} % of "
        "its samples. Their weights are zero, and the ELBO is -inf. Give the guide a distribution "
        "of the same support, or transform its samples to it (TransformedDistribution)."
    )


def in_words(support: Any) -> str:
    """Returns what to call a support in a message: its bounds, or its kind."""
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    text = str(support)
    return text if len(text) < 60 and "tensor" not in text else type(support).__name__.strip("_")


def gives_a_point(structure: Structure) -> bool:
    """Whether the guide gives a point: every latent site is a Delta, and none is auxiliary.

    A Delta on a discrete site is no such point: it has probability one.
    """
    return _all_deltas(structure, discrete=False)


def gives_one_code(structure: Structure) -> bool:
    """Whether the guide gives one value of discrete sites: every latent site is a Delta on one."""
    return _all_deltas(structure, discrete=True)


def _all_deltas(structure: Structure, discrete: bool) -> bool:
    latent = latent_sites(structure.guide_trace)
    in_model = latent_sites(structure.model_trace)
    return bool(latent) and all(
        name in in_model
        and isinstance(base_distribution(site["fn"]), Delta)
        and is_discrete(in_model[name]["fn"]) == discrete
        for name, site in latent.items()
    )


def refuse_unbounded(inspection: Inspection) -> None:
    """Raises a PvaeError if a pair has no bound on the log p(x) of each datum."""
    structure, plate, dim = inspection.structure, inspection.plate, inspection.dim
    size, latent = inspection.size, latent_sites(structure.guide_trace)
    for name, site in latent.items():
        sizes = [frame.size for frame in site["cond_indep_stack"] if frame.dim == dim]
        if not sizes:
            own = [f.name for f in site["cond_indep_stack"] if f.vectorized and f.size > 1]
            fault = GLOBAL.format(f"outside the batch plate {plate!r}", name)
            for other in own[:1]:
                fault += (
                    f" If the plate {other!r} counts the data, make it the leading dimension of "
                    f"the arguments: their leading size, {size}, is taken as the number of data."
                )
            raise PvaeError(fault)
        if sizes[0] not in (-1, size):
            there = f"in a plate of size {sizes[0]} in place of the batch plate {plate!r}"
            raise PvaeError(GLOBAL.format(there, name))
    in_model = latent_sites(structure.model_trace)
    deltas = [n for n, s in latent.items() if isinstance(base_distribution(s["fn"]), Delta)]
    auxiliary = [name for name in latent if name not in in_model]
    for name, site in latent.items():
        if name in auxiliary and not deltas:
            raise PvaeError(
                f"The guide samples {name!r}, which the model does not have. The weights give no "
                "bound without a density of the model for it. Give the model a site of that name "
                "(any density given z keeps the bound), or use pyro.deterministic in the guide."
            )
        other = in_model.get(name)
        if other is not None and (fault := other_mask(name, site, other)):
            raise PvaeError(fault)
        if name in deltas and other is not None and is_discrete(other["fn"]):
            # A point mass on a discrete value has probability one.
            if (torch.as_tensor(base_distribution(site["fn"]).log_density) != 0).any():
                raise PvaeError(
                    f"Site {name!r}: the guide's Delta has a log_density other than 0. On a "
                    "discrete site it is a point of probability one: leave log_density out."
                )
            continue
        # A Delta in both programs is a function of other sites.
        in_both = other is not None and isinstance(base_distribution(other["fn"]), Delta)
        if name in deltas and not auxiliary and not in_both:
            raise PvaeError(
                f"The guide {name_of(inspection.guide)} gives site {name!r} a Delta distribution: "
                "a point has no density, so there is no bound on log p(x) and no importance "
                "weight. Use a guide that has a density, for example pvae.guides.MeanField. A "
                "Delta guide only trains a MAP estimate."
            )
    for name in structure.enumerated:
        for trace in (structure.guide_trace, structure.model_trace):
            stack = trace.nodes[name]["cond_indep_stack"] if name in trace.nodes else ()
            for frame in stack:
                if frame.dim != dim:
                    raise PvaeError(
                        f"Site {name!r} is enumerated inside the plate {frame.name!r}, but only "
                        "sites with one value for each datum can be summed out. Leave out "
                        'infer={"enumerate": "parallel"} to sample it.'
                    )


def refuse_other_measure(structure: Structure) -> None:
    """Raises a PvaeError if a site has a density in one program and probabilities in the other."""
    in_model = latent_sites(structure.model_trace)
    for name, site in latent_sites(structure.guide_trace).items():
        if name in in_model and (fault := other_measure(name, site, in_model[name])):
            raise PvaeError(fault)
