"""A mean field for each datum: independent Normals on the unconstrained latents."""

import math
from collections.abc import Iterator

import torch
from pyro.distributions import Normal
from torch import Tensor
from torch.distributions import constraints

from pvae.distributions import support_of
from pvae.errors import PvaeError
from pvae.evaluation.estimators.member import LARGEST, Member
from pvae.importance import Density, Sampler, replaced
from pvae.pair import latent_sites, mask_of

__all__ = ["LocalGaussian"]


class LocalGaussian(Member):
    """Independent Normals on the unconstrained coordinates u."""

    def __init__(self, sampler: Sampler, batch: tuple[Tensor, ...]) -> None:
        self.size, self._sampler, self._batch = len(batch[0]), sampler, batch
        self._density = Density(sampler, batch)
        self._mask = _coordinates(sampler, batch)
        u = replaced(self._density.posterior(batch, 64))
        self.dim = u.shape[-1]
        self.limit = u.new_tensor([math.inf, LARGEST]).repeat_interleave(self.dim)
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


def _coordinates(sampler: Sampler, batch: tuple[Tensor, ...]) -> Tensor | None:
    """Which unconstrained coordinates are not masked, [B, D]; None for all."""
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
                    f"Site {name!r} is masked for some data, and its support is not the real line: "
                    "its optimal mean field is not implemented."
                )
        mask = torch.ones_like(value) if mask is None else mask.to(value.dtype).expand_as(value)
        rows = particles.rows(mask, site["fn"].event_dim, 1, size)
        parts.append(rows.reshape(size, -1))
    mask = torch.cat(parts, -1)
    return None if mask.all() else mask
