"""The guide's own distributions, with free parameters for each datum."""

import contextlib
import copy
import itertools
import math
from collections.abc import Iterator
from typing import Any

import pyro
import torch
from pyro.distributions import Normal
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pvae.evaluation.estimators.find_family import take_apart
from pvae.evaluation.estimators.member import LARGEST, Member, elbo_terms
from pvae.importance import Particles, Sampler, elbo_of
from pvae.pair import base_distribution, latent_sites, trace_of

__all__ = ["OwnFamily"]


class OwnFamily(Member):
    """Members of the guide's own family, as a Pyro guide that does not read x."""

    def __init__(self, sampler: Sampler, batch: tuple[Tensor, ...], free: dict) -> None:
        self.size, self._batch, self._still = len(batch[0]), batch, False
        self._sites = take_apart(sampler, batch)
        self._free = [(name, key) for name, keys in free.items() for key in keys]
        self._origin, self._steps = (
            {(name, key): v for name, site in self._sites.items() for key, v in site[part].items()}
            for part in ("start", "step")
        )
        widths = [self._origin[at].numel() // self.size for at in self._free]
        self._cuts = list(itertools.pairwise(itertools.accumulate(widths, initial=0)))
        some = self._origin[self._free[0]]
        self.offset = some.new_zeros(self.size, sum(widths))
        limits = [math.inf if key == "loc" else LARGEST for _, key in self._free]
        self.limit = some.new_tensor(limits).repeat_interleave(torch.tensor(widths))
        # The same sampler with another guide.
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
            yield elbo_of(p, part, enumerated, len(particles.inner))

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

        A triangular scale L moves the location by L δ and itself to L (A + diag(exp a)). A
        stretched posterior is then round in the offsets, if L is near its scale.
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
            if site["mask"] is not None:  # masked values keep the guide's parameters
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


class _FixedNoise(Messenger):
    """Samples Normals as location + scale · ε with the given ε, inside this context."""

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
