"""Families for each datum: the guide's own distributions, or a mean field, made free to move."""

import contextlib
import copy
from collections.abc import Iterator
from typing import Any

import pyro
import torch
from pyro.distributions import Independent, Normal
from torch import Tensor
from torch.distributions import transform_to

from pvae.density import Density, replaced
from pvae.environment import is_out_of_memory
from pvae.errors import PvaeError, first_line
from pvae.pair import latent_sites
from pvae.particles import Particles, trace_of
from pvae.sampler import Sampler
from pvae.structure import base_distribution
from pvae.support import is_discrete
from pvae.terms import elbo_of

__all__ = ["MeanField", "Member", "OwnFamily", "elbo_terms", "find_family"]

_SAME = {"probs": "logits", "covariance_matrix": "scale_tril", "precision_matrix": "scale_tril"}


class Member:
    """A distribution for each of B data.

    `leaves` are the offsets of its parameters from the start, each with the axis of B; `elbo`
    yields terms whose mean is the ELBO, [k, B], a few samples at a time, with gradients, in
    which log q is held fixed in its parameters: the noise then vanishes where q is the
    posterior. `draws` returns terms [num, B] without gradients.
    """

    leaves: list[tuple[Tensor, int]]
    size: int
    _sampler: Sampler

    def chunks(self, num: int) -> list[tuple[int, int]]:
        """Cuts samples so that a chunk's graph fits into memory."""
        step = max(1, self._sampler.gradient_rows // self.size)
        return [(start, min(start + step, num)) for start in range(0, num, step)]

    def move(self, found: list[Tensor], which: Tensor) -> None:
        """Puts the data of a mask [B] at their offsets, and the others at the start."""
        for (leaf, axis), value in zip(self.leaves, found, strict=True):
            mask = which.reshape(-1, *(1,) * (leaf.ndim - axis - 1))
            leaf.data = torch.where(mask, value, 0)


class OwnFamily(Member):
    """Members of the guide's own family, as a Pyro guide that reads no x."""

    def __init__(self, sampler: Sampler, batch: tuple[Tensor, ...], free: dict) -> None:
        self.size, self._batch, self._still = len(batch[0]), batch, False
        self._sites = _take_apart(sampler, batch)
        self._offsets = {
            (name, key): torch.zeros_like(self._sites[name]["start"][key])
            for name, keys in free.items()
            for key in keys
        }
        self.leaves = [(t, self._sites[n]["axis"]) for (n, _), t in self._offsets.items()]
        # All that a sampler does, with another guide.
        self._sampler = local = copy.copy(sampler)
        local.guide, shared = self._guide, (sampler.structure, sampler.dim, sampler.strategy)
        local.particles = Particles(sampler.model, self._guide, *shared)

    def draws(self, num: int, first: int) -> Tensor:
        return elbo_terms(self._sampler, self._batch, num, first)

    def elbo(self, num: int) -> Iterator[Tensor]:
        particles, batch, size = self._sampler.particles, self._batch, self.size
        if particles.how == "loop" and num > 1:
            for _ in range(num):
                yield from self.elbo(1)
            return
        enumerated, trace = self._sampler.structure.enumerated, particles.guide(batch, num)
        values = {name: site["value"] for name, site in latent_sites(trace).items()}
        self._still = True
        still = particles.guide(
            batch, num, trace_of({n: v for n, v in values.items() if n not in enumerated})
        )
        self._still = False
        q = particles.log_terms(still, num, size, observed=False)
        own = particles.log_terms(trace, num, size, observed=False)
        q |= {name: term for name, term in own.items() if name in enumerated}
        for a, b in self.chunks(num):
            model_trace = particles.model(batch, b - a, particles.cut(trace, a, b, num, size))
            p = particles.log_terms(model_trace, b - a, size)
            part = {name: term[..., a:b, :] for name, term in q.items()}
            yield elbo_of(p, part, enumerated)

    def _guide(self, *batch: Tensor) -> None:
        times, plates = len(batch[0]) // self.size, {}
        for name, site in self._sites.items():
            values = {}
            for key, start in site["start"].items():
                offset = self._offsets.get((name, key))
                if offset is not None:
                    offset = offset.detach() if self._still else offset
                    start = start + site["step"][key] * offset
                value = site["transform"][key](start)
                values[key] = torch.cat([value] * times, site["axis"]) if times > 1 else value
            with contextlib.ExitStack() as stack:
                for frame, dim, size in site["plates"]:
                    size = len(batch[0]) if dim == self._sampler.dim else size
                    if frame not in plates:
                        plates[frame] = pyro.plate(frame, size, dim=dim)
                    stack.enter_context(plates[frame])
                pyro.sample(name, site["build"](values), infer=dict(site["infer"]))


class MeanField(Member):
    """Independent Normals on the unconstrained coordinates u."""

    def __init__(self, sampler: Sampler, batch: tuple[Tensor, ...]) -> None:
        self.size, self._sampler, self._batch = len(batch[0]), sampler, batch
        self._density = Density(sampler, batch)
        u = replaced(self._density.posterior(batch, 64))
        self._loc, self._scale = u.mean(0), u.std(0)
        self.leaves = [(torch.zeros_like(self._loc), 0), (torch.zeros_like(self._loc), 0)]

    def elbo(self, num: int) -> Iterator[Tensor]:
        noise = self._noise(num)
        for a, b in self.chunks(num):
            yield self._terms(noise[a:b])

    def draws(self, num: int, first: int) -> Tensor:
        unit, parts = self._sampler.unit(self._batch), []
        for start in range(0, num, unit):
            noise = self._noise(min(unit, num - start))

            def run(a: int, b: int, noise: Tensor = noise) -> dict[str, Tensor]:
                return {"": self._terms(noise[a:b])}

            parts.append(self._sampler.chunks.run(len(noise), self.size, run)[""].double())
        return torch.cat(parts)

    def _terms(self, noise: Tensor) -> Tensor:
        (shift, _), (stretch, _) = self.leaves
        v = shift + stretch.exp() * noise
        log_q = Normal(shift.detach(), stretch.detach().exp()).log_prob(v) - self._scale.log()
        u = self._loc + self._scale * v
        return self._density.log_joint(u, self._batch)[1] - log_q.sum(-1)

    def _noise(self, num: int) -> Tensor:
        loc = self._loc
        return torch.randn(num, *loc.shape, dtype=loc.dtype, device=loc.device)


def find_family(sampler: Sampler, batch: tuple[Tensor, ...]) -> tuple[dict, str]:
    """Returns the free parameters of each site, none if there is no own family, and words."""
    latent = latent_sites(sampler.structure.guide_trace)
    if not latent:
        raise PvaeError("The guide has no latent sites: its ELBO is log p(x), without a gap.")
    for name, site in latent.items():
        kind = type(base_distribution(site["fn"])).__name__
        if name not in sampler.structure.enumerated and is_discrete(site["fn"]):
            raise PvaeError(
                f"Site {name!r} is discrete ({kind}): its ELBO has no reparameterised gradient, "
                "and the noise of other gradients is larger than the gap. Mark it "
                'infer={"enumerate": "parallel"} in the guide to sum it out.'
            )
        if site["mask"] is not None:
            raise PvaeError(f"Site {name!r} is masked in the guide: it is not optimised.")
    try:
        sites, again = _take_apart(sampler, batch), _take_apart(sampler, batch)
        for name, site in sites.items():
            for key, start in site["start"].items():
                if not torch.equal(start, again[name]["start"][key]):
                    raise _NoFamilyError(f"{key} of site {name!r} depends on draws")
    except _NoFamilyError as error:
        return {}, f"gap to the optimal mean field: {error}"
    varying = {
        name: [
            key
            for key, start in site["start"].items()
            if not torch.equal(start, start.narrow(site["axis"], 0, 1).expand_as(start))
        ]
        for name, site in sites.items()
    }
    if not any(varying.values()):  # a single datum, or a guide that ignores x
        varying = {name: list(site["start"]) for name, site in sites.items()}
    words = []
    for name, site in sites.items():
        fixed = [key for key in site["start"] if key not in varying[name]]
        rest = f", the same {' and '.join(fixed)} for all data" if fixed else ""
        words.append(f"{name} ~ {site['kind']}({', '.join(varying[name])}){rest}")
    return varying, "; ".join(words)


class _NoFamilyError(Exception):
    """Why the guide is not a product of distributions with a datum's own parameters."""


def _take_apart(sampler: Sampler, batch: tuple[Tensor, ...]) -> dict[str, dict[str, Any]]:
    """Runs the guide once: each site as a function of unconstrained parameters."""
    sites, trace = {}, sampler.particles.guide(batch, 1)
    for name, site in latent_sites(trace).items():
        fn, base = site["fn"], base_distribution(site["fn"])
        kind, inner = type(base), fn.event_dim - base.event_dim
        shape = [1] * (-sampler.dim - len(fn.batch_shape)) + list(fn.batch_shape)
        shape[sampler.dim] = len(batch[0])
        start, transform, step = {}, {}, {}

        def build(values: dict[str, Tensor], kind: Any = kind, inner: int = inner) -> Any:
            return Independent(kind(**values, validate_args=False), inner)

        try:
            given = base.arg_constraints
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
                elif key == "scale_tril":  # below the diagonal in units of its row; there, of log
                    rows = value.diagonal(dim1=-2, dim2=-1)[..., None].expand_as(value).clone()
                    rows.diagonal(dim1=-2, dim2=-1).fill_(1.0)
                    step[key] = rows
                elif key == "cov_factor":
                    step[key] = base.cov_diag.sqrt()[..., None].expand_as(value).clone()
            values = {key: transform[key](value) for key, value in start.items()}
            rebuilt = build(values)
            found, expected = (f.log_prob(site["value"]) for f in (rebuilt, fn))
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
        sites[name] = {
            "kind": kind.__name__,
            "build": build,
            "start": start,
            "transform": transform,
            "step": step,
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


def elbo_terms(sampler: Sampler, batch: tuple[Tensor, ...], num: int, first: int) -> Tensor:
    """The ELBO's terms, [num, B], without gradients."""
    return torch.cat([d.elbo.double() for d in sampler.stream(batch, num, first)])
