"""The base of all objectives of K particles: one call of a pair, and its terms [K, B]."""

from typing import Any, ClassVar

import torch
from pyro import poutine
from pyro.infer import ELBO
from pyro.poutine import Trace
from pyro.util import warn_if_nan
from torch import Tensor

from pvae.errors import PvaeError
from pvae.importance import Particles, expect, sum_beyond
from pvae.objectives.known_pair import KnownPair, is_recorded, know
from pvae.pair import (
    Arguments,
    Inspection,
    Program,
    inspect,
    kind_of,
    latent_sites,
    mask_of,
    observed_sites,
)
from pvae.runtime import whole

__all__ = ["Call", "ParticleELBO", "needs_rsample"]


class ParticleELBO(ELBO):
    """An objective of K particles for each datum, computed together and without a Python loop.

    Its loss is minus the bound, summed over the minibatch, in nats. Scales: that of the batch
    plate (subsampling) multiplies each datum's bound, every other one (a KL weight such as
    `LatentScale`) the log density of its site. Masks enter. An observed site of the guide
    (`pyro.factor`) is a penalty, subtracted from the bound.

    The first call with a pair inspects it, eagerly and in eval mode: it finds the batch plate and
    lays the particles out in a plate on the left of all others or, if a network does not allow
    that, in a batch that repeats each datum. A few later calls (2, 3, 9, 27, … and then every
    thousandth) compare this layout with single samples again, on six data, and change it with a
    warning if it has become wrong, as behind a gate that was zero at first. No call holds control
    flow on values while `torch.fx` traces `differentiable_loss`.

    Args:
        num_particles: K, samples of z for each datum.
        plate: Name of the batch plate, where it is ambiguous.

    Raises:
        PvaeError: If num_particles is below one; at the first call, if the pair is wrong (see
            `pvae.check`), has a global latent site, a Delta guide or an enumerated site; at any
            call that compares, if neither layout is right.

    Example:
        >>> import pvae, torch
        >>> class Smallest(ParticleELBO):
        ...     def differentiable_loss(self, model, guide, *args, **kwargs):
        ...         call = self._call(model, guide, args, kwargs)
        ...         draws = call.guide()
        ...         log_w = call.log_p(call.model(draws)) - call.log_q(draws)  # [K, B]
        ...         return -call.scale * log_w.min(0).values.sum()
        >>> model, guide = pvae.models.VAE((4,), 2), pvae.guides.MeanField((4,), 2)
        >>> Smallest(num_particles=3).loss(model, guide, torch.ones(8, 4)) > 0
        True
    """

    enumerates: ClassVar[bool] = False  # whether it sums out sites that are marked so

    def __init__(self, num_particles: int = 1, *, plate: str | None = None) -> None:
        num_particles = whole(
            "num_particles", num_particles, why="at least one sample of z is needed"
        )
        super().__init__(num_particles=num_particles, vectorize_particles=True)
        self.plate = plate
        self._known: dict[tuple, KnownPair] = {}
        self._changes = 0  # of a layout; a compiled step, which watches numbers, is recorded again

    @torch.no_grad()
    def loss(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> float:
        """Returns the loss of a minibatch, in nats (summed), without a gradient."""
        loss = self.differentiable_loss(model, guide, *args, **kwargs).item()
        warn_if_nan(loss, "loss")
        return loss

    def loss_and_grads(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> float:
        """Adds the gradient of the loss to the parameters' and returns the loss, in nats."""
        loss = self.differentiable_loss(model, guide, *args, **kwargs)
        if loss.requires_grad:
            loss.backward(retain_graph=self.retain_graph)
        value = loss.item()
        warn_if_nan(value, "loss")
        return value

    def differentiable_loss(
        self, model: Program, guide: Program, *args: Any, **kwargs: Any
    ) -> Tensor:
        """Returns a scalar whose value is the loss and whose gradient is the estimator's."""
        raise NotImplementedError

    def _get_trace(
        self, model: Program, guide: Program, args: Any, kwargs: Any
    ) -> tuple[Trace, Trace]:
        call = self._call(model, guide, args, kwargs)
        draws = call.guide()
        return call.model(draws), draws

    def take(self, inspection: Inspection) -> None:
        """Takes what an inspection has found, so that the first call need not look again."""
        known = know(type(self).__name__, inspection, enumerates=self.enumerates)
        self._known[_kind(Arguments(inspection.batch))] = known

    def replayed(self, calls: int) -> None:
        """Counts calls that recorded graphs have replayed, of which this objective sees nothing."""
        for known in self._known.values():
            known.calls += calls

    def _call(self, model: Program, guide: Program, args: Any, kwargs: Any) -> "Call":
        """Prepares one call of the pair; what holds no data is bound to it."""
        arguments = Arguments(args, kwargs)
        kind, name = _kind(arguments), type(self).__name__
        known = self._known.get(kind)
        if known is None or known.model != model or known.guide != guide:
            bound = arguments.bind(model, guide)
            with poutine.block():
                found = inspect(*bound, *arguments.batch, plate=self.plate)
                known = know(name, found, enumerates=self.enumerates)
            known.model, known.guide, known.counting = model, guide, arguments.counting
            self._known[kind] = known
        arguments.counting = known.counting
        bound = arguments.bind(model, guide)
        if not is_recorded():
            self._changes += known.compare(name, bound, arguments.batch)
        particles = Particles(*bound, known.structure, known.dim, known.how)
        return Call(particles, arguments.batch, self.num_particles)


def _kind(arguments: Arguments) -> tuple[tuple[str, int], ...]:
    return tuple((n, t.ndim) for n, t in zip(arguments.names, arguments.batch, strict=True))


def needs_rsample(objective: ParticleELBO, draws: Trace, instead: str) -> None:
    """Raises a PvaeError if a latent site of a guide's trace is not reparameterised."""
    for name, site in latent_sites(draws).items():
        if not site["fn"].has_rsample:
            raise PvaeError(
                f"Site {name!r} is {kind_of(site['fn'])}, which has no "
                f"rsample, and {type(objective).__name__} differentiates along its draws. {instead}"
            )


class Call:
    """One call of a pair, for K particles of each of B data.

    Attributes:
        num: K.
        size: B.
        scale: What the batch plate multiplies each datum's bound with, once the model has run.
    """

    def __init__(self, particles: Particles, batch: tuple[Tensor, ...], num: int) -> None:
        self._particles, self._batch = particles, batch
        self.num, self.size = num, len(batch[0])
        self.scale = 1.0

    def guide(self) -> Trace:
        """Runs the guide."""
        return self._particles.guide(self._batch, self.num)

    def model(self, values: Trace) -> Trace:
        """Runs the model with the values of a guide's trace."""
        trace = self._particles.model(self._batch, self.num, values)
        self.scale = self._bound_scale(next(iter(observed_sites(trace).values())))
        return trace

    def prior(self) -> Trace:
        """Runs the model with its own samples, z ~ p(z)."""
        return self._particles.prior(self._batch, self.num)

    def terms(self, sites: dict[str, dict[str, Any]]) -> dict[str, Tensor]:
        """Returns log densities of sites, [K, B], under every scale but the batch plate's."""
        terms = self._log_terms(sites)
        for name, site in sites.items():
            scale = self.inner_scale(site)
            if isinstance(scale, Tensor) or scale != 1:
                terms[name] = scale * terms[name]
        return terms

    def log_p(self, trace: Trace) -> Tensor:
        """Returns log p(x, z), [K, B], in nats."""
        return sum(self.terms({**latent_sites(trace), **observed_sites(trace)}).values())

    def log_q(self, trace: Trace) -> Tensor | float:
        """Returns log q(z|x), [K, B], in nats; 0 where the guide samples nothing."""
        return sum(self.terms(latent_sites(trace)).values())

    def elbo(self, draws: Trace, model_trace: Trace) -> Tensor:
        r"""Returns terms whose mean is the ELBO, [K, B], in nats, sites summed out as marked.

        .. math:: \sum_y q(y|x) [\log p(x, y, z_y) - \log q(y, z_y | x)]
        """
        latent = latent_sites(draws)
        sites = {**latent_sites(model_trace), **observed_sites(model_trace)}
        p, q = self._log_terms(sites), self._log_terms(latent)
        p = self._particles.cancel_masked(p, draws, self.num, self.size)
        inside = [q[name] for name in self._particles.structure.enumerated if name in q]
        inner = len(self._particles.inner)
        terms = [
            *(term * self.inner_scale(sites[name]) for name, term in p.items()),
            *(-term * self.inner_scale(latent[name]) for name, term in q.items()),
        ]
        terms = sum_beyond(terms, len(inside), inner)
        return sum(expect(inside, term, inner) for term in terms)

    def known(self, site: dict[str, Any]) -> Tensor:
        """Returns whether an observed site is known for each datum, [B]: where no mask is."""
        fn, mask = site["fn"], mask_of(site)
        if mask is None:
            return torch.ones(self.size, dtype=torch.bool, device=self._batch[0].device)
        mask = mask.expand(site["value"].shape) if fn.event_dim else mask
        rows = self._particles.rows(mask, fn.event_dim, self.num, self.size)
        return rows[0].reshape(self.size, -1).all(1)

    def score(self, draws: Trace) -> Tensor | None:
        """Returns log q of the sites without rsample, unscaled, [K, B]; None without any."""
        summed = self._particles.structure.enumerated
        sites = {
            n: s
            for n, s in latent_sites(draws).items()
            if n not in summed and not s["fn"].has_rsample
        }
        return sum(self._log_terms(sites).values()) if sites else None

    def penalty(self, draws: Trace) -> Tensor:
        """Returns the sum of the guide's observed sites (`pyro.factor`), [K, B]; 0 without any."""
        sites = observed_sites(draws)
        for name, site in sites.items():
            if all(frame.dim != self._particles.dim for frame in site["cond_indep_stack"]):
                raise PvaeError(
                    f"The guide's factor {name!r} stands outside the batch plate. Move it into the "
                    "plate, as a penalty of each datum, or use pyro.infer.Trace_ELBO."
                )
        none = torch.zeros(1, 1, device=self._batch[0].device)
        return sum(self.terms(sites).values(), none)

    def rows(self, trace: Trace) -> Tensor:
        """Returns the latents of a trace laid end to end, [K, B, Z]."""
        rows = self._particles.rows_of(trace, self.num, self.size)
        return torch.cat([rows[name].reshape(self.num, self.size, -1) for name in sorted(rows)], -1)

    def inner_scale(self, site: dict[str, Any]) -> float | Tensor:
        """Returns a site's scale without the batch plate's share."""
        scale = site["scale"]
        if isinstance(scale, Tensor) and scale.numel() > 1:
            raise PvaeError(
                f"Site {site['name']!r} has a scale of shape {tuple(scale.shape)}; an objective "
                "of particles takes one number for each site. Use pyro.infer.Trace_ELBO."
            )
        frame = self._frame(site)
        return scale if frame is None else scale / (frame.full_size / frame.size)

    def _log_terms(self, sites: dict[str, dict[str, Any]]) -> dict[str, Tensor]:
        trace = Trace()
        trace.nodes.update(sites)
        return self._particles.log_terms(trace, self.num, self.size)

    def laid_out(self, weights: Tensor, site: dict[str, Any]) -> Tensor:
        """Returns weights [K, B] in a shape that broadcasts with a site's value."""
        shape = [1] * self._particles.wide
        if self._particles.how == "plate":
            shape[0] = self.num
            shape[self._particles.dim] = self.size
        else:
            shape[self._particles.dim] = self.num * self.size
        shape += [1] * site["fn"].event_dim
        return weights.reshape(shape[len(shape) - site["value"].ndim :])

    def _frame(self, site: dict[str, Any]) -> Any:
        for frame in site["cond_indep_stack"]:
            if frame.dim == self._particles.dim and (frame.full_size or -1) > 0 < frame.size:
                return frame
        return None

    def _bound_scale(self, site: dict[str, Any]) -> float:
        frame = self._frame(site)
        if frame is None:
            return 1.0
        if self._particles.how == "plate":
            return frame.full_size / frame.size
        # Repeated data make a plate of len(x) larger, but not a plate of the whole data set's size.
        first = self._frame(self._particles.structure.model_trace.nodes[site["name"]])
        return 1.0 if first.full_size == first.size else frame.full_size / self.size
