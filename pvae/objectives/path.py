"""Gradients along the paths of a program's draws; everything else is held constant."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor

__all__ = ["Cut", "along"]


class Cut(Messenger):
    """Replaces a program's draws by constants of the same values, and keeps the draws.

    Densities under the program then depend on parameters and on the constants. Each draw depends
    on parameters and on the constants of earlier draws.

    Attributes:
        draws: The draws that have a gradient, by site, in order.
        points: The constants in their place: leaves of the autograd graph.
    """

    def __init__(self) -> None:
        super().__init__()
        self.draws: dict[str, Tensor] = {}
        self.points: dict[str, Tensor] = {}

    def _pyro_post_sample(self, msg: dict[str, Any]) -> None:
        value = msg["value"]
        if not msg["is_observed"] and not site_is_subsample(msg) and value.requires_grad:
            self.draws[msg["name"]] = value
            self.points[msg["name"]] = msg["value"] = value.detach().requires_grad_()


def along(
    inner: Tensor, cut: Cut, weigh: Callable[[str, Tensor], Tensor] | None = None
) -> tuple[Tensor, dict[str, Tensor]]:
    r"""Returns `inner` and the draws, with gradients that follow only the paths of the draws.

    Parameters that `inner` depends on directly are held. Its gradient reaches them only as
    :math:`\sum_i \frac{d\,inner}{dz_i} \frac{\partial z_i}{\partial \phi}`.

    Args:
        inner: A tensor computed from the constants of `cut`.
        cut: The handler that replaced the draws.
        weigh: Maps a site's name and the gradient in its draw to the gradient that the parameters
            get. Earlier draws get the unchanged gradient.
    """
    if not cut.draws:
        return inner.detach(), {}
    value, *draws = _Along.apply((inner,), cut, weigh, *cut.draws.values())
    return value, dict(zip(cut.draws, draws, strict=True))


class _Along(torch.autograd.Function):
    """The identity of value and draws; its backward applies the chain rule from draw to draw."""

    @staticmethod
    def forward(
        ctx: Any,
        inner: tuple[Tensor],  # in a tuple, so that autograd does not follow its graph
        cut: Cut,
        weigh: Callable[[str, Tensor], Tensor] | None,
        *draws: Tensor,
    ) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.inner, ctx.cut, ctx.weigh = inner[0], cut, weigh
        return inner[0].detach().clone(), *(draw.view_as(draw) for draw in draws)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, *grads: Tensor | None) -> tuple[Any, ...]:
        names, points = list(ctx.cut.points), list(ctx.cut.points.values())
        totals = list(grads)
        _add(totals, ctx.inner, points, grad)
        for i in range(len(names) - 1, 0, -1):
            _add(totals, ctx.cut.draws[names[i]], points[:i], totals[i])
        if ctx.weigh is not None:
            for i, total in enumerate(totals):
                totals[i] = None if total is None else ctx.weigh(names[i], total)
        return None, None, None, *totals


def _add(
    totals: list[Tensor | None], output: Tensor, points: Sequence[Tensor], grad: Tensor | None
) -> None:
    """Adds the gradient of `output` to the totals of the points that it depends on."""
    if grad is None or not output.requires_grad:
        return
    found = torch.autograd.grad(output, points, grad, retain_graph=True, allow_unused=True)
    for i, part in enumerate(found):
        if part is not None:
            totals[i] = part if totals[i] is None else totals[i] + part
