"""Density: log p(x, z) and log q(z|x) of a pair at given latents."""

import copy
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from pyro.distributions import Delta
from torch import Tensor
from torch.distributions import ComposeTransform, biject_to, constraints
from torch.distributions.transforms import Transform

from pvae.distributions import contains, is_discrete, is_image, peeled, pull_back, support_of
from pvae.errors import PvaeError, first_line
from pvae.importance.codes import Codes, codes_of
from pvae.importance.path import AnnealingPath, CompiledEnds, Ends, in_chunks
from pvae.importance.sampler import Sampler
from pvae.pair import base_distribution, kind_of, latent_sites
from pvae.runtime import is_out_of_memory

__all__ = ["Density", "replaced"]


class Density:
    r"""A pair's densities as functions of unconstrained coordinates u, [C, B, D].

    The latent sites of a datum, each carried from its support to the real line by Pyro's own
    transform z = T(u), are laid end to end. Densities are those of u: with
    log |det dT/du| added. Sites that are enumerated are summed out and have no coordinates.

    Args:
        sampler: Draws of the pair; its context must be entered.
        batch: Some data.
        discrete: Whether discrete sites have coordinates too, which come last: for each element the
            number of its value.

    Attributes:
        dim: D, the number of coordinates of one datum.
        counts: The number of values of each discrete coordinate.
        no_guide: Why q(z|x) cannot be evaluated at other values than its samples, else `None`.

    Raises:
        PvaeError: If a site has no unconstrained coordinates, because it is discrete (without
            `discrete`, or without a finite list of its values) or a function of other sites.
    """

    def __init__(
        self, sampler: Sampler, batch: tuple[Tensor, ...], *, discrete: bool = False
    ) -> None:
        self.sampler = sampler
        self._codes: dict[str, Codes] = {}
        self._sites: dict[str, tuple] = {}
        self._holds: dict[str, Callable[[Tensor], Tensor | None]] = {}
        with torch.random.fork_rng([batch[0].device] if batch[0].is_cuda else []):
            rows = sampler.prior(batch, 1)
            sites = latent_sites(sampler.structure.model_trace)
            for name, value in rows.items():
                fn = sites[name]["fn"]
                if discrete and (codes := codes_of(name, sites[name], value.shape[2:])):
                    self._codes[name] = codes
                    continue
                if is_discrete(fn) or not value.is_floating_point():
                    raise PvaeError(
                        f"Latent site {name!r} is discrete ({kind_of(fn)})"
                        ", with neither a gradient for HMC to follow nor a line to integrate "
                        'over. Mark the site infer={"enumerate": "parallel"} to sum it out.'
                    )
                if isinstance(base_distribution(fn), Delta) or hasattr(
                    sites[name]["value"], "_unquantize"
                ):
                    raise PvaeError(
                        f"Latent site {name!r} ({kind_of(fn)}) is a "
                        "function of other draws, with no line to move along. Write a function of "
                        "other sites as pyro.deterministic; a straight-through site has no other "
                        "coordinates than its own draws."
                    )
                transform, holds = _line(name, fn)
                shape = transform.inverse_shape(value.shape)[2:]
                self._sites[name] = (transform, tuple(shape), shape.numel())
                self._holds[name] = holds
            self.counts = tuple(n for codes in self._codes.values() for n in codes.counts)
            self.dim = sum(numel for *_, numel in self._sites.values()) + len(self.counts)
            self.no_guide = self._why_no_guide(batch)

    def flatten(self, values: Mapping[str, Tensor]) -> Tensor:
        """Returns the coordinates [C, B, D] of latents given as rows [C, B, *rest].

        Latents outside the model's support get NaN.
        """
        parts = [
            transform.inv(values[name]).flatten(2) if values[name].ndim > 2 or shape
            else transform.inv(values[name])[..., None]
            for name, (transform, shape, _) in self._sites.items()
        ]  # fmt: skip
        parts += [codes.index(values[name]) for name, codes in self._codes.items()]
        u = torch.cat(parts, -1)
        for name, holds in self._holds.items():
            if (within := holds(values[name])) is not None:
                within = within.reshape(*u.shape[:2], -1).all(-1, keepdim=True)
                u = torch.where(within, u, math.nan)
        return u

    def constrain(self, u: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Returns the latents as rows, and log |det dz/du|, [C, B]."""
        values: dict[str, Tensor] = {}
        jacobian = u.new_zeros(u.shape[:2])
        sizes = [numel for *_, numel in self._sites.values()]
        sizes += [len(codes.counts) for codes in self._codes.values()]
        pieces = dict(zip([*self._sites, *self._codes], u.split(sizes, -1), strict=True))
        for name, codes in self._codes.items():
            values[name] = codes.value(pieces[name])
        for name, (transform, shape, _) in self._sites.items():
            piece = pieces[name].reshape(*u.shape[:2], *shape)
            values[name] = transform(piece)
            log_det = transform.log_abs_det_jacobian(piece, values[name])
            jacobian = jacobian + log_det.reshape(*u.shape[:2], -1).sum(-1)
        return values, jacobian

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of each site's coordinates, for one datum."""
        return {name: shape for name, (_, shape, _) in self._sites.items()}

    def is_exact(self, u: Tensor) -> Tensor:
        """Returns where the transform is not saturated, so that z gives u back, [C, B]."""
        back = self.flatten(self.constrain(u)[0])
        return ((back - u).abs() < 0.2).all(-1)

    def prior(self, batch: tuple[Tensor, ...], num: int) -> Tensor:
        """Draws u ~ p, [num, B, D]."""
        return self.flatten(self.sampler.prior(batch, num))

    def posterior(self, batch: tuple[Tensor, ...], num: int) -> Tensor:
        """Draws u ~ q( · | x), [num, B, D]; sites that the guide enumerates are sampled.

        Samples outside the model's support are NaN; see `replaced`.
        """
        return self.flatten(self.sampler.posterior(batch, num))

    def log_joint(self, u: Tensor, batch: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """Returns log p(u) and log p(x, u), each [C, B], in nats."""
        values, jacobian = self.constrain(u)
        terms = self.sampler.terms(batch, len(u), values)
        observed, add = set(self.sampler.structure.observed), self.sampler.particles.sum_out
        log_prior = add(t for name, t in terms.items() if name not in observed)
        return log_prior + jacobian, add(terms.values()) + jacobian

    def log_guide(self, u: Tensor, batch: tuple[Tensor, ...]) -> Tensor:
        """Returns log q(u|x), [C, B], in nats."""
        values, jacobian = self.constrain(u)
        terms = self.sampler.guide_terms(batch, len(u), values)
        return self.sampler.particles.sum_out(terms.values()) + jacobian

    def ends(self, start: Literal["prior", "guide"]) -> Ends:
        """Returns (u, batch) -> (log f_0(u), log f_1(u)), where f_0 is the prior or the guide."""

        def ends(u: Tensor, batch: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
            log_prior, log_joint = self.log_joint(u, batch)
            return (log_prior if start == "prior" else self.log_guide(u, batch)), log_joint

        return ends

    def path(
        self,
        batch: tuple[Tensor, ...],
        start: Literal["prior", "guide"],
        compiled: CompiledEnds | None = None,
    ) -> AnnealingPath:
        """Returns u -> (log f_0(u), log f_1(u)): from the prior or the guide to p(x, u).

        Args:
            batch: The data.
            start: Where the path begins.
            compiled: These ends as a graph, for its number of chains.
        """
        ends, size = self.ends(start), len(batch[0])

        def path(u: Tensor) -> tuple[Tensor, Tensor]:
            if torch.is_grad_enabled():
                found = None if compiled is None else compiled(u, batch)
                if found is not None:
                    return found
                chunks = self.sampler.gradient_chunks
                if len(u) * size > chunks.rows:
                    return in_chunks(u, batch, ends, chunks)
            elif self.counts:

                def run(start: int, end: int) -> dict[str, Tensor]:
                    return {"f": torch.stack(ends(u[start:end], batch))}

                return tuple(self.sampler.chunks.run(len(u), size, run)["f"])
            return ends(u, batch)

        return path

    def _why_no_guide(self, batch: tuple[Tensor, ...]) -> str | None:
        structure = self.sampler.structure
        extra = [n for n in structure.latent if n not in latent_sites(structure.model_trace)]
        if extra:
            return f"it samples {extra[0]!r}, which the model does not have"
        drawn = latent_sites(structure.guide_trace).items()
        points = [n for n, s in drawn if isinstance(base_distribution(s["fn"]), Delta)]
        if any(name in self._codes for name in points):
            return f"it gives one value of {points[0]!r}, and no probability to any other"
        try:
            # Values that the guide did not draw: a flow without an inverse fails on them.
            u = self.prior(batch, 2)
            if self.log_guide(u, batch).isnan().any():
                return "its log density is NaN there"
        except Exception as error:
            if is_out_of_memory(error):
                raise
            text = first_line(error)[:200]
            return text if isinstance(error, PvaeError) else f"{type(error).__name__}: {text}"
        return None


def _for_any_datum(name: str, found: Any, event_dim: int = 0) -> Any:
    """Returns a support or transform whose tensors have no dimension of the batch.

    Args:
        name: The site.
        found: Support or transform, found with some batch.
        event_dim: Dimensions on the right in which the tensors may vary.
    """
    whole, found = found, copy.copy(found)
    for key, value in vars(whole).items():
        if isinstance(value, constraints.Constraint):
            setattr(found, key, _for_any_datum(name, value))
        elif isinstance(value, Tensor) and value.ndim > event_dim and key[0] != "_":
            first = value.flatten(0, value.ndim - event_dim - 1)[0]
            if not (value == first).all():
                raise PvaeError(
                    f"Latent site {name!r} has a support that varies ({whole}): its latents "
                    "have no common coordinates. Give every value of it the same bounds."
                )
            setattr(found, key, first)
    return found


def _line(name: str, fn: Any) -> tuple[Transform, Callable[[Tensor], Tensor | None]]:
    """Returns a transform from the real line, and a test of which values are in the support."""
    base = peeled(fn)
    if is_image(base, read=True):
        first, holds = _line(name, base.base_dist)
        rest = [_for_any_datum(name, t, fn.event_dim) for t in base.transforms]

        def holds_image(value: Tensor) -> Tensor:
            value, within = pull_back(rest, value, 2)
            found = holds(value)
            found = None if found is None else found.reshape(*value.shape[:2], -1).all(-1)
            return found if within is None else within if found is None else found & within

        return ComposeTransform([first, *rest]), holds_image
    support = support_of(fn)
    if support is None:
        support = constraints.independent(constraints.real, fn.event_dim)
    support = _for_any_datum(name, support)
    mixed = isinstance(support, constraints.MixtureSameFamilyConstraint)
    try:
        transform = biject_to(support.base_constraint if mixed else support)
    except NotImplementedError:
        raise PvaeError(
            f"Latent site {name!r} has the support {support}, and Pyro has no transform from the "
            "real line to it."
        ) from None
    return transform, functools.partial(contains, support)


def replaced(u: Tensor) -> Tensor:
    """Replaces draws outside the support by other draws of the same datum, [C, B, D]."""
    good = ~u.isnan().any(-1)
    order = torch.arange(len(u), device=u.device)[:, None]
    # The good samples of each datum in turn, repeated as often as needed.
    first = torch.where(good, order, len(u)).sort(0).values
    at = first.gather(0, order % good.sum(0).clamp(min=1)).clamp(max=len(u) - 1)
    at = torch.where(good, order, at)
    return u.gather(0, at[..., None].expand_as(u))
