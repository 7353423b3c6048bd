"""Finds the best member of a family for each datum: climbs its ELBO until it converges."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from pvae.evaluation.estimators.member import Member

__all__ = ["Best", "ascend"]

_MEMORY = 24  # steps that estimate the curvature
_STILL = 1e-4  # nats: a climb ends after three successive steps that gain less
_GAIN = 2e-3  # nats: a datum has converged if another climb gains less
_AGREE = 0.02  # nats: allowed excess of the ELBO on the samples of a climb over fresh ones
_FEWEST, _MOST = 32, 512  # samples of a climb
_CLIMBS = 12


@dataclass
class Best:
    """The best members found.

    Attributes:
        parameters: Their unconstrained parameters.
        fine: Whether the ELBO was never NaN, [B].
        still: Whether another climb, in other units, gained nothing, [B].
        steps: The number of gradients.
    """

    parameters: list[Tensor]
    fine: Tensor
    still: Tensor
    steps: int


def ascend(member: Member, num: int, steps: int, seed: Callable[[int], None]) -> Best:
    r"""Maximises the ELBO of each datum in the parameters of a member of a family.

    If samples are smooth functions of fixed noise (Normals), the ELBO on that noise is maximised
    by L-BFGS, with a line search that requires an increase: [B, P] parameters together, but each
    datum on its own. The units are the member's scales before each climb. The noise is in pairs
    ±ε with the identity as covariance, so that a Gaussian posterior is found exactly with any
    number of samples. This number grows until the ELBO agrees with that of fresh samples. Other
    families are optimised by Adam, with path derivatives of fresh samples. A datum has converged
    when a whole climb in new units gains nothing.

    Args:
        member: The family, at the guide; it is left at the best parameters.
        num: Smallest number of samples of the first climb.
        steps: Largest number of gradients.
        seed: Seeds the generators for a climb of this number.

    Source: Nocedal & Wright 2006, *Numerical Optimization*, chapter 7.
    """
    with torch.enable_grad():
        return _climbs(member, num, steps, seed) if member.smooth else _adam(member, steps, seed)


def _climbs(member: Member, num: int, steps: int, seed: Callable[[int], None]) -> Best:
    draws = 1
    if member.dim:  # the identity as covariance needs twice as many samples as dimensions
        draws = min(max(num, _FEWEST, 2 * member.dim), _MOST)
    fine = torch.ones(member.size, dtype=torch.bool, device=member.offset.device)
    still, taken, large = ~fine, 0, not member.dim
    for climb in range(_CLIMBS):
        seed(2 * climb if not large else 1)  # the last climbs share their noise
        noise = _noise(draws, member)
        most = steps - taken if large else min(steps - taken, 40 + member.offset.shape[1] // 2)
        start, end, ended, count = _climb(member, noise, draws, most)
        taken += count
        fine &= ~start.isnan()
        gain = torch.where(end.isfinite() & start.isfinite(), end - start, 0.0)
        still = ended & (gain < _GAIN) if large else torch.zeros_like(still)
        if taken >= steps or (large and bool(still.all())):
            break
        if large or bool((gain < 1).all()):
            flatters = _flatters(member, end, seed, climb)
            if bool((flatters > _AGREE).any()) or not large:
                large, before = True, draws
                draws = min(4 * draws, max(_MOST, draws))
                if draws == before and bool((flatters > _AGREE).any()):
                    still &= flatters <= 5 * _AGREE
                    break
    return Best(member.parameters(), fine, still, taken)


def _flatters(member: Member, found: Tensor, seed: Callable[[int], None], climb: int) -> Tensor:
    """How far the ELBO on the climbed samples exceeds that on fresh ones plus three errors."""
    if not member.dim:
        return torch.zeros_like(found)
    seed(100 + climb)
    with torch.no_grad():
        terms = torch.cat([t.double() for t in member.terms(128, _noise(128, member))])
    excess = found - terms.mean(0) - 3 * terms.std(0) / math.sqrt(len(terms))
    return excess.nan_to_num(0, 0, 0)


def _climb(
    member: Member, noise: Tensor, draws: int, steps: int
) -> tuple[Tensor, Tensor, Tensor, int]:
    """Returns the ELBO [B] before and after, whether the climb ended, and the steps taken."""
    x = member.offset.double()

    def at(x: Tensor) -> tuple[Tensor, Tensor]:
        member.offset = x.to(member.offset.dtype).requires_grad_()
        return _value_and_slope(member, draws, noise)

    value, slope = at(x)
    start, taken = value, 1
    # Smaller differences are rounding errors.
    small = 8 * torch.finfo(member.offset.dtype).eps * value.abs().nan_to_num(0, 0, 0)
    pairs: list[tuple[Tensor, Tensor, Tensor]] = []
    scale = 1 / slope.norm(dim=1).clamp(min=1)
    length, fails, calm = torch.ones_like(value), torch.zeros_like(value), torch.zeros_like(value)
    done = ~value.isfinite()
    while taken < steps and not bool(done.all()):
        way = _direction(slope, pairs, scale)
        rise = (way * slope).sum(1)
        way = torch.where((rise > 0)[:, None], way, slope * scale[:, None])
        way = way / (way.abs() / member.limit).amax(1, keepdim=True).clamp(min=1)
        rise = (way * slope).sum(1)
        trial = torch.where(done[:, None], x, x + length[:, None] * way)
        new, new_slope = at(trial)
        taken += 1
        gain = new - value
        up = ~done & new.isfinite() & (gain >= 1e-4 * length * rise - small)
        s, y = trial - x, slope - new_slope
        bend = (s * y).sum(1)
        good = up & (bend > 1e-10 * s.norm(dim=1) * y.norm(dim=1))
        pairs.append((s, y, torch.where(good, 1 / bend, 0.0)))
        pairs = pairs[-_MEMORY:]
        scale = torch.where(good, bend / y.square().sum(1), scale)
        still = up & (gain < _STILL + small)
        calm = torch.where(still, calm + 1, torch.where(up, 0.0, calm))
        fails = torch.where(up, 0.0, fails + 1)
        # The top of the parabola through both values and the slope.
        top = length * rise * length / (2 * (length * rise - gain)).clamp(min=1e-300)
        top = torch.where(new.isfinite(), top, 0.0).nan_to_num(0, 0, 0)
        shorter = torch.maximum(torch.minimum(top, length / 2), length / 10)
        length = torch.where(up, 1.0, shorter)
        x = torch.where(up[:, None], trial, x)
        slope, value = torch.where(up[:, None], new_slope, slope), torch.where(up, new, value)
        done |= (calm >= 3) | (fails >= 30)
        stuck = fails == 10  # the estimated curvature is wrong
        if bool(stuck.any()):
            pairs = [(s, y, torch.where(stuck, 0.0, rho)) for s, y, rho in pairs]
            norm = slope.norm(dim=1).clamp(min=1)
            scale, length = torch.where(stuck, 1 / norm, scale), torch.where(stuck, 1.0, length)
    member.offset = x.to(member.offset.dtype)
    member.recentre(member.parameters())
    return start, value, done, taken


def _direction(slope: Tensor, pairs: list[tuple[Tensor, Tensor, Tensor]], scale: Tensor) -> Tensor:
    """L-BFGS's two loops for each datum: the inverse curvature times the slope, [B, P]."""
    way, kept = slope, []
    for s, y, rho in reversed(pairs):
        alpha = rho * (s * way).sum(1)
        way = way - alpha[:, None] * y
        kept.append(alpha)
    way = scale[:, None] * way
    for (s, y, rho), alpha in zip(pairs, reversed(kept), strict=True):
        way = way + (alpha - rho * (y * way).sum(1))[:, None] * s
    return way


def _value_and_slope(
    member: Member, num: int, noise: Tensor | None, *, still: bool = False
) -> tuple[Tensor, Tensor]:
    """Returns the ELBO, [B], and its gradient in the offset, [B, P], in double precision."""
    value, slope = 0.0, torch.zeros_like(member.offset, dtype=torch.float64)
    for terms in member.terms(num, noise, still=still):
        value = value + terms.detach().double().sum(0)
        total = torch.where(terms.isfinite(), terms, 0).sum() / num
        each = torch.autograd.grad(total, member.offset, retain_graph=True, allow_unused=True)[0]
        if each is not None:
            slope += each.double().nan_to_num(0, 0, 0)
    value = value / num
    return torch.where(value == math.inf, math.nan, value), slope


def _noise(num: int, member: Member) -> Tensor:
    """Standard normal noise, [K, B, D], in pairs ±ε; for K ≥ 2 D its covariance is the identity."""
    like, dim = member.offset, member.dim
    shape = (member.size, max(1, num // 2), dim)
    noise = torch.randn(shape, dtype=torch.float64, device=like.device)
    if dim and num // 2 >= dim:
        q, r = torch.linalg.qr(noise)
        noise = q * r.diagonal(dim1=-2, dim2=-1).sign()[:, None] * math.sqrt(num // 2)
    elif dim:
        noise = noise / noise.square().mean(1, keepdim=True).sqrt()
    noise = noise.movedim(1, 0)
    return torch.cat([noise, -noise])[:num].to(like.dtype)


_ADAM_STEPS, _ADAM_DRAWS, _ADAM_RATE = 250, 16, 0.2


def _adam(member: Member, steps: int, seed: Callable[[int], None]) -> Best:
    """Climbs by Adam, with step sizes that fall by a factor of 1000 in each climb."""
    fine = torch.ones(member.size, dtype=torch.bool, device=member.offset.device)
    still, taken = ~fine, 0
    for climb in range(_CLIMBS):
        seed(2 * climb)
        before, count = member.parameters(), min(_ADAM_STEPS, steps - taken)
        member.offset = torch.zeros_like(member.offset).requires_grad_()
        leaf = member.offset
        adam = torch.optim.Adam([leaf], betas=(0.9, 0.99))
        for step in range(count):
            adam.param_groups[0]["lr"] = _ADAM_RATE * 1e-3 ** (step / count)
            value, slope = _value_and_slope(member, _ADAM_DRAWS, None, still=True)
            fine &= ~value.isnan()
            leaf.grad = -slope.to(leaf.dtype)
            adam.step()
        taken += count
        member.offset = leaf.detach()
        after = member.parameters()
        terms = []
        for parameters in (before, after):
            member.recentre(parameters)
            seed(100 + climb)
            with torch.no_grad():
                terms.append(torch.cat([t.double() for t in member.terms(256)]))
        gain = terms[1] - terms[0]
        error = gain.std(0) / math.sqrt(len(gain))
        better = gain.mean(0) > 0
        member.recentre(member.chosen(better, after, before))
        still = gain.mean(0) < _GAIN + 3 * torch.minimum(error, torch.full_like(error, _AGREE))
        if taken >= steps or bool(still.all()):
            break
    return Best(member.parameters(), fine, still, taken)
