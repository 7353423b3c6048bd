"""Families for each datum: the guide's own distributions, or a mean field, made free to move."""

import contextlib
import copy
import itertools
import math
from collections.abc import Iterable, Iterator
from typing import Any

import pyro
import torch
from pyro.distributions import Independent, Normal
from pyro.distributions.util import scale_and_mask
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import (
    LowRankMultivariateNormal,
    MultivariateNormal,
    constraints,
    transform_to,
)

from pvae.distributions import is_discrete, support_of
from pvae.errors import PvaeError, first_line
from pvae.importance import Density, Particles, Sampler, elbo_of, replaced
from pvae.pair import base_distribution, latent_sites, mask_of, trace_of
from pvae.runtime import is_out_of_memory

__all__ = ["LocalGaussian", "Member", "OwnFamily", "elbo_terms", "find_family"]

_LARGEST = 2.0  # step of a logarithm
_SAME = {"probs": "logits", "covariance_matrix": "scale_tril", "precision_matrix": "scale_tril"}


class Member:
    """A distribution for each of B data.

    `offset`, [B, P], moves its parameters away from an origin, in units of the scales there.
    `terms` yields terms whose mean is the ELBO, [k, B], a few samples at a time, with gradients.
    `draws` returns terms [num, B] without gradients.

    Attributes:
        size: B.
        dim: D, the latent coordinates of a datum that are drawn, if `smooth`.
        offset: Offsets of its parameters from the origin.
        limit: How far one step may move each of them, [P]: locations anywhere, scales and
            logits by a factor of e² at most.
        smooth: Whether draws are smooth functions of fixed noise and the parameters.
    """

    size: int
    dim: int
    offset: Tensor
    limit: Tensor
    smooth: bool = True
    _sampler: Sampler

    def terms(
        self, num: int, noise: Tensor | None = None, *, still: bool = False
    ) -> Iterator[Tensor]:
        """Yields terms of the ELBO, [k, B].

        Args:
            num: K, the number of samples.
            noise: Standard normal noise of the draws, [K, B, D]; None for noise of their own.
            still: Whether log q is held fixed in its parameters: gradients then have no noise
                where q is the posterior.
        """
        raise NotImplementedError

    def draws(self, num: int, first: int) -> Tensor:
        """Returns terms of the ELBO, [num, B], without gradients."""
        raise NotImplementedError

    def parameters(self) -> list[Tensor]:
        """Returns the unconstrained parameters at the offset."""
        raise NotImplementedError

    def recentre(self, parameters: list[Tensor]) -> None:
        """Makes these parameters the origin, and sets the offset to zero."""
        raise NotImplementedError

    def chosen(self, which: Tensor, parameters: list[Tensor], others: list[Tensor]) -> list[Tensor]:
        """Returns the parameters of the data of a mask [B], and the others' for the rest."""
        raise NotImplementedError

    def chunks(self, num: int) -> list[tuple[int, int]]:
        """Cuts samples so that a chunk's graph fits into memory."""
        step = max(1, self._sampler.gradient_rows // self.size)
        return [(start, min(start + step, num)) for start in range(0, num, step)]


class OwnFamily(Member):
    """Members of the guide's own family, as a Pyro guide that reads no x."""

    def __init__(self, sampler: Sampler, batch: tuple[Tensor, ...], free: dict) -> None:
        self.size, self._batch, self._still = len(batch[0]), batch, False
        self._sites = _take_apart(sampler, batch)
        self._free = [(name, key) for name, keys in free.items() for key in keys]
        self._origin = {
            (name, key): value
            for name, site in self._sites.items()
            for key, value in site["start"].items()
        }
        self._steps = {
            (name, key): step for name, site in self._sites.items()
            for key, step in site["step"].items()
        }  # fmt: skip
        widths = [self._origin[at].numel() // self.size for at in self._free]
        self._cuts = list(itertools.pairwise(itertools.accumulate(widths, initial=0)))
        some = self._origin[self._free[0]]
        self.offset = some.new_zeros(self.size, sum(widths))
        limits = [math.inf if key == "loc" else _LARGEST for _, key in self._free]
        self.limit = some.new_tensor(limits).repeat_interleave(torch.tensor(widths))
        # All that a sampler does, with another guide.
        self._sampler = local = copy.copy(sampler)
        local.guide, shared = self._guide, (sampler.structure, sampler.dim, sampler.strategy)
        local.particles = Particles(sampler.model, self._guide, *shared)
        drawn = {n: s for n, s in self._sites.items() if n not in sampler.structure.enumerated}
        self.smooth = all(site["located"] for site in drawn.values())
        self._rest = {name: site["rest"] for name, site in drawn.items()}
        self.dim = sum(rest.numel() for rest in self._rest.values())

    def draws(self, num: int, first: int) -> Tensor:
        return elbo_terms(self._sampler, self._batch, num, first)

    def terms(
        self, num: int, noise: Tensor | None = None, *, still: bool = False
    ) -> Iterator[Tensor]:
        particles, batch, size = self._sampler.particles, self._batch, self.size
        if particles.how == "loop" and num > 1:
            for k in range(num):
                one = None if noise is None else noise[k : k + 1]
                yield from self.terms(1, one, still=still)
            return
        with self._fixed(noise):
            trace = particles.guide(batch, num)
        enumerated = self._sampler.structure.enumerated
        own = particles.log_terms(trace, num, size, observed=False)
        q = own
        if still:
            values = {name: site["value"] for name, site in latent_sites(trace).items()}
            self._still = True
            given = trace_of({n: v for n, v in values.items() if n not in enumerated})
            q = particles.log_terms(particles.guide(batch, num, given), num, size, observed=False)
            self._still = False
            q |= {name: term for name, term in own.items() if name in enumerated}
        nothing = {name: torch.zeros(()) for name in enumerated}
        cancel = particles.cancel_masked(nothing, trace, num, size)
        for a, b in self.chunks(num):
            model_trace = particles.model(batch, b - a, particles.cut(trace, a, b, num, size))
            p = particles.log_terms(model_trace, b - a, size)
            for name, term in cancel.items():
                if term.ndim and name in p:
                    p[name] = p[name] + term[..., a:b, :]
            part = {name: term[..., a:b, :] for name, term in q.items()}
            yield elbo_of(p, part, enumerated)

    def parameters(self) -> list[Tensor]:
        with torch.no_grad():
            values = {name: self._values(name) for name in self._sites}
            return [
                self._sites[name]["transform"][key].inv(values[name][key]).clone()
                for name, key in self._free
            ]

    def recentre(self, parameters: list[Tensor]) -> None:
        self._origin |= dict(zip(self._free, parameters, strict=True))
        self.offset = torch.zeros_like(self.offset)
        for name, site in self._sites.items():
            if (name, "scale") in self._origin and (name, "loc") in self._origin:
                scale = site["transform"]["scale"](self._origin[name, "scale"])
                scale = scale.expand_as(self._origin[name, "loc"])
                self._steps[name, "loc"] = torch.where(scale.isfinite(), scale, 1.0)

    def chosen(self, which: Tensor, parameters: list[Tensor], others: list[Tensor]) -> list[Tensor]:
        chosen = []
        for (name, _), first, second in zip(self._free, parameters, others, strict=True):
            rest = first.ndim - self._sites[name]["axis"] - 1
            chosen.append(torch.where(which.reshape(-1, *(1,) * rest), first, second))
        return chosen

    def _values(self, name: str) -> dict[str, Tensor]:
        """The arguments of a site's distribution, at the offset.

        A triangular scale L moves the location by L δ and itself to L (A + diag(exp a)), so that
        a stretched posterior is as round as any other where L is near its scale.
        """
        site, values = self._sites[name], {}
        offset = self.offset.detach() if self._still else self.offset
        tril = None
        if (name, "scale_tril") in self._origin:
            tril = site["transform"]["scale_tril"](self._origin[name, "scale_tril"])
        for key in site["start"]:
            origin, transform = self._origin[name, key], site["transform"][key]
            if (name, key) not in self._free:
                values[key] = transform(origin)
                continue
            start, stop = self._cuts[self._free.index((name, key))]
            axis, shape = site["axis"], list(origin.shape)
            del shape[axis]
            move = offset[:, start:stop].reshape(self.size, *shape).movedim(0, axis)
            if site["mask"] is not None:  # what is masked stays where the guide has it
                mask = site["mask"]
                move = move * mask.reshape(*mask.shape, *(1,) * (move.ndim - mask.ndim))
            if tril is not None and key == "loc":
                values[key] = origin + (tril @ move[..., None])[..., 0]
            elif tril is not None and key == "scale_tril":
                diagonal = move.diagonal(dim1=-2, dim2=-1).exp()
                values[key] = tril @ (move.tril(-1) + torch.diag_embed(diagonal))
            else:
                values[key] = transform(origin + self._steps[name, key] * move)
        return values

    def _fixed(self, noise: Tensor | None) -> contextlib.AbstractContextManager[Any]:
        if noise is None or not self.dim:
            return contextlib.nullcontext()
        parts = noise.split([rest.numel() for rest in self._rest.values()], -1)
        rows = {
            name: part.reshape(*noise.shape[:2], *rest)
            for (name, rest), part in zip(self._rest.items(), parts, strict=True)
        }
        laid_out = self._sampler.particles.laid_out(rows)
        return _FixedNoise({name: site["value"] for name, site in laid_out.nodes.items()})

    def _guide(self, *batch: Tensor) -> None:
        times, plates = len(batch[0]) // self.size, {}
        for name, site in self._sites.items():

            def whole(value: Tensor, axis: int = site["axis"]) -> Tensor:
                return torch.cat([value] * times, axis) if times > 1 else value

            values = {key: whole(value) for key, value in self._values(name).items()}
            mask = None if site["mask"] is None else whole(site["mask"])
            with contextlib.ExitStack() as stack:
                for frame, dim, size in site["plates"]:
                    size = len(batch[0]) if dim == self._sampler.dim else size
                    if frame not in plates:
                        plates[frame] = pyro.plate(frame, size, dim=dim)
                    stack.enter_context(plates[frame])
                pyro.sample(name, site["build"](values, mask), infer=dict(site["infer"]))


class LocalGaussian(Member):
    """Independent Normals on the unconstrained coordinates u."""

    def __init__(self, sampler: Sampler, batch: tuple[Tensor, ...]) -> None:
        self.size, self._sampler, self._batch = len(batch[0]), sampler, batch
        self._density = Density(sampler, batch)
        self._mask = _coordinates(sampler, batch)
        u = replaced(self._density.posterior(batch, 64))
        self.dim = u.shape[-1]
        self.limit = u.new_tensor([math.inf, _LARGEST]).repeat_interleave(self.dim)
        self.recentre([u.mean(0), u.std(0).log()])

    def terms(
        self, num: int, noise: Tensor | None = None, *, still: bool = False
    ) -> Iterator[Tensor]:
        noise = self._noise(num) if noise is None else noise.to(self._loc.dtype)
        for a, b in self.chunks(num):
            yield self._terms(noise[a:b], still)

    def draws(self, num: int, first: int) -> Tensor:
        unit, parts = self._sampler.unit(self._batch), []
        for start in range(0, num, unit):
            noise = self._noise(min(unit, num - start))

            def run(a: int, b: int, noise: Tensor = noise) -> dict[str, Tensor]:
                return {"": self._terms(noise[a:b])}

            parts.append(self._sampler.chunks.run(len(noise), self.size, run)[""].double())
        return torch.cat(parts)

    def parameters(self) -> list[Tensor]:
        shift, stretch = self._moves(self.offset.detach())
        return [self._loc + self._log_scale.exp() * shift, self._log_scale + stretch]

    def recentre(self, parameters: list[Tensor]) -> None:
        self._loc, self._log_scale = parameters
        self.offset = self._loc.new_zeros(self.size, 2 * self.dim)

    def chosen(self, which: Tensor, parameters: list[Tensor], others: list[Tensor]) -> list[Tensor]:
        pairs = zip(parameters, others, strict=True)
        return [torch.where(which[:, None], first, second) for first, second in pairs]

    def _moves(self, offset: Tensor) -> tuple[Tensor, Tensor]:
        if self._mask is not None:
            offset = offset * torch.cat([self._mask] * 2, -1)
        return offset.split(self.dim, -1)

    def _terms(self, noise: Tensor, still: bool = False) -> Tensor:
        shift, stretch = self._moves(self.offset)
        v = shift + stretch.exp() * noise
        fixed = self._moves(self.offset.detach()) if still else (shift, stretch)
        log_q = Normal(fixed[0], fixed[1].exp()).log_prob(v) - self._log_scale
        if self._mask is not None:
            log_q = log_q * self._mask
        u = self._loc + self._log_scale.exp() * v
        return self._density.log_joint(u, self._batch)[1] - log_q.sum(-1)

    def _noise(self, num: int) -> Tensor:
        loc = self._loc
        return torch.randn(num, *loc.shape, dtype=loc.dtype, device=loc.device)


class _FixedNoise(Messenger):
    """Inside this context Normals are drawn as location + scale · ε with an ε that is given."""

    def __init__(self, noise: dict[str, Tensor]) -> None:
        super().__init__()
        self._noise = noise

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        if msg["name"] not in self._noise or msg["done"] or msg["is_observed"]:
            return
        fn, noise = base_distribution(msg["fn"]), self._noise[msg["name"]]
        if isinstance(fn, Normal):
            msg["value"] = fn.loc + fn.scale * noise.to(fn.loc.dtype)
        else:
            moved = fn.scale_tril @ noise.to(fn.loc.dtype)[..., None]
            msg["value"] = fn.loc + moved[..., 0]
        msg["done"] = True


def find_family(sampler: Sampler, batches: Iterable[tuple[Tensor, ...]]) -> tuple[dict, str]:
    """Returns the free parameters of each site, none if there is no own family, and words.

    Free is what varies over all the data that are looked at.
    """
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
    first: dict[str, dict[str, Any]] = {}
    varying: dict[str, set[str]] = {}
    reason = None
    for batch in batches:
        _check_masks(sampler, batch)
        if reason is not None:
            continue
        try:
            sites, again = _take_apart(sampler, batch), _take_apart(sampler, batch)
            for name, site in sites.items():
                for key, start in site["start"].items():
                    if not torch.equal(start, again[name]["start"][key]):
                        raise _NoFamilyError(f"{key} of site {name!r} depends on draws")
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
        for name, site in first.items()  # everything, of a single datum or a guide that ignores x
    }
    words = []
    for name, site in first.items():
        fixed = [key for key in site["start"] if key not in free[name]]
        rest = f", the same {' and '.join(fixed)} for all data" if fixed else ""
        words.append(f"{name} ~ {site['kind']}({', '.join(free[name])}){rest}")
    return free, "; ".join(words)


class _NoFamilyError(Exception):
    """Why the guide is not a product of distributions with a datum's own parameters."""


def _check_masks(sampler: Sampler, batch: tuple[Tensor, ...]) -> None:
    """A latent that is masked counts in neither program, or there is no bound to optimise."""
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
                f"Site {name!r} is masked in the guide or in the model, but not alike in both: "
                "the ELBO is no bound there, and nothing is to be optimised."
            )


def _coordinates(sampler: Sampler, batch: tuple[Tensor, ...]) -> Tensor | None:
    """Which of the unconstrained coordinates count, [B, D]; None for all."""
    particles, parts, size = sampler.particles, [], len(batch[0])
    trace = particles.guide(batch, 1, enumerate=False)
    for name, site in latent_sites(trace).items():
        if name in sampler.structure.enumerated:
            continue
        mask, value = mask_of(site), site["value"]
        if mask is not None and not mask.all():
            support = support_of(site["fn"]) or constraints.real
            if getattr(support, "base_constraint", support) is not constraints.real:
                raise PvaeError(
                    f"Site {name!r} is masked for some data and has a support with edges: the "
                    "optimal mean field of such a site is not known here."
                )
        mask = torch.ones_like(value) if mask is None else mask.to(value.dtype).expand_as(value)
        rows = particles.rows(mask, site["fn"].event_dim, 1, size)
        parts.append(rows.reshape(size, -1))
    mask = torch.cat(parts, -1)
    return None if mask.all() else mask


def _take_apart(sampler: Sampler, batch: tuple[Tensor, ...]) -> dict[str, dict[str, Any]]:
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


def elbo_terms(sampler: Sampler, batch: tuple[Tensor, ...], num: int, first: int) -> Tensor:
    """The ELBO's terms, [num, B], without gradients."""
    return torch.cat([d.elbo.double() for d in sampler.stream(batch, num, first)])
