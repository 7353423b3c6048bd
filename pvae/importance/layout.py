"""What evaluation must not do: bound what has no bound, or draw samples in a wrong layout."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from pyro.distributions import Delta
from pyro.poutine import Trace
from torch import Tensor

from pvae.errors import PvaeError, first_line
from pvae.importance.particles import with_noise
from pvae.pair import (
    Program,
    Structure,
    base_distribution,
    latent_sites,
    listed,
    name_of,
    other_mask,
    other_measure,
    trace_of,
)
from pvae.runtime import is_out_of_memory

if TYPE_CHECKING:
    from pvae.importance.particles import Particles

__all__ = [
    "GLOBAL",
    "agree",
    "broadcasts_given",
    "find_enumeration_fault",
    "find_fault",
    "gives_a_point",
    "refuse_other_jacobian",
    "refuse_other_measure",
    "refuse_unbounded",
    "terms_of",
]

GLOBAL = (
    "Latent site {1!r} stands {0}: it is global, shared by all data, so that log p(x) does not "
    "split into one number for each datum. Make it a pyro.param (a point estimate), move it into "
    "the batch plate, or estimate the bound of the whole data set with "
    "pyro.infer.Trace_ELBO().loss(model, guide, data)."
)
_MOST_LATENTS = 512  # of one datum, whose Jacobian is computed
_CALLS = 32  # of a program, to compare with


def find_fault(particles: Particles, single: Particles, batch: tuple[Tensor, ...]) -> str | None:
    """Says how a layout's per-site terms differ from single replays of the same draws."""
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
    except (PvaeError, RuntimeError, IndexError) as error:
        if is_out_of_memory(error):
            raise
        return f"fails ({first_line(error.__cause__ or error)[:200]})"
    return None


def find_enumeration_fault(
    parallel: Particles, one_by_one: Particles, batch: tuple[Tensor, ...]
) -> str | None:
    """Says how sites that are summed out together differ from the same ones a value at a time.

    None where they agree, or where a program runs in no other way than together.
    """
    try:
        together, trace = terms_of(parallel, batch, 1)
        names = parallel.structure.enumerated
        calls = math.prod(together[f"p({name})"].shape[-3 - i] for i, name in enumerate(names))
    except (PvaeError, RuntimeError, IndexError) as error:
        if is_out_of_memory(error):
            raise
        failure = error
    else:
        if calls > _CALLS:
            return None
        failure = None
    try:
        apart, trace = terms_of(one_by_one, batch, 1)
    except (PvaeError, RuntimeError, IndexError, NotImplementedError) as error:
        if failure is not None and not is_out_of_memory(error):
            raise failure from None
        return None
    if failure is not None:
        return f"together it fails ({first_line(failure.__cause__ or failure)[:200]})"
    enumerated = parallel.structure.enumerated
    values = {n: s["value"] for n, s in latent_sites(trace).items() if n not in enumerated}
    together, _ = terms_of(parallel, batch, 1, trace_of(values))
    for name, value in apart.items():
        if name in together and not agree(together[name], value):
            return f"together it changes log {name}"
    return None


def broadcasts_given(parallel: Particles, one_by_one: Particles, batch: tuple[Tensor, ...]) -> bool:
    """Whether sites are summed out right together where the other latents are the model's draws.

    Those have no dimensions of the sites that are summed out, which the guide's may have. True
    also where the programs run in no other way.
    """
    size = len(batch[0])

    def terms(particles: Particles, role: str) -> dict[str, Tensor] | None:
        run = particles.model if role == "model" else particles.guide
        try:
            return particles.log_terms(run(batch, 1, rows), 1, size, observed=role == "model")
        except (PvaeError, RuntimeError, IndexError, NotImplementedError) as error:
            if is_out_of_memory(error):
                raise
            return None

    try:
        rows = parallel.rows_of(parallel.prior(batch, 1), 1, size)
    except PvaeError:
        return True
    for role in ("model", "guide"):
        together = terms(parallel, role)
        if together is not None and _calls(together.values()) > _CALLS:
            continue
        apart = terms(one_by_one, role)
        if apart is None:
            continue
        if together is None or not all(agree(together[name], t) for name, t in apart.items()):
            return False
    return True


def _calls(terms: Iterable[Tensor]) -> int:
    """How many combinations the values of enumerated sites have in terms [*enumerated, K, B]."""
    return math.prod(torch.broadcast_shapes(*(t.shape[:-2] for t in terms)))


def gives_a_point(structure: Structure) -> bool:
    """Whether the guide's draw is a point: every latent site a Delta, nothing random behind it."""
    latent = latent_sites(structure.guide_trace)
    in_model = latent_sites(structure.model_trace)
    return bool(latent) and all(
        name in in_model and isinstance(base_distribution(site["fn"]), Delta)
        for name, site in latent.items()
    )


def refuse_unbounded(structure: Structure, guide: Program, plate: str, dim: int, size: int) -> None:
    """Raises a PvaeError if a pair has no bound on the log p(x) of each of B = `size` data."""
    latent = latent_sites(structure.guide_trace)
    for name, site in latent.items():
        sizes = [frame.size for frame in site["cond_indep_stack"] if frame.dim == dim]
        if not sizes:
            own = [f.name for f in site["cond_indep_stack"] if f.vectorized and f.size > 1]
            fault = GLOBAL.format(f"outside the batch plate {plate!r}", name)
            for plate in own[:1]:
                fault += (
                    f" If the plate {plate!r} counts the data, put them first: the arguments' "
                    f"leading size, {size}, is taken for their number."
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
                f"The guide samples {name!r}, which the model does not have: without a density of "
                "the model for it, the weights bound nothing. Give the model a site of that name "
                "(any density given z keeps the bound), or use pyro.deterministic in the guide."
            )
        other = in_model.get(name)
        if other is not None and (fault := other_mask(name, site, other)):
            raise PvaeError(fault)
        if name in deltas and not auxiliary and not _is_delta(other):
            raise PvaeError(
                f"The guide {name_of(guide)} gives site {name!r} a Delta distribution: a "
                "point has no density, so there is no bound on log p(x) and no importance "
                "weight. Take a guide that has a density (for example pvae.guides.MeanField); a "
                "Delta guide trains a MAP estimate only."
            )
    for name in structure.enumerated:
        for trace in (structure.guide_trace, structure.model_trace):
            stack = trace.nodes[name]["cond_indep_stack"] if name in trace.nodes else ()
            for frame in stack:
                if frame.dim != dim:
                    raise PvaeError(
                        f"Site {name!r} is enumerated inside the plate {frame.name!r}; only "
                        "sites with one value for each datum can be summed out so far. Leave "
                        'out infer={"enumerate": "parallel"} to sample it.'
                    )


def _is_delta(site: dict[str, Any] | None) -> bool:
    """Whether a site is a Delta; of a model and its guide both, it is a function of the others."""
    return site is not None and isinstance(base_distribution(site["fn"]), Delta)


def refuse_other_measure(structure: Structure) -> None:
    """Raises a PvaeError if a site has a density in one program and probabilities in the other."""
    in_model = latent_sites(structure.model_trace)
    for name, site in latent_sites(structure.guide_trace).items():
        if name in in_model and (fault := other_measure(name, site, in_model[name])):
            raise PvaeError(fault)


def refuse_other_jacobian(single: Particles, batch: tuple[Tensor, ...]) -> None:
    r"""Raises a PvaeError if Deltas of auxiliary draws do not carry the density of their values.

    As in Pyro's AutoGuides, :math:`e \sim q(e|x)` and z = f(e) as a Delta have the density

    .. math:: \log q(z|x) = \log q(e|x) - \log \left| \det \frac{df}{de} \right|

    where f is a bijection and the last term is the Delta's `log_density`. Both are compared.

    Args:
        single: Runs the pair for one sample.
        batch: Some data.
    """
    in_model, size = latent_sites(single.structure.model_trace), len(batch[0])
    latent = latent_sites(single.structure.guide_trace)
    deltas = [n for n, s in latent.items() if isinstance(base_distribution(s["fn"]), Delta)]
    auxiliary = [name for name in latent if name not in in_model]
    if not auxiliary or not deltas:
        return
    latent = latent_sites(single.guide(batch, 1))
    kept = {n: s["value"].detach() for n, s in latent.items() if n not in deltas}
    events = {name: site["fn"].event_dim for name, site in latent.items()}
    with torch.enable_grad():
        draws = {name: kept[name].clone().requires_grad_() for name in auxiliary}
        trace = single.guide(batch, 1, trace_of(kept | draws))
        points = [
            single.rows(trace.nodes[name]["value"], events[name], 1, size).reshape(size, -1)
            for name in deltas
        ]
        z = torch.cat(points, -1)
        numel = sum(draw.numel() for draw in draws.values()) // size
        what = f"The guide draws {listed(auxiliary)} and gives {listed(deltas)} as a function of it"
        if z.shape[-1] != numel:
            raise PvaeError(
                f"{what}, {numel} values for {z.shape[-1]}: that is no bijection, and the density "
                "of the latter is not known. Give the model the auxiliary site too (any density "
                "given z keeps the bound), or the guide a distribution of z itself."
            )
        if numel > _MOST_LATENTS or not z.requires_grad:
            why = f"{numel} values" if z.requires_grad else "without a gradient"
            raise PvaeError(
                f"{what} ({why}): whether log_density of the Delta is -log |det| of its Jacobian "
                "cannot be checked. Write a TransformedDistribution in place of both."
            )
        slopes = [
            torch.autograd.grad(
                z[:, i].sum(), list(draws.values()), retain_graph=True, allow_unused=True
            )
            for i in range(numel)
        ]
    rows = [
        [
            torch.zeros(size, draw.numel() // size, dtype=z.dtype, device=z.device)
            if slope is None
            else single.rows(slope, events[name], 1, size).reshape(size, -1)
            for slope, (name, draw) in zip(each, draws.items(), strict=True)
        ]
        for each in slopes
    ]
    jacobian = torch.stack([torch.cat(row, -1) for row in rows], 1)
    due = -torch.linalg.slogdet(jacobian.double()).logabsdet
    terms = single.log_terms(trace, 1, size, observed=False)
    given = sum(terms[name] for name in deltas)[0].double()
    wrong = ~((given - due).abs() <= 1e-3 * (1 + due.abs()))
    if wrong.any():
        at = int(wrong.nonzero()[0])
        raise PvaeError(
            f"{what}, with a log_density of {float(given[at]):.4g} where -log |det| of its "
            f"Jacobian is {float(due[at]):.4g} (datum {at}): the weights are those of another "
            "density. Write Delta(z, log_density=-log |det dz/de|), or a TransformedDistribution "
            "in place of both."
        )


def terms_of(
    particles: Particles, batch: tuple[Tensor, ...], num: int, values: Trace | None = None
) -> tuple[dict[str, Tensor], Trace]:
    """Returns per-site terms [*enumerated, num, B], and the guide's trace.

    `values` take the place of the guide's draws; its terms are left out where they cannot.
    """
    size = len(batch[0])
    guide_trace = particles.guide(batch, num, values)
    model_trace = particles.model(batch, num, guide_trace)
    p = particles.log_terms(model_trace, num, size)
    try:
        q = particles.log_terms(guide_trace, num, size, observed=False)
    except PvaeError:
        if values is None:
            raise
        q = {}  # a flow without an inverse: nothing to compare with
    terms = {f"q({name})": term for name, term in q.items()}
    return terms | {f"p({name})": term for name, term in p.items()}, guide_trace


def _one(particles: Particles, trace: Trace, k: int, num: int, size: int) -> Trace:
    """The values of sample k as a call for one sample lays them out."""
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


def agree(ours: Tensor, expected: Tensor) -> bool:
    """Whether terms are the same but for rounding."""
    tolerance = 1e-8 if expected.dtype == torch.float64 else 1e-4
    ours, expected = torch.broadcast_tensors(ours, expected)
    return torch.allclose(ours, expected, tolerance, 10 * tolerance, equal_nan=True)
