"""Finds the family of a guide: its distributions, and their parameters that vary over the data."""

from collections.abc import Iterable
from typing import Any

import torch
from pyro.distributions import Independent, Normal
from pyro.distributions.util import scale_and_mask
from torch import Tensor
from torch.distributions import LowRankMultivariateNormal, MultivariateNormal, transform_to

from pvae.distributions import is_discrete
from pvae.errors import PvaeError, first_line
from pvae.importance import Sampler
from pvae.pair import base_distribution, kind_of, latent_sites, mask_of
from pvae.runtime import is_out_of_memory

__all__ = ["find_family", "take_apart"]

_SAME = {"probs": "logits", "covariance_matrix": "scale_tril", "precision_matrix": "scale_tril"}


def find_family(sampler: Sampler, batches: Iterable[tuple[Tensor, ...]]) -> tuple[dict, str]:
    """Returns the free parameters of each site, and the family in words.

    Parameters that vary over the data are free. A guide without its own family has none.
    """
    latent = latent_sites(sampler.structure.guide_trace)
    if not latent:
        raise PvaeError("The guide has no latent sites: its ELBO is log p(x), without a gap.")
    for name, site in latent.items():
        kind = kind_of(site["fn"])
        if name not in sampler.structure.enumerated and is_discrete(site["fn"]):
            raise PvaeError(
                f"Site {name!r} is discrete ({kind}): its ELBO has no reparameterised gradient, "
                "and the noise of other gradients is larger than the gap. Mark it "
                'infer={"enumerate": "parallel"} in the guide to sum it out.'
            )
    first: dict[str, dict[str, Any]] = {}
    varying: dict[str, set[str]] = {}
    reason = None
    for batch in batches:
        _check_masks(sampler, batch)
        if reason is not None:
            continue
        try:
            sites, again = take_apart(sampler, batch), take_apart(sampler, batch)
            for name, site in sites.items():
                for key, start in site["start"].items():
                    if not torch.equal(start, again[name]["start"][key]):
                        raise _NoFamilyError(f"{key} of site {name!r} depends on samples")
        except _NoFamilyError as error:
            reason = str(error)
            continue
        first = first or sites
        for name, site in sites.items():
            for key, start in site["start"].items():
                one = first[name]["start"][key].narrow(site["axis"], 0, 1)
                tolerance = 16 * torch.finfo(start.dtype).eps
                if not torch.allclose(start, one.expand_as(start), tolerance, tolerance):
                    varying.setdefault(name, set()).add(key)
    if reason is not None:
        return {}, f"gap to the optimal mean field: {reason}"
    free = {
        name: [key for key in site["start"] if not varying or key in varying.get(name, ())]
        for name, site in first.items()  # all of them, if nothing varies
    }
    words = []
    for name, site in first.items():
        fixed = [key for key in site["start"] if key not in free[name]]
        rest = f", the same {' and '.join(fixed)} for all data" if fixed else ""
        words.append(f"{name} ~ {site['kind']}({', '.join(free[name])}){rest}")
    return free, "; ".join(words)


class _NoFamilyError(Exception):
    """The guide is not a product of distributions with parameters for each datum."""


def _check_masks(sampler: Sampler, batch: tuple[Tensor, ...]) -> None:
    """Raises a PvaeError if the guide and the model mask a latent site differently."""
    particles = sampler.particles
    guide_trace = particles.guide(batch, 1)
    sites = latent_sites(guide_trace)
    model_sites = latent_sites(particles.model(batch, 1, guide_trace))
    for name, site in sites.items():
        ours, theirs = (
            torch.ones((), dtype=torch.bool) if mask is None else mask
            for mask in (mask_of(site), mask_of(model_sites.get(name, site)))
        )
        ours, theirs = torch.broadcast_tensors(ours, theirs.to(ours.device))
        if not torch.equal(ours, theirs):
            raise PvaeError(
                f"Site {name!r} is masked differently in the guide and in the model, so the ELBO "
                "is no bound and cannot be optimised. Use the same mask in both."
            )


def take_apart(sampler: Sampler, batch: tuple[Tensor, ...]) -> dict[str, dict[str, Any]]:
    """Runs the guide once: each site as a function of unconstrained parameters."""
    sites, trace = {}, sampler.particles.guide(batch, 1)
    particles = sampler.particles
    for name, site in latent_sites(trace).items():
        fn, base = site["fn"], base_distribution(site["fn"])
        kind, inner = type(base), fn.event_dim - base.event_dim
        shape = [1] * (-sampler.dim - len(fn.batch_shape)) + list(fn.batch_shape)
        shape[sampler.dim] = len(batch[0])
        start, transform, step = {}, {}, {}
        mask = mask_of(site)
        if mask is not None:
            mask = mask.expand(*shape, *fn.event_shape)
            mask = mask[(..., *(0,) * base.event_dim)]

        def build(
            values: dict[str, Tensor],
            mask: Tensor | None,
            kind: Any = kind,
            inner: int = inner,
        ) -> Any:
            each = kind(**values, validate_args=False)
            each = each if mask is None else each.mask(mask)
            return Independent(each, inner) if inner else each

        try:
            given = base.arg_constraints
            if not given:
                raise _NoFamilyError(
                    f"{kind.__name__} of site {name!r} has no parameters of its own to optimise"
                )
            for key, constraint in given.items():
                if _SAME.get(key) in given:
                    continue
                value, transform[key] = getattr(base, key), transform_to(constraint)
                event = value.shape[value.ndim - constraint.event_dim :]
                value = value.expand(*shape, *fn.event_shape[:inner], *event)
                start[key], step[key] = transform[key].inv(value).clone(), 1.0
                if key == "loc":
                    scale = (base.scale if "scale" in given else base.stddev).expand_as(value)
                    step[key] = torch.where(scale.isfinite(), scale, 1.0).clone()
                elif key == "cov_factor":
                    step[key] = base.cov_diag.sqrt()[..., None].expand_as(value).clone()
            values = {key: transform[key](value) for key, value in start.items()}
            rebuilt = build(values, mask)
            found = rebuilt.log_prob(site["value"])
            expected = scale_and_mask(fn.log_prob(site["value"]), 1.0, site["mask"])
            tolerance = 1e-8 if expected.dtype == torch.float64 else 1e-3
            if not start or not torch.allclose(found, expected, tolerance, tolerance):
                raise _NoFamilyError(f"{kind.__name__} of site {name!r} cannot be taken apart")
            if name not in sampler.structure.enumerated and not rebuilt.has_rsample:
                raise _NoFamilyError(f"{kind.__name__} of site {name!r} has no gradient")
        except (RuntimeError, ValueError, TypeError, NotImplementedError, AttributeError) as e:
            if is_out_of_memory(e):
                raise
            raise _NoFamilyError(
                f"{kind.__name__} of site {name!r} cannot be taken apart ({first_line(e)[:100]})"
            ) from e
        used = 2 if particles.how == "plate" else 1  # dimensions that samples and data take
        rows = particles.rows(site["value"], fn.event_dim, 1, len(batch[0]))
        sites[name] = {
            "kind": kind.__name__,
            "build": build,
            "start": start,
            "transform": transform,
            "step": step,
            "mask": mask,
            "located": isinstance(base, Normal | MultivariateNormal | LowRankMultivariateNormal),
            "rest": rows.shape[rows.ndim - (particles.wide - used + fn.event_dim) :],
            "axis": len(shape) + sampler.dim,
            "infer": {
                k: site["infer"][k] for k in ("enumerate", "is_auxiliary") if k in site["infer"]
            },
            "plates": [
                (f.name, f.dim, shape[f.dim])
                for f in site["cond_indep_stack"]
                if f.vectorized and f.name != "_pvae_samples"
            ],
        }
    return sites
