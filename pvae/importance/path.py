"""Annealing paths: both ends' log densities and their gradients, in chunks or compiled."""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from pvae.compile import Graph, Replay, can_replay, in_words
from pvae.runtime import Chunks, is_out_of_memory, rounding

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

_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, "tf32": 1e-3}


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
    return _Known.apply(u, found["f"].detach(), found["g"].detach().movedim(0, -1))


class CompiledEnds:
    """Both ends of a path and their gradients as one graph, for blocks of data.

    The graph has a fixed number of chains and data; a smaller block repeats its last datum. The
    results are compared with those of the program at the first block and at the second. If they
    differ, or the program cannot be recorded, a warning says so and the program runs. On a CPU,
    convolutions are left to the program: they gain nothing.

    Args:
        ends: The path of any batch.
        num: C, chains.
        size: B, the largest number of data in a block.
    """

    def __init__(self, ends: Ends, num: int, size: int) -> None:
        self._ends, self._num, self._size = ends, num, size
        self._graph: Graph | Replay | None = None
        self._products: set[str] = set()
        self._first: tuple[Tensor, ...] | None = None
        self._left = False

    def __call__(self, u: Tensor, batch: tuple[Tensor, ...]) -> tuple[Tensor, Tensor] | None:
        """Returns (log f_0, log f_1), which can be differentiated; None if the program has to."""
        length = u.shape[1]
        if self._left or len(u) != self._num or not 0 < length <= self._size:
            return None
        whole, given = u.detach(), batch
        if length < self._size:
            index = torch.arange(self._size, device=u.device).clamp(max=length - 1)
            whole, given = whole[:, index], tuple(t[index] for t in batch)
        whole = whole.contiguous()
        if self._graph is None:
            self._record(whole, given)
            if self._graph is None:
                return None
            self._first = batch
        found = self._graph([whole, *given])
        if self._first is not None and batch is not self._first:
            self._first = None
            if (wrong := self._difference(found, whole, given)) is not None:
                self._leave(f"{wrong} for other data than those of the first block")
                return None
        log_f, gradients = found
        return _Known.apply(u, log_f[..., :length], gradients[:, :, :length])

    def _record(self, u: Tensor, batch: tuple[Tensor, ...]) -> None:
        inputs = [u, *batch]
        try:
            graph = Graph(lambda: list(_with_slopes(self._ends, u, batch)), inputs)
            self._products = graph.products
            if u.device.type == "cpu" and "conv" in graph.products:
                self._left = True
                return
            self._graph = Replay(graph, inputs) if can_replay(graph.device) else graph
            wrong = self._difference(self._graph(inputs), u, batch)
        except Exception as error:
            if is_out_of_memory(error):
                raise
            wrong = in_words(error)
        if wrong is not None:
            self._leave(wrong)

    def _difference(
        self, found: Sequence[Tensor], u: Tensor, batch: tuple[Tensor, ...]
    ) -> str | None:
        expected = _with_slopes(self._ends, u, batch)
        close = _TOLERANCE.get(rounding(u.dtype, self._products, u.device), 1e-2)
        # Any force leaves the leapfrog exact, so that a gradient may be coarser.
        names = ("log densities differ", 1), ("gradients differ", 100)
        for (name, coarser), ours, theirs in zip(names, found, expected, strict=True):
            most = theirs[theirs.isfinite()].abs().amax().item() if theirs.isfinite().any() else 1.0
            scale = max(most, 1.0) if coarser > 1 else 10.0
            tolerance = coarser * close
            if not torch.allclose(ours, theirs, tolerance, tolerance * scale, equal_nan=True):
                return f"compiled, the {name}"
        return None

    def _leave(self, why: str) -> None:
        self._left, self._graph = True, None
        warnings.warn(f"Annealing runs without compiling the pair: {why}.", stacklevel=4)


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
