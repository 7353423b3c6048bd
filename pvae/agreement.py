"""What evaluation must not do: bound what has no bound, or draw samples in a wrong layout."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from pyro.distributions import Delta
from pyro.poutine import Trace
from torch import Tensor

from pvae.environment import is_out_of_memory
from pvae.errors import PvaeError, first_line
from pvae.pair import Program, latent_sites, name_of
from pvae.particles import counts_data, trace_of
from pvae.structure import Structure, base_distribution

if TYPE_CHECKING:
    from pvae.particles import Particles

__all__ = ["find_fault", "gives_a_point", "refuse_mixing", "refuse_unbounded"]


def find_fault(particles: Particles, single: Particles, batch: tuple[Tensor, ...]) -> str | None:
    """Says how a layout's per-site terms differ from single replays of the same draws."""
    num, size = (4 if len(batch[0]) == 3 else 3), len(batch[0])
    try:
        terms, trace = _run(particles, batch, num)
        for k in range(num):
            expected, _ = _run(single, batch, 1, _one(particles, trace, k, num, size))
            if particles.how == "plate" and len(expected) < len(terms):
                return "cannot be checked (the guide's density is known at its own draws only)"
            for name, value in expected.items():
                if not _agree(terms[name].select(-2, k), value.select(-2, 0)):
                    return f"changes log {name}"
    except (PvaeError, RuntimeError, IndexError) as error:
        if is_out_of_memory(error):
            raise
        return f"fails ({first_line(error.__cause__ or error)[:200]})"
    return None


def refuse_mixing(single: Particles, batch: tuple[Tensor, ...]) -> None:
    """Raises a PvaeError if the terms of one datum change with the data beside it."""
    size = len(batch[0])
    half = size // 2
    terms, trace = _run(single, batch, 1)
    try:
        whole, values = {}, {}
        for name, site in latent_sites(trace).items():
            if name not in single.structure.enumerated:
                axis = site["value"].ndim - site["fn"].event_dim + single.dim
                whole[name] = site["value"]
                values[name] = site["value"].narrow(axis, 0, half)
        part, _ = _run(
            single,
            tuple(t[:half] if counts_data(t, size) else t for t in batch),
            1,
            trace_of(values),
        )
    except (PvaeError, RuntimeError, IndexError) as error:
        if is_out_of_memory(error):
            raise
        return  # bound to the size of its batch: nothing to compare with
    for name, value in part.items():
        if not _agree(value, terms[name][..., :half]):
            again, _ = _run(single, batch, 1, trace_of(whole))
            if not _agree(again[name], terms[name]):
                raise PvaeError(
                    f"Log {name} of the same data and the same z is another at each call, in eval "
                    "mode too: something in a network is random, as the corruption of a denoising "
                    "guide or dropout is. An evaluation is of the clean x and of one density: let "
                    "it happen only where self.training is true (see pvae.guides.DenoisingCode)."
                )
            raise PvaeError(
                f"A module mixes data across the batch: log {name} of one datum changes with "
                "the other data beside it, also in eval mode (batch normalisation without "
                "running statistics does this). Such a pair has no density of one datum; "
                "normalise within each datum, or keep running statistics."
            )


def gives_a_point(structure: Structure) -> bool:
    """Whether the guide's draw is a point: every latent site a Delta, nothing random behind it."""
    latent = latent_sites(structure.guide_trace)
    in_model = latent_sites(structure.model_trace)
    return bool(latent) and all(
        name in in_model and isinstance(base_distribution(site["fn"]), Delta)
        for name, site in latent.items()
    )


def refuse_unbounded(structure: Structure, guide: Program, plate: str, dim: int) -> None:
    """Raises a PvaeError if a pair has no bound on the log p(x) of each datum."""
    latent = latent_sites(structure.guide_trace)
    for name, site in latent.items():
        if all(frame.dim != dim for frame in site["cond_indep_stack"]):
            raise PvaeError(
                f"Latent site {name!r} stands outside the batch plate {plate!r}: it is "
                "global, shared by all data, so that log p(x) does not split into one number "
                "for each datum. Make it a pyro.param (a point estimate), move it into the "
                "plate, or estimate the bound of the whole data set with "
                "pyro.infer.Trace_ELBO().loss(model, guide, data)."
            )
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
        if other is not None and not _same_mask(site["mask"], other["mask"]):
            raise PvaeError(
                f"Site {name!r} is masked otherwise in the guide than in the model: where only "
                "one of them counts its density, the weights bound nothing. Use the same mask in "
                "both."
            )
        if name in deltas and not auxiliary:
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


def _same_mask(a: Tensor | bool | None, b: Tensor | bool | None) -> bool:
    a, b = (torch.as_tensor(True if mask is None else mask) for mask in (a, b))
    try:
        return bool((a == b).all())
    except RuntimeError:
        return False


def _run(
    particles: Particles, batch: tuple[Tensor, ...], num: int, values: Trace | None = None
) -> tuple[dict[str, Tensor], Trace]:
    """Per-site terms [*enumerated, num, B], and the guide's trace."""
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
            value = value.squeeze(value.ndim - site["fn"].event_dim - particles.wide)
        values[name] = value
    return trace_of(values)


def _agree(ours: Tensor, expected: Tensor) -> bool:
    tolerance = 1e-8 if expected.dtype == torch.float64 else 1e-4
    ours, expected = torch.broadcast_tensors(ours, expected)
    return torch.allclose(ours, expected, tolerance, 10 * tolerance, equal_nan=True)
