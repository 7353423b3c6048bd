"""Annealing paths: both ends' log densities and their gradients, in chunks or compiled."""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from pvae.compile import Graph, Replay, can_replay, in_words, record
from pvae.importance.chunks import TOLERANCE
from pvae.runtime import Chunks, rounding

__all__ = ["AnnealingPath", "CompiledEnds", "Ends", "in_chunks", "slopes"]

AnnealingPath = Callable[[Tensor], tuple[Tensor, Tensor]]
"""What is annealed: z [C, B, D] to (log f_0(z), log f_1(z)), each [C, B], nats.

C chains, B data, D unconstrained coordinates; the last of them may be numbers of discrete values,
0 … n − 1. f_0 is a normalised density that can be drawn from,
f_1(z) = p(x, z); rows (c, b) do not influence each other. A log density of -inf, +inf or NaN
counts as zero density.
"""

Ends = Callable[[Tensor, tuple[Tensor, ...]], tuple[Tensor, Tensor]]
"""A path of any batch: (z, batch) to (log f_0(z), log f_1(z))."""


def slopes(log_f: tuple[Tensor, Tensor], u: Tensor) -> list[Tensor | None]:
    """Returns the gradient [C, B, D] of each end of a path; None where it does not depend on u."""
    return [
        torch.autograd.grad(f.sum(), u, retain_graph=True, allow_unused=True)[0]
        if f.requires_grad
        else None
        for f in log_f
    ]


def in_chunks(
    u: Tensor, batch: tuple[Tensor, ...], ends: Ends, chunks: Chunks
) -> tuple[Tensor, Tensor]:
    """Returns both ends, whose gradients are computed in chunks: this bounds their memory."""

    def run(start: int, stop: int) -> dict[str, Tensor]:
        log_f, gradients = _with_slopes(ends, u[start:stop], batch)
        return {"f": log_f, "g": gradients.movedim(-1, 0)}

    found = chunks.run(len(u), u.shape[1], run)
    return _Known.apply(u, found["f"], found["g"].movedim(0, -1))


class CompiledEnds:
    """Both ends of a path and their gradients as one graph, for blocks of data.

    The graph has a fixed number of chains and data; a smaller block repeats its last datum. At the
    start its results are compared with the program's, on two blocks. If they differ, or if the
    program cannot be recorded, a warning says so. On a CPU, convolutions gain nothing from a
    compiler and are not compiled. In these cases, and for other numbers of chains, a call returns
    None.

    Args:
        ends: The path of any batch.
        blocks: Two blocks of data, the larger one first, with positions of chains [C, B, D] each.
    """

    def __init__(self, ends: Ends, blocks: Sequence[tuple[Tensor, tuple[Tensor, ...]]]) -> None:
        self._ends = ends
        u, batch = blocks[0]
        self._num, self._size = u.shape[:2]
        self._seen: tuple[Tensor, ...] | None = None
        self._given: list[Tensor] = []
        self._graph: Graph | Replay | None = None
        try:
            wrong = self._record(*self._padded(u, batch)) or self._difference(blocks)
        except Exception as error:
            wrong = in_words(error)
        if wrong:
            self._graph = None
            warnings.warn(f"Annealing runs without compiling the pair: {wrong}.", stacklevel=5)

    def __call__(self, u: Tensor, batch: tuple[Tensor, ...]) -> tuple[Tensor, Tensor] | None:
        """Returns (log f_0, log f_1), which can be differentiated, or None."""
        length = u.shape[1]
        if self._graph is None or len(u) != self._num or not 0 < length <= self._size:
            return None
        whole, given = self._padded(u.detach(), batch)
        log_f, gradients = self._graph([whole, *given])
        return _Known.apply(u, log_f[..., :length], gradients[:, :, :length])

    def _padded(self, u: Tensor, batch: tuple[Tensor, ...]) -> tuple[Tensor, list[Tensor]]:
        """Returns chains and data of full size, which are laid out as in the recording."""
        index = torch.arange(self._size, device=u.device).clamp(max=u.shape[1] - 1)
        if batch is not self._seen:
            self._seen, self._given = batch, [t[index].contiguous() for t in batch]
        return u[:, index].contiguous(), self._given

    def _record(self, u: Tensor, given: list[Tensor]) -> str | None:
        function, inputs = lambda: list(_with_slopes(self._ends, u, tuple(given))), [u, *given]
        if u.device.type == "cpu":
            program, _ = record(function, inputs)
            if any("conv" in str(node.target) for node in program.graph.nodes):
                return None
        graph = Graph(function, inputs)
        self._tolerance = TOLERANCE.get(rounding(u.dtype, graph.products, u.device), 1e-2)
        self._graph = Replay(graph, inputs) if can_replay(graph.device) else graph
        return None

    def _difference(self, blocks: Sequence[tuple[Tensor, tuple[Tensor, ...]]]) -> str | None:
        """Says what differs from the program, on either block, at two positions of each chain."""
        if self._graph is None:
            return None
        near = self._tolerance
        for u, batch in blocks:
            for positions in (u, u.roll(1, 0)):
                expected, slope = _with_slopes(self._ends, positions, batch)
                whole, given = self._padded(positions, batch)
                found, slope_found = self._graph([whole, *given])
                size = u.shape[1]
                if not torch.allclose(found[..., :size], expected, near, 10 * near, equal_nan=True):
                    return "log densities differ in the graph"
                # A force leaves the leapfrog reversible if it depends on the position alone.
                error, most = (slope_found[:, :, :size] - slope).abs(), slope.abs().amax(-1, True)
                if not (error <= 100 * near * (1 + most)).all():
                    return "gradients differ in the graph"
        return None


def _with_slopes(ends: Ends, u: Tensor, batch: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    """Returns log densities [2, C, B] and gradients [2, C, B, D] of both ends."""
    with torch.enable_grad():
        u = u.detach().requires_grad_()
        log_f = ends(u, batch)
        found = [torch.zeros_like(u) if g is None else g for g in slopes(log_f, u)]
    # A slope that is not finite would spoil the other end's, which is added to 0 times it.
    return torch.stack(log_f).detach(), torch.stack(found).nan_to_num(0, 0, 0)


class _Known(torch.autograd.Function):
    """Both ends of a path, whose gradients are known."""

    @staticmethod
    def forward(ctx: Any, u: Tensor, log_f: Tensor, gradients: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(gradients)
        return log_f[0], log_f[1]

    @staticmethod
    def backward(ctx: Any, first: Tensor, second: Tensor) -> tuple[Tensor, None, None]:
        (saved,) = ctx.saved_tensors
        return first[..., None] * saved[0] + second[..., None] * saved[1], None, None
