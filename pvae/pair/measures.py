"""Reference measures: checks that log p and log q are densities against the same one."""

import contextlib
import math
from typing import Any

import torch
from pyro.distributions import (
    Delta,
    RelaxedBernoulliStraightThrough,
    RelaxedOneHotCategoricalStraightThrough,
)
from pyro.poutine import Trace
from torch.distributions import biject_to

from pvae.distributions import GumbelSoftmax, inside, is_discrete, is_image, support_of
from pvae.errors import PvaeError
from pvae.pair.program import name_of
from pvae.pair.structure import Inspection, Structure, base_distribution, kind_of, mask_of
from pvae.pair.traces import latent_sites

__all__ = [
    "GLOBAL",
    "gives_a_point",
    "gives_one_code",
    "has_path",
    "in_words",
    "objective_name",
    "other_mask",
    "other_measure",
    "outside_draws",
    "refuse_other_measure",
    "refuse_unbounded",
    "relaxed_in_training",
]

GLOBAL = (
    "Latent site {1!r} stands {0}: it is global, shared by all data, so log p(x) does not split "
    "into one number for each datum. Make it a pyro.param (a point estimate), move it into the "
    "batch plate, or estimate the bound of the whole data set with "
    "pyro.infer.Trace_ELBO().loss(model, guide, data)."
)


_QUANTISED = (RelaxedBernoulliStraightThrough, RelaxedOneHotCategoricalStraightThrough)


def other_measure(name: str, ours: dict[str, Any], theirs: dict[str, Any]) -> str | None:
    """Returns a fault if one program has a density at a site and the other probabilities."""
    q, p = base_distribution(ours["fn"]), base_distribution(theirs["fn"])
    for whose, fn in (("guide", q), ("model", p)):
        if fault := _no_density(fn):
            return f"Site {name!r}: the {whose}'s {kind_of(fn)} {fault}"
    if isinstance(q, Delta):
        return None
    if isinstance(q, _QUANTISED) != isinstance(p, _QUANTISED) and not is_discrete(p):
        hard, other = (q, p) if isinstance(q, _QUANTISED) else (p, q)
        return (
            f"Site {name!r}: {kind_of(hard)} gives out discrete values and has a density of "
            f"relaxed ones, {kind_of(other)} does not, and their ratio gives no bound. Give model "
            "and guide a distribution of the same kind."
        )
    discrete_model = _has_probabilities(p)
    if _has_probabilities(q) == discrete_model:
        return _other_dimension(name, ours["fn"], theirs["fn"])
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


def _other_dimension(name: str, q: Any, p: Any) -> str | None:
    """Returns a fault if one density is on a simplex, say, and the other on the space around it."""
    ours, theirs = _dimension(q), _dimension(p)
    if None in (ours, theirs) or ours == theirs:
        return None
    ours, theirs = (
        f"{kind_of(fn)} is a density on {in_words(support_of(fn))}, of {size} dimensions"
        for fn, size in ((q, ours), (p, theirs))
    )
    return (
        f"Site {name!r}: the guide's {ours}, and the model's {theirs}; their ratio gives no bound. "
        "Give both a distribution of the same support."
    )


def _dimension(fn: Any) -> int | None:
    """Returns the dimension of a support, one less than the values' for a simplex, if known."""
    support = support_of(fn)
    if support is None or is_image(base_distribution(fn)):
        return None
    try:
        shape = biject_to(support).inverse_shape(fn.batch_shape + fn.event_shape)
        return math.prod(shape[len(fn.batch_shape) :])
    except (NotImplementedError, ValueError):
        return None


def has_path(fn: Any) -> bool:
    """Whether `log_prob` is the density of the samples that rsample differentiates.

    It is not if the samples are discrete, as with straight-through gradients, or relaxed.
    """
    fn = base_distribution(fn)
    return not (_has_probabilities(fn) or isinstance(fn, _QUANTISED) or _no_density(fn))


def _has_probabilities(fn: Any) -> bool:
    """Whether a distribution is discrete, transformed or not."""
    return is_discrete(_bases(fn)[-1])


def _no_density(fn: Any) -> str | None:
    """Says why `log_prob` is not that of the samples; None if it is."""
    if isinstance(fn, GumbelSoftmax) and not fn.hard:
        return (
            "has relaxed samples and the probabilities of discrete ones, which gives no bound. It "
            "may train the pair. Evaluate it with hard=True, in eval mode, as "
            "pvae.guides.Categorical does."
        )
    if not isinstance(fn, _QUANTISED) and any(isinstance(b, _QUANTISED) for b in _bases(fn)):
        return (
            "transforms straight-through samples, and so loses the relaxed ones, of which their "
            "density is. Transform the value after pyro.sample."
        )
    return None


def _bases(fn: Any) -> list[Any]:
    found = [fn]
    while hasattr(found[-1], "base_dist"):
        found.append(found[-1].base_dist)
    return found


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


def relaxed_in_training(guide_trace: Trace) -> bool:
    """Whether a guide says that its values are relaxed in training mode, and the ELBO no bound.

    It says so with `infer={"relaxed_in_training": True}` at a site.
    """
    sites = latent_sites(guide_trace).values()
    return any(site["infer"].get("relaxed_in_training") for site in sites)


def objective_name(structure: Structure) -> str:
    """Returns what an ELBO is in training, for a progress bar."""
    if gives_a_point(structure):
        return "log p(x, z)"
    return "relaxed ELBO" if relaxed_in_training(structure.guide_trace) else "ELBO"


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


def refuse_other_measure(structure: Structure) -> None:
    """Raises a PvaeError if a site has a density in one program and probabilities in the other."""
    in_model = latent_sites(structure.model_trace)
    for name, site in latent_sites(structure.guide_trace).items():
        if name in in_model and (fault := other_measure(name, site, in_model[name])):
            raise PvaeError(fault)
